"""``retrainer promote`` and ``rollback``: move a channel of a published model."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
