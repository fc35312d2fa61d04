"""Filters for instruction data, usable without the rest of the package.

Stateless filters decide on one text at a time (``WordCount``, ``Refusals``, ``Pii`` …; ``Filter`` is their base class,
also for plugins). Indexes remember the texts that they kept: ``NoveltyIndex`` (ROUGE-L), ``NearDuplicateIndex``
(MinHash) and ``SemanticIndex`` (embeddings); ``TextIndex`` is their base class. ``dedup`` applies one index to a
dataset, ``Pipeline`` applies filters and indexes in sequence; both return a ``FilterResult``.

Importing this package loads numpy, rapidfuzz, regex and xxhash, and nothing else that is slow to import.
"""

from selfinstruct.filters.balance import Balance
from selfinstruct.filters.base import Filter
from selfinstruct.filters.copied import Copied
from selfinstruct.filters.decontaminate import Decontaminator
from selfinstruct.filters.dedup import dedup
from selfinstruct.filters.instances import check_instances
from selfinstruct.filters.instructions import (
    ALPACA_KEYWORDS,
    SELF_INSTRUCT_KEYWORDS,
    Keywords,
    LeadingPunctuation,
    ProgramPrefix,
    WordCount,
)
from selfinstruct.filters.language import Language
from selfinstruct.filters.minhash.groups import group_near_duplicates
from selfinstruct.filters.minhash.index import NearDuplicateIndex
from selfinstruct.filters.patterns import Boilerplate
from selfinstruct.filters.perplexity import Ifd, Perplexity
from selfinstruct.filters.pii import Pii
from selfinstruct.filters.pipeline import DecidedRow, On, Pipeline
from selfinstruct.filters.refusals import Refusals
from selfinstruct.filters.repetition import Repetition
from selfinstruct.filters.result import ClosePair, FilterResult, FilterStep, RejectedRow
from selfinstruct.filters.reward import Reward
from selfinstruct.filters.rouge.index import NoveltyIndex, f1, lcs_length, rouge_l
from selfinstruct.filters.semantic import SemanticIndex
from selfinstruct.filters.text import Tokenizer, tokenize
from selfinstruct.filters.text_index import TextIndex
from selfinstruct.records import Verdict

__all__ = [
    "ALPACA_KEYWORDS",
    "SELF_INSTRUCT_KEYWORDS",
    "Balance",
    "Boilerplate",
    "ClosePair",
    "Copied",
    "DecidedRow",
    "Decontaminator",
    "Filter",
    "FilterResult",
    "FilterStep",
    "Ifd",
    "Keywords",
    "Language",
    "LeadingPunctuation",
    "NearDuplicateIndex",
    "NoveltyIndex",
    "On",
    "Perplexity",
    "Pii",
    "Pipeline",
    "ProgramPrefix",
    "Refusals",
    "RejectedRow",
    "Repetition",
    "Reward",
    "SemanticIndex",
    "TextIndex",
    "Tokenizer",
    "Verdict",
    "WordCount",
    "check_instances",
    "dedup",
    "f1",
    "group_near_duplicates",
    "lcs_length",
    "rouge_l",
    "tokenize",
]
