"""Quality for a strategy: the requests about a row and their results, with scripted completions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from selfinstruct.common.config import build, identity_fields
from selfinstruct.common.formats import user_text
from selfinstruct.common.resources import builtin_prompts
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import ConfigError, TemplateError
from selfinstruct.prompts import Prompts
from selfinstruct.records import (
    Candidate,
    Choice,
    Completion,
    CounterKey,
    Message,
    Pair,
    Received,
    Request,
    Sampling,
    Usage,
    Verdict,
)
from selfinstruct.strategies import QualityOptions, QualityStrategy, Strategy
from selfinstruct.strategies.abilities import ChecksAnswers, RecoversFailures
from tests.cli import run_cli

TEXT = {"inner": frozenset({"text"})}
ROW = Candidate("Name a sum of two and two.", output="Five.", span=(0, 5), shown_outputs=("Three.",))


class Inner(Strategy, ChecksAnswers, RecoversFailures):
    """A strategy that offers the candidates of the test."""

    name = "inner"
    templates: ClassVar = {}

    def __init__(self, *candidates: Candidate) -> None:
        self.candidates = candidates

    def reject_reason(self, row, text):
        return "own_rule" if "sorry" in text else ""

    def propose(self, view, rng):
        return Request("answer", (), Sampling(5))

    def recover(self, request, view):
        return Received(counters=(CounterKey("inner", "failed", "1"),))

    def receive(self, request, completion, view):
        return Received(self.candidates, follow_ups=(Request("more", (), Sampling(5)),))


def refined(*candidates: Candidate, api: Any = "chat", **options: Any) -> QualityStrategy:
    made = build(QualityOptions, options)
    prompts = Prompts.load(QualityStrategy.templates_of(made), api, builtin_prompts())
    prompts = Prompts({**prompts.texts, "inner": "$text"}, api)
    return QualityStrategy(Inner(*candidates), made, prompts)


def completion(*texts: str, ends: str = "stop") -> Completion:
    return Completion(tuple(Choice(text, ends) for text in texts), Usage(), "scripted")


def begun(made: QualityStrategy, stage: str = "answer", number: int = 7) -> Received:
    return made.receive(replace(Request(stage, (), Sampling(5)), number=number), completion("x"), None)


def chain(made: QualityStrategy, *said: Any, stage: str = "answer") -> tuple[list[Request], Received]:
    """Return the requests of the first candidate's chain, and the result of the last one."""
    request = begun(made, stage).candidates[0].on_accept
    asked = []
    for index, texts in enumerate(said):
        assert request is not None, f"{len(said) - index} answers too many"
        request = request.numbered(8 + index, 1)
        asked.append(request)
        received = made.receive(request, completion(*([texts] if isinstance(texts, str) else texts)), None)
        request = received.follow_ups[0] if received.follow_ups else None
    assert request is None, request
    return asked, received


APIS = ("completion", "chat")
ONE = {"judge": {"rubrics": ["helpfulness"], "threshold": 3}}


def test_a_row_becomes_provisional_and_other_candidates_pass_unchanged():
    pending = Candidate("Write a thing.", kind="pending_task", on_accept=Request("inner", (), Sampling(1)))
    provisional, rejected = replace(ROW, kind="provisional_row"), replace(ROW, verdicts=(Verdict("own", False, "bad"),))
    received = begun(refined(ROW, pending, provisional, rejected, judge={}))
    assert tuple(replace(candidate, id="") for candidate in received.candidates[1:]) == (pending, provisional, rejected)
    assert [candidate.id for candidate in received.candidates] == ["7.0", "7.1", "7.2", "7.3"]
    assert [request.stage for request in received.follow_ups] == ["more"]
    first = received.candidates[0]
    assert (first.kind, first.span, first.shown_outputs, first.task) == ("provisional_row", (0, 5), ("Three.",), None)
    assert first.on_accept is not None
    assert (first.on_accept.stage, first.on_accept.parent) == ("judge", 7)
    assert "Five." in first.on_accept.turns[0].text
    assert begun(refined(ROW, judge={}), "evol/answer").candidates[0].on_accept.stage == "evol/judge"


def test_each_answer_and_rubric_has_one_request_and_the_mean_decides():
    asked, received = chain(refined(ROW, judge={"threshold": 3}), "Score: 5\nReason: all of it", "2", "4/5")
    assert [request.stage for request in asked] == ["judge"] * 3
    assert [request.parent for request in asked] == [7, 8, 9]
    assert len({request.turns[0].text for request in asked}) == 3
    [row] = received.candidates
    assert (row.kind, row.task, row.output, row.shown_outputs, row.span) == ("row", "7.0", "Five.", (), (0, 0))
    assert row.columns == {"score": 3.667, "scores": {"helpfulness": 5.0, "correctness": 2.0, "clarity": 4.0}}
    [verdict] = row.verdicts
    assert (verdict.filter, verdict.kept, verdict.score) == ("judge", True, 11 / 3)
    assert verdict.detail["reasons"]["helpfulness"] == "all of it"
    assert tuple(map(str, received.counters)) == ("quality|clarity|4",)


@pytest.mark.parametrize(
    ("said", "reason"),
    [("Score: 3", ""), ("Score: 2.9", "low_score"), ("Good.", "no_score"), ("", "no_score"), ("Score: 6", "no_score")],
)
def test_below_the_threshold_or_without_a_score_a_row_is_rejected(said, reason):
    _, received = chain(refined(ROW, **ONE), said)
    [verdict] = received.candidates[0].verdicts
    assert (verdict.kept, verdict.reason) == (not reason, reason)


def test_an_answer_without_a_score_is_not_judged_further_and_a_rejected_row_is_not_tagged():
    asked, received = chain(refined(ROW, judge={"threshold": 3}, tags=True), "Score: 5", "no idea")
    assert len(asked) == 2
    assert received.candidates[0].verdicts[0].reason == "no_score"
    asked, _ = chain(refined(ROW, tags=True, **ONE), "Score: 1")
    assert len(asked) == 1


def test_a_failed_step_of_the_chain_is_skipped():
    made = refined(ROW, best_of=2, tags=True, judge={"rubrics": ["helpfulness", "clarity"], "threshold": 3})
    candidates = begun(made).candidates[0].on_accept.numbered(8, 1)
    (judge,) = made.recover(candidates, None).follow_ups
    assert judge.stage == "judge"
    (second,) = made.receive(judge.numbered(9, 1), completion("Score: 4"), None).follow_ups
    [row] = made.recover(second.numbered(10, 1), None).candidates
    assert row.verdicts[-1].reason == "no_score"
    made = refined(ROW, tags=True, **ONE)
    judge = begun(made).candidates[0].on_accept.numbered(8, 1)
    (tags,) = made.receive(judge, completion("Score: 4"), None).follow_ups
    [row] = made.recover(tags.numbered(9, 1), None).candidates
    assert all(verdict.kept for verdict in row.verdicts)
    assert [row.columns[name] for name in ("score", "category", "difficulty", "language")] == [4, None, None, None]


def test_the_judge_chooses_the_best_answer_and_the_worst_is_its_pair():
    made = refined(ROW, best_of=4, pairs=True, **ONE)
    asked, received = chain(
        made, [" Four.", "Six.", "Four, of course."], "Score: 2", "Score: 4", "Score: 1", "Score: 4"
    )
    assert asked[0].sampling.n == 3
    assert [request.context["quality"]["asked"].get("answer") for request in asked] == [None, 0, 1, 2, 3]
    [row] = received.candidates
    assert (row.output, row.shown_outputs, row.columns["score"]) == ("Four.", (ROW.instruction,), 4.0)
    assert (row.pair.rejected, row.pair.scores) == ("Six.", (4.0, 1.0))
    assert [item.filter for item in row.verdicts] == ["best_of", "judge"]
    assert row.verdicts[0].detail == {"answer": 2, "means": [2.0, 4.0, 1.0, 4.0]}
    assert "quality|best answer|2" in tuple(map(str, received.counters))


def test_equal_scores_make_no_pair_and_keep_the_rows_own_answer():
    _, received = chain(refined(ROW, best_of=2, pairs=True, **ONE), ["Four."], "Score: 4", "Score: 4")
    [row] = received.candidates
    assert (row.output, row.pair) == ("Five.", None)


def test_unacceptable_answers_are_discarded_and_missing_ones_counted():
    made = refined(ROW, best_of=6, **ONE)
    request = begun(made).candidates[0].on_accept.numbered(8, 1)
    received = made.receive(request, completion("Five.", "", "The sum:", "Four."), None)
    assert [discard.reason for discard in received.discards] == [
        "same_answer",
        "empty_output",
        "colon",
        "missing_choice",
    ]
    assert received.follow_ups[0].context["quality"]["others"] == ["Four."]
    cut = made.receive(request, completion("Four, and", ends="length"), None)
    assert [discard.reason for discard in cut.discards] == ["truncated"] + ["missing_choice"] * 4


def test_further_answers_have_to_pass_the_rules_of_the_strategy():
    made = refined(ROW, best_of=3, **ONE)
    request = begun(made).candidates[0].on_accept.numbered(8, 1)
    received = made.receive(request, completion("I am sorry.", "Four."), None)
    assert [discard.reason for discard in received.discards] == ["own_rule"]
    assert received.follow_ups[0].context["quality"]["others"] == ["Four."]


def test_a_further_answer_in_a_chat_may_contain_the_stop_string_of_raw_prompts():
    stops = {api: begun(refined(ROW, api=api, best_of=2, **ONE)).candidates[0].on_accept.sampling.stop for api in APIS}
    assert stops == {"completion": ("\nTask:",), "chat": ()}


def test_a_judge_may_reason_and_is_read_after_its_reasoning():
    for api, most in (("completion", (256, 60)), ("chat", (1024, 1024))):
        said = ("<think>Score: 1? Or 2.</think>\nScore: 4", "<think>Category: math</think>\nCategory: coding")
        asked, received = chain(refined(ROW, api=api, tags=True, **ONE), *said)
        assert tuple(request.sampling.max_tokens for request in asked) == most
        assert received.candidates[0].columns["score"] == 4
        assert received.candidates[0].columns["category"] == "coding"
    asked, _ = chain(refined(ROW, api="completion", judging={"max_tokens": 9}, **ONE), "Score: 4")
    assert asked[0].sampling.max_tokens == 9


def test_the_mean_does_not_depend_on_rounding():
    scores = ("Score: 1.2", "Score: 1.4", "Score: 1.6")  # their floating-point sum is below 4.2
    for said in (scores, scores[::-1]):
        _, received = chain(refined(ROW, judge={"threshold": 1.4}), *said)
        assert received.candidates[0].verdicts[0].kept


def test_a_verifier_chooses_without_a_judge_and_wrong_answers_are_not_judged():
    row = replace(ROW, verifier={"kind": "text", "value": "four"})
    made = refined(row, best_of=3, pairs=True)
    assert begun(made).candidates[0].verifier is None, "its own answer may be wrong while others are to come"
    _, received = chain(made, ["Six.", "Four."])
    [result] = received.candidates
    assert (result.output, result.verifier, result.verdicts[0].filter) == ("Four.", row.verifier, "best_of")
    assert (result.pair.rejected, result.pair.scores) == ("Five.", (1.0, 0.0))
    asked, received = chain(refined(row, best_of=3, pairs=True, **ONE), ["Six.", "Four."], "Score: 3")
    assert len(asked) == 2
    assert received.candidates[0].pair.scores == (3.0, 0.0)
    _, received = chain(refined(row, best_of=3, **ONE), ["Six.", "Seven."])
    assert (received.candidates[0].output, received.candidates[0].verdicts[1:]) == ("Five.", ()), (
        "the verifier rejects it"
    )
    kept = begun(refined(row, **ONE)).candidates[0]
    assert kept.verifier == row.verifier, "without further answers the verifier applies at once"


def test_an_answer_that_is_the_complete_first_choice_has_a_span():
    row = replace(ROW, verifier={"kind": "text", "value": "four"})
    _, received = chain(refined(row, best_of=2), ["\n Four.\n"])
    assert received.candidates[0].span == (2, 7)


def test_no_further_answers_are_requested_without_a_judge_or_a_verifier():
    assert begun(refined(ROW, best_of=3)).candidates == (replace(ROW, id="7.0"),)


def test_a_conversation_is_judged_complete_and_gets_no_further_answers():
    said = (
        Message("user", "Hello"),
        Message("assistant", "Hi"),
        Message("user", "Two and two?"),
        Message("assistant", "4"),
    )
    row = Candidate("Hello", output="4", messages=said, system="Be brief.")
    asked, received = chain(
        refined(row, best_of=3, tags=True, **ONE), "Score: 5", "math\nDifficulty: easy\nLanguage: English"
    )
    assert [request.stage for request in asked] == ["judge", "tags"]
    assert (
        "System: Be brief.\n\nUser: Hello\n\nAssistant: Hi\n\nUser: Two and two?\n\nAssistant: 4"
        in asked[0].turns[0].text
    )
    assert "Assistant: 4" not in asked[1].turns[0].text
    [result] = received.candidates
    assert (result.messages, result.system) == (said, "Be brief.")


def test_tags_are_columns_of_closed_vocabularies():
    made = refined(ROW, api="completion", tags=True)
    _, received = chain(made, " Math.\nDifficulty: fiendish\nLanguage: Elvish")
    assert received.candidates[0].columns == {"category": "math", "difficulty": None, "language": "other"}
    cells = [str(counter) for counter in received.counters]
    assert cells == ["quality|category|math", "quality|difficulty|none", "quality|language|other"]
    assert refined(ROW, tags=True, structured=True).schema_apis("completion") == {"completion"}
    assert refined(ROW, tags=True).schema_apis("completion") == frozenset()


def test_structured_requests_carry_a_schema():
    made = refined(ROW, tags=True, structured=True, **ONE)
    said = '{"score": 4, "reason": "r"}', '{"category": "math", "difficulty": "easy", "language": "German"}'
    asked, received = chain(made, *said)
    assert asked[0].sampling.schema["properties"]["score"]["enum"] == [1, 2, 3, 4, 5]
    assert list(asked[1].sampling.schema["properties"]) == ["category", "difficulty", "language"]
    assert received.candidates[0].columns["language"] == "German"


def test_a_system_prompt_precedes_the_question_in_both_apis():
    row = replace(ROW, system="Be $brief.")
    chat, raw = (
        begun(refined(row, api=api, best_of=2, **ONE)).candidates[0].on_accept for api in ("chat", "completion")
    )
    assert [(turn.role, turn.text[:10]) for turn in chat.turns] == [("system", "Be $brief."), ("user", "Answer thi")]
    assert raw.is_raw
    assert "Task: Be $brief.\n\nName a sum" in raw.turns[0].text


def test_the_strategys_follow_up_waits_for_the_judge():
    prompts = Prompts({"inner": "$text"}, "chat")
    then, otherwise = (
        Request(name, prompts.turns("inner", text=f"{name} $x"), Sampling(9, stop=("s",)), {"c": [1]}, 7)
        for name in ("deepen", "again")
    )
    row = replace(ROW, on_accept=then, on_reject=otherwise, columns={"origin": "a"})
    made = refined(row, **ONE)
    provisional = begun(made).candidates[0]
    assert provisional.on_accept.stage == "judge"
    assert provisional.on_reject == otherwise
    _, received = chain(made, "Score: 5")
    result = received.candidates[0]
    assert (result.on_accept, result.on_reject) == (replace(then, parent=8), replace(otherwise, parent=8))
    assert result.columns["origin"] == "a"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "quality requests nothing"),
        ({"best_of": 0}, "best_of must be 1"),
        ({"pairs": True, "tags": True}, "set best_of to 2 or more"),
        ({"judge": {"threshold": 6}}, "judge: threshold 6 is outside the scale, which is 1 to 5"),
        ({"judge": {"scale": [5, 1]}}, "scale must be two numbers"),
        ({"judge": {"scale": [0, 5]}}, "scale must be two numbers"),
        ({"judge": {"rubrics": []}}, "rubrics must name at least one"),
        ({"judge": {"rubrics": ["a", "a"]}}, "rubrics must differ"),
        ({"judge": {"rubrics": ["../x"]}}, "'../x' is not"),
        ({"judge": {"rubric": "a"}}, "did you mean 'rubrics'"),
    ],
)
def test_contradictory_options_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        build(QualityOptions, options, "quality")


def plan(**quality: Any) -> Any:
    return make_plan({"backend": "openai", "openai": {"model": "m", "base_url": "http://x/v1"}, "quality": quality})


def test_an_unknown_rubric_is_refused_with_the_nearest_name(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no rubric 'clarty' \(did you mean 'clarity'\?\)"):
        plan(judge={"rubrics": ["clarty"]})
    own = tmp_path / "quality/rubrics/depth.txt"
    own.parent.mkdir(parents=True)
    own.write_text("How deep?")
    given = {"prompts": str(tmp_path), "quality": {"judge": {"rubrics": ["depth"]}}}
    with pytest.raises(TemplateError, match="missing \\$high, \\$low"):
        make_plan(given)
    own.write_text("How deep, from $low to $high?")
    assert "quality/rubrics/depth" in make_plan(given).prompts.texts


def test_unsuitable_backends_are_refused_before_anything_is_sent():
    with pytest.raises(ConfigError, match=r"--set llamacpp.slots=5"):
        make_plan({"quality": {"best_of": 6, "judge": {}}})
    assert make_plan({"quality": {"best_of": 5, "judge": {}}}).settings.quality.best_of == 5
    raw = {"backend": "openai", "openai": {"model": "m", "base_url": "http://x/v1", "api": "completion"}}
    with pytest.raises(ConfigError, match="schema_field"):
        make_plan({**raw, "quality": {"judge": {}, "structured": True}})
    assert make_plan({**raw, "quality": {"judge": {}, "structured": True, "judging": {"max_tokens": 9, "api": "chat"}}})


@pytest.mark.parametrize("given", [{"strategy": "respond"}, {"strategies": [{"name": "alpaca"}, {"name": "respond"}]}])
def test_further_answers_without_their_reasoning_are_refused(given):
    given = {**given, "respond": {"reasoning": True}, "quality": {"judge": {}}}
    assert make_plan(given).settings.quality.best_of == 1
    with pytest.raises(ConfigError, match=r"best_of: further answers .* without reasoning"):
        make_plan({**given, "quality": {"judge": {}, "best_of": 2}})


def test_runs_without_quality_are_unchanged_and_the_embedded_model_has_settings_for_it():
    plain, judged = make_plan({}), make_plan({"quality": {"judge": {"threshold": 3}}})
    assert "quality" not in plain.row_identity
    assert plain.settings.quality is None
    assert not any(name.startswith("quality/") for name in plain.prompts.texts)
    assert judged.row_identity["quality"]["judge"]["threshold"] == 3
    assert judged.settings.quality.judging.api == "chat"
    assert make_plan({"quality": None}).row_identity == plain.row_identity


def test_an_error_names_the_configuration_file_and_the_line(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"quality": {"judge": {"threshold": 9}}}))
    said = run_cli("generate", tmp_path / "r", "--config", path, code=2)
    assert f"{path}:2: quality.judge: threshold 9 is outside" in said


REWARD = {"reward": {"model": "runs/judge", "identity": "abc"}}


def test_a_reward_model_scores_each_answer_once_and_below_zero_as_well():
    asked, received = chain(
        refined(ROW, best_of=3, pairs=True, **REWARD), ["Six.", "Four."], "-3.5", "-1.25", "-2.0625"
    )
    assert [request.stage for request in asked] == ["candidates", "reward", "reward", "reward"]
    assert [request.asks_for_score for request in asked] == [False, True, True, True]
    question = user_text(ROW.instruction, ROW.input)
    for request, answer in zip(asked[1:], ("Five.", "Six.", "Four."), strict=True):
        assert [(turn.role, turn.text) for turn in request.turns] == [("user", question), ("assistant", answer)]
    assert asked[1].context["quality"]["asked"] == {"answer": 0, "model": "abc"}, "another model gets other requests"
    [row] = received.candidates
    assert (row.output, row.columns) == ("Six.", {"score": -1.25, "scores": {"reward": -1.25}})
    assert (row.pair.rejected, row.pair.scores) == ("Five.", (-1.25, -3.5))
    assert row.verdicts[0].detail == {"answer": 2, "means": [-3.5, -1.25, -2.0625]}
    assert (row.verdicts[1].kept, row.verdicts[1].score) == (True, -1.25)
    assert "quality|reward|-2" in tuple(map(str, received.counters))


@pytest.mark.parametrize(("threshold", "reason"), [(None, ""), (-1.25, ""), (-1.2, "low_score")])
def test_a_reward_has_to_reach_the_threshold_if_there_is_one(threshold, reason):
    reward = {**REWARD["reward"], "threshold": threshold}
    _, received = chain(refined(ROW, reward=reward), "-1.25")
    assert received.candidates[0].verdicts[0].reason == reason


def test_a_wrong_answer_is_the_rejected_one_without_a_reward():
    row = replace(ROW, verifier={"kind": "text", "value": "four"})
    asked, received = chain(refined(row, best_of=2, pairs=True, **REWARD), ["Four."], "-7.5")
    assert [request.stage for request in asked] == ["candidates", "reward"]
    assert (received.candidates[0].output, received.candidates[0].pair) == ("Four.", Pair("Five.", (-7.5, None)))


def test_an_answer_that_could_not_be_scored_is_not_chosen():
    made = refined(ROW, best_of=2, pairs=True, **REWARD)
    request = begun(made).candidates[0].on_accept.numbered(8, 1)
    (own,) = made.receive(request, completion("Four."), None).follow_ups
    (other,) = made.recover(own.numbered(9, 1), None).follow_ups
    [row] = made.receive(other.numbered(10, 1), completion("-9.0"), None).candidates
    assert (row.output, row.columns["score"], row.pair) == ("Four.", -9.0, None)
    [row] = made.recover(other.numbered(10, 1), None).candidates
    assert row.verdicts[-1].reason == "no_score"


def test_judge_and_reward_exclude_each_other():
    with pytest.raises(ConfigError, match="judge and reward both score the answers"):
        refined(ROW, judge={}, **REWARD)
    with pytest.raises(ConfigError, match="model must name a reward model"):
        refined(ROW, reward={"model": ""})


def test_the_identity_of_a_run_holds_the_model_and_not_its_path():
    made = build(QualityOptions, REWARD)
    assert identity_fields(made)["reward"] == {"threshold": None, "identity": "abc"}
    assert "reward" not in identity_fields(QualityOptions(tags=True)), "earlier runs keep their identity"
