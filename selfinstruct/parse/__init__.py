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
from selfinstruct.parse.dialogue import Dialogue, Utterance, is_of_assistant, message, read_dialogue
from selfinstruct.parse.labels import read_labels
from selfinstruct.parse.lists import Item, Listing, numbered
from selfinstruct.parse.preamble import behind_announcement
from selfinstruct.parse.reasoning import Reasoned, reasoned, spoken
from selfinstruct.parse.scores import read_score
from selfinstruct.parse.single_task import one_task
from selfinstruct.parse.structured import read_object, read_records, read_strings
from selfinstruct.parse.text import blank_input, collapse, first_word, stripped

__all__ = [
    "CLOSING_SIGN",
    "Block",
    "Blocks",
    "Dialogue",
    "Form",
    "Item",
    "Listing",
    "Reasoned",
    "Utterance",
    "behind_announcement",
    "blank_input",
    "collapse",
    "first_word",
    "is_closing",
    "is_of_assistant",
    "message",
    "numbered",
    "one_task",
    "read_blocks",
    "read_dialogue",
    "read_labels",
    "read_object",
    "read_records",
    "read_score",
    "read_strings",
    "reasoned",
    "spoken",
    "stripped",
]
