"""Fields of a row that no reader takes: which of them may belong to the task, and the notes about them.

A field is harmless if its name stands for metadata (``source_id``, ``Category``, ``created_at``), if its value has the
form of metadata (a URL, a date, a hash), or if its text already stands in what is read. Any other text is reported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

from selfinstruct.common.row_fields import Fields, spells_nothing

__all__ = ["is_metadata", "unread_fields", "unread_notices"]

_MOST_NAMED = 8  # fields that are named one by one
_METADATA = frozenset((
    # identity and origin
    "id", "ids", "idx", "index", "key", "uid", "uuid", "guid", "hash", "sha", "sha256", "md5", "digest", "checksum",
    "source", "sources", "src", "origin", "provenance", "dataset", "datasets", "corpus", "collection", "subset",
    "split", "fold", "url", "urls", "uri", "uris", "link", "links", "href", "website", "site", "platform", "app",
    "path", "file", "filename", "filepath", "folder", "name", "names", "author", "authors", "annotator", "annotators",
    "worker", "contributor", "user", "username", "creator", "owner", "publisher", "license", "licence", "licenses",
    "licences", "version", "revision", "commit", "session", "experiment", "batch",
    # kind
    "category", "categories", "cat", "type", "types", "kind", "class", "classes", "classification", "label", "labels",
    "tag", "tags", "topic", "topics", "domain", "domains", "subject", "subjects", "genre", "skill", "skills",
    "difficulty", "level", "levels", "grade", "grades", "language", "languages", "lang", "langs", "locale", "country",
    "region", "task", "tasks", "intent", "sentiment", "role", "status", "state", "flag", "flags",
    # figures and times
    "score", "scores", "rating", "ratings", "rank", "ranks", "reward", "rewards", "quality", "confidence", "votes",
    "likes", "upvotes", "toxicity", "perplexity", "similarity", "probability", "length", "len", "count", "counts",
    "num", "number", "token", "tokens", "turn", "turns", "size", "position", "date", "dates", "datetime", "time",
    "timestamp", "timestamps", "created", "updated", "modified", "year", "month", "day",
    # making
    "model", "models", "generator", "engine", "teacher", "judge", "provider", "temperature", "seed", "method",
    "strategy", "pipeline", "config", "meta", "metadata", "reason", "verifier", "lineage", "parent", "parents",
    "ppl", "distance", "keywords", "rounds",
))  # fmt: skip
_ANSWER_WORDS = frozenset((
    "answer", "answers", "solution", "solutions", "output", "outputs", "response", "responses", "completion",
    "completions", "chosen", "rejected",
))  # fmt: skip
"""Last words of names of answers, which no question shows."""
_FIRST_WORDS = frozenset(("is", "has", "num", "n", "meta", "metadata", "created", "updated"))
_CODES = frozenset(("language", "lang", "country", "subject", "category", "locale", "class"))  # before "code"
_NAME_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+|\d+")
_METADATA_VALUE = re.compile(
    r"(?:https?|s3|gs|hf|file)://\S+|www\.\S+|[\d\s.,:/+%-]+|\d{4}-\d\d-\d\d[T ][\d:.]+(?:Z|[+-][\d:]+| ?UTC)?"
    r"|[0-9a-f]{16,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    re.IGNORECASE,
)


def unread_fields(fields: Fields, read: Collection[str], texts: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the fields with texts that may belong to the task, although no reader takes them.

    Args:
        fields: The fields of a row by their plain names.
        read: Plain names of the fields that the layout of the row reads.
        texts: What was read.
    """
    names = []
    for key in fields.keys() - read:
        name, value = fields[key]
        if is_metadata(name) or _last_word(name) in _ANSWER_WORDS:
            continue
        if any(not _is_shown(text, texts) for text in _texts(value)):
            names.append(name)
    return tuple(sorted(names))


def unread_notices(counts: Counter[str], use: str) -> Iterator[str]:
    """Yield a sentence for each field that was left out, the most frequent first.

    Args:
        counts: Number of rows by the name of the field.
        use: What the fields are not used for, as in ``sent to the model``.
    """
    ordered = counts.most_common()
    for name, count in ordered[:_MOST_NAMED]:
        yield f"field {name[:80]!r} of {count:,} row{'' if count == 1 else 's'} is not {use}"
    if more := ordered[_MOST_NAMED:]:
        names = ", ".join(repr(name[:40]) for name, _ in more[:_MOST_NAMED])
        yield f"{len(more)} further fields are not {use}: {names}{', ...' if len(more) > _MOST_NAMED else ''}"


@lru_cache(maxsize=4096)
def is_metadata(name: str) -> bool:
    """Return whether the name of a field stands for metadata, judging by its last word and a few first ones."""
    words = _words(name)
    if not words or name.startswith("_"):
        return True  # "0", "__index_level_0__": columns of a table's own making
    is_code = len(words) > 1 and words[-1] == "code" and words[-2] in _CODES
    is_moment = len(words) > 1 and words[-1] in ("at", "on", "by")
    return words[-1] in _METADATA or words[0] in _FIRST_WORDS or is_code or is_moment


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, without a number at the end."""
    words = [word.lower() for word in _NAME_WORD.findall(name)]
    while words and words[-1].isdigit():
        words.pop()
    return words


def _last_word(name: str) -> str:
    return next(reversed(_words(name)), "")


def _texts(value: Any) -> Sequence[str]:
    """Return the texts of a field: a string, or a list of strings."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return value
    return ()


def _is_shown(text: str, texts: Sequence[str]) -> bool:
    text = text.strip()
    return (
        not text
        or spells_nothing(text)
        or _METADATA_VALUE.fullmatch(text[:2000]) is not None
        or any(text in shown for shown in texts)
    )
