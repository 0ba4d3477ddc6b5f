"""Whether a receipt says what its evidence gives: the decision taken again, and compared byte for byte.

Pure. Not here: finding the receipt and its evidence, and whether both are the ones that were recorded
(``retrainer.audit``). The receipt brings its own policy and, where the evidence has none, its own count of earlier
decisions, so this alone does not show that they are the ones that were in force.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence
from retrainer.gate.receipt import Receipt

WHERE = "receipt.json"


class Absent:
    """Stands for a value that one of two documents does not have."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """One place at which the file and the recomputed receipt differ.

    :param path: ``metrics.fp32.accuracy.value``, ``reasons[0].code``.
    :param in_file: ``ABSENT`` where the file lacks it; so is ``recomputed``.
    """

    path: str
    in_file: Any
    recomputed: Any


@dataclass(frozen=True, slots=True)
class Verification:
    """A receipt against the one that its evidence gives.

    :param size: bytes of the file.
    :param receipt: what the file says; ``recomputed`` is what the evidence gives.
    :param differences: empty also where the same content is written in other bytes: then ``identical`` is false.
    """

    identical: bool
    size: int
    receipt: Receipt
    recomputed: Receipt
    differences: tuple[Difference, ...]


def receipt_bytes(receipt: Receipt) -> bytes:
    """The one form in which a receipt is written to a file. Whoever writes one takes it from here."""
    return receipt.to_pretty_json().encode()


def verify(data: bytes, evidence: Evidence) -> Verification:
    """Take the decision again with the policy that the receipt states.

    :param data: the bytes of ``receipt.json``.
    :raises IntegrityError: they are not a receipt that this version can read.
    :raises GateError: the policy in it cannot be applied.
    """
    receipt = Receipt.from_json(data, where=WHERE)
    if evidence.standing is None:
        evidence = replace(evidence, standing=receipt.standing)
    # Asked by a person: no evidence has it, only the digest of the decision.
    evidence = replace(evidence, changes=receipt.changes)
    recomputed = decide(receipt.policy, evidence)
    expected = receipt_bytes(recomputed)
    return Verification(
        identical=data == expected,
        size=len(data),
        receipt=receipt,
        recomputed=recomputed,
        differences=tuple(differences(json.loads(data), json.loads(expected))),
    )


def differences(in_file: Any, recomputed: Any, path: str = "") -> Iterator[Difference]:
    """The leaves at which two JSON documents differ, in the order of the first, then of the second."""
    if isinstance(in_file, dict) and isinstance(recomputed, dict):
        for name in dict.fromkeys([*in_file, *recomputed]):
            below = f"{path}.{name}" if path else str(name)
            yield from differences(in_file.get(name, ABSENT), recomputed.get(name, ABSENT), below)
    elif isinstance(in_file, list) and isinstance(recomputed, list):
        for at in range(max(len(in_file), len(recomputed))):
            one = in_file[at] if at < len(in_file) else ABSENT
            other = recomputed[at] if at < len(recomputed) else ABSENT
            yield from differences(one, other, f"{path}[{at}]")
    # JSON's true is not a number, and 1 is written otherwise than 1.0.
    elif type(in_file) is not type(recomputed) or in_file != recomputed:
        yield Difference(path, in_file, recomputed)
