"""Loading the script that writes the generated pages."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

from tests.cli import ROOT


@cache
def load_docs_make() -> ModuleType:
    """Import ``docs/make.py``, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("docs_make", ROOT / "docs" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
