"""Any file of a user leads to one error that names file and line, or its text is kept to the byte."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.render import Renderer
from finetune.data.rows import read_examples
from selfinstruct import generate
from selfinstruct.common.codec import canonical, loads
from selfinstruct.common.formats import FORMATS, user_text
from selfinstruct.common.rng import Rng, derive
from selfinstruct.common.row_fields import spells_nothing
from selfinstruct.common.sources import open_rows
from selfinstruct.ledger import Reader
from selfinstruct.records import Instance
from selfinstruct.runs.export import export
from selfinstruct.seeds import load_seeds, seeds_from_json, seeds_to_json
from tests import finetune_fixtures
from tests.abuse.hostile import ODD, ROOT, Said, filled, finetune, selfinstruct, words
from tests.cli import command, environment
from tests.conftest import Promise
from tests.loopback import Loopback

# A failing command leaves its files open until its process ends, and this process continues.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

tiny_tokenizer = finetune_fixtures.tiny_tokenizer
tiny_model_folder = finetune_fixtures.tiny_model_folder

GOOD = (
    b'{"instruction": "Describe a harbour at dawn, slowly", "input": "", "output": "Grey and still."}',
    b'{ "instruction":"List the r\\u00fcles of chess \xe4\xb8\x8d", "output":"King, queen.", "n": 1.50,"x":[ ]  }',
)
MEGABYTE = 1_000_000
LONG = "k" * MEGABYTE

# What stands in the place of a value, so that the line is no strict JSON.
BAD: dict[str, bytes] = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "minus Infinity": b"-Infinity",
    "a number beyond all doubles": b"1e999",
    "a negative one": b"-1e999",
    "a key twice": b'1, "extra": 2',
    "a key twice deep inside": b'[{"a": {"b": 1, "b": 1}}]',
    "a key twice once it is read": b'{"a": 1, "\\u0061": 1}',
    "100,000 arrays": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100,000 arrays without end": b"[" * 100_000,
    "5,000 digits": b"9" * 5000,
    "5,000 negative digits": b"-" + b"9" * 5000,
    "NUL": b'"\x00"',
    "NUL between values": b"1\x00",
    "a control character": b'"\x1f"',
    "a tab": b'"\t"',
    "CR in a string": b'"a\rb"',
    "a high surrogate": b'"\\ud800"',
    "a low surrogate": b'"\\udfff"',
    "surrogates in the wrong order": b'"\\udc00\\ud800"',
    "a surrogate in a key": b'1, "\\ud800": 2',
    "an encoded surrogate": b'"\xed\xa0\x80"',
    "a byte that begins nothing": b'"\xff"',
    "an overlong form": b'"\xc0\x80"',
    "half a character": b'"\xe2\x82"',
    "Latin-1": b'"caf\xe9"',
    "U+2028 between values": b"\xe2\x80\xa8 1",
    "U+0085 between values": b"\xc2\x85 1",
    "a BOM between values": b"\xef\xbb\xbf 1",
    "a leading zero": b"01",
    "a plus": b"+1",
    "a bare point": b".5",
    "hexadecimal": b"0x1",
    "an underscore": b"1_000",
    "Arabic digits": "\u0661".encode(),
    "single quotes": b"'a'",
    "an invalid escape": b'"\\x41"',
    "a comma too many": b"[1,]",
    "a comment": b"1 /* one */",
    "two values": b"1} {",
    "no end": b'"',
    "a string of 1 MB without end": b'"' + b"a" * MEGABYTE,
    "Python's word": b"None",
    "undefined": b"undefined",
}


def line_with(value: bytes) -> bytes:
    return b'{"instruction": "Name a river of France, any", "output": "Loire", "extra": ' + value + b"}"


def told_once(said: Said, where: str) -> None:
    """Assert that one short line of the output names the location and the error."""
    found = [line for line in said.output.split("\n") if f"{where}: " in line]
    assert len(found) == 1, (where, said.output[:2000])
    what = found[0].split(where, 1)[1]
    assert 5 < len(what) < 400, found[0][:500]
    assert what.isprintable(), repr(what)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_reported_with_file_and_line_and_the_others_are_kept(
    kind: str, tmp_path: Path, tiny_model_folder: Path
) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(b"\n".join([GOOD[0], line_with(BAD[kind]), b"", GOOD[1]]) + b"\n")
    where = f"{path}:2"

    said = selfinstruct("seeds", "check", path)
    assert said.code == 1
    told_once(said, where)
    said = selfinstruct("generate", tmp_path / "run", "--dry-run", "--seeds", path)
    assert said.code == 2
    told_once(said, where)
    assert not (tmp_path / "run").exists()

    said = selfinstruct("filter", path, "-o", out, "--quiet")
    assert said.code == 1
    told_once(said, where)
    assert out.read_bytes() == GOOD[0] + b"\n" + GOOD[1] + b"\n", "the other lines keep their bytes"
    good = tmp_path / "good.jsonl"
    good.write_bytes(GOOD[0] + b"\n")
    said = selfinstruct("filter", good, "-o", tmp_path / "none.jsonl", "--quiet", "--decontaminate", path)
    assert said.code == 2
    told_once(said, where)
    assert not (tmp_path / "none.jsonl").exists()

    found = read_examples(path)
    assert [example.name for example in found.examples] == [f"{path}:1", f"{path}:4"]
    told_once(Said(0, "\n".join(map(str, found.skipped))), where)
    if kind == "two values":  # alone, the line is two objects one after the other
        return
    path.write_bytes(line_with(BAD[kind]) + b"\n")
    said = finetune("train", "--model", tiny_model_folder, "--data", path, "--dry-run")
    assert said.code == 2
    told_once(said, f"{path}:1")
    said = selfinstruct("filter", path, "-o", tmp_path / "none.jsonl", "--quiet")
    assert said.code == 2
    assert not (tmp_path / "none.jsonl").exists()
    array = tmp_path / "rows.json"
    array.write_bytes(b"[" + GOOD[0] + b",\n" + line_with(BAD[kind]) + b"]")
    said = finetune("train", "--model", tiny_model_folder, "--data", array, "--dry-run")
    assert said.code == 2 or f"  {array}: row 2: " in said.output
    assert str(array) in said.output
    assert len(said.output) < 1000


def test_every_bad_line_from_a_pipe_is_reported(tmp_path: Path, promise: Promise) -> None:
    kinds = list(BAD.values())
    reported = 0
    for start in range(0, len(kinds), 20):  # a message lists 20 errors
        lines = [line_with(value) for value in kinds[start : start + 20]]
        done = subprocess.run(
            command("filter", "-", "-o", "-", "--quiet"),
            input=b"\n".join([GOOD[0], *lines, GOOD[1]]), capture_output=True, check=False, timeout=60,
            env=environment(),
        )  # fmt: skip
        assert done.returncode == 1, done.stderr[:2000]
        assert b"Traceback" not in done.stderr
        assert done.stdout == GOOD[0] + b"\n" + GOOD[1] + b"\n"
        for place in range(2, len(lines) + 2):
            told_once(Said(1, done.stderr.decode()), f"stdin:{place}")
            reported += 1
    assert reported == len(BAD)
    promise(
        "input: bad lines",
        f"{reported} of {len(BAD)} kinds are reported with file and line by 6 commands, 0 tracebacks",
    )


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", 0),
        (b"\n\n \r\n\t\n", 0),
        (b"\xef\xbb\xbf", 0),
        (b"\xef\xbb\xbf" + GOOD[0], 1),
        (b"\xef\xbb\xbf" + GOOD[0] + b"\r\n\r\n" + GOOD[1] + b"\r\n", 2),
        (b"\n\n" + GOOD[0] + b"\n\n" + GOOD[1], 2),
        (b"\x00" * 1000, -1),
        (GOOD[0].decode().encode("utf-16"), 1),
        (GOOD[0].decode().encode("utf-32"), 1),
        (b"[" + GOOD[0] + b"]", 1),
        (b'"a string"\n', -1),
        (b"instruction,output\na,b\n", -1),
        (b"\x1f\x8b not gzip", -1),
        (gzip.compress(GOOD[0], mtime=0)[:-9], -1),
        (b"PAR1 is no parquet PAR1", -1),
    ],
)
def test_whole_files(content: bytes, kept: int, tmp_path: Path, tiny_model_folder: Path) -> None:
    """``kept`` lines are read; or none is, and the file is named."""
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(content)
    seeds = selfinstruct("generate", tmp_path / "run", "--dry-run", "--seeds", path)
    rows = selfinstruct("filter", path, "-o", out, "--quiet")
    data = finetune("train", "--model", tiny_model_folder, "--data", path, "--dry-run", "--set", "evaluation.samples=0")
    for said, good in ((seeds, kept > 0), (data, kept > 0), (rows, kept >= 0)):
        assert said.code == (0 if good else 2), said.output
        assert good or str(path) in said.output
    if kept >= 0:
        assert out.read_bytes() == b"".join(line + b"\n" for line in GOOD[:kept])


@pytest.mark.parametrize("option", ["--seeds", "--config", "--prompts", "--from"])
def test_a_missing_file_is_reported(option: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"\x00\xff not what was asked for \n" * 9)
    for name in ("none", "folder", "file", "file/none", "x" * 300):
        said = selfinstruct("generate", tmp_path / "run", "--dry-run", option, tmp_path / name)
        assert said.code in (1, 2), (name, said.output)
        assert str(tmp_path / name) in said.output
        assert len(said.output) < 1500
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "x", "output": "y", "is_classification": LONG},
        {"instruction": "x", "output": "y", "id": LONG},
        {LONG: 1},
        {"messages": [{"role": LONG, "content": "x"}]},
        f'{{"instruction": "x", "output": "y", "{LONG}": 1, "{LONG}": 2}}',
    ],
    ids=["value", "id twice", "key", "role", "key twice"],
)
def test_a_message_does_not_repeat_a_megabyte(row: Any, tmp_path: Path, tiny_model_folder: Path) -> None:
    path = tmp_path / "rows.jsonl"
    line = row if isinstance(row, str) else json.dumps(row)
    path.write_text(f"{line}\n{line}\n")
    for said in (
        selfinstruct("generate", tmp_path / "run", "--dry-run", "--seeds", path),
        selfinstruct("filter", path, "-o", tmp_path / "out.jsonl"),
        finetune("train", "--model", tiny_model_folder, "--data", path, "--dry-run"),
    ):
        assert len(said.output) < 5000, f"{len(said.output):,} characters: {said.output[:200]}"


# --- configuration ---

DEEP = 100_000
CONFIGS: dict[str, tuple[bytes, int]] = {  # and the reported line; 0 if the YAML parser does not know it
    "NaN": (b"n: 3\nseed: .nan", 2),
    "Infinity": (b"retry:\n  base_s: .inf", 2),
    "a key twice": (b"n: 1\nlag: 9\nn: 2", 3),
    "a key twice in a section": (b"alpaca:\n  demonstrations: 1\n  demonstrations: 2", 3),
    "5,000 digits": (b"n: 1\nseed: " + b"9" * 5000, 0),
    "4,000 digits": (b"n: 1\nn_: 1\nseed: " + b"9" * 4000, 2),
    "a list in a list": (b"n: 1\nfilters: " + b"[" * DEEP + b"]" * DEEP, 0),
    "a mapping in a mapping": (b"filters: " + b"{a: " * DEEP + b"}" * DEEP, 0),
    "no end": (b"n: 1\nfilters: [[", 2),
    "NUL": (b"n: 1\nseeds: a\x00b", 0),
    "a NUL that is escaped": (b'n: 1\nseeds: "a\\0b"', 2),
    "a NUL in a folder": (b'n: 1\nprompts: "a\\0b"', 2),
    "a NUL in a model": (b'n: 1\nllamacpp:\n  model: "a\\0b.gguf"', 3),
    "a NUL in an address": (b'backend: openai\nopenai:\n  model: m\n  base_url: "http://h\\0/v1"', 4),
    "a surrogate": (b'n: 1\nseeds: "\\ud800"', 2),
    "a surrogate in a key": (b'n: 1\n"\\ud800": 2', 0),
    "invalid UTF-8": (b"n: 1\nseeds: caf\xe9", 0),
    "UTF-16": ("n: 1\n".encode("utf-16"), 0),
    "a control character": (b"n: 1\nseeds: \x1b[2J", 0),
    "a tab for indentation": (b"alpaca:\n\tdemonstrations: 1", 2),
    "an object of Python": (b"n: 1\nseeds: !!python/object/apply:os.mkdir [owned]", 2),
    "a module of Python": (b"n: 1\nseeds: !!python/name:os.system", 2),
    "an anchor in itself": (b"n: 1\nfilters: &a {b: *a}", 2),
    "a key that is a list": (b"n: 1\n? [a, b]\n: 2", 0),
    "a key that is a number": (b"n: 1\n2: 3", 0),
    "a date": (b"n: 1\nseeds: 2020-01-01", 2),
    "an invalid date": (b"n: 1\nseeds: 2020-13-45", 0),
    "bytes": (b"n: 1\nseeds: !!binary aGVsbG8=", 2),
    "two documents": (b"n: 1\n---\nn: 2", 2),
    "a list": (b"- n: 1", 1),
    "a word": (b"hello", 1),
    "a key of another program": (b"n: 1\nsalad: 2", 2),
    "text for a number": (b"n: 1\nlag: many", 2),
    "a name with a path": (b"n: 1\nstrategy: ../../etc/passwd", 2),
    "a backend with a path": (b"n: 1\nbackend: ../../etc/passwd", 2),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_bad_configuration_is_reported_with_file_and_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, line = CONFIGS[kind]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    said = selfinstruct("generate", "run", "--dry-run", "--config", path)
    assert said.code == 2, said.output[:2000]
    assert said.output.startswith(f"Error: {path}:{line}: " if line else f"Error: {path}"), said.output[:500]
    assert len(said.output) < 6000
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.yaml"], "nothing was made"
    said = finetune("train", "--data", "none.jsonl", "--dry-run", "--config", path)
    assert said.code == 2
    assert str(path) in said.output


@pytest.mark.parametrize("value", ["{{{{", "[" * 400, "!!python/object/apply:os.mkdir [owned]", '"a\\0b"', "${HOME}"])
def test_a_setting_typed_on_the_command_line_is_text_or_an_error(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for key in ("seeds", "prompts", "strategy", "n"):
        said = selfinstruct("generate", "run", "--dry-run", "--set", f"{key}={value}")
        assert said.code == 2, said.output[:500]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inner", ["{%s}", "[%s]"])
def test_a_configuration_that_expands_to_billions_of_values_is_refused(inner: str, tmp_path: Path) -> None:
    """Nine anchors, each ten times the one before: small in memory, endless to walk. Ends by the CPU limit if so."""
    rows = ["a0: &a0 1"]
    for level in range(1, 10):
        parts = [f"k{place}: *a{level - 1}" if inner[0] == "{" else f"*a{level - 1}" for place in range(10)]
        rows.append(f"a{level}: &a{level} " + inner % ", ".join(parts))
    path = tmp_path / "c.yaml"
    path.write_text("openai:\n  extra_body:\n" + "".join(f"    {row}\n" for row in rows))
    done = subprocess.run(
        ["bash", "-c", 'ulimit -t 10; exec "$@"', "-", *command("generate", tmp_path / "run", "--config", path)],
        capture_output=True, text=True, check=False, timeout=60, env=environment(),
    )  # fmt: skip
    assert done.returncode == 2, f"exit {done.returncode}: {done.stderr[:500]}"
    assert str(path) in done.stderr


# --- a ledger that somebody else wrote ---

DAMAGE = {
    "NaN in its configuration": "UPDATE meta SET value = CAST('NaN' AS BLOB) WHERE key = 'config'",
    "a configuration that is not an object": "UPDATE meta SET value = CAST('[]' AS BLOB) WHERE key = 'config'",
    "a completion that is no JSON": "UPDATE outcomes SET body = CAST('{' AS BLOB) WHERE kind = 'completion'",
    "a completion of another shape": "UPDATE outcomes SET body = CAST('{\"choices\": 5}' AS BLOB)",
    "a completion without choices": 'UPDATE outcomes SET body = CAST(\'{"choices":[],"usage":[],"model":1}\' AS BLOB)',
    "invalid seeds": "UPDATE texts SET body = CAST('[1]' AS BLOB)",
    "texts that are gone": "DELETE FROM texts",
    "invalid UTF-8": "UPDATE texts SET body = x'ff'",
    "no metadata": "DELETE FROM meta",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_ledger_is_one_error_that_names_it(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ROOT / "tests" / "golden" / "alpaca" / "run.sqlite", source)
    with sqlite3.connect(source / "run.sqlite") as ledger:
        ledger.execute(DAMAGE[kind])
    ledger.close()
    for args in (
        ("status", source),
        ("export", source, "-o", tmp_path / "out.jsonl"),
        ("explain", source, "1"),
        ("generate", tmp_path / "again", "--backend", "replay", "--from", source, "-n", 3),
    ):
        said = selfinstruct(*args)
        assert said.code in (1, 2), (args, said.output)
        assert str(source) in said.output, (args, said.output)
    assert not (tmp_path / "out.jsonl").exists()


# --- kept exactly ---

LINE = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)
# Instructions and inputs such as "NA" are read as missing; outputs are kept.
ASKED = LINE.filter(lambda text: not spells_nothing(text.strip()) and not spells_nothing(text))


def _written(folder: str, rows: list[dict[str, Any]], *, escaped: bool) -> Path:
    path = Path(folder) / "rows.jsonl"
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=escaped).encode() + b"\n" for row in rows))
    return path


@settings(deadline=None)
@given(st.lists(st.tuples(ASKED, ASKED, LINE), min_size=1, max_size=3), st.booleans())
def test_the_ledger_stores_any_seed_text_exactly(texts: list[tuple[str, str, str]], escaped: bool) -> None:
    texts = [one for one in texts if one[0].strip() and one[2].strip()]
    rows = [{"instruction": one, "input": given, "output": output} for one, given, output in texts]
    if not rows:
        return
    with tempfile.TemporaryDirectory() as folder:
        tasks = load_seeds(_written(folder, rows, escaped=escaped))
    assert [(task.instruction, task.instances) for task in tasks] == [
        (one.strip(), (Instance(given.strip(), output.strip()),)) for one, given, output in texts
    ]
    assert seeds_from_json(loads(canonical(seeds_to_json(tasks)))) == tasks


@settings(deadline=None)
@given(st.lists(st.tuples(ASKED, ASKED, LINE), min_size=1, max_size=3), st.booleans())
def test_filter_and_trainer_read_any_row_text_exactly(texts: list[tuple[str, str, str]], escaped: bool) -> None:
    rows = [{"instruction": one, "input": given, "output": output} for one, given, output in texts]
    with tempfile.TemporaryDirectory() as folder:
        path = _written(folder, rows, escaped=escaped)
        examples = read_examples(path).examples
        lines = list(open_rows(str(path)).rows)
        whole = path.read_bytes()
    # A blank instruction means that the input is the task.
    read = [(one, given) if one.strip() or not given.strip() else (given, "") for one, given, _ in texts]
    assert [(one.instruction, one.input) for one in examples] == read
    assert [one.output for one in examples] == [output for _, _, output in texts]
    assert [one.turns[0].content for one in examples] == [user_text(*pair) for pair in read]
    assert [one.value for one in lines] == rows
    assert b"".join(one.raw + b"\n" for one in lines) == whole


def test_unusual_characters_survive_from_seed_to_prompt_and_from_completion_to_trainer(
    tmp_path: Path, tiny_tokenizer: Any, promise: Promise
) -> None:
    names, numbers = list(ODD), {derive("request", 0, number): number for number in range(400)}
    seeds = tmp_path / "seeds.jsonl"
    with seeds.open("w", encoding="utf-8", newline="") as file:
        for place, odd in enumerate(ODD.values()):
            rng = Rng("seed", place)
            row = {"instruction": f"{words(rng, 6)} q", "input": f"r{odd}s", "output": f"{words(rng, 4)} t{odd}u"}
            file.write(json.dumps(row, ensure_ascii=place % 2 == 0) + "\n")
    sent: dict[str, tuple[str, str, str]] = {}
    answers: dict[int, str] = {}

    def answer(body: dict[str, Any]) -> str:
        number, rng = numbers[body["seed"]], Rng("odd", body["seed"])
        text = ""
        for place in range(2):
            odd = ODD[names[(2 * number + place) % len(names)]]
            row = (f"{words(rng, 7)} a{odd}b", f"{words(rng, 3)} c{odd}d", f"{words(rng, 6)} e{odd}f")
            sent[row[0]] = row
            text += f"\n\n### Task {4 + place}\nInstruction: {row[0]}\nInput: {row[1]}\nOutput: {row[2]}"
        answers[number] = text.removeprefix("\n\n### Task 4\nInstruction:")
        return answers[number]

    run = tmp_path / "run"
    with Loopback(answer) as server:
        section = {"model": "m", "base_url": server.url, "api": "completion"}
        generate(run, {"strategy": "alpaca", "backend": "openai", "openai": section, "seeds": str(seeds), "n": 70})
        prompts = {numbers[arrived.body["seed"]]: arrived.body["prompt"] for arrived in server.arrived}
    tasks = {task.id: task for task in load_seeds(seeds)}
    with Reader(run) as reader:
        for number, prompt in prompts.items():
            recorded = reader.request(number)
            assert recorded is not None
            shown = [tasks[str(name)] for name in recorded.demonstrations]
            blocks = [
                f"### Task {place}\nInstruction: {task.instruction}\nInput: {task.instances[0].input}\n"
                f"Output: {task.instances[0].output}"
                for place, task in enumerate(shown, 1)
            ]
            assert prompt == filled("alpaca/list", count="20", tasks="\n\n".join(blocks), next="4")
            assert recorded.turns[0].text == prompt
            outcome = reader.outcome(number)
            assert outcome is None or outcome.outcome.text == answers[number]
    kept = [json.loads(line) for line in (run / "dataset" / "alpaca.jsonl").read_bytes().split(b"\n")[:-1]]
    assert len(kept) == 70
    rows = [sent[row["instruction"]] for row in kept]
    assert [(row["instruction"], row["input"], row["output"]) for row in kept] == rows
    met = {name for name, odd in ODD.items() if any(f"e{odd}f" in output for _, _, output in rows)}
    assert met == set(ODD), set(ODD) - met
    for name in FORMATS:
        path = tmp_path / f"{name}.jsonl"
        assert export(run, name, path).rows == 70
        examples = read_examples(path).examples
        assert [tuple(turn.content for turn in one.turns) for one in examples] == [
            (user_text(instruction, given), output) for instruction, given, output in rows
        ]
    renderer = Renderer(tiny_tokenizer, "alpaca", max_length=4096)
    for example, (instruction, asked, output) in zip(read_examples(run).examples, rows, strict=True):
        pieces = renderer.pieces(renderer.document(example))
        assert pieces[-1] == (output + "<|im_end|>", True)
        assert f"### Instruction:\n{instruction}\n\n### Input:\n{asked}\n\n### Response:" in pieces[0][0]
    promise(
        "input: kept exactly",
        f"{3 * len(rows)} fields with {len(ODD)} odd characters, {len(prompts)} prompts: 0 bytes differ in ledger, "
        f"{len(FORMATS)} exports and the trainer's tokens",
    )


@pytest.mark.parametrize("size", [1_000_000, pytest.param(10_000_000, marks=pytest.mark.prove)])
def test_long_lines_are_read_and_kept(size: int, tmp_path: Path, promise: Promise) -> None:
    long = "word " * (size // 5)
    rows = [
        {"instruction": "Describe a harbour at dawn, slowly", "output": f"{long}."},
        {"instruction": "x" * size, "output": "one word"},
        {"instruction": f"{long}end", "output": "many words"},
    ]
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [task.instances[0].output for task in load_seeds(path)] == [row["output"] for row in rows]
    assert [example.output for example in read_examples(path).examples] == [row["output"] for row in rows]
    assert selfinstruct("filter", path, "-o", out, "--quiet").code == 0
    assert out.read_bytes() == path.read_bytes()
    assert selfinstruct("seeds", "check", path).code == 1, "150 words are advised"
    answers = [f" {words(Rng('long', place), 8)}\nOutput: {words(Rng('out', place), 8)}" for place in range(9)]
    path.write_text(json.dumps(rows[0]) + "\n")
    with Loopback(lambda body: answers[len(server.arrived) - 1]) as server:
        section = {"model": "m", "base_url": server.url, "api": "completion"}
        generate(tmp_path / "run", {"strategy": "alpaca", "backend": "openai", "openai": section, "seeds": str(path),
                                    "n": 1, "lag": 1})  # fmt: skip
        assert rows[0]["output"].strip() in server.arrived[0].body["prompt"]
    promise(
        "input: long lines",
        f"{len(rows)} lines of {size // MEGABYTE} MB are kept to the byte, and asked with as a seed",
    )
