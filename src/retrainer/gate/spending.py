"""At which level a decision is taken, so that a year of them holds what one promises. Pure, and light.

**Alpha spending.** Decision ``t`` of a channel is taken at ``alpha / (t H)``, where ``H = 1 + 1/2 + ... +
1/decisions``, so the levels of ``decisions`` of them add up to ``alpha``. By the union bound (Bonferroni's inequality)
the chance of any false claim among them is at most ``alpha`` *however the decisions depend on each other*: the same
rows each night, challengers that resemble each other. The sequence is that of alpha spending (D. Foster, R. Stine,
alpha-investing, JRSS B 70 (2008) 429-444; K. Lan, D. DeMets, Biometrika 70 (1983) 659-663). Why ``1/t``: the first
decisions of a channel meet its smallest test set, and test sets that are carved grow; and with a steady rate of
discoveries the levels of ``fdr`` stay constant. Required z over the year: 2.4 at first, 3.2 at the 10th, 3.6 at the
50th, 4.1 at the 365th; spending evenly is 3.6 throughout.

**Two accounts**, of which the smaller level counts.

- The channel's: position ``t`` is the number of its decisions, whatever the rows. After ``decisions`` of them a new
  period begins with a new alpha: the promise is alpha in each period (a year of nights), not for ever; no sequence
  that stays of use can promise more. Where ``k`` challengers were scored since the last decision, the best of ``k``
  may have been chosen on the test rows, and the level is divided by ``k``.
- The rows': position is ``1 + wear``, the looks taken at these very rows, each weighted by the share of today's rows
  that it saw. After ``decisions`` of them the rows are used up: the level is 0. New rows ease it; time does not.

**What the union bound covers, and what it does not.** It covers challengers that were made without regard to the
answers on the test rows, and the choice of the best among those that were scored. It does not cover a person, or a
search, that reads a receipt and makes the next challenger so that it does well on those rows: then a challenger's error
on them is no longer a draw (C. Dwork et al., The reusable holdout, Science 349 (2015) 636-638; A. Blum, M. Hardt, The
Ladder, ICML 2015; C. Renggli et al., ease.ml/ci, MLSys 2019, which for full adaptivity divides by ``2^t``). A nightly
retrain learns from a receipt at most one bit, whether it became the champion. The wear adds to this that every look
makes the next claim dearer, and that rows are replaced after a stated number: a brake, not a theorem.

**fdr.** LOND: the level times one more than the number of promotions before (A. Javanmard, A. Montanari, On online
control of false discovery rate, arXiv:1502.06197, 2015; and Annals of Statistics 46 (2018) 526-554). It controls the
false discovery rate where the p values are positively dependent, PRDS (T. Zrnic, A. Ramdas, M. Jordan, Asynchronous
online testing of multiple hypotheses, JMLR 22 (2021) 1-39). Statistics on the same rows are, but no theorem covers a
champion that is chosen on them as well; ``python -m benchmarks.gate --only time`` measures it. What holds under
arbitrary dependence is reshaped LOND (Zrnic et al.), which divides by a logarithm what LOND multiplies, e-LOND (Z. Xu,
A. Ramdas, Online multiple testing with e-values, AISTATS 2024), and ``familywise``, since the false discovery rate is
never above it. E-values are not used here: an e-value of ``1/level`` takes a z of ``sqrt(2 ln(1/level))`` even with the
best bet in hindsight, 3.8 at the 10th decision, which shows a gain of 3 points on 2,000 rows with a chance of 83 %
where the p value has 94 %.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

from retrainer.artifacts.standing import Standing
from retrainer.records import Record
from retrainer.spec.gate import OverTime

Account = Literal["channel", "rows"]


class Spending(Record):
    """What one decision spends, and what is left after it.

    :param nominal: the policy's alpha, at which a single decision would be taken; never exceeded.
    :param level: at which this one is taken; 0 where nothing is left.
    :param guard: the same for the anchor, which is always guarded familywise.
    :param account: whose level is the smaller one, the channel's or the rows'.
    :param decision: its number in the period, from 1; ``period`` counts those from 1.
    :param left: of ``alpha`` in this period, after this decision, on the channel's account; ``rows_left`` on the rows'.
    """

    control: Literal["fdr", "familywise", "none"]
    nominal: float
    level: float
    guard: float
    account: Account
    decision: int
    period: int
    decisions: int
    left: float
    rows_left: float


def spend(policy: OverTime, nominal: float, standing: Standing) -> Spending:
    """The level of the next decision.

    :param nominal: the error rate of a single decision.
    """
    before = in_period(standing.decisions, policy)
    position = before + 1
    channel = policy.alpha * share(position, policy.decisions) / standing.looks
    rows = policy.alpha * share(1 + standing.wear, policy.decisions)
    guard = min(channel, rows, nominal)
    level = min(guard * (1 + standing.promotions), nominal) if policy.control == "fdr" else guard
    if policy.control == "none":
        level = guard = nominal
    return Spending(
        control=policy.control,
        nominal=nominal,
        level=_tidy(level),
        guard=_tidy(guard),
        account="rows" if rows < channel else "channel",
        decision=position,
        period=standing.decisions // policy.decisions + 1,
        decisions=policy.decisions,
        left=_tidy(policy.alpha * max(1 - _used(position, policy.decisions), 0.0)),
        rows_left=_tidy(policy.alpha * max(1 - _used(1 + standing.wear, policy.decisions), 0.0)),
    )


def eased(standing: Standing, rows: int, more: int) -> Standing:
    """The same with new rows beside the ones there are.

    :param rows: today's; ``more`` with the new ones.
    """
    return standing.model_copy(update={"wear": standing.wear * rows / more})


def in_period(decisions: int, policy: OverTime) -> int:
    """How many of so many decisions of a channel belong to the running period: the last ones."""
    return decisions % policy.decisions


def share(position: float, decisions: int) -> float:
    """Of alpha, for the decision at a position from 1 on; all of 1, 2, ... up to ``decisions`` add up to 1."""
    # Wear is a sum of shares: a last digit too much must not use up the last look.
    if position > decisions + 1e-9:
        return 0.0
    return 1 / (position * _harmonic(decisions))


def _used(position: float, decisions: int) -> float:
    """The sum of all shares up to a position; between whole ones in proportion."""
    whole = min(int(position), decisions)
    return (_harmonic(whole) + (position - whole) / (whole + 1)) / _harmonic(decisions)


@cache
def _harmonic(terms: int) -> float:
    # Summed exactly, so that it is the same everywhere.
    return math.fsum(1 / term for term in range(1, terms + 1))


def _tidy(value: float) -> float:
    return float(f"{value:.10g}")
