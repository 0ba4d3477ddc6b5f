"""What a caller may ask of a classifier, checked before anything is fetched."""

from __future__ import annotations

from typing import Any, get_args

from retrainer.errors import UserError
from retrainer.precisions import PRECISIONS
from retrainer.serve.cached_version import AUTO, Verify


def check_options(*, precision: Any, threads: Any, verify: Any = "all") -> None:
    """Insist on options that make sense.

    :raises UserError: one of them does not; says what may be given.
    """
    if precision not in (AUTO, *PRECISIONS):
        raise UserError(f"precision must be one of {', '.join((AUTO, *PRECISIONS))}; got {precision!r}")
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise UserError(f"threads must be a whole number from 1, or None for the usable cores; got {threads!r}")
    if verify not in get_args(Verify):
        raise UserError(f"verify must be one of {', '.join(get_args(Verify))}; got {verify!r}")
