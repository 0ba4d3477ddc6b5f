"""``retrainer keygen`` and ``sign``: make keys, and sign what a store holds with a new one."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
