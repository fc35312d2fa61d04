"""Bootstrap instruction-tuning data with any language model, and explain every row of it.

The names below are the public interface; ``docs/api.md`` describes each. They are imported when first used, so that
``import selfinstruct`` is instant. ``selfinstruct.filters`` can be used alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from selfinstruct.common.openmp import wait_passively
from selfinstruct.version import SEMANTICS, __version__

if TYPE_CHECKING:
    from selfinstruct.api import (
        EvaluateResult,
        GenerateResult,
        Run,
        compare,
        diff,
        evaluate,
        explain,
        export,
        fork,
        generate,
        list_runs,
        open_run,
        preview,
        refilter,
        retry,
        status,
        tune,
    )
    from selfinstruct.doctor import check_environment
    from selfinstruct.errors import (
        BackendError,
        ConfigError,
        DataError,
        LedgerError,
        PluginError,
        SelfInstructError,
        UsageError,
    )
    from selfinstruct.filtering import FilterFileOptions, filter_file, split_file
    from selfinstruct.pool import AcceptedRow
    from selfinstruct.records import Candidate, Verdict
    from selfinstruct.seeds import check_seeds, load_seeds

__all__ = [
    "SEMANTICS",
    "AcceptedRow",
    "BackendError",
    "Candidate",
    "ConfigError",
    "DataError",
    "EvaluateResult",
    "FilterFileOptions",
    "GenerateResult",
    "LedgerError",
    "PluginError",
    "Run",
    "SelfInstructError",
    "UsageError",
    "Verdict",
    "__version__",
    "check_environment",
    "check_seeds",
    "compare",
    "diff",
    "evaluate",
    "explain",
    "export",
    "filter_file",
    "fork",
    "generate",
    "list_runs",
    "load_seeds",
    "open_run",
    "preview",
    "refilter",
    "retry",
    "split_file",
    "status",
    "tune",
]

wait_passively()  # before anything loads an OpenMP runtime

_MODULES = {
    "api": (
        "EvaluateResult", "GenerateResult", "Run", "compare", "diff", "evaluate", "explain", "export", "fork",
        "generate", "list_runs", "open_run", "preview", "refilter", "retry", "status", "tune",
    ),
    "doctor": ("check_environment",),
    "errors": (
        "BackendError", "ConfigError", "DataError", "LedgerError", "PluginError", "SelfInstructError", "UsageError",
    ),
    "filtering": ("FilterFileOptions", "filter_file", "split_file"),
    "pool": ("AcceptedRow",),
    "records": ("Candidate", "Verdict"),
    "seeds": ("check_seeds", "load_seeds"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next access doesn't come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
