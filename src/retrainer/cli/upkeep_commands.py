"""``retrainer fsck`` and ``gc``: check a store, repair what is safe, delete what nobody needs."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
