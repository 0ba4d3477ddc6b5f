"""What a person refused to publish although the gate promotes it, so that the same question is not asked again.

``<root>/rejections/<digest of the decision>.json``, beside the artifacts: a decision never changes, and who refused it
is no part of it. New data, another gate or another champion give another decision, about which nobody was asked.
"""

from __future__ import annotations

from typing import Literal

from retrainer.errors import NotFoundError
from retrainer.records import Record
from retrainer.storage import open_storage


class Rejection(Record):
    """A person's no.

    :param at: UTC, ISO 8601.
    """

    format_version: Literal[1] = 1
    decision: str
    by: str
    run_id: str
    at: str


def reject(root: str, rejection: Rejection) -> None:
    """Remember it; the newest counts."""
    open_storage(root).write(_key(rejection.decision), rejection.to_pretty_json().encode())


def withdraw_rejection(root: str, decision: str) -> None:
    """Forget it, for somebody approved."""
    open_storage(root).delete(_key(decision))


def rejection_of(root: str, decision: str) -> Rejection | None:
    """Who refused that decision; ``None`` where nobody did.

    :raises IntegrityError: the record is damaged.
    """
    storage, key = open_storage(root), _key(decision)
    try:
        return Rejection.from_json(storage.read(key), where=storage.where(key))
    except NotFoundError:
        return None


def _key(decision: str) -> str:
    return f"rejections/{decision}.json"
