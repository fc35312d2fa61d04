"""``selfinstruct filter`` in a separate process, with every kind of file."""

from __future__ import annotations

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import command, environment, run_cli

ROWS = [
    {"id": 7, "instruction": "Write a poem about the sea in winter", "input": "", "output": "Grey waves, cold foam."},
    {"id": 8, "instruction": "Write a poem about the sea in summer", "input": "", "output": "Blue."},
    {"id": 9, "instruction": "Hi", "input": "", "output": "Mail ann@firm.io for more."},
    {"id": 10, "instruction": "List three healthy breakfasts", "input": "", "output": "I'm sorry, but I can't help."},
    {"id": 11, "instruction": "Draw a picture of the sea", "input": "", "output": "No — 不."},
]
NEW = [0, 2, 3, 4]  # what ROUGE-L at 0.7 keeps


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pipe(*args: object, stdin: bytes = b"", code: int = 0) -> tuple[bytes, str]:
    done = subprocess.run(command("filter", *args), input=stdin, capture_output=True, check=False, timeout=90,
                          env=environment())  # fmt: skip
    assert b"Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr.decode()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text(lines(ROWS))
    return path


def test_the_default_filter_is_rouge_on_the_instruction(source: Path, tmp_path: Path) -> None:
    message = run_cli("filter", source, "-o", tmp_path / "out.jsonl", "--report", tmp_path / "why.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == lines([ROWS[place] for place in NEW])
    assert "filtered: instruction, by rouge 0.7" in message
    table = [line.split() for line in message.splitlines()]
    assert table[-4:] == [["in", "5"], ["kept", "4"], ["dropped", "1"], ["rouge:", "similar", "1"]]
    assert read(tmp_path / "why.jsonl") == [
        {
            "row": 2,
            "id": 8,
            "kept": False,
            "filter": "rouge",
            "reason": "similar",
            "score": 0.875,
            "nearest": "1",
            "text": "Write a poem about the sea in summer",
            "detail": {},
        }
    ]


def test_kept_lines_keep_their_bytes(tmp_path: Path) -> None:
    odd = b'{ "instruction":"caf\\u00e9 \xe4\xb8\x8d", "n": 1.50,"x":[ ]  }'
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + odd + b"\r\n\r\n" + odd)
    run_cli("filter", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == odd + b"\n"


def test_filters_decide_in_the_documented_order(source: Path, tmp_path: Path) -> None:
    (tmp_path / "bench.txt").write_text("\nwrite a poem about the sea in summer!\n")
    filters = ["--words", "2:150", "--keywords", "--repetition", "--refusals", "--pii", "drop", "--rouge", "0.9",
               "--decontaminate", tmp_path / "bench.txt", "--minhash", "0.8"]  # fmt: skip
    message = run_cli("filter", source, "-o", tmp_path / "out.jsonl", *filters, "--report", tmp_path / "why.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == lines(ROWS[:1])
    found = [(line["row"], line["filter"], line["reason"], line["nearest"]) for line in read(tmp_path / "why.jsonl")]
    assert found == [
        (2, "contamination", "coverage", f"{tmp_path}/bench.txt:2"),
        (3, "words", "too_short", None),
        (4, "refusals", "refusal", None),
        (5, "keywords", "keyword", None),
    ]
    assert "by words 2 to 150; keywords; repetition; refusals; pii; decontamination from 1 items; rouge 0.9" in message


def test_options_without_a_value_have_a_default(source: Path, tmp_path: Path) -> None:
    message = run_cli(
        "filter", source, "-o", tmp_path / "out.jsonl", "--rouge", "--minhash", "--words", "--no-keywords"
    )
    assert "by words 4 to 150; rouge 0.7; minhash 0.8" in message


@pytest.mark.parametrize(
    ("row", "field", "refused"),
    [
        ({"instruction": "Sum up", "input": "a text", "response": "I cannot assist with that."}, "instruction", 1),
        ({"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Sum up"},
                       {"role": "assistant", "content": "I cannot assist with that."}]}, "messages", 1),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Sum up"}, {"type": "image"}]},
                       {"role": "assistant", "content": "Done."}]}, "messages", 0),
        ({"conversations": [{"from": "human", "value": "Sum up"}, {"from": "gpt", "value": "I cannot help."}]},
         "conversations", 1),
        ({"conversations": [{"from": "human", "value": "Sum up"}, {"from": "chatgpt", "value": "I cannot help."}]},
         "conversations", 1),
        ({"prompt": "Sum up", "completion": "I cannot help."}, "prompt", 1),
        ({"question": "Sum up", "answer": "I cannot help."}, "question", 1),
        ({"text": "I cannot help."}, "text", 1),
    ],
)  # fmt: skip
def test_layouts_are_detected(row: dict, field: str, refused: int, tmp_path: Path) -> None:
    asked = row[field] if isinstance(row[field], str) else "Sum up"
    (tmp_path / "in.jsonl").write_text(lines([row, row]))
    message = run_cli("filter", tmp_path / "in.jsonl", "-o", tmp_path / "a.jsonl", "--report", tmp_path / "why.jsonl")
    assert f"filtered: {field}, by rouge" in message
    assert [line["text"] for line in read(tmp_path / "why.jsonl")] == [asked]
    run_cli("filter", tmp_path / "in.jsonl", "-o", tmp_path / "b.jsonl", "--refusals")
    assert len(read(tmp_path / "b.jsonl")) == (0 if refused else 2)


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = [{"q": "Name a river of France", "a": "I cannot help."}, {"q": "Name a river of France!", "a": "Loire"}]
    (tmp_path / "in.jsonl").write_text(lines(rows))
    run = ("filter", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    assert "filtered: q, by rouge 0.7" in run_cli(*run, "--column", "q")
    assert read(tmp_path / "out.jsonl") == rows[:1]
    run_cli(*run, "--column", "q", "--output-column", "a", "--refusals", "--rouge")
    assert read(tmp_path / "out.jsonl") == rows[1:]
    message = run_cli(*run, code=2)
    assert f"{tmp_path}/in.jsonl:1: no text to filter" in message
    assert "it has 'q', 'a'; use --column" in message
    assert read(tmp_path / "out.jsonl") == rows[1:], "the old file stays"


def test_personal_data_is_redacted_flagged_or_dropped(source: Path, tmp_path: Path) -> None:
    out, why = tmp_path / "out.jsonl", tmp_path / "why.jsonl"
    for action, label, kept in (("redact", "redacted", 5), ("flag", "flagged", 5), ("drop", "pii: email", 4)):
        message = run_cli("filter", source, "-o", out, "--pii", action, "--report", why)
        assert any(line.rsplit(maxsplit=1) == [label, "1"] for line in map(str.strip, message.splitlines()))
        assert len(read(out)) == kept
        (line,) = read(why)
        assert (line["row"], line["kept"], line["filter"]) == (3, action != "drop", "pii")
        assert line["detail"]["kinds"] == {"email": 1}
        assert "ann@firm.io" not in why.read_text()
        assert ("[EMAIL]" in out.read_text()) == (action == "redact")
        assert ("ann@firm.io" in out.read_text()) == (action == "flag")


def test_malformed_rows_are_reported_by_line_and_counted(tmp_path: Path) -> None:
    good = json.dumps(ROWS[0])
    (tmp_path / "in.jsonl").write_bytes(
        b"\n".join([b"{", good.encode(), b"", b"[1]", b'{"instruction": 5}', b'{"instruction": "\xff"}', b'{"a": NaN}'])
    )
    run = ("filter", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    message = run_cli(*run, code=1)
    reports = [line for line in message.splitlines() if line.startswith(str(tmp_path))]
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in reports] == ["1", "4", "5", "6", "7"]
    assert "a JSON object is expected, found list" in reports[1]
    assert "'instruction' must be a string, not int" in reports[2]
    assert "malformed  5" in message
    assert read(tmp_path / "out.jsonl") == [ROWS[0]]
    assert "malformed  5" in run_cli(*run, "--skip-malformed")
    (tmp_path / "in.jsonl").write_text(good + "\n" + "{\n" * 50)
    message = run_cli(*run, "--quiet", code=1)
    assert message.count("not JSON") == 20
    assert message.splitlines()[-1] == "... and 30 more malformed rows"


class TestKinds:
    def test_gzip(self, source: Path, tmp_path: Path) -> None:
        zipped = tmp_path / "in.jsonl.gz"
        zipped.write_bytes(gzip.compress(source.read_bytes()))
        run_cli("filter", zipped, "-o", tmp_path / "out.jsonl.gz", "--quiet")
        written = (tmp_path / "out.jsonl.gz").read_bytes()
        assert gzip.decompress(written).decode() == lines([ROWS[place] for place in NEW])
        run_cli("filter", zipped, "-o", tmp_path / "out.jsonl.gz", "--quiet")
        assert (tmp_path / "out.jsonl.gz").read_bytes() == written
        zipped.write_bytes(zipped.read_bytes()[:-20])
        assert "in.jsonl.gz is damaged after line" in run_cli("filter", zipped, "-o", tmp_path / "x.jsonl", code=2)
        assert not (tmp_path / "x.jsonl").exists()

    @pytest.mark.parametrize("zipped", [False, True])
    def test_the_standard_streams(self, source: Path, zipped: bool) -> None:
        data = source.read_bytes()
        out, message = pipe("-", "-o", "-", stdin=gzip.compress(data) if zipped else data)
        assert out.decode() == lines([ROWS[place] for place in NEW])
        assert ["kept", "4"] in [line.split() for line in message.splitlines()]
        out, message = pipe("-", "-o", "-", "-q", stdin=data + b"{\n", code=1)
        assert message.startswith("stdin:6: not JSON")
        assert len(message.splitlines()) == 1

    def test_a_closed_output_pipe_ends_the_command_quietly(self, tmp_path: Path) -> None:
        big = tmp_path / "in.jsonl"
        big.write_text(lines({"text": f"{number} " * 50} for number in range(20_000)))
        with subprocess.Popen(command("filter", big, "-o", "-", "--words", "1:9", "-q"), env=environment(),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
            process.stdout.close()
            assert b"Traceback" not in process.stderr.read()

    def test_parquet(self, source: Path, tmp_path: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        run_cli("filter", source, "-o", tmp_path / "a.parquet")
        assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == [ROWS[place] for place in NEW]
        message = run_cli(
            "filter", tmp_path / "a.parquet", "-o", tmp_path / "b.parquet", "--words", "3:99", "--pii", "redact"
        )
        assert "words: too_short" in message
        assert parquet.read_table(tmp_path / "b.parquet").to_pylist() == [ROWS[place] for place in (0, 3, 4)]
        run_cli("filter", tmp_path / "a.parquet", "-o", tmp_path / "b.parquet", "--pii", "redact")
        found = parquet.read_table(tmp_path / "b.parquet").to_pylist()
        assert found[1] == {**ROWS[2], "output": "Mail [EMAIL] for more."}
        assert found[0] == ROWS[0]
        run_cli("filter", tmp_path / "b.parquet", "-o", tmp_path / "c.jsonl")
        assert read(tmp_path / "c.jsonl") == found
        (tmp_path / "bad.parquet").write_text("no")
        assert "is not a Parquet file" in run_cli(
            "filter", tmp_path / "bad.parquet", "-o", tmp_path / "d.jsonl", code=2
        )

    def test_arrow_values_keep_their_types(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = pa.table({
            "text": ["one thing", "one thing", "another matter"],
            "when": pa.array([1, 2, 3], pa.timestamp("us", tz="UTC")),
            "raw": [b"\xff", b"", None],
            "small": pa.array([1, 2, None], pa.int8()),
        })  # fmt: skip
        parquet.write_table(table, tmp_path / "in.parquet")
        run_cli("filter", tmp_path / "in.parquet", "-o", tmp_path / "out.parquet")
        assert parquet.read_table(tmp_path / "out.parquet").equals(table.take([0, 2]))
        message = run_cli("filter", tmp_path / "in.parquet", "-o", tmp_path / "out.jsonl")
        assert "note: 'raw': 1 value (bytes, written as base64)" in message
        assert read(tmp_path / "out.jsonl")[0]["raw"] == "/w=="
        assert read(tmp_path / "out.jsonl")[1]["when"] == "1970-01-01T00:00:00.000003+00:00"
        parquet.write_table(pa.table({"text": ["a", None]}), tmp_path / "in.parquet")
        message = run_cli("filter", tmp_path / "in.parquet", "-o", tmp_path / "out.jsonl", code=1)
        assert f"{tmp_path}/in.parquet: row 2: 'text' has no value" in message

    def test_a_type_that_occurs_late_widens_the_column(self, tmp_path: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = [{"text": f"number {place}", "tags": [], "score": 1, "none": None} for place in range(9000)]
        rows.append({"text": "the last", "tags": ["x"], "score": 0.5, "none": "some", "more": {"a": 1}})
        (tmp_path / "in.jsonl").write_text(lines(rows))
        run_cli("filter", tmp_path / "in.jsonl", "-o", tmp_path / "out.parquet", "--words", "1:9")
        assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == [{"more": None, **row} for row in rows]
        (tmp_path / "in.jsonl").write_text(lines([{"text": "a", "x": 1}, {"text": "b", "x": "1"}]))
        message = run_cli("filter", tmp_path / "in.jsonl", "-o", tmp_path / "new.parquet", code=2)
        assert "field 'x' fits no column of one type" in message
        assert not (tmp_path / "new.parquet").exists()

    def test_a_datasets_directory(self, source: Path, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
        rows = [{"text": row["instruction"], "label": place % 2} for place, row in enumerate(ROWS)]
        whole = datasets.Dataset.from_list(rows, features=features)
        datasets.DatasetDict({"train": whole}).save_to_disk(tmp_path / "in")
        message = run_cli("filter", tmp_path / "in", "-o", tmp_path / "out", code=2)
        assert f"holds several splits; give one: {tmp_path}/in/train" in message
        message = run_cli("filter", tmp_path / "in" / "train", "-o", tmp_path / "out")
        assert "filtered: text" in message
        out = datasets.load_from_disk(tmp_path / "out")
        assert out.features == features
        assert out.to_list() == [rows[place] for place in NEW]
        message = run_cli("filter", source, "-o", tmp_path / "out", code=2)
        assert "exists already" in message
        run_cli("filter", source, "-o", f"{tmp_path}/new.v1/")
        assert datasets.load_from_disk(tmp_path / "new.v1").to_list() == [ROWS[place] for place in NEW]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "in.jsonl", "new.v1", "out"]
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "state.json").write_text("{}")
        message = run_cli("filter", tmp_path / "broken", "-o", tmp_path / "x.jsonl", code=2)
        assert "is not a datasets directory" in message

    def test_verifiers_of_many_kinds_in_columns(self, tmp_path: Path) -> None:
        """Arrow gives every verifier the fields of all verifiers, with nulls."""
        datasets = pytest.importorskip("datasets")
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        five, short = {"kind": "number", "value": 5, "where": "only"}, {"kind": "words", "max": 3}
        nested = {"kind": "all", "of": [{"kind": "all", "of": [short, {"kind": "no_commas"}]}, five]}
        about = {"kind": "all", "of": [{"kind": "words", "min": 3}, {"kind": "number", "value": 5, "tolerance": 1}]}
        more = [{"kind": "all", "of": [five, short]}, {"kind": "all", "of": [about, five]}, nested]
        verifiers = [five, short, *more, {"kind": "words", "min": 1, "max": 3}, None]
        rows = [
            {"instruction": f"Say five, {number}", "output": output, "verifier": verifier}
            for number, verifier in enumerate(verifiers)
            for output in ("It is 5.", "It is 6, not 5.")
        ]
        (tmp_path / "in.jsonl").write_text(lines(rows))
        table = pa.Table.from_pylist(rows)
        assert table["verifier"][0].as_py() != five
        parquet.write_table(table, tmp_path / "in.parquet")
        datasets.Dataset(table).save_to_disk(tmp_path / "in")
        for name in ("in.jsonl", "in.parquet", "in"):
            message = run_cli("filter", tmp_path / name, "-o", tmp_path / "out.jsonl", "--verify")
            assert "verifier: wrong_answer" in message
            found = [(row["instruction"], row["output"]) for row in read(tmp_path / "out.jsonl")]
            assert found == [(row["instruction"], row["output"]) for row in [*rows[::2], rows[-1]]], name

    def test_a_missing_extra_is_named(self, source: Path, tmp_path: Path) -> None:
        for name in ("pyarrow", "datasets", "lingua"):
            (tmp_path / "hide" / name).mkdir(parents=True)
            (tmp_path / "hide" / name / "__init__.py").write_text("raise ImportError")
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / "dataset_info.json").write_text("{}")
        path = f"{tmp_path / 'hide'}{os.pathsep}{environment()['PYTHONPATH']}"
        for args, extra in (
            ((source, "-o", tmp_path / "out.parquet"), "data"),
            ((source, "-o", tmp_path / "out"), "data"),
            ((tmp_path / "x.parquet", "-o", tmp_path / "out.jsonl"), "data"),
            ((tmp_path / "saved", "-o", tmp_path / "out.jsonl"), "data"),
            ((source, "-o", tmp_path / "out.jsonl", "--language", "en"), "language"),
        ):
            message = run_cli("filter", *args, code=2, env={"PYTHONPATH": path})
            assert f"pip install 'selfinstruct[{extra}]'" in message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["{none}", "-o", "{out}"], "can't read {none}: No such file"),
        (["{source}", "-o", "{out}.csv"], "the ending implies no format"),
        (["{source}", "-o", "/dev/null"], "/dev/null"),
        (["{source}", "-o", "{out}", "--report", "/dev/null"], "/dev/null is not a regular file"),
        (["{source}", "-o", "{out}", "--words", "9:4"], "not a range of words"),
        (["{source}", "-o", "{out}", "--rouge", "1.5"], "1.5 is not in the range"),
        (["{array}", "-o", "{out}"], "row 1 (line 1): not JSON"),
        (["{source}", "-o", "{out}", "--decontaminate", "{none}"], "can't read {none}"),
        (["{source}", "-o", "{out}", "--decontaminate", "{empty}"], "contains no benchmark item"),
        (["{source}", "-o", "{out}", "--language", "xx"], "unknown language 'xx'"),
        (["{source}"], "Missing option '-o'"),
    ],
)
def test_mistakes_are_explained(args: list[str], message: str, source: Path, tmp_path: Path) -> None:
    names = {
        "source": source,
        "none": tmp_path / "none",
        "out": tmp_path / "out.jsonl",
        "array": tmp_path / "array.json",
        "empty": tmp_path / "empty.txt",
    }
    names["array"].write_text("[{]")
    names["empty"].write_text("\n")
    output = run_cli("filter", *(arg.format(**names) for arg in args), code=2)
    assert message.format(**names) in output
    assert not names["out"].exists()


def test_an_empty_file_gives_an_empty_file(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "in.jsonl").write_text("")
    for name in ("out.jsonl", "out.jsonl.gz", "out.parquet", "out"):
        assert "filtered: nothing" in run_cli("filter", tmp_path / "in.jsonl", "-o", tmp_path / name)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_many_rows_of_one_template_cause_a_note(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines([{"text": "Write a poem about the sea"}] * 150))
    message = run_cli("filter", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    assert f"note: 149 of 150 rows were dropped by rouge for resembling {tmp_path}/in.jsonl:1" in message


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_an_interruption_leaves_the_old_file(number: int, code: int, name: str, tmp_path: Path) -> None:
    """Standard input stays open, so that the command is still reading when it is stopped."""
    out = tmp_path / name
    out.write_text("old")
    row = json.dumps(ROWS[0]).encode() + b"\n"
    with subprocess.Popen(command("filter", "-", "-o", out, "--words", "--report", tmp_path / "why.jsonl"),
                          env=environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        for _ in range(20_000):  # more than a pipe holds, so the command has begun to read and write
            process.stdin.write(row)
        process.stdin.flush()
        process.send_signal(number)
        message = process.stderr.read()
        assert process.wait() == code, message
        assert b"Traceback" not in message
    assert out.read_text() == "old"
    assert not (tmp_path / "why.jsonl").exists()
    if number == signal.SIGINT:
        assert b"stopped; nothing was written" in message
        assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_terminal_shows_a_progress_bar(source: Path, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(command("filter", source, "-o", tmp_path / "out.jsonl"), stderr=follower,
                          env=environment(TERM="xterm", COLUMNS="100")) as process:  # fmt: skip
        os.close(follower)
        message = b""
        while True:
            try:
                piece = os.read(leader, 4096)
            except OSError:  # Linux: the other end is closed
                break
            if not piece:
                break
            message += piece
        assert process.wait() == 0
    os.close(leader)
    assert b"5 rows read, 4 kept" in message
    assert "━".encode() in message


PEAK = """
import pathlib, re, resource, sys
from selfinstruct.filtering import FilterFileOptions, filter_file

filter_file(sys.argv[1], sys.argv[2], FilterFileOptions(words=(150, 250)), report=sys.argv[3])
status = pathlib.Path("/proc/self/status")  # on Linux ru_maxrss begins with the peak of the parent
if status.exists():
    print(int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) * 1024)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def test_memory_is_constant(tmp_path: Path) -> None:
    """A file ten times as large changes the peak by much less than its size."""
    paths = [tmp_path / name for name in ("in.jsonl", "out.jsonl", "why.jsonl")]
    peaks = []
    for count in (5_000, 50_000):
        paths[0].write_text(lines({"text": "word " * (100 + place % 2 * 100)} for place in range(count)))
        done = subprocess.run([sys.executable, "-c", PEAK, *map(str, paths)], env=environment(), capture_output=True,
                              text=True, check=True)  # fmt: skip
        peaks.append(int(done.stdout))
    size = paths[0].stat().st_size
    assert size > 30e6
    assert peaks[1] - peaks[0] < size / 5, peaks
