"""What a row says besides its texts: arguments of the chat template, media, and fields that nothing reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from selfinstruct.common.marks import ROW_MARKS
from selfinstruct.common.messages import is_message, plain_fields, plain_name
from selfinstruct.common.nested import parse_nested
from selfinstruct.common.row_fields import READ_BY_NAME, TASK_INPUT, is_blank
from selfinstruct.common.rows import ParsedRow
from selfinstruct.common.unread import is_metadata

__all__ = ["check_media", "find_unread", "read_template_arguments"]

_ARGUMENTS = ("chattemplatekwargs", "chattemplatearguments", "templatekwargs", "templatearguments")
_SINGLE_ARGUMENTS = {"enablethinking": "enable_thinking", "thinking": "thinking", "reasoningeffort": "reasoning_effort"}
_MIN_PART = 12  # characters from which a part of a text is no coincidence
_VERDICTS = ("flag", "flags", "label", "labels", "status", "state", "quality", "rating", "reward")
_MEDIA = ("image", "images", "imagepath", "imageurl", "audio", "audios", "video", "videos")


def read_template_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the chat template that a row sets, without the ones that are null.

    Raises:
        ValueError: They are no JSON object.
    """
    fields = plain_fields(row)
    arguments: dict[str, Any] = {}
    for key, argument in _SINGLE_ARGUMENTS.items():
        name, value = fields.get(key, ("", None))
        word = {"true": True, "false": False}.get(value.strip().casefold()) if isinstance(value, str) else value
        if isinstance(word, bool):
            arguments[argument] = word
        elif key == "reasoningeffort" and isinstance(value, str) and value:
            arguments[argument] = value
        elif key == "enablethinking" and name:
            raise ValueError(f"{name!r} must be true or false, not {value!r:.40}")
    for name, value in (fields[key] for key in _ARGUMENTS if key in fields):
        given = parse_nested(value) if isinstance(value, str) and value.strip() else value or {}
        if not isinstance(given, Mapping):
            raise ValueError(f"{name!r} must be an object with arguments of the chat template")
        arguments |= {argument: item for argument, item in given.items() if item is not None}
    return arguments


def check_media(row: Mapping[str, Any]) -> None:
    """Refuse a row about a picture, a sound or a film.

    Raises:
        ValueError: The row has one; the message names the field.
    """
    for name, value in row.items():
        if plain_name(str(name)) in _MEDIA and value is not None and not is_blank(value):
            raise ValueError(f"{name!r} can't be trained on; remove that field to train on the text alone")


def find_unread(row: Mapping[str, Any], parsed: ParsedRow) -> Iterator[str]:
    """Yield the names of the fields of a row, and of its messages, that are neither read nor harmless.

    A text that repeats what is read is no news either, such as the complete prompt with its answer.
    """
    exchanges = parsed.exchanges or ()
    answers = [text for exchange in exchanges for text in exchange.outputs]
    contents = [text for turn in parsed.turns for text in (turn.content, turn.reasoning)]
    inputs = [exchange.input for exchange in exchanges]
    texts = [text for text in (parsed.instruction, *inputs, *answers, *contents, parsed.system, parsed.reasoning,
                               *parsed.rejected) if text.strip()]  # fmt: skip
    read = {parsed.layout, parsed.answer_field, *(exchange.field for exchange in exchanges)}
    names = {*READ_BY_NAME, *ROW_MARKS, *_ARGUMENTS, *_SINGLE_ARGUMENTS, *(TASK_INPUT if exchanges else ())}
    for plain, (name, value) in plain_fields(row).items():
        if name in read or plain in names or _is_harmless(name, value) or is_blank(value):
            continue
        values = [_content(item) for item in (value if isinstance(value, list | tuple) else [value])]
        if not all(isinstance(item, str) and _repeats(item.strip(), texts) for item in values):
            yield repr(name)
    for name in dict.fromkeys(name for turn in parsed.turns for name in turn.unread if not is_metadata(name)):
        yield f"{name!r} of a message"


def _is_harmless(name: str, value: Any) -> bool:
    """Return whether a field is metadata that can't say whether its row is to be learnt."""
    is_verdict = isinstance(value, bool) or plain_name(name).endswith(_VERDICTS)
    return is_metadata(name) and not is_verdict


def _content(item: Any) -> Any:
    """Return the content of a message; any other value unchanged."""
    fields = plain_fields(item) if is_message(item) else {}
    return next((fields[key][1] for key in ("content", "value", "text") if key in fields), item)


def _repeats(value: str, texts: Sequence[str]) -> bool:
    """Return whether a value is one of the texts or a part of one, or holds both the first one and another."""
    if any(value == text.strip() or (len(value) >= _MIN_PART and value in text) for text in texts):
        return True
    return bool(texts) and texts[0] in value and any(text in value for text in texts[1:])
