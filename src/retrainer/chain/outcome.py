"""What became of a run, told from the references of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from retrainer.chain.requests import StepName, StepRef

# promoted: the channel serves the challenger now. unchanged: it served this very model before. refused: the gate
# said no. unapproved: the gate said yes, and the person that the pipeline asks for did not.
Outcome = Literal["promoted", "unchanged", "refused", "unapproved"]


def outcome_of(steps: Mapping[StepName, StepRef]) -> Outcome:
    """What the decision says. A decision that cannot be read as a promotion is none."""
    if any(ref.unchanged for ref in steps.values()):
        return "unchanged"
    decision = steps.get("decide")
    return "promoted" if decision is not None and decision.summary.get("verdict") == "promote" else "refused"
