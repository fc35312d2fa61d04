"""Measure how a checkout reads: phrases of the old dialect, commonest local names, and the shape of its packages.

    python bench/language.py [PATH ...] [--top N] [--where PHRASE]

Prints one Markdown table with a column for each checkout (the current directory unless others are named). With
``--where`` it lists every place where a phrase occurs instead. It reads source text only and imports nothing of the
checkout, so it runs on any commit.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("selfinstruct", "finetune")

PHRASES = {
    "those of, those that": r"those (?:of|that)",
    "tell, told": r"(?:tell|tells|told|telling)",
    "whatever": r"whatever",
    "go on": r"(?:go|goes|going|went|gone) on",
    "is none": r"(?:is|are|was|were) none",
    "beside": r"beside",
    "given": r"(?:what|as|than|that) (?:is|was|are|were) given",
    "as it is": r"as (?:it is|they are)",
    "of its own": r"of (?:its|their) own",
    "so many": r"so many",
    "for good": r"for good",
    "may be had": r"(?:may|can) be had",
    "let go of": r"lets? go of",
    "stands, stood": r"(?:stand|stands|stood)",
    "no good": r"no good",
}
"""Phrases of the old dialect, each with the pattern of its whole words."""

HEADLINE = ("those of, those that", "tell, told", "whatever", "go on", "is none", "beside")
"""The phrases that were also counted in other projects."""

NAMES = ("found", "one", "place", "given", "said", "whole", "known", "left", "told", "own")
"""Local names of the old dialect."""

_PATTERNS = {name: re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE) for name, pattern in PHRASES.items()}
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_CODE = re.compile(r"```.*?```|``[^`]*``|`[^`\n]*`|<!--.*?-->", re.DOTALL)
_LISTING = re.compile(r"(?m)^(?: {4}|\t).*$")
_PLACEHOLDER = re.compile(r"%[sdr]|\{[^{}]*\}")


@dataclass(frozen=True)
class Prose:
    """A piece of prose, with the file and the line on which it begins."""

    path: Path
    line: int
    text: str


@dataclass(frozen=True)
class Language:
    """Counts over the prose of a checkout.

    Attributes:
        words: Number of words in docstrings, comments, messages and documentation.
        phrases: Number of occurrences of each of ``PHRASES``.
        names: How often each name is assigned in a function, as a variable or loop variable.
    """

    words: int
    phrases: Counter[str]
    names: Counter[str]

    def rate(self, *phrases: str) -> float:
        """Return the occurrences of these phrases (all of them, if none is named) per 10,000 words."""
        counted = sum(self.phrases[phrase] for phrase in phrases or PHRASES)
        return 10_000 * counted / self.words if self.words else 0.0


@dataclass(frozen=True)
class Shape:
    """Sizes of the packages of a checkout.

    Attributes:
        top_level: Number of modules and packages directly in each package.
        modules: Number of Python files.
        lines: Number of their lines.
        edges: Pairs of top-level modules or packages of which the first imports the second.
        exported: Length of ``__all__`` of each package; 0 without one.
        dependencies: Number of requirements of a core installation.
    """

    top_level: dict[str, int]
    modules: int
    lines: int
    edges: int
    exported: dict[str, int]
    dependencies: int


def sources(root: Path) -> list[Path]:
    """Return the Python files of the packages, in order."""
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def documents(root: Path) -> list[Path]:
    """Return the documentation pages of a checkout, in order."""
    return sorted([*root.glob("*.md"), *(root / "docs").glob("*.md")])


def prose(root: Path) -> Iterator[Prose]:
    """Yield all prose of a checkout: comments, docstrings and messages of its packages, and its documentation."""
    for path in sources(root):
        text = path.read_text(encoding="utf-8")
        yield from _comments(path, text)
        yield from _strings(path, ast.parse(text))
    for path in documents(root):
        # Code and listings are blanked, so that the numbers of the lines stay right.
        text = _CODE.sub(_blank, path.read_text(encoding="utf-8"))
        yield Prose(path, 1, _LISTING.sub("", text))


def _blank(match: re.Match[str]) -> str:
    return "\n" * match.group().count("\n") or " "


def _comments(path: Path, text: str) -> Iterator[Prose]:
    """Yield the comments of a file; consecutive lines are one piece, since a phrase may be broken between them."""
    block: list[str] = []
    begin = end = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT or token.string.startswith(("# noqa", "# type:", "# fmt:", "#!")):
            continue
        line = token.start[0]
        if block and line != end + 1:
            yield Prose(path, begin, "\n".join(block))
            block = []
        if not block:
            begin = line
        block.append(token.string.lstrip("# "))
        end = line
    if block:
        yield Prose(path, begin, "\n".join(block))


def _strings(path: Path, tree: ast.Module) -> Iterator[Prose]:
    """Yield docstrings and messages. A string is a message if it has a blank and at least three words."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else " {} " for part in node.values]
            text = "".join(str(part) for part in parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            text = node.value
        else:
            continue
        text = _PLACEHOLDER.sub(" ", _CODE.sub(_blank, text))
        if " " in text and len(_WORD.findall(text)) >= 3:
            yield Prose(path, node.lineno, text)


def local_names(root: Path) -> Counter[str]:
    """Count the names that functions assign: variables, loop variables, and variables of comprehensions."""
    names: Counter[str] = Counter()
    for path in sources(root):
        assigned = {
            (node.id, node.lineno, node.col_offset)  # once, also where functions are nested
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        names.update(name for name, *_ in assigned if name != "_")
    return names


def language(root: Path) -> Language:
    """Count words, phrases and names of a checkout."""
    words, phrases = 0, Counter[str]()
    for piece in prose(root):
        words += len(_WORD.findall(piece.text))
        flat = " ".join(piece.text.split())
        for phrase, pattern in _PATTERNS.items():
            phrases[phrase] += len(pattern.findall(flat))
    return Language(words, phrases, local_names(root))


def shape(root: Path) -> Shape:
    """Measure the packages of a checkout."""
    paths = sources(root)
    boxes = {path: _box(root, path) for path in paths}
    edges = {
        (boxes[path], target)
        for path in paths
        for name in _imported(path.read_text(encoding="utf-8"))
        if (target := _target(root, name)) and target != boxes[path]
    }
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return Shape(
        top_level={
            package: len({boxes[path] for path in paths if path.is_relative_to(root / package)} - {package})
            for package in PACKAGES
        },
        modules=len(paths),
        lines=sum(path.read_text(encoding="utf-8").count("\n") for path in paths),
        edges=len(edges),
        exported={package: _exported(root / package / "__init__.py") for package in PACKAGES},
        dependencies=len(project["dependencies"]),
    )


def _box(root: Path, path: Path) -> str:
    """Return the top-level module or package that a file belongs to, such as ``selfinstruct.engine``."""
    package, *rest = path.relative_to(root).with_suffix("").parts
    return package if rest == ["__init__"] else f"{package}.{rest[0]}"


def _target(root: Path, name: str) -> str:
    """Return the top-level module or package that an imported name belongs to; "" outside the packages."""
    package, _, rest = name.partition(".")
    if package not in PACKAGES:
        return ""
    inner = rest.partition(".")[0]
    exists = inner and ((root / package / inner).is_dir() or (root / package / f"{inner}.py").exists())
    return f"{package}.{inner}" if exists else package


def _imported(text: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _exported(path: Path) -> int:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return len(value.elts) if isinstance(value, ast.List | ast.Tuple) else 0
    return 0


def table(roots: Sequence[Path], top: int) -> str:
    """Return the figures of all checkouts as a Markdown table."""
    languages, shapes = [language(root) for root in roots], [shape(root) for root in roots]
    common = [one.names.most_common(top) for one in languages]
    rows = [
        ["", *(str(root) for root in roots)],
        *(
            [f"top-level names in `{package}`", *(str(one.top_level[package]) for one in shapes)]
            for package in PACKAGES
        ),
        ["modules", *(str(one.modules) for one in shapes)],
        ["lines", *(f"{one.lines:,}" for one in shapes)],
        ["imports between top-level names", *(str(one.edges) for one in shapes)],
        *([f"`{package}.__all__`", *(str(one.exported[package]) for one in shapes)] for package in PACKAGES),
        ["core dependencies", *(str(one.dependencies) for one in shapes)],
        ["words of prose", *(f"{one.words:,}" for one in languages)],
        ["all phrases below, per 10,000 words", *(f"{one.rate():.1f}" for one in languages)],
        *([f'"{phrase}"', *(f"{one.rate(phrase):.1f}" for one in languages)] for phrase in PHRASES),
        ["local names of the old dialect", *(str(sum(one.names[name] for name in NAMES)) for one in languages)],
        *(
            [f"local name {index + 1}", *(f"`{names[index][0]}` {names[index][1]}" for names in common)]
            for index in range(top)
        ),
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def main() -> None:
    """Print the table, or the places of one phrase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, default=[Path()], help="checkouts to measure")
    parser.add_argument("--top", type=int, default=8, help="number of local names to print")
    parser.add_argument("--where", choices=[*PHRASES, "all"], help="list the places of this phrase instead")
    arguments = parser.parse_args()
    if not arguments.where:
        print(table(arguments.paths, arguments.top))
        return
    wanted = PHRASES if arguments.where == "all" else [arguments.where]
    for root in arguments.paths:
        for piece in prose(root):
            # Line breaks count as blanks, and keep their position.
            text = re.sub(r"\s", " ", piece.text)
            for phrase in wanted:
                for match in re.finditer(_PATTERNS[phrase].pattern.replace(" ", " +"), text, re.IGNORECASE):
                    line = piece.line + piece.text.count("\n", 0, match.start())
                    around = " ".join(text[max(0, match.start() - 40) : match.end() + 40].split())
                    print(f"{piece.path}:{line}: {phrase}: {around}")


if __name__ == "__main__":
    main()
