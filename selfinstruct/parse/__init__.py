"""Parsers for model output: numbered lists, blocks of labelled fields, transcripts and rows in JSON.

Only markers at the start of a line are recognised, never words inside a line, and a marker counts only where the
structure expects it:

- a list item starts on a line with the *next* number, at the indentation of the first item; "2020." in running text or
  at the start of a line is text;
- a block starts with its header, or with its first field and the next number; a field starts only after the fields that
  precede it, so "Input:" after the start of an output is text until the next block;
- nothing inside a closed code fence (three backquotes or tildes) is a marker;
- no part of the text is dropped silently: each part outside the structure becomes a ``Discard``.

Rows in JSON (``structured``) have no markers: text inside a JSON string is always data.

If a text is ambiguous, the earlier interpretation wins: an input that contains a line "Output:" ends there.

Every pattern is anchored to a line and bounded in length before its first decisive character, so that parsing any text
takes linear time.
"""

from selfinstruct.parse.blocks import Block, Blocks, Form, read_blocks
from selfinstruct.parse.closing import CLOSING_SIGN, is_closing
from selfinstruct.parse.dialogue import Dialogue, Utterance, read_dialogue, read_message, sounds_like_assistant
from selfinstruct.parse.labels import read_labels
from selfinstruct.parse.lists import Item, Listing, read_list, read_numbered_list
from selfinstruct.parse.preamble import skip_preamble
from selfinstruct.parse.reasoning import ReasoningSplit, answer_span, split_reasoning
from selfinstruct.parse.rewritten import rewritten_task, without_remarks
from selfinstruct.parse.scores import read_score
from selfinstruct.parse.single_task import read_task
from selfinstruct.parse.structured import read_object, read_records, read_strings
from selfinstruct.parse.text import blank_input, collapse, content_span, first_word

__all__ = [
    "CLOSING_SIGN",
    "Block",
    "Blocks",
    "Dialogue",
    "Form",
    "Item",
    "Listing",
    "ReasoningSplit",
    "Utterance",
    "answer_span",
    "blank_input",
    "collapse",
    "content_span",
    "first_word",
    "is_closing",
    "read_blocks",
    "read_dialogue",
    "read_labels",
    "read_list",
    "read_message",
    "read_numbered_list",
    "read_object",
    "read_records",
    "read_score",
    "read_strings",
    "read_task",
    "rewritten_task",
    "skip_preamble",
    "sounds_like_assistant",
    "split_reasoning",
    "without_remarks",
]
