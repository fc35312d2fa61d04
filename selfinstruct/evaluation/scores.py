"""The scores of a run: a function of its ledger, which holds the suite files as well.

An item without an answer counts 0 on every metric, with the reason. Items that have no outcome yet are missing: they
are counted, and no score includes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.common.codec import Json, canonical, digest
from selfinstruct.common.files import write_atomic
from selfinstruct.evaluation.answers import Answer, Answers, read_answers
from selfinstruct.evaluation.statistics import Estimate, estimate_score
from selfinstruct.suites.base import Item, Metric
from selfinstruct.verifiers import use_journal

__all__ = [
    "SCORES_FILE", "ItemScore", "MetricScore", "Scores", "SuiteScores", "estimate_to_json", "explain_answer",
    "score_run", "write_scores",
]  # fmt: skip

SCORES_FILE = "scores.json"


@dataclass(frozen=True, slots=True)
class ItemScore:
    """The values of one item.

    Attributes:
        id: Name of the suite and key of the item.
        digest: SHA-256 over question, system prompt and reference: equal where two runs asked the same.
        cluster: The cluster of the item.
        values: The values of each metric; None while the item has no outcome.
        reason: Why the item has no answer; "" if it has one.
        cut: Whether the answer is not complete.
    """

    id: str
    digest: str
    cluster: str
    values: Mapping[str, tuple[float, ...]] | None
    reason: str = ""
    cut: bool = False


@dataclass(frozen=True)
class MetricScore:
    """A metric of a suite with its interval; the estimate is None without any value."""

    metric: Metric
    estimate: Estimate | None


@dataclass(frozen=True)
class SuiteScores:
    """The scores of one suite.

    Attributes:
        name: Name of the suite.
        metrics: The metrics of the suite, the headline first.
        items: The items in the order in which they were asked.
    """

    name: str
    metrics: Sequence[MetricScore]
    items: Sequence[ItemScore]

    @property
    def missing(self) -> int:
        """Number of items without an outcome, which no score includes."""
        return sum(item.values is None for item in self.items)

    @property
    def unanswered(self) -> Counter[str]:
        """Number of items that count 0 because they have no answer, by reason."""
        return Counter(item.reason for item in self.items if item.reason)

    @property
    def cut(self) -> int:
        """Number of answers that are not complete and are scored as they stand."""
        return sum(item.cut for item in self.items)


@dataclass(frozen=True)
class Scores:
    """The scores of a run.

    Attributes:
        folder: The run directory.
        readers: The suites with the versions by which they were scored.
        suites: The scores by suite, in the order of the run.
    """

    folder: Path
    readers: Sequence[str]
    suites: Sequence[SuiteScores]

    @property
    def missing(self) -> int:
        """Number of items without an outcome."""
        return sum(suite.missing for suite in self.suites)

    @property
    def digest(self) -> str:
        """SHA-256 over the values of all items: equal for equal answers to the same items."""
        return digest([[item.id, item.digest, _plain(item.values), item.reason] for suite in self.suites
                       for item in suite.items])  # fmt: skip

    def to_json(self) -> dict[str, Json]:
        """Return the scores without path, as in ``scores.json``."""
        return {
            "digest": self.digest,
            "readers": list(self.readers),
            "missing": self.missing,
            "suites": {suite.name: _suite_to_json(suite) for suite in self.suites},
        }


def score_run(answers: Answers) -> Scores:
    """Score the answers of a run.

    Raises:
        MissingExtraError: A verifier needs a package that is not installed.
    """
    items: dict[str, list[ItemScore]] = {}
    metrics: dict[str, Sequence[Metric]] = {}
    with use_journal(answers.journal):
        for answer in answers.answers:
            name = answer.item.suite_name
            metrics[name] = answer.item.suite.metrics
            items.setdefault(name, []).append(_score(answer))
    suites = [
        SuiteScores(name, [_aggregate(metric, scored) for metric in metrics[name]], scored)
        for name, scored in items.items()
    ]
    return Scores(answers.folder, answers.readers, suites)


def write_scores(scores: Scores) -> None:
    """Replace ``scores.json`` of a run; it holds every item, and is recomputed at every evaluation."""
    items: dict[str, Json] = {
        item.id: {"values": _plain(item.values), "reason": item.reason, "cut": item.cut}
        for suite in scores.suites
        for item in suite.items
    }
    write_atomic(scores.folder / SCORES_FILE, [canonical({**scores.to_json(), "items": items}), b"\n"])


def explain_answer(folder: Path, name: str) -> list[str]:
    """Return why the item ``name`` of a run fails; empty if it meets every requirement."""
    answers = read_answers(folder)
    answer = next(each for each in answers.answers if each.item.id == name)
    if answer.request is None:
        return []
    if answer.reason:
        return [f"no answer: {answer.reason}"]
    with use_journal(answers.journal):
        lines = list(answer.item.suite.explain(answer.item.item, answer.text))
    return [*lines, "the answer is not complete, and counts as it stands"] if lines and answer.cut else lines


def _score(answer: Answer) -> ItemScore:
    item = answer.item.item
    values: dict[str, tuple[float, ...]] | None = None
    if answer.request is not None:
        scored = answer.item.suite.score(item, answer.text)
        values = {name: tuple(map(float, each)) for name, each in scored.items()}
        if answer.reason:
            values = {name: (0.0,) * len(each) for name, each in values.items()}
    return ItemScore(answer.item.id, _item_digest(item), answer.item.cluster, values, answer.reason, answer.cut)


def _item_digest(item: Item) -> str:
    return digest([item.question, item.system, dict(item.reference)])


def _aggregate(metric: Metric, items: Sequence[ItemScore]) -> MetricScore:
    values, clusters = [], []
    for item in items:
        for value in (item.values or {}).get(metric.name, ()):
            values.append(value)
            clusters.append(item.cluster)
    if not values:
        return MetricScore(metric, None)
    return MetricScore(metric, estimate_score(values, clusters, is_proportion=metric.is_proportion))


def _suite_to_json(suite: SuiteScores) -> dict[str, Json]:
    return {
        "items": len(suite.items),
        "missing": suite.missing,
        "unanswered": dict(suite.unanswered),
        "cut": suite.cut,
        "metrics": {score.metric.name: estimate_to_json(score.estimate) for score in suite.metrics},
    }


def estimate_to_json(estimate: Estimate | None) -> dict[str, Json] | None:
    """Return an estimate as JSON."""
    if estimate is None:
        return None
    return {
        "value": estimate.value,
        "interval": None if estimate.interval is None else list(estimate.interval),
        "standard_error": estimate.standard_error,
        "values": estimate.values,
        "clusters": estimate.clusters,
        "method": estimate.method,
    }


def _plain(values: Mapping[str, tuple[float, ...]] | None) -> Json:
    return None if values is None else {name: list(each) for name, each in sorted(values.items())}
