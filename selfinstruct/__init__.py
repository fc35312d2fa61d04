"""Bootstrap instruction-tuning data with any language model, and explain every row of it.

``generate`` runs or goes on with a run; ``selfinstruct.filters`` holds the filters, usable alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from selfinstruct.version import SEMANTICS, __version__

if TYPE_CHECKING:
    from selfinstruct.session import Result, generate

__all__ = ["SEMANTICS", "Result", "__version__", "generate"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing the package, or only its filters, stays instant.
    if name in ("Result", "generate"):
        from selfinstruct import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
