"""Where a decision stands among the others: what was counted of earlier ones before it is taken.

Light: pydantic only. Not here: the counting (the ledger in the store), what it means for the decision
(``gate/spending.py``).
"""

from __future__ import annotations

from pydantic import Field

from retrainer.records import Record


class Standing(Record):
    """Counts of earlier decisions and looks. A look is the scoring of one challenger on the test rows.

    :param ledger: digest of the newest decision that was counted; ``None`` where there was none.
    :param decisions: earlier decisions of the channel that compared a challenger with a champion, whatever came out.
    :param promotions: of those in the running period, how many promoted (see ``gate.spending.in_period``).
    :param looks: of the channel since its last decision, this one included: the best of five is the fifth.
    :param wear: sum over all earlier looks at any of today's rows, whoever took them, of the share of today's rows
        that each saw. Where the rows stay the same it is their number; new rows ease it.
    :param row_looks: how many looks those were; ``row_decisions`` how many of them were decisions.
    :param anchor: version of the channel's anchor; ``None`` where it has none yet.
    :param anchor_error: why the anchor cannot be asked; ``None`` where it can.
    :param rows_per_day: at which test rows arrive; ``None`` where that is not known.
    """

    ledger: str | None = None
    decisions: int = Field(0, ge=0)
    promotions: int = Field(0, ge=0)
    looks: int = Field(1, ge=1)
    wear: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    row_looks: int = Field(0, ge=0)
    row_decisions: int = Field(0, ge=0)
    anchor: str | None = None
    anchor_error: str | None = None
    rows_per_day: float | None = Field(None, gt=0.0, allow_inf_nan=False)
