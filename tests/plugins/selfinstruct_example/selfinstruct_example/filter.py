"""A filter that rejects texts in capital letters."""

from dataclasses import dataclass
from typing import ClassVar

from selfinstruct.filters import Filter, Verdict


@dataclass(frozen=True)
class Shouting(Filter):
    """Keep texts in which at most ``limit`` of the letters are capitals."""

    name: ClassVar[str] = "shouting"
    limit: float = 0.5

    def verdict(self, text: str) -> Verdict:
        letters = [character for character in text if character.isalpha()]
        share = sum(map(str.isupper, letters)) / max(1, len(letters))
        return self.keep(share) if share <= self.limit else self.reject("shouting", share)
