"""A receipt and its evidence, found and checked offline: whether the decision is the one that they give.

Three questions, each with its own answer: is the policy the one that the decision was taken with, are evaluation and
predictions the ones that were recorded, and does the gate say the same again. Nothing is trained and no model is
loaded. Light until a receipt is checked; not here: taking the decision (``gate.verify``), printing (``cli``).

What ties a receipt down is a digest: the name of its decide artifact, or what the manifest of a published version
says of it. It is taken over policy, evaluation and model name, so that an edited policy gives another one. Who could
rewrite a whole artifact root, digests included, is caught only by a published version, whose name is a digest of
the receipt itself.
"""

from retrainer.audit.check import CheckedReceipt, check_receipt, decision_digest
from retrainer.audit.locate import FoundReceipt, find_receipt, published_receipt

__all__ = [
    "CheckedReceipt",
    "FoundReceipt",
    "check_receipt",
    "decision_digest",
    "find_receipt",
    "published_receipt",
]
