"""Several methods in one run: the choice of a method, its view, and its results."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from selfinstruct.common.config import build, read_yaml
from selfinstruct.common.resources import builtin_seeds
from selfinstruct.common.rng import Rng
from selfinstruct.engine.methods import build_methods, overlay
from selfinstruct.engine.plan import make_plan
from selfinstruct.engine.row_filters import FilterOptions
from selfinstruct.engine.scheduler import Scheduler
from selfinstruct.errors import ConfigError, SelfInstructError
from selfinstruct.pool import Pool
from selfinstruct.prompts import Prompts
from selfinstruct.records import Candidate, Choice, Completion, CounterKey, Failure, Received, Request, Sampling, Usage
from selfinstruct.seeds import load_seeds
from selfinstruct.strategies import STRATEGIES, Magpie, Strategy
from selfinstruct.strategies.abilities import ChoosesFormat
from selfinstruct.strategies.mixture import (
    MixtureMember,
    MixtureOptions,
    MixtureStrategy,
    draw_largest_gamma,
    merged_defaults,
)

SEEDS = tuple(load_seeds(builtin_seeds()))
PROMPTS = Prompts({"t": "$text"}, "completion")


class Asks(Strategy, ChoosesFormat):
    """A method with a number of proposals, and different follow-ups for kept and rejected tasks."""

    name: ClassVar[str] = "asks"
    templates: ClassVar = {}

    def __init__(self, times: int = 1_000_000, layout: str = "alpaca") -> None:
        self.times, self.layout = times, layout
        self.seen: list[Any] = []

    @property
    def format(self) -> str:
        return self.layout

    def propose(self, view, rng):
        item = view.progress.next_item
        return replace(self._request("first", drawn=rng.random()), item=item) if item < self.times else None

    def _request(self, stage: str, **context: Any) -> Request:
        return Request(stage, PROMPTS.turns("t", text=stage), Sampling(5), context)

    def receive(self, request, completion, view):
        self.seen.append((request.stage, view.progress, view.progress_by_method))
        accepted, rejected = self._request("then"), self._request("otherwise")
        task = Candidate(
            completion.text, kind="pending_task", on_accept=accepted, on_reject=rejected, columns={"own": 1}
        )
        return Received((task,), (self._request("next"),), counters=(CounterKey("table", "row", "column"),))


def mixed(*parts: tuple[str, float, Strategy], adapt: bool = False, explore: float = 0.05) -> MixtureStrategy:
    return MixtureStrategy(MixtureOptions(explore), [MixtureMember(*part) for part in parts], adapt=adapt)


def drawn(strategy: MixtureStrategy, pool: Pool, times: int = 2000) -> Counter[str]:
    requests = [strategy.propose(pool, Rng("draw", number)) for number in range(times)]
    return Counter(request.method for request in requests if request is not None)


def test_without_adapt_the_weights_are_the_shares() -> None:
    pool = Pool(SEEDS)
    pool.progress_by_method["a"].add(1000, 10)
    result = drawn(mixed(("a", 1, Asks()), ("b", 3, Asks()), ("c", 0, Asks())), pool)
    assert result["b"] / result["a"] == pytest.approx(3, rel=0.15)
    assert result["c"] == 0


def test_the_yields_decide_and_the_weights_before_any_request_is_processed() -> None:
    strategy, pool = mixed(("a", 1, Asks()), ("b", 1, Asks()), ("c", 2, Asks()), adapt=True), Pool(SEEDS)
    result = drawn(strategy, pool)
    assert result["c"] / result["a"] == pytest.approx(2, rel=0.2)
    for _ in range(40):
        pool.progress_by_method["a"].add(2, 100)
        pool.progress_by_method["b"].add(1, 100)
        pool.progress_by_method["c"].add(0, 100)
    result = drawn(strategy, pool)
    # For the same tokens b brings half the rows of a, and c none: only draws by weight choose them.
    assert result["a"] > 0.94 * 2000
    assert result["b"] / 2000 == pytest.approx(0.05 / 4, abs=0.01)
    assert result["c"] / 2000 == pytest.approx(0.05 / 2, abs=0.01)


def test_a_weight_is_the_value_of_a_row() -> None:
    pool = Pool(SEEDS)
    for _ in range(40):
        pool.progress_by_method["a"].add(2, 100)
        pool.progress_by_method["b"].add(1, 100)
    assert drawn(mixed(("a", 1, Asks()), ("b", 8, Asks()), adapt=True), pool)["b"] > 1900


def test_a_method_without_evidence_is_tried() -> None:
    pool = Pool(SEEDS)
    for _ in range(40):
        pool.progress_by_method["a"].add(2, 100)
    result = drawn(mixed(("a", 1, Asks()), ("b", 1, Asks()), adapt=True, explore=0.0), pool)
    assert 0.2 * 2000 < result["b"] < 0.6 * 2000


def test_the_choice_is_the_same_on_every_machine() -> None:
    """Check the exact sequence: if it changed with Python or its C library, a run could not be resumed."""
    pool = Pool(SEEDS)
    for index, label in enumerate("abc"):
        for number in range(30):
            pool.progress_by_method[label].add((number + index) % 3, 90 + 7 * index)
    strategy = mixed(*((label, 1.3, Asks()) for label in "cab"), adapt=True)
    requests = [strategy.propose(pool, Rng("draw", number)) for number in range(40)]
    assert "".join(request.method for request in requests) == SEQUENCE
    assert [request.context["drawn"] for request in requests[:2]] == [0.8480986327478444, 0.6639941230499394]


SEQUENCE = "cbcabacbabcbacaaaabbaaabacacbcbaaabaabaa"


@pytest.mark.parametrize(
    ("shapes", "exposures", "chance"),
    [
        ((1, 1), (2.0, 1.0), 1 / 3),
        ((2, 1), (1.0, 1.0), 3 / 4),  # the second of one's events comes after the first of the other's
        ((3, 2), (3.0, 1.0), (1 / 4) ** 2 * (1 + 2 * (3 / 4) + 3 * (3 / 4) ** 2)),
        ((1, 1, 1), (1.0, 2.0, 3.0), 1 - 1 / 3 - 1 / 4 + 1 / 6),  # of exponentials
    ],
)
def test_the_race_draws_the_largest_gamma_variable(shapes: Any, exposures: Any, chance: float) -> None:
    """Compare how often the first variable is the largest with the closed form."""
    rng = Rng("race")
    result = sum(draw_largest_gamma(shapes, exposures, rng) == 0 for _ in range(20_000)) / 20_000
    assert result == pytest.approx(chance, abs=0.012)


def test_another_method_proposes_when_one_is_exhausted() -> None:
    strategy = mixed(("a", 100, Asks(2)), ("b", 1, Asks(3)), adapt=True)
    scheduler = Scheduler(strategy, SEEDS, FilterOptions(), seed=0, lag=8)
    asked = Counter()
    while not scheduler.exhausted:
        asked[scheduler.open[scheduler.decided].stage] += 1
        scheduler.process(Failure("bad_request", "no"))
    assert asked == {"a/first": 2, "b/first": 3}
    assert scheduler.pool.progress_by_method["b"].tokens == 3 * (1 + len("first") // 4), "a failed request has a cost"


def test_a_method_sees_its_own_stages_and_progress_and_its_requests_get_its_label() -> None:
    inner = Asks()
    strategy, pool = mixed(("a b", 1, inner), ("c", 0, Asks())), Pool(SEEDS)
    request = strategy.propose(pool, Rng("x"))
    assert (request.stage, request.method) == ("a b/first", "a b")
    result = strategy.receive(request.numbered(0, 1), Completion((Choice("Do it", "stop"),), Usage(), "m"), pool)
    assert inner.seen == [("first", pool.progress_by_method["a b"], pool.progress_by_method)]
    [candidate] = result.candidates
    stages = [candidate.on_accept.stage, candidate.on_reject.stage, *(each.stage for each in result.follow_ups)]
    assert stages == ["a b/then", "a b/otherwise", "a b/next"]
    assert candidate.columns == {"own": 1, "strategy": "a b"}
    assert result.counters == (CounterKey("a b: table", "row", "column"),)


def test_format_and_schemas_combine_the_methods() -> None:
    assert mixed(("a", 1, Asks()), ("b", 1, Asks())).format == "alpaca"
    assert mixed(("a", 1, Asks()), ("b", 1, Asks(layout="messages"))).format == "messages"
    assert mixed(("a", 1, Asks(layout="sharegpt"))).format == "sharegpt"
    given = {"backend": "openai", "openai": {"model": "m", "api": "completion"}}
    entries = [{"name": "alpaca"}, {"name": "self-instruct", "structured": True}]
    with pytest.raises(ConfigError, match="JSON schema for raw completions"):
        make_plan({**given, "strategies": entries})
    plan = make_plan({**given, "strategies": entries, "openai": {**given["openai"], "api": "chat"}})
    assert {"alpaca/list", "self-instruct/answer", "self-instruct/input-first-json"} <= set(plan.prompts.texts)
    assert "alpaca/list-json" not in plan.prompts.texts


def test_a_filter_that_one_method_switches_off_is_off_and_otherwise_the_first_default_wins() -> None:
    result = merged_defaults([
        {"filters": {"copied": {"share": 1}}, "lag": 8},
        {"filters": {"novelty": None}},
        {"filters": {"novelty": {"threshold": 0.9}, "copied": {"share": 2, "more": 3}}, "lag": 9},
    ])  # fmt: skip
    assert result == {"filters": {"copied": {"share": 1, "more": 3}, "novelty": None}, "lag": 8}


def test_an_entry_falls_back_on_the_section_and_the_preset(tmp_path: Path) -> None:
    given = {
        "strategies": [{"name": "alpaca"}, {"name": "alpaca", "label": "long", "weight": 2, "list_length": 20}],
        "alpaca": {"list_length": 9},
    }
    plan = make_plan(given)
    first, second = plan.methods
    assert (first.label, first.weight, first.options.list_length, first.options.tasks.max_tokens) == (
        "alpaca",
        1.0,
        9,
        400,
    )  # fmt: skip  (400: of the embedded model's preset)
    assert (second.label, second.weight, second.options.list_length) == ("long", 2.0, 20)
    assert plan.settings.strategy == "mix"
    recorded = plan.values()
    assert [entry["list_length"] for entry in recorded["strategies"]] == [9, 20]
    again = overlay(recorded, given, dict)  # repeated settings change nothing
    assert build_methods(again["strategies"]) == plan.methods
    assert build_methods(overlay(recorded, {"n": 3}, dict)["strategies"]) == plan.methods
    changed = overlay(recorded, {"strategies": [{"name": "alpaca", "label": "long", "weight": 5}]}, dict)
    [method] = build_methods(changed["strategies"])
    assert (method.weight, method.options.list_length) == (5.0, 20)


def test_the_identity_of_a_mixed_run_lists_its_methods_in_any_order() -> None:
    assert not {"strategies", "adapt", "mix"} & make_plan({"strategy": "alpaca"}).identity.keys()
    entries = [{"name": "alpaca", "weight": 2}, {"name": "self-instruct"}]
    plan, turned = make_plan({"strategies": entries}), make_plan({"strategies": entries[::-1]})
    assert plan.identity == turned.identity
    assert plan.identity["strategies"]["alpaca"]["weight"] == 2.0
    assert plan.identity != make_plan({"strategies": entries, "adapt": True}).identity
    assert plan.strategy.propose(Pool(SEEDS), Rng(1)) == turned.strategy.propose(Pool(SEEDS), Rng(1))


ALPACA = {"name": "alpaca"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"strategies": []}, "strategies: at least one"),
        ({"strategies": "alpaca"}, "strategies: input should be"),
        ({"strategies": ["alpaca"]}, "strategies.0: input should be"),
        ({"strategies": [{"weight": 1}]}, "strategies.0: give it the .name. of a strategy"),
        ({"strategies": [{"name": "alpacca"}]}, "unknown strategy 'alpacca'.*did you mean 'alpaca'"),
        ({"strategies": [{"name": "mix"}]}, "unknown strategy 'mix'"),
        ({"strategies": [ALPACA, ALPACA]}, "the label 'alpaca' is used twice"),
        ({"strategies": [{**ALPACA, "wieght": 2}]}, "unknown key 'strategies.0.wieght'.*did you mean 'weight'"),
        ({"strategies": [{**ALPACA, "weight": -1}]}, "strategies.0: weight must be 0 or more"),
        ({"strategies": [{**ALPACA, "weight": "much"}]}, "strategies.0.weight: "),
        ({"strategies": [{**ALPACA, "weight": 0}]}, "needs a weight above 0"),
        ({"strategies": [{**ALPACA, "label": "a/b"}]}, "strategies.0: label may hold neither"),
        ({"strategies": [{**ALPACA, "label": "a|b"}]}, "strategies.0: label may hold neither"),
        ({"strategies": [{**ALPACA, "label": " "}]}, "strategies.0: label must be"),
        ({"strategies": [{**ALPACA, "list_length": 1}]}, "strategies.0: list_length must be above"),
        ({"strategies": [{**ALPACA, "tasks": {"max_tokens": 0}}]}, "strategies.0.tasks: max_tokens"),
        ({"strategies": [ALPACA], "strategy": "alpaca"}, "both strategy .alpaca. and strategies"),
        ({"strategy": "mix"}, "list them under strategies"),
        ({"strategy": "alpaca", "adapt": True}, "adapt needs several methods"),
        ({"strategies": [ALPACA], "mix": {"explore": 2}}, "mix: explore must be from 0 to 1"),
    ],
)  # fmt: skip
def test_wrong_entries_are_refused_with_the_reason(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SelfInstructError, match=says):
        make_plan(given)


def test_an_error_in_an_entry_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text("n: 3\nstrategies:\n- name: alpaca\n- name: self-instruct\n  wieght: 2\n")
    values, lines = read_yaml(path)
    with pytest.raises(ConfigError) as error:
        make_plan(values)
    assert lines[error.value.key] == 5


def test_each_entry_has_its_own_data_files(tmp_path: Path) -> None:
    def entry(name: str, label: str, option: str, *texts: str) -> dict[str, Any]:
        path = tmp_path / f"{label}.txt"
        path.write_text("\n".join(texts))
        return {"name": name, "label": label, option: str(path)}

    entries = [
        entry("personas", "north", "file", "A baker in Oslo."),
        entry("personas", "south", "file", "A baker in Rome.", "A judge in Bari."),
        entry("respond", "brief", "systems", "Be brief."),
        entry("respond", "kind", "systems", "Be kind."),
    ]
    plan, turned = make_plan({"strategies": entries}), make_plan({"strategies": entries[::-1]})
    assert plan.identity == turned.identity
    assert plan.meta()["templates"] == turned.meta()["templates"]
    for mixed_plan in (plan, turned):
        strategy: Any = mixed_plan.strategy
        parts = {label: part.strategy for label, part in strategy._members.items()}
        assert parts["north"].personas == ["A baker in Oslo."]
        assert parts["south"].personas == ["A baker in Rome.", "A judge in Bari."]
        assert [parts[label].options.systems for label in ("brief", "kind")] == [("Be brief.",), ("Be kind.",)]
    assert {name for name in plan.prompts.texts if name.endswith(".jsonl")} == {
        "north/personas/people.jsonl",
        "south/personas/people.jsonl",
    }
    alone = make_plan({"strategy": "personas"})
    assert "personas/people.jsonl" in alone.prompts.texts, "a run of one method keeps the plain name"


def test_no_strategy_has_an_option_with_the_name_of_an_entrys_field() -> None:
    for name, kind in STRATEGIES.items():
        assert not {"name", "weight", "label"} & vars(build(kind.Options, {})).keys(), name


def texts(given: dict[str, Any]) -> dict[str, str]:
    """Return, by label, the text that each magpie of a mixed run puts before the user's message."""
    strategy: Any = make_plan(given).strategy
    parts = {label: part.strategy for label, part in strategy._members.items()}
    return {
        label: part.options.system_pre_query or part.options.pre_query
        for label, part in parts.items()
        if isinstance(part, Magpie)
    }


def test_each_magpie_of_a_mixed_run_derives_its_own_texts() -> None:
    server = {"backend": "openai", "openai": {"model": "m", "api": "completion"}}
    chatml = "<|im_start|>user\n"
    given = {"strategies": [{"name": "alpaca"}, {"name": "magpie", "template": "chatml"}], **server}
    assert texts(given) == {"magpie": chatml}
    given = {"strategies": [{"name": "alpaca"}, {"name": "magpie"}], "magpie": {"template": "chatml"}, **server}
    assert texts(given) == {"magpie": chatml}
    entries = [
        {"name": "magpie", "label": "plain", "template": "chatml"},
        {"name": "magpie", "label": "law", "template": "chatml", "system": "You teach law."},
        {"name": "magpie", "label": "other", "template": "llama-3"},
    ]
    result = texts({"strategies": entries, **server})
    assert result["plain"] == chatml
    assert result["law"] == f"<|im_start|>system\nYou teach law.<|im_end|>\n{chatml}"
    assert result["other"].startswith("<|start_header_id|>user")
    with pytest.raises(ConfigError, match="the template is unknown"):
        texts({"strategies": [{"name": "alpaca"}, {"name": "magpie"}], **server})


def test_a_mixed_run_reads_the_embedded_models_template() -> None:
    result = texts({"strategies": [{"name": "alpaca"}, {"name": "magpie"}], "adapt": True})
    assert result["magpie"].endswith("<|im_start|>user\n")
