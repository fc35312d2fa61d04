"""Text is data: the text of seeds and completions is shown, stored and exported verbatim, and decides nothing."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import string
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.data.render import Renderer
from finetune.data.rows import Example, read_examples
from selfinstruct import generate
from selfinstruct.common.rng import Rng, derive
from selfinstruct.engine.row_filters import FilterOptions, RowFilters
from selfinstruct.errors import DataError
from selfinstruct.ledger import Reader
from selfinstruct.parse import collapse, read_blocks
from selfinstruct.pool import Pool
from selfinstruct.prompts import Prompts
from selfinstruct.records import Choice, Completion, Instance, Request, Task, Usage, candidate_id
from selfinstruct.runs.export import export
from selfinstruct.strategies.alpaca import FORM, Alpaca, AlpacaOptions
from selfinstruct.strategies.self_instruct import INPUT_FIRST, OUTPUT_FIRST, SelfInstruct, SelfInstructOptions
from tests import finetune_fixtures
from tests.abuse.hostile import ROOT, TRICKS, filled, selfinstruct, words
from tests.conftest import Promise
from tests.finetune_templates import SHAPES
from tests.loopback import Loopback

tiny_tokenizer = finetune_fixtures.tiny_tokenizer

NUMBERS = {derive("request", 0, number): number for number in range(2000)}
ROWS = 2 * len(TRICKS)
KEYS = ["instruction", "input", "output"]
FACTS = ["id", "kept", "reason", "task", "stage", "parent", "demonstrations", *KEYS, "draft", "verdicts"]


def hostile_seeds(path: Path) -> list[dict[str, Any]]:
    """Each trick in every field; some of them classification tasks."""
    rows = []
    for place, trick in enumerate(TRICKS):
        rng = Rng("seed", place)
        rows.append(
            {
                "id": f"{trick} {place}",
                "name": trick,
                "instruction": f"{words(rng, 6)} {trick} q",
                "instances": [{"input": f"r {trick} s\n{trick}", "output": f"{words(rng, 3)} {trick}\n\n{trick}\nu"}],
                "is_classification": place % 5 == 0,
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def run_settings(strategy: str, url: str, seeds: Path) -> dict[str, Any]:
    section = {"model": "m", "base_url": url, "api": "completion"}
    return {"strategy": strategy, "backend": "openai", "openai": section, "seeds": str(seeds), "n": ROWS}


def check_ledger(run: Path) -> int:
    """Texts under their digests, and nothing else than what was put there; the number of texts."""
    with sqlite3.connect(run / "run.sqlite") as ledger:
        texts = ledger.execute("SELECT digest, body FROM texts").fetchall()
        assert all(hashlib.sha256(body).hexdigest() == digest for digest, body in texts)
        tables = {name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    ledger.close()
    assert tables == {"meta", "texts", "requests", "sends", "outcomes"}
    return len(texts)


def check_candidates(run: Path, seeds: set[str]) -> list[dict[str, Any]]:
    """Every candidate's facts are ours: keys, ids, verdicts, and whom they name."""
    export(run, "candidates")
    lines = (run / "dataset" / "candidates.jsonl").read_bytes().split(b"\n")
    found = [json.loads(line) for line in lines[:-1]]
    assert lines[-1] == b""
    known: set[str] = set()
    for one in found:
        assert list(one) == FACTS
        assert re.fullmatch(r"\d+\.\d+", one["id"])
        assert one["id"] not in known
        assert one["kept"] is all(verdict["kept"] for verdict in one["verdicts"])
        assert set(one["demonstrations"]) <= seeds | known
        for verdict in one["verdicts"]:
            assert verdict["filter"] in {"words", "keywords", "punctuation", "program", "rouge", "instances", "copied",
                                         "minhash"}  # fmt: skip
            assert verdict["nearest"] is None or verdict["nearest"] in seeds | known
        known.add(one["id"])
    return found


def test_alpaca_shows_seeds_and_keeps_rows_verbatim(tmp_path: Path, promise: Promise) -> None:
    seeds = hostile_seeds(tmp_path / "seeds.jsonl")
    sent: dict[str, tuple[str, str, str]] = {}

    def answer(body: dict[str, Any]) -> str:
        number, rng = NUMBERS[body["seed"]], Rng("hostile", body["seed"])
        trick = TRICKS[number % len(TRICKS)]
        row = (f"{words(rng, 7)} {trick} b", f"{words(rng, 3)} {trick} d", f"{words(rng, 6)} {trick} f\nmore {trick} g")
        sent[row[0]] = row
        return f" {row[0]}\nInput: {row[1]}\nOutput: {row[2]}"

    run = tmp_path / "run"
    with Loopback(answer) as server:
        generate(run, run_settings("alpaca", server.url, tmp_path / "seeds.jsonl"))
        arrived = {NUMBERS[one.body["seed"]]: one.body for one in server.arrived}
    assert all(set(body) == {"model", "prompt", "max_tokens", "temperature", "top_p", "stop", "seed"}
               for body in arrived.values())  # fmt: skip
    by_id = {seed["id"]: seed for seed in seeds}
    with Reader(run) as reader:
        for number, body in arrived.items():
            shown = [by_id[name] for name in reader.request(number).demonstrations]
            blocks = [
                f"### Task {place}\nInstruction: {seed['instruction']}\nInput: {seed['instances'][0]['input']}\n"
                f"Output: {seed['instances'][0]['output']}"
                for place, seed in enumerate(shown, 1)
            ]
            assert body["prompt"] == filled("alpaca/list", count="20", tasks="\n\n".join(blocks), next="4")
    lines = (run / "dataset" / "alpaca.jsonl").read_bytes().split(b"\n")
    rows = [json.loads(line) for line in lines[:-1]]
    assert len(rows) == ROWS
    assert all(list(row) == KEYS for row in rows)
    assert [tuple(row.values()) for row in rows] == [sent[row["instruction"]] for row in rows]
    met = {trick for trick in TRICKS if any(f" {trick} f\n" in row["output"] for row in rows)}
    assert met == set(TRICKS)
    found = check_candidates(run, set(by_id))
    promise(
        "abuse: text is data",
        f"alpaca: {len(TRICKS)} tricks in {len(arrived)} prompts, {len(found)} candidates, {len(rows)} rows, "
        f"{check_ledger(run)} stored texts: 0 bytes differ, 0 forged fields",
    )


def test_self_instruct_shows_pending_tasks_and_keeps_rows_verbatim(tmp_path: Path, promise: Promise) -> None:
    seeds = hostile_seeds(tmp_path / "seeds.jsonl")
    sent: dict[str, tuple[str, str]] = {}

    def answer(body: dict[str, Any]) -> str:
        number, rng = NUMBERS[body["seed"]], Rng("hostile", body["seed"])
        last = body["prompt"].rsplit("\n", 1)[-1]
        if last.startswith("Classification:"):
            return " No, " + TRICKS[number % len(TRICKS)]
        if last.startswith("### Task:"):
            trick = TRICKS[number % len(TRICKS)]
            given, output = f"{words(rng, 5)} {trick} d", f"{words(rng, 6)} {trick} f\nmore {trick} g"
            sent[output] = (given, output)
            return f"\nExample 1\nInput: {given}\nOutput: {output}"
        first = int(last.rstrip("."))
        items = [f"{words(rng, 8)} {TRICKS[(5 * number + place) % len(TRICKS)]} b" for place in range(5)]
        return "".join(f" {item}\n{first + place}." for place, item in enumerate(items, 1)).rsplit("\n", 1)[0]

    run = tmp_path / "run"
    with Loopback(answer) as server:
        generate(run, run_settings("self-instruct", server.url, tmp_path / "seeds.jsonl"))
        prompts = {NUMBERS[one.body["seed"]]: one.body["prompt"] for one in server.arrived}
    by_id = {seed["id"]: seed for seed in seeds}
    found = check_candidates(run, set(by_id))
    texts = {one["id"]: one["instruction"] for one in found if one["draft"]}
    stages: dict[str, int] = {}
    with Reader(run) as reader:
        for number, prompt in prompts.items():
            request = reader.request(number)
            shown = [str(name) for name in request.demonstrations]
            stages[request.stage] = stages.get(request.stage, 0) + 1
            if request.stage == "instructions":
                tasks = [by_id[name]["instruction"] if name in by_id else texts[name] for name in shown]
                numbered = "\n".join(f"{place}. {collapse(text)}" for place, text in enumerate(tasks, 1))
                expected = filled("self-instruct/instructions", tasks=numbered, next=str(len(tasks) + 1))
            else:
                task = request.context["task"]
                assert request.context["instruction"] == texts[task]
                examples = [by_id[name] for name in shown]
                if request.stage == "classify":
                    pieces = [
                        f"Task: {collapse(seed['instruction'])}\nClassification: "
                        + ("yes" if seed["is_classification"] else "no")
                        for seed in examples
                    ]
                    name = "self-instruct/classify"
                else:
                    pieces = [
                        f"### Task: {collapse(seed['instruction'])}\nExample 1\nInput: {seed['instances'][0]['input']}"
                        f"\nOutput: {seed['instances'][0]['output']}"
                        for seed in examples
                    ]
                    name = "self-instruct/input-first"
                expected = filled(name, examples="\n\n".join(pieces), instruction=texts[task])
            assert prompt == expected
    assert set(stages) == {"instructions", "classify", "instances"}
    lines = (run / "dataset" / "alpaca.jsonl").read_bytes().split(b"\n")
    rows = [json.loads(line) for line in lines[:-1]]
    assert len(rows) == ROWS
    assert all(list(row) == KEYS for row in rows)
    assert [(row["input"], row["output"]) for row in rows] == [sent[row["output"]] for row in rows]
    assert {row["instruction"] for row in rows} <= set(texts.values())
    tasks_of = {one["id"]: one["task"] for one in found if not one["draft"]}
    assert all(task in texts for task in tasks_of.values())
    shown_tricks = {trick for trick in TRICKS if any(f" {collapse(trick)} b" in text for text in texts.values())}
    assert shown_tricks == set(TRICKS)
    promise(
        "abuse: text is data",
        f"self-instruct: {len(TRICKS)} tricks in {len(prompts)} prompts of {len(stages)} stages, {len(found)} "
        f"candidates, {len(rows)} rows, {check_ledger(run)} stored texts: 0 bytes differ, 0 forged fields",
    )


# --- arbitrary completions ---

PIECES = st.sampled_from(
    [
        *TRICKS,
        *("1.", "4.", "5.", "9.", "10.", "21.", "\n", "\n", "\n\n", " ", "word", "two words", "\t", "\r\n", "\u2028"),
        *("### Task 4\n", "### Task 5\n", "### Task 21\n", "5. Instruction: a", "Instruction: a", "Input: b"),
        *(
            "Output: c",
            "Label: yes",
            "Example 1\n",
            "Example 2\n",
            "Example 6\n",
            "```\n",
            "```py\n",
            "~~~",
            "---",
            "**",
        ),
        *("0.0", "17.2", '{"id": "0.0"}', '"kept": true', "yes", "No", '"', "<noinput>"),
    ]
)
COMPLETIONS = st.lists(PIECES, max_size=30).map("".join) | st.text(st.characters(exclude_categories=("Cs",)))
SEEDS = tuple(
    Task(
        f"seed {place}", f"{words(Rng('s', place), 5)} {trick}", (Instance(f"i {trick}", f"o {trick}"),), place % 4 == 0
    )
    for place, trick in enumerate(TRICKS[:12])
)


def _prompts(strategy: Any, api: str) -> Prompts:
    return Prompts.load(strategy.templates, api, ROOT / "prompts")


def _requests() -> list[tuple[Any, Request]]:
    """A request of every stage of every strategy."""
    found: list[tuple[Any, Request]] = []
    for api in ("completion", "chat"):
        alpaca = Alpaca(AlpacaOptions(), _prompts(Alpaca, api))
        found.append((alpaca, alpaca.propose(Pool(SEEDS), Rng(0)).numbered(17, 1)))
        for examples in (11, 0):
            one = SelfInstruct(SelfInstructOptions(input_first_examples=examples), _prompts(SelfInstruct, api))
            first = one.propose(Pool(SEEDS), Rng(0)).numbered(17, 1)
            draft = one.receive(first, _completion(" Write some {words} of $x\n"), Pool(SEEDS)).candidates
            classify = draft[0].on_accept if draft else None
            found.append((one, first))
            if classify is None:
                continue
            found.append((one, classify.numbered(18, 1)))
            for said in ("yes", "no"):
                follow = one.receive(classify.numbered(18, 1), _completion(said), Pool(SEEDS)).follow_ups[0]
                found.append((one, follow.numbered(19, 1)))
    return found


def _completion(text: str, reason: str = "stop") -> Completion:
    return Completion((Choice(text, reason),), Usage(), "m")


REQUESTS = _requests()


def test_the_requests_cover_every_stage() -> None:
    assert {request.stage for _, request in REQUESTS} == {"tasks", "instructions", "classify", "instances", "answer"}


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(range(len(REQUESTS))), COMPLETIONS, st.sampled_from(["stop", "length"]))
def test_a_candidate_is_a_verbatim_part_of_its_completion(which: int, text: str, reason: str) -> None:
    strategy, request = REQUESTS[which]
    pool = Pool(SEEDS)
    received = strategy.receive(request, _completion(text, reason), pool)
    task, instruction = request.context.get("task"), request.context.get("instruction")
    spans = [one.span for one in (*received.candidates, *received.discards)]
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(sorted(spans)))
    assert len(received.candidates) <= 20
    assert len(received.follow_ups) == (request.stage == "classify")
    for follow in received.follow_ups:
        assert (follow.context["task"], follow.context["instruction"]) == (task, instruction)
        assert follow.parent == request.number
    own = 0
    for place, one in enumerate(received.candidates):
        part, at = text[slice(*one.span)], 0
        if request.stage == "instructions":
            fields = []
            assert one.instruction == collapse(part)
            assert (one.input, one.output) == ("", "")
            assert one.on_accept is not None
            assert one.on_accept.parent == request.number
            assert one.on_accept.context["task"] == candidate_id(request.number, place)
            assert one.on_accept.context["instruction"] == one.instruction
        else:
            assert one.on_accept is None
            fields = [one.input, one.output] if request.stage != "tasks" else [one.instruction, one.input, one.output]
            if request.stage != "tasks":
                assert (one.instruction, one.task) == (instruction, task)
        if request.stage == "instances" and request.context["is_classification"]:
            fields.reverse()
        for field in fields:  # one after the other: no character is in two of them
            at = part.index(field, at) + len(field)
        assert set(one.shown_outputs) <= {seed.instances[0].output for seed in SEEDS} | {instruction}
        own += len(one.instruction) * (request.stage in ("tasks", "instructions")) + len(one.input) + len(one.output)
    assert own <= len(text), "there is not more in the candidates than in the completion"
    for follow in (*received.follow_ups, *(one.on_accept for one in received.candidates if one.on_accept)):
        assert set(follow.demonstrations) <= {seed.id for seed in SEEDS}
        assert len(follow.turns) == 1
        assert follow.turns[0].text.count(str(follow.context["instruction"])) >= 1
        assert follow.sampling.n == 1
    judged = RowFilters(FilterOptions(), pool).apply(request, received)
    assert [one.id for one in judged.candidates] == [f"{request.number}.{place}" for place in range(len(spans))][
        : len(received.candidates)
    ]
    assert [one.candidate for one in judged.candidates] == list(received.with_ids(request).candidates)


WHOLE = st.sampled_from(
    [
        *("\n### Task 4\nInstruction: a\nOutput: b", "\n### Task 5\nInstruction: a\nInput: b\nOutput: c"),
        *("\nExample 4\nInput: a\nOutput: b", "\nExample 5\nInput: a\nOutput: b", "\nExample 4\nLabel: a\nInput: b"),
        *("\n\nInstruction: a\nOutput: b\n", "\nInput: a\nOutput: b\n", "\nLabel: a\nInput: b\n"),
    ]
)
BLOCKS = st.lists(PIECES | WHOLE, max_size=20).map("".join)


@settings(deadline=None, max_examples=400)
@example("\nLabel: a\nInput: b\n### Task 21\n\n\nInstruction: a\nOutput: b\n", FORM, False)
@given(BLOCKS, st.sampled_from([FORM, INPUT_FIRST, OUTPUT_FIRST]), st.booleans())
def test_a_block_survives_being_shown_in_a_prompt(text: str, form: Any, continued: bool) -> None:
    """A field can't have held what would part it, once it is written as prompts write it."""
    labels = {name: variants[0] for name, variants in form.labels}
    found = read_blocks(text, form, first=4, last=20, continued=continued, truncated=False)
    for block in found.blocks:
        if block is found.blocks[0] and next(iter(block.fields.values())).startswith(("```", "~~~")):
            continue  # the text may begin inside the field: there a fence begins a line, and behind a label it does not
        lines = [f"{labels[name]}: {value}" for name, value in block.fields.items()]
        for number in (4, 20):
            page = f"### Task {number}\n" + "\n".join(lines)
            again = read_blocks(page, form, first=number, last=20, continued=False, truncated=False)
            assert [dict(one.fields) for one in again.blocks] == [dict(block.fields)], page
            assert not again.discards


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(TRICKS) | st.text(), min_size=2))
def test_a_template_is_filled_once(values: dict[str, str]) -> None:
    prompts = Prompts({"t": "<$a|${b}|$$a>"}, "chat")
    assert prompts.turns("t", **values)[0].text == "<" + values["a"] + "|" + values["b"] + "|$a>"


# --- names ---


def test_a_seed_with_a_candidate_id_is_refused(tmp_path: Path) -> None:
    """Otherwise a candidate would collide with it in the pool and end the run."""
    seeds = tmp_path / "seeds.jsonl"
    rows = [{"id": f"{place}.0", "instruction": f"{words(Rng(place), 6)}", "output": "a"} for place in range(3)]
    seeds.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = f" {words(Rng('a'), 9)}\nOutput: {words(Rng('o'), 7)}"
    with Loopback(lambda body: answer) as server:
        with pytest.raises(DataError, match=re.escape(f"{seeds}:1: ")):
            generate(tmp_path / "run", {**run_settings("alpaca", server.url, seeds), "n": 3})
        assert not server.arrived, "the error comes before the first request"


def _named(rows: list[str], name: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"model": name, "choices": [{"text": rows[NUMBERS[body["seed"]]], "finish_reason": "stop"}]}


def test_settings_are_stored_verbatim(tmp_path: Path) -> None:
    """A model's name is somebody else's text too: in the configuration file, the manifest and the ledger."""
    rows = [f" {words(Rng(place), 9)}\nOutput: {words(Rng('o', place), 7)}" for place in range(99)]
    names = [*TRICKS[::6], "a: b", "- a", "!!python/name:os.system", "*a", "%YAML 1.2", "null", "~", "1"]
    for place, name in enumerate(names):
        run = tmp_path / str(place)
        with Loopback(partial(_named, rows, name)) as server:
            settings_ = {"strategy": "alpaca", "backend": "openai", "n": 1, "lag": 1, "concurrency": 1,
                         "openai": {"model": name, "base_url": server.url, "api": "completion"}}  # fmt: skip
            generate(run, settings_)
            assert server.arrived[0].body["model"] == name
        assert yaml.safe_load((run / "config.yaml").read_bytes())["openai"]["model"] == name
        assert json.loads((run / "dataset" / "manifest.json").read_bytes())["models"] == [name]
        own = {"config.yaml", "dataset", "run.lock", "run.sqlite", "verdicts.sqlite"}
        assert {path.name for path in run.iterdir()} <= own


# --- the terminal ---


def test_texts_cannot_control_the_terminal(tmp_path: Path) -> None:
    """On a terminal, where colours pass: an escape sequence of a model or a seed file is shown as what it is."""
    evil = "\x1b]0;owned\x07 \x1b[2J \x9b31m \u202e \x7f x"
    seeds, run = tmp_path / "seeds.jsonl", tmp_path / "run"
    seeds.write_text(json.dumps({"instruction": f"Write {evil} y", "input": evil, "output": evil}) + "\n")

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        rng = Rng("evil", body["seed"])
        text = f" {words(rng, 7)} {evil} b\nInput: {evil} c\nOutput: {words(rng, 5)} {evil}"
        return {"model": evil, "choices": [{"text": text, "finish_reason": "stop"}]}

    with Loopback(answer) as server:
        given = run_settings("alpaca", server.url, seeds)
        generate(run, {**given, "n": 3})
        generate(tmp_path / "other", {**given, "n": 1, "seed": 5})
        typed = ("--backend", "openai", "--model", "m", "--base-url", server.url, "--api", "completion")
        outputs = [
            selfinstruct("generate", tmp_path / "new", *typed, "--strategy", "alpaca", "--seeds", seeds, "--dry-run"),
            selfinstruct("generate", run, "-n", 4),
        ]
    looks = (("explain", run, "1"), ("explain", run, "1", "--json"), ("status", run), ("status", run, "--json"),
             ("runs", tmp_path), ("diff", run, tmp_path / "other"), ("explain", run, evil))  # fmt: skip
    outputs += [selfinstruct(*args) for args in looks]
    for said in outputs:
        found = re.findall("[\x00-\x08\x0b-\x1f]", said.output.replace("\x1b[1m", "").replace("\x1b[0m", ""))
        assert not found, said.output
    assert "\x9b" not in "".join(said.output for said in outputs[:3])


# --- the trainer ---


@pytest.mark.parametrize("layout", ["alpaca", "completion", "chat"])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_row_writes_a_special_token(shape: str, layout: str, promise: Promise) -> None:
    tokenizer = SHAPES[shape].tokenizer()
    renderer = Renderer(tokenizer, layout, max_length=8192)
    special = {token: number for token, number in tokenizer.get_vocab().items() if token in SHAPES[shape].special}

    def control(instruction: str, given: str, output: str) -> list[int]:
        text = (instruction, given, output)
        example = read(*text)
        return [number for number in renderer.document(example).ids.tolist() if number in special.values()]

    def read(instruction: str, given: str, output: str) -> Example:
        from finetune.data.rows import examples_of

        row = {"instruction": instruction, "input": given, "output": output}
        if layout == "completion":
            row = {"prompt": f"{instruction}\n{given}", "completion": output}
        return examples_of(row, "row")[0]

    usual = control("one two", "three", "four five")
    assert usual
    tricks = [*TRICKS, *SHAPES[shape].special, "".join(SHAPES[shape].special)]
    for trick in tricks:
        assert control(f"one {trick} two", f"three {trick} 3", f"four {trick} five") == usual, trick
    if shape == next(iter(SHAPES)):
        promise("abuse: special tokens", f"{layout}: {len(tricks)} tricks write 0 special tokens")


def test_the_trainer_reads_hostile_rows_verbatim(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": trick, "input": trick, "output": trick} for trick in TRICKS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(one.instruction, one.input, one.output) for one in read_examples(path).examples] == [
        (trick, "" if trick == "<noinput>" else trick, trick)
        for trick in TRICKS  # which spells "no input"
    ]


def test_the_tricks_are_hostile() -> None:
    """The proof of the proof: read as a template, as a format, as JSON, each would show."""
    import jinja2

    assert string.Template("$x ${x}").safe_substitute(x="y") == "y y"
    assert "".join(TRICKS).count("{0.__class__}") == 1
    assert jinja2.Template("{{7*7}}").render() == "49"
    assert {"$x", "${x}", "{0.__class__}", "{{7*7}}"} <= set(TRICKS)
    assert len(TRICKS) == len(set(TRICKS))
