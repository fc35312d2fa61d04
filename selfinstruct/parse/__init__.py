"""Structure in a model's answer: numbered lists, blocks of labelled fields, rows in JSON.

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
from selfinstruct.parse.lists import Item, Listing, numbered
from selfinstruct.parse.reasoning import Reasoned, reasoned
from selfinstruct.parse.structured import read_records, read_strings
from selfinstruct.parse.text import blank_input, collapse, first_word, stripped

__all__ = [
    "Block",
    "Blocks",
    "Form",
    "Item",
    "Listing",
    "Reasoned",
    "blank_input",
    "collapse",
    "first_word",
    "numbered",
    "read_blocks",
    "read_records",
    "read_strings",
    "reasoned",
    "stripped",
]
