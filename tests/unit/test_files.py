from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from selfinstruct.common.files import describe_os_error, read_jsonl_lines, write_atomic, write_folder
from selfinstruct.errors import DataError, SelfInstructError, UsageError


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "data.jsonl"
    write_atomic(target, [b"old\n"])

    def chunks():
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(SelfInstructError, match=r"No space left on device \(free some space, .* again\); the old file"):
        write_atomic(target, chunks())
    assert target.read_bytes() == b"old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_a_full_disk_is_reported_with_a_remedy() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        words = os.strerror(number)
        assert (
            describe_os_error(OSError(number, words)) == f"{words} (free some space, then run the same command again)"
        )
    assert describe_os_error(OSError(errno.EACCES, "Permission denied")) == "Permission denied"


def test_only_temporary_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    """A temporary file is locked while somebody is at work on it; other names are other people's."""
    left, busy = tmp_path / ".a.jsonl.abcd_012.part", tmp_path / ".a.jsonl.at_work0.part"
    others = [tmp_path / name for name in (".b.jsonl.abcd_012.part", ".a.jsonl.part", ".a.jsonl.abcd_0123.part",
                                           ".axjsonl.abcd_012.part", "a.jsonl.abcd_012.part")]  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    link = tmp_path / ".a.jsonl.a_link_0.part"
    folder = tmp_path / ".a.jsonl.a_folder.part"
    for path in (left, busy, elsewhere, *others):
        path.write_bytes(b"x")
    link.symlink_to(elsewhere)
    folder.mkdir()
    with busy.open("rb") as work:
        fcntl.flock(work, fcntl.LOCK_EX)
        write_atomic(tmp_path / "a.jsonl", [b"new"])
        kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"a.jsonl", *(path.name for path in (busy, link, folder, elsewhere, *others))}
    assert elsewhere.read_bytes() == b"x"
    write_atomic(tmp_path / "a.jsonl", [b"newer"])
    assert not busy.exists(), "its writer is gone"


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Each begins before the other ends; the last one to end is what stays."""

    def chunks(inner: bytes):
        yield b"outer "
        write_atomic(tmp_path / "a", [inner])
        assert (tmp_path / "a").read_bytes() == inner
        yield b"whole"

    write_atomic(tmp_path / "a", chunks(b"inner"))
    assert (tmp_path / "a").read_bytes() == b"outer whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    left = tmp_path / ".a.abcd_012.part"
    left.touch()
    monkeypatch.setattr(fcntl, "flock", flock)
    write_atomic(tmp_path / "a", [b"x"])
    assert (tmp_path / "a").read_bytes() == b"x"
    assert left.exists(), "it may be another's, at work"


def test_a_temporary_file_removed_before_its_lock_is_recreated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the making of a file and its lock another process may take it for a leftover."""
    real, swept = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if len(swept) < 2:
            [part] = [path for path in tmp_path.iterdir() if path.suffix == ".part"]
            swept.append(part)
            part.unlink()
            if len(swept) == 1:
                raise BlockingIOError(errno.EWOULDBLOCK, "held by the sweeper")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    before = len(os.listdir("/proc/self/fd"))
    write_atomic(tmp_path / "a", [b"x"])
    assert (tmp_path / "a").read_bytes() == b"x"
    assert len(swept) == 2
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_written_file_has_the_usual_mode(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a" / "b.txt", [b"x", b"y"])
    finally:
        os.umask(old)
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"xy"
    assert (tmp_path / "a" / "b.txt").stat().st_mode & 0o777 == 0o644


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with write_folder(out) as part:
        (part / "weights").mkdir()
        (part / "weights" / "a").write_bytes(b"x")
        (part / "weights" / "a").chmod(0o600)
        assert not out.exists()
    assert (out / "weights" / "a").read_bytes() == b"x"
    assert (out / "weights" / "a").stat().st_mode & 0o777 == 0o644
    with pytest.raises(UsageError, match="something here already"), write_folder(out) as part:
        raise AssertionError
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(SelfInstructError, match="Is a directory"), write_folder(other) as part:
        (part / "a").write_bytes(tmp_path.joinpath("deep").read_bytes())
    assert list(other.iterdir()) == []
    with write_folder(other) as part:
        (part / "b").write_bytes(b"y")
    assert [path.name for path in other.iterdir()] == ["b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "other"]
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(SelfInstructError, match=r"can't write .*Not a directory"),
        write_folder(tmp_path / "file" / "a"),
    ):
        pass


def test_lines_end_only_at_line_feeds(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    text = "a\u2028b\u0085c\x0bd\u000ce"
    path.write_bytes(
        b'\xef\xbb\xbf{"t": "%s"}\r\n\n{"t": 2}' % text.replace("\x0b", "\\u000b").replace("\x0c", "\\f").encode()
    )
    assert list(read_jsonl_lines(path)) == [(1, {"t": text}), (3, {"t": 2})]


def test_each_bad_line_is_reported_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n[1]\n{"a": NaN}\n\xff\n{"b": 2}\n')
    found = dict(read_jsonl_lines(path))
    assert found[1] == {"a": 1}
    assert found[5] == {"b": 2}
    for line, says in ((2, "a JSON object is expected"), (3, "NaN"), (4, "not UTF-8")):
        assert isinstance(found[line], DataError)
        assert str(found[line]).startswith(f"{path}:{line}: ")
        assert says in str(found[line])


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        list(read_jsonl_lines(tmp_path / "none.jsonl"))
    with pytest.raises(UsageError, match="Is a directory"):
        list(read_jsonl_lines(tmp_path))
