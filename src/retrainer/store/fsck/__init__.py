"""``fsck``: a store looked at object by object, what is wrong with it by name, and repairs of what is safe."""

from retrainer.store.fsck.check import Repaired, check_store, repair
from retrainer.store.fsck.findings import Code, Finding, Findings, Progress, Severity
from retrainer.store.fsck.listing import models_of

__all__ = [
    "Code",
    "Finding",
    "Findings",
    "Progress",
    "Repaired",
    "Severity",
    "check_store",
    "models_of",
    "repair",
]
