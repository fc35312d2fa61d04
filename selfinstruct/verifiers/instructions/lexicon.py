"""Closed classes of English words that instructions refer to: stop words, pronouns, conjunctions and minor words."""

from __future__ import annotations

__all__ = ["CONJUNCTIONS", "MINOR_WORDS", "NAMES", "PRONOUNS", "STOP_WORDS", "words_of"]


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text that white space separates."""
    return frozenset(text.split())


CONJUNCTIONS = words_of("and but for nor or so yet")

_PERSONAL = words_of("i me we us you he him she her it they them")
_POSSESSIVE = words_of("my mine our ours your yours his hers its their theirs")
_REFLEXIVE = words_of("myself ourselves yourself yourselves himself herself itself themselves")
PRONOUNS = _PERSONAL | _POSSESSIVE | _REFLEXIVE

# Articles, short conjunctions and prepositions, which title case may leave in small letters.
MINOR_WORDS = words_of(
    """
    a an the and but or nor for so yet as if at by in of off on per to up via from into onto over with than vs
    """
)

# The stop words of NLTK's English list: the classes above and the following, with the parts of contractions that
# ``\w+`` makes of ``don't`` and ``you've``.
_AUXILIARIES = words_of(
    """
    am is are was were be been being have has had having do does did doing can will just should now
    """
)
_DETERMINERS = words_of(
    """
    a an the this that these those all any both each few more most other some such no nor not only own same what
    which who whom
    """
)
_PREPOSITIONS = words_of(
    """
    of at by for with about against between into through during before after above below to from up down in out on
    off over under until
    """
)
_ADVERBS = words_of(
    """
    again further then once here there when where why how so than too very while as because if and but or
    """
)
_PARTS = words_of(
    """
    s t d ll m o re ve y don ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan shouldn
    wasn weren won wouldn
    """
)
STOP_WORDS = (
    (PRONOUNS - {"us", "mine"}) | _AUXILIARIES | _DETERMINERS | _PREPOSITIONS | _ADVERBS | _PARTS
)  # fmt: skip

# The names among which ``count:person_names`` asks for some; its prompts list them.
NAMES = words_of(
    """
    Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin
    Harper Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria
    Elijah Layla Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph Claire Ryan
    Stella Jonathan
    """
)
