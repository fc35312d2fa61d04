"""Structure in a model's answer: numbered lists, blocks of labelled fields, transcripts, rows in JSON.

Text is read by its line-anchored markers alone, never by words inside a line, and a marker counts only where the
structure expects it:

- a list item opens on a line that carries the *next* number, with the indentation of the list's first item; "2020." in
  running text, or at the start of a line, is text;
- a block opens on its header or its first field with the next number; inside a block a field opens only after the
  fields that come before it, so once an output has begun, "Input:" is text until the next block;
- within a closed code fence (three backquotes or tildes) nothing is a marker;
- what a list or a block cannot hold is never dropped in silence: each such piece is a ``Discard``.

Rows in JSON (``structured``) know no markers at all: text inside a JSON string is data, whatever it says.

Where structure can't tell, the earlier reading wins: an input that itself has a line "Output:" ends there.

Every pattern is anchored to a line and bounded in length before its first decisive character, so that reading takes
time linear in the text, whatever the text.
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
