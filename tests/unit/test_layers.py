"""The architecture, enforced: imports point down, nothing goes in circles, help and filters stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import finetune
import selfinstruct

PACKAGES = [Path(package.__file__).parent for package in (selfinstruct, finetune)]

LAYERS = (
    {"errors", "version"},
    {"common"},
    {"plugins", "reasons", "records"},
    {"filters", "parse", "pool", "prompts", "seeds", "strategies", "suites", "verifiers"},
    {"backends", "engine.dispatch", "ledger"},
    {"api", "doctor", "engine", "evaluation", "filtering", "runs"},
    {"__main__", "cli"},
)
FINETUNE_LAYERS = (
    {"options", "recipes"},
    {"data"},
    {"model"},
    {"training"},
    {"preparation"},
    {"evaluation"},
    {"record"},
    {"export"},
    {"chat"},
    {"session"},
    {"preferences"},
    {"report"},
    {"display"},
    {"__main__", "cli"},
)
FOR_FINETUNE = {"common", "errors", "version"}
FILTERS = "selfinstruct.filters"  # the package, not its modules: the trainer splits rows by their near-duplicates
HEAVY = {
    "torch", "vllm", "transformers", "tokenizers", "peft", "matplotlib", "datasets", "pandas", "scipy", "openai",
    "xllamacpp", "rouge_score", "nltk",
}  # fmt: skip


@cache
def modules() -> dict[str, Path]:
    paths = {}
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imports(name: str, path: Path) -> set[str]:
    """Modules of this project that a module imports anywhere in its text."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            for alias in node.names:
                full_name = f"{node.module}.{alias.name}"
                names.add(full_name if full_name in modules() else str(node.module))
    return names & modules().keys() - {name}


def entry(name: str) -> str:
    """The name in ``LAYERS`` that covers a module: the longest one."""
    part = name.removeprefix("selfinstruct.")
    matches = [listed for listed in set().union(*LAYERS) if part == listed or part.startswith(f"{listed}.")]
    assert matches, f"{name} is in no layer"
    return max(matches, key=len)


def layer(name: str) -> int:
    return next(level for level, names in enumerate(LAYERS) if entry(name) in names)


@cache
def graph() -> dict[str, set[str]]:
    return {name: imports(name, path) for name, path in modules().items()}


def test_layers_name_every_module_and_nothing_else() -> None:
    covered = {entry(name) for name in modules() if name.startswith("selfinstruct.")}
    assert covered == set().union(*LAYERS)


def test_imports_point_down() -> None:
    edges = {(a, b) for a, others in graph().items() for b in others if "." in b}
    inner = [(a, b) for a, b in edges if a.startswith("selfinstruct.")]
    assert [(a, b) for a, b in inner if b.startswith("finetune")] == []
    assert [(a, b) for a, b in inner if layer(a) < layer(b)] == []


def test_imports_of_the_trainer_point_down() -> None:
    levels = {name: level for level, names in enumerate(FINETUNE_LAYERS) for name in names}
    edges = {(a, b) for a, others in graph().items() for b in others if a.startswith("finetune.")}
    inner = {(a.split(".")[1], b.split(".")[1]) for a, b in edges if b.startswith("finetune.")}
    assert {name.split(".")[1] for name in modules() if name.startswith("finetune.")} == set(levels)
    assert [(a, b) for a, b in inner if levels[a] < levels[b]] == []


@pytest.mark.parametrize("package", [finetune])
def test_all_lists_the_public_names_of_a_package_and_nothing_else(package: ModuleType) -> None:
    public = {name for name, module in package._MODULES.items() if getattr(package, name).__module__ == module}
    assert package.__all__ == sorted(public)
    assert all(getattr(package, name).__doc__ for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_the_trainer_imports_only_the_two_lowest_layers_and_the_public_filters_of_the_toolkit() -> None:
    edges = {(a, b) for a, others in graph().items() if a.startswith("finetune") for b in others}
    used = {(a, b) for a, b in edges if b.startswith("selfinstruct") and b != FILTERS}
    assert used
    assert [(a, b) for a, b in used if "." not in b or b.split(".")[1] not in FOR_FINETUNE] == []


def test_no_import_cycle() -> None:
    edges, done, path = graph(), set(), []

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            path.append(name)
            for other in sorted(edges[name]):
                visit(other)
            path.pop()
            done.add(name)

    for name in sorted(edges):
        visit(name)


def test_pydantic_stays_in_config_and_pickle_nowhere() -> None:
    for name, path in modules().items():
        words = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
            for node in nodes(path)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        tops = {word.split(".")[0] for word in words}
        assert "pydantic" not in tops or name == "selfinstruct.common.config"
        assert not tops & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, name


def test_nothing_is_unpickled_and_no_code_of_a_model_is_run() -> None:
    for name, path in modules().items():
        for node in nodes(path):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"torch.load", "torch.save", "joblib.load", "np.save"}, name
                allowed = [ast.unparse(word.value) for word in node.keywords if word.arg == "trust_remote_code"]
                assert allowed in ([], ["False"]), name


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("from selfinstruct.cli import main; import sys; sys.argv[1:] = ['--help']; main()", set()),
        ("from finetune.cli import main; import sys; sys.argv[1:] = ['--help']; main()", set()),
        ("from finetune.cli import main; import sys; sys.argv[1:] = ['train', '--help']; main()", set()),
        ("import finetune.data.corpus, finetune.data.packing, finetune.data.rows, finetune.options", set()),
        ("import finetune; dir(finetune)", set()),
        ("import finetune; finetune.TrainingOptions(), finetune.load_options('chat')", set()),
        ("import finetune.display", set()),
        ("import selfinstruct.filters", set()),
        ("import selfinstruct", {"nothing"}),
        ("import selfinstruct.api, selfinstruct.runs.status", set()),
    ],
)
def test_imports_stay_light(code: str, allowed: set[str]) -> None:
    probe = f"import atexit, sys\natexit.register(lambda: print('LOADED', *sys.modules))\n{code}"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    loaded = done.stdout.rsplit("LOADED", 1)[1].split()
    heavy = HEAVY | ({"numpy", "click", "pydantic"} if allowed else set())
    assert not {name.split(".")[0] for name in loaded} & heavy


def test_no_group_is_repeated_possessively() -> None:
    """Python before 3.11.5 matches such a pattern wrongly (CPython issue 106052); possessive sets are right, and so is
    ``regex``: a module that has need of such groups uses that alone.
    """
    possessive = re.compile(r"\)(?:[*+?]|\{\d*,?\d*\})\+")
    repeated = [
        (name, node.value)
        for name, path in modules().items()
        if re.search(r"^import re$", path.read_text(), re.MULTILINE)
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and possessive.search(node.value)
    ]
    assert repeated == []
