"""Filters for instruction data, usable without the rest of the package.

Loads numpy, rapidfuzz, regex and xxhash, and nothing else that is heavy.
"""

from selfinstruct.filters.balance import Balance
from selfinstruct.filters.base import Filter
from selfinstruct.filters.copied import Copied
from selfinstruct.filters.decontaminate import Decontaminator
from selfinstruct.filters.dedup import dedup
from selfinstruct.filters.instances import judge_instances
from selfinstruct.filters.instructions import (
    ALPACA_KEYWORDS,
    SELF_INSTRUCT_KEYWORDS,
    Keywords,
    LeadingPunctuation,
    ProgramPrefix,
    WordCount,
)
from selfinstruct.filters.language import Language
from selfinstruct.filters.minhash.index import NearDuplicateIndex
from selfinstruct.filters.patterns import Boilerplate, Refusals
from selfinstruct.filters.perplexity import Ifd, Perplexity
from selfinstruct.filters.pii import Pii
from selfinstruct.filters.pipeline import Dropped, Judged, On, Pipeline, Result
from selfinstruct.filters.repetition import Repetition
from selfinstruct.filters.report import Drop, Report
from selfinstruct.filters.rouge.index import NoveltyIndex, f1, lcs_length, rouge_l
from selfinstruct.filters.semantic import SemanticIndex
from selfinstruct.filters.text import Tokenizer, tokenize
from selfinstruct.records import Verdict

__all__ = [
    "ALPACA_KEYWORDS",
    "SELF_INSTRUCT_KEYWORDS",
    "Balance",
    "Boilerplate",
    "Copied",
    "Decontaminator",
    "Drop",
    "Dropped",
    "Filter",
    "Ifd",
    "Judged",
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
    "Repetition",
    "Report",
    "Result",
    "SemanticIndex",
    "Tokenizer",
    "Verdict",
    "WordCount",
    "dedup",
    "f1",
    "judge_instances",
    "lcs_length",
    "rouge_l",
    "tokenize",
]
