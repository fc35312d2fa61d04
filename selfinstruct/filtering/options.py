"""Settings of ``filter_file``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from selfinstruct.filters import Filter, Tokenizer

__all__ = ["EMBEDDER", "FilterFileOptions", "PiiAction"]

PiiAction = Literal["flag", "redact", "drop"]

EMBEDDER = "minishlab/potion-base-8M"  # English, 8 million parameters; the default of semhash as well


@dataclass(frozen=True)
class FilterFileOptions:
    """The filters to apply, each off by default, and the fields that they read.

    Attributes:
        rouge: Drop a row whose instruction has a ROUGE-L F1 above this with the instruction of a kept row.
        minhash: Jaccard similarity of whole rows from which a row is a near-duplicate.
        semantic: Drop a row if its instruction's embedding has a cosine above this with a kept row's embedding.
        embedder: Name or directory of the embedding model for ``semantic``; see ``SemanticIndex``.
        words: Fewest and most words of an instruction.
        keywords: Drop instructions that text cannot fulfil.
        repetition: Drop answers that repeat themselves.
        refusals: Drop answers that are refusals.
        boilerplate: Drop answers that open or end with a courtesy of assistants.
        perplexity: Lowest and highest perplexity of a kept answer.
        ifd: Lowest and highest instruction-following difficulty of a kept row; see ``Ifd``.
        scorer: Name or directory of the causal language model for ``perplexity`` and ``ifd``.
        reward: Name or directory of a reward model; the kept rows get its score as the field ``reward``.
        min_reward: Drop a row whose reward is below this, or that has none; see ``Reward``.
        language: ISO 639-1 codes of the languages that are kept.
        pii: ``drop`` rows with personal data or secrets, ``redact`` them, or ``flag`` them in the report.
        decontaminate: Files with benchmark items; rows that reveal an item are dropped.
        suites: Suites of evaluations, each as ``NAME=FILE``; rows that reveal one of their questions are dropped.
        plugins: Further filters, from plugins or the caller. Each reads the text that its attribute ``reads`` names.
        balance: A field, and the largest share of the kept rows that may have the same value in it. It needs all other
            verdicts first, so the kept rows are held in memory.
        column: The field that every filter reads; None detects the layout of each row.
        output_column: The field with the answer; None detects it.
        tokenizer: Tokenizer of ``rouge``; see ``NoveltyIndex``.
        verify: Drop rows whose answer fails their own ``verifier``.
        skip_malformed: Skip benchmark items that can't be read, instead of refusing their file.
    """

    rouge: float | None = None
    minhash: float | None = None
    semantic: float | None = None
    embedder: str = EMBEDDER
    words: tuple[int, int] | None = None
    keywords: bool = False
    repetition: bool = False
    refusals: bool = False
    boilerplate: bool = False
    perplexity: tuple[float, float] | None = None
    ifd: tuple[float, float] | None = None
    scorer: str | None = None
    reward: str | None = None
    min_reward: float | None = None
    language: tuple[str, ...] = ()
    pii: PiiAction | None = None
    decontaminate: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    plugins: tuple[Filter, ...] = ()
    balance: tuple[str, float] | None = None
    column: str | None = None
    output_column: str | None = None
    tokenizer: Tokenizer = "auto"
    verify: bool = False
    skip_malformed: bool = False

    @property
    def any_filter(self) -> bool:
        """Whether at least one filter is on."""
        settings = (self.rouge, self.minhash, self.semantic, self.words, self.perplexity, self.ifd, self.reward,
                    self.balance)  # fmt: skip
        flags = (self.keywords, self.repetition, self.refusals, self.boilerplate, self.verify, self.pii is not None)
        lists = (self.language, self.decontaminate, self.suites, self.plugins)
        return any(setting is not None for setting in settings) or any(flags) or any(lists)
