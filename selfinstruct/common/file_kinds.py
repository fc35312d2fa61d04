"""Files that hold no rows: their kind by the first bytes or the ending of the name, and what to do with them."""

from __future__ import annotations

import tarfile

from selfinstruct.errors import UsageError

__all__ = ["HEAD", "describe_undecodable", "refuse_unreadable"]

HEAD = 512  # bytes that show the kind of a file: a block of a tar archive

_UNPACK = "unpack it, and give a file in it"
_PICTURE = "put what it shows into rows of text"
_SPEECH = "transcribe it into rows of text"
_CONVERT = "write its rows as JSON lines"
_UNREADABLE = {
    b"SQLite format 3": ("an SQLite database", "export its rows as CSV or JSON lines"),
    b"PK\x03\x04": ("a ZIP archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save the sheet as CSV"),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"\x1f\x9d": ("a file compressed by compress", "unpack it by uncompress"),
    b"LZIP": ("a file compressed by lzip", "unpack it by lzip -d"),
    b"!<arch>\n": ("an ar archive", _UNPACK),
    b"%PDF": ("a PDF document", "extract its text"),
    b"%!PS": ("a PostScript document", "extract its text"),
    b"{\\rtf": ("an RTF document", "save it as plain text"),
    b"ORC": ("an ORC file", "convert it to Parquet"),
    b"Obj\x01": ("an Avro file", "convert it to Parquet"),
    b"\x89HDF": ("an HDF5 file", "convert it to Parquet"),
    b"\x93NUMPY": ("a NumPy array", _CONVERT),
    b"\x80\x02": ("a pickle, which is never loaded", _CONVERT),
    b"\x80\x03": ("a pickle, which is never loaded", _CONVERT),
    b"\x80\x04": ("a pickle, which is never loaded", _CONVERT),
    b"\x80\x05": ("a pickle, which is never loaded", _CONVERT),
    b"GGUF": ("a model in GGUF", "give a file of rows"),
    b"\x89PNG": ("a picture (PNG)", _PICTURE),
    b"\xff\xd8\xff": ("a picture (JPEG)", _PICTURE),
    b"GIF8": ("a picture (GIF)", _PICTURE),
    b"II*\x00": ("a picture (TIFF)", _PICTURE),
    b"MM\x00*": ("a picture (TIFF)", _PICTURE),
    b"ID3": ("a sound file (MP3)", _SPEECH),
    b"OggS": ("a sound file (Ogg)", _SPEECH),
    b"fLaC": ("a sound file (FLAC)", _SPEECH),
    b"RIFF": ("a sound, a picture or a film (RIFF)", "put what it holds into rows of text"),
    b"\x1a\x45\xdf\xa3": ("a film (Matroska)", _SPEECH),
    b"\x7fELF": ("a program", "give a file of rows"),
    b"MZ\x90\x00": ("a program", "give a file of rows"),
}
"""First bytes of files that hold no rows for this reader, with the kind and the remedy."""
_UNREADABLE_ENDINGS = {".yaml": "YAML", ".yml": "YAML", ".xml": "XML", ".html": "HTML", ".toml": "TOML"}
_TEXT_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16 and UTF-32
_ROW_STARTS = (b"{", b"[", b'"')


def refuse_unreadable(head: bytes, name: str, compression: str, ending: str) -> None:
    """Refuse a file that holds no rows.

    Args:
        head: The first bytes of the decompressed file, ``HEAD`` of them if it has as many.
        name: The file's name, for the message.
        compression: Name of its compression; "" for none.
        ending: The ending of its name without the one of the compression.

    Raises:
        UsageError: The file is of a kind without rows; one line names the kind and the remedy.
    """
    kind, remedy = _kind(head, compression, ending)
    if kind:
        raise UsageError(f"{name} can't be read: it is {kind}; {remedy}")


def _kind(head: bytes, compression: str, ending: str) -> tuple[str, str]:
    """Return the kind of a file without rows, and the remedy; two empty texts for any other file."""
    if head.startswith((b"PAR1", b"ARROW1")):  # read from an uncompressed file only
        return f"a {compression or 'piped'} stream of columns", "write it to an uncompressed file"
    for magic, kind in _UNREADABLE.items():
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        return "a film, a sound or a picture (MP4, HEIF)", "put what it holds into rows of text"
    if _is_tar(head):
        return "a tar archive", _UNPACK
    if ending in _UNREADABLE_ENDINGS:
        return _UNREADABLE_ENDINGS[ending], _CONVERT
    return ("a binary file of an unknown kind", _CONVERT) if _is_binary(head) else ("", "")


def _is_tar(head: bytes) -> bool:
    try:
        header = tarfile.TarInfo.frombuf(head[:HEAD], "utf-8", "replace")
    except tarfile.HeaderError:
        return False
    return bool(header.name)


def _is_binary(head: bytes) -> bool:
    """Return whether a file holds zero bytes, and neither begins like rows nor is text of two or four bytes a sign."""
    if b"\0" not in head or head.startswith(_TEXT_MARKS) or head.lstrip().startswith(_ROW_STARTS):
        return False
    zeros = [byte == 0 for byte in head[:4]]
    return zeros not in ([False, True, False, True], [True, False, True, False])  # UTF-16 without its mark


def describe_undecodable(error: UnicodeDecodeError) -> str:
    """Return why a text is not UTF-8, with the byte and its letter in Latin-1, and the remedy."""
    byte = error.object[error.start]
    letter = bytes([byte]).decode("cp1252", "replace")
    shown = f" ({letter} in Latin-1?)" if letter.isprintable() and letter != "\ufffd" else ""
    return f"not UTF-8 at byte {error.start}{shown}; save the file as UTF-8, as by: iconv -f latin1 -t utf-8"
