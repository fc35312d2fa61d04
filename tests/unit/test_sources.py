"""Row files of every kind: read alike, or refused in one line that names the kind."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from selfinstruct.common.sources import SourceRow, open_rows
from selfinstruct.errors import DataError, UsageError

ROWS = [{"instruction": f"Name {thing}.", "output": "Yes, «that»."} for thing in ("a river", "two kings", "a peak")]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
BYTES = LINES.encode()


def table(template: str) -> str:
    header = template.format(instruction="instruction", output="output")
    return "".join(f"{line}\n" for line in [header, *(template.format(**row) for row in ROWS)])


def read(path: Path) -> list[SourceRow | DataError]:
    return list(open_rows(path).rows)


def values(path: Path) -> list[object]:
    return [row.value for row in read(path) if isinstance(row, SourceRow)]


def arrow(codec: str) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        return bytes(pytest.importorskip("pyarrow").compress(data, codec=codec, asbytes=True))

    return compress


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", BYTES),
        ("rows.jsonl", BYTES.replace(b"\n", b"\r\n")),
        ("rows.jsonl", BYTES.replace(b"\n", b"\r")),
        ("rows.jsonl", codecs.BOM_UTF8 + BYTES),
        ("rows.jsonl", LINES.encode("utf-16")),
        ("rows.jsonl", LINES.encode("utf-16-le")),
        ("rows.jsonl", LINES.encode("utf-16-be")),
        ("rows.jsonl", LINES.encode("utf-32")),
        ("rows", json.dumps(ROWS).encode()),
        ("rows.jsonl", json.dumps(ROWS, indent=2).encode()),
        ("rows.json", codecs.BOM_UTF8 + json.dumps(ROWS).encode()),
        ("rows.json", "\n".join(json.dumps(row, indent=1) for row in ROWS).encode()),
        ("rows.json", "".join(map(json.dumps, ROWS)).encode()),
        ("rows.CSV", table('"{instruction}","{output}"').encode()),
        ("rows.csv", table("{instruction};{output}").encode()),
        ("rows.tsv", table("{instruction}\t{output}").encode("utf-16")),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress, arrow("zstd"), arrow("lz4")])
def test_text_is_read_in_every_form(
    name: str, content: bytes, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(compress(content))
    assert values(tmp_path / name) == ROWS


@pytest.mark.parametrize("name", ["rows.parquet", "ROWS.PARQUET", "rows"])
def test_parquet_is_recognised_by_its_content(name: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / name)
    assert values(tmp_path / name) == ROWS


def test_arrow_files_and_streams_are_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as file:
        file.write_table(table)
    with pa.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema) as stream:
        stream.write_table(table)
    assert values(tmp_path / "file.arrow") == values(tmp_path / "stream.arrow") == ROWS


def test_a_row_without_python_values_is_an_error_of_that_row(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"text": ["far", "near"], "when": pa.array([10**12, 0], pa.timestamp("s"))})
    parquet.write_table(table, tmp_path / "rows.parquet")
    error, row = read(tmp_path / "rows.parquet")
    assert str(error).startswith(f"{tmp_path}/rows.parquet: row 1: ")
    assert isinstance(row, SourceRow)
    assert row.value["text"] == "near"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04 more", "a ZIP archive or an Excel workbook; unpack it"),
        (b"SQLite format 3\x00", "an SQLite database; export its rows"),
        (b"\x80\x04\x95", "a pickle, which is never loaded"),
        (b"%PDF-1.7", "a PDF document"),
        (gzip.compress(b"PAR1 more", mtime=0), "a gzip stream of columns; write it to an uncompressed file"),
    ],
)
def test_other_kinds_are_named_with_the_remedy(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "rows.bin").write_bytes(content)
    with pytest.raises(UsageError, match=kind) as caught:
        read(tmp_path / "rows.bin")
    assert str(caught.value).startswith(f"{tmp_path}/rows.bin can't be read: it is ")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, arrow("zstd")])
def test_a_cut_stream_is_damaged(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(compress(BYTES * 5000)[:-12])
    with pytest.raises(UsageError, match=r"rows is damaged after line \d+: its (gzip|bz2|xz|zstd) stream is cut"):
        read(tmp_path / "rows")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": NaN}, {"text": "b"}]', "row 1: NaN is not JSON"),
        ('[{"text": "\\ud800"}, {"text": "b"}]', "row 1: a lone surrogate"),
        ('[{"a": 1, "a": 2}, {"text": "b"}]', "row 1: key 'a' is given twice"),
        ('[7, {"text": "b"}]', "row 1: a JSON object is expected, found int"),
    ],
)
def test_a_bad_element_of_an_array_is_an_error_of_that_row(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(content)
    error, row = read(tmp_path / "rows.json")
    assert str(error).startswith(f"{tmp_path}/rows.json: {message}")
    assert isinstance(row, SourceRow)
    assert (row.number, row.value, row.raw) == (2, {"text": "b"}, b'{"text": "b"}')


@pytest.mark.parametrize("ending", ["", ",", "]]", "] x", '{"a"', "," + "[" * 100_000])
def test_a_damaged_array_is_refused(ending: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"text": "a"}' + ending)
    with pytest.raises(DataError, match=r"rows\.json: row \d"):
        read(tmp_path / "rows.json")


def test_wrong_records_of_a_csv_file_are_located(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"two\nlines",1\nx,2,3\ny,4\n"open,5\n')
    rows = read(path)
    assert [str(row) for row in rows if isinstance(row, DataError)] == [
        f"{path}:4: 3 fields, and the header names 2",
        f"{path}:6: not CSV: unexpected end of data",
    ]
    texts = {row.number: row.value["text"] for row in rows if isinstance(row, SourceRow)}
    assert texts == {2: "two\nlines", 5: "y"}
    path.write_text("a,a\n1,2\n")
    with pytest.raises(UsageError, match="the header must name each column once"):
        read(path)
    path.write_bytes(b"text\ncaf\xe9\n")
    with pytest.raises(UsageError, match="2: not UTF-8 at byte 3"):
        read(path)


def test_a_folder_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("About.")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "b"}\n{\n'))
    (tmp_path / "a.jsonl").write_bytes(b'\n{"text": "a"}\n')
    source = open_rows(tmp_path)
    first, second, error = source.rows
    assert isinstance(first, SourceRow)
    assert isinstance(second, SourceRow)
    assert (first.value, source.where(first.number)) == ({"text": "a"}, f"{tmp_path}/a.jsonl:2")
    assert (second.value, source.where(second.number)) == ({"text": "b"}, f"{tmp_path}/b.jsonl.gz:1")
    assert str(error).startswith(f"{tmp_path}/b.jsonl.gz:2: not JSON")
    (tmp_path / "c.csv").write_text("text\nc\n")
    with pytest.raises(UsageError, match=r"holds \.csv and \.jsonl files; give one"):
        open_rows(tmp_path)


def test_splits_in_a_folder_are_not_mixed(tmp_path: Path) -> None:
    for name in ("train-0.jsonl", "train-1.jsonl", "test.jsonl"):
        (tmp_path / name).write_bytes(BYTES)
    with pytest.raises(UsageError, match="holds test and train files; give one"):
        open_rows(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    assert values(tmp_path) == ROWS * 2


@pytest.mark.parametrize("content", [b"", b"\n \r\n"])
def test_an_empty_file_has_no_rows(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert read(tmp_path / "rows.jsonl") == []


def tar(data: bytes, mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]  # a mode in a variable
        member = tarfile.TarInfo("rows.jsonl")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("rows.tar.gz", tar(BYTES, "w:gz"), "a tar archive; unpack it"),
        ("rows.tar", tar(BYTES, "w"), "a tar archive; unpack it"),
        ("rows.tar.xz", tar(BYTES, "w:xz"), "a tar archive; unpack it"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "a picture (PNG); put what it shows"),
        ("a.jsonl", b"\xff\xd8\xff\xe0" + bytes(40), "a picture (JPEG)"),
        ("a.webp", b"RIFF\x10\x00\x00\x00WEBPVP8 ", "(RIFF)"),
        ("a.mp4", b"\x00\x00\x00\x18ftypmp42" + bytes(40), "(MP4, HEIF)"),
        ("a.mp3", b"ID3\x04" + bytes(40), "a sound file (MP3); transcribe it"),
        ("a.rtf", rb"{\rtf1\ansi Hello}", "an RTF document; save it as plain text"),
        ("a.rar", b"Rar!\x1a\x07\x00", "a RAR archive; unpack it"),
        (
            "model.safetensors",
            b'\x40\x00\x00\x00\x00\x00\x00\x00{"a":1}',
            "a binary file of an unknown kind; write",
        ),
    ],
)
def test_a_file_without_rows_is_refused_in_one_line_with_its_kind_and_a_remedy(
    name: str, content: bytes, kind: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        list(open_rows(tmp_path / name).rows)
    assert str(caught.value).startswith(f"{tmp_path / name} can't be read: it is ")
    assert kind in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_line_with_a_zero_byte_is_an_error_of_this_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"instruction": "a\0b"}\n' + BYTES)
    damaged, *others = read(tmp_path / "rows.jsonl")
    assert isinstance(damaged, DataError)
    assert len(others) == len(ROWS)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.txt", "rows.csv", "rows.json"])
def test_text_in_latin_1_is_reported_with_the_letter_and_the_remedy(name: str, tmp_path: Path) -> None:
    content = {"rows.txt": "Name a caf\xe9.\n", "rows.csv": "instruction,output\nName a caf\xe9.,Yes\n"}
    text = content.get(name, '{"instruction": "Name a caf\xe9."}\n')
    (tmp_path / name).write_bytes((f"[{text}]" if name == "rows.json" else text).encode("latin-1"))
    messages = []
    try:
        messages = [str(row) for row in read(tmp_path / name) if isinstance(row, DataError)]
    except (UsageError, DataError) as error:
        messages = [str(error)]
    assert len(messages) == 1
    assert "not UTF-8 at byte" in messages[0]
    assert "(é in Latin-1?); save the file as UTF-8, as by: iconv -f latin1 -t utf-8" in messages[0]
