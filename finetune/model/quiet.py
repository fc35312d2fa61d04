"""Silence for what transformers and the hub print while models are read and written."""

from __future__ import annotations

import logging as stdlib_logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and logs of transformers, and the hub's warning for every file that it did not find."""
    hub = stdlib_logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(stdlib_logging.ERROR)
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(level)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
