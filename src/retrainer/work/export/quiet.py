"""Keep the exporters of torch and transformers from talking over our own progress."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, no log records below error, nothing on standard output, while the block runs.

    What they say is about their own versions and about operators that are not used. Whether the graph is
    right is not read off their messages: it is measured.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
