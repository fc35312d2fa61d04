"""Bootstrap instruction-tuning data with any language model, and explain every row of it.

``generate`` starts or resumes a run; ``selfinstruct.filters`` holds the filters, usable alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selfinstruct.version import SEMANTICS, __version__

if TYPE_CHECKING:
    from selfinstruct.api import GenerateResult, generate

__all__ = ["SEMANTICS", "GenerateResult", "__version__", "generate"]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that importing the package, or only its filters, stays instant.
    if name in ("GenerateResult", "generate"):
        from selfinstruct import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
