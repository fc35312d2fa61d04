"""Filters for instruction data, usable without the rest of the package.

Loads numpy, rapidfuzz, regex and xxhash, and nothing else that is heavy.
"""

from selfinstruct.filters.base import Filter
from selfinstruct.filters.copied import Copied
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
from selfinstruct.filters.minhash import NearDuplicateIndex
from selfinstruct.filters.pipeline import Dropped, Judged, On, Pipeline, Result
from selfinstruct.filters.report import Drop, Report
from selfinstruct.filters.rouge import NoveltyIndex, f1, lcs_length, rouge_l
from selfinstruct.filters.text import Tokenizer, tokenize
from selfinstruct.records import Verdict

__all__ = [
    "ALPACA_KEYWORDS",
    "SELF_INSTRUCT_KEYWORDS",
    "Copied",
    "Drop",
    "Dropped",
    "Filter",
    "Judged",
    "Keywords",
    "LeadingPunctuation",
    "NearDuplicateIndex",
    "NoveltyIndex",
    "On",
    "Pipeline",
    "ProgramPrefix",
    "Report",
    "Result",
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
