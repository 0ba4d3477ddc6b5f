"""What a challenger must show against the models that were live: the champion, and the channel's anchor.

**Champion.** Better, or not worse than by the margin, at the level of this decision (``spending.py``).

**Anchor.** The best champion so far, or a version that a person pinned. However small a loss each decision allows, a
hundred of them add up to a large one, with every receipt green: what trials of drugs know as biocreep (R. D'Agostino,
J. Massaro, L. Sullivan, Non-inferiority trials: design concepts and issues, Statistics in Medicine 22 (2003) 169-186).
So the challenger must also be shown not to be worse than the anchor by more than ``max_loss``, on the same rows, as
pairs. A challenger that is shown to be better than the anchor replaces it when it goes live.

**Recovery.** A challenger that is shown to be better than the champion is never blocked by the anchor. In superiority
mode each one that is promoted is, so there the anchor only tells how far the channel has come.

**Levels.** For non-inferiority two claims could each put a model live that is too far below the anchor: "within
max_loss of the anchor" and "better than the champion". Each is made at half the level of this decision, so both
together are wrong at most as often as it says. "Not worse than the champion" is asked for besides and takes the whole:
a promotion must pass both, and one of several conditions that all must hold needs no correction (R. Berger,
Multiparameter hypothesis testing and acceptance sampling, Technometrics 24 (1982) 295-300). For superiority the anchor
is asked after the champion, and only what was promoted can replace it: tests in a fixed order each take the whole (W.
Maurer, L. Hothorn, W. Lehmacher, 1995). Where the champion is the anchor there is one comparison, and one bound to read
everything from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from retrainer.artifacts.evaluation import ANCHOR, CHAMPION, EvaluationRecord
from retrainer.artifacts.measures import Interval
from retrainer.artifacts.standing import Standing
from retrainer.gate.claims import Levels, Question, Reading, ask, shows
from retrainer.gate.metrics import compare, metrics_of
from retrainer.gate.receipt import AnchorResult, Findings, Reason, ReasonCode
from retrainer.gate.spending import Spending, eased, spend
from retrainer.gate.validity import FP32, Rows
from retrainer.spec.gate import AgainstChampion, Gate


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found, and what the interval had to exceed; nothing of it when the comparison was skipped.

    :param single: the interval at the policy's alpha, where that of this decision is another.
    """

    interval: Interval | None = None
    threshold: float | None = None
    rows_needed: int | None = None
    single: Interval | None = None
    anchor: AnchorResult | None = None
    spending: Spending | None = None

    def level(self, nominal: float) -> float:
        """At which it was taken.

        :param nominal: the policy's, which a single decision is taken at.
        """
        return nominal if self.spending is None else self.spending.level


@dataclass(frozen=True, slots=True)
class Shares:
    """The error rate of each claim of one decision; see the top of this module.

    :param champion: of "better than the champion" (superiority) or "not worse" (non-inferiority).
    :param recovery: of "better than the champion", which waives the anchor.
    :param anchor: of "within max_loss of the anchor", and of "better than the anchor".
    """

    champion: float
    recovery: float
    anchor: float


def shares(spending: Spending, *, superiority: bool, one: bool) -> Shares:
    """How the level of a decision is divided.

    :param one: the champion is the anchor.
    """
    whole = spending.guard
    if superiority or one:
        return Shares(champion=spending.level, recovery=whole, anchor=whole)
    return Shares(champion=spending.level, recovery=whole / 2, anchor=whole / 2)


def judge_against_champion(
    policy: Gate, standing: Standing | None, record: EvaluationRecord, rows: Rows | None, findings: Findings
) -> Comparison:
    """Compare, and refuse what is not shown. Skipped, with a note, where there is no champion."""
    against = policy.against_champion
    if against is None:
        findings.note("not compared with the champion: the gate does not ask for it")
        return Comparison()
    if record.champion_state == "none":
        findings.note("comparison skipped: the channel has no champion yet")
        if not policy.floors:
            findings.note("the gate sets no floor either, so only the export and the budgets were checked")
        return Comparison()
    if rows is None or CHAMPION not in rows.answers or against.metric not in metrics_of(record.family):
        # Each of these is a reason already, but never rely on that.
        if not findings.reasons:
            findings.refuse(ReasonCode.CHAMPION_UNREADABLE, "the champion could not be compared")
        return Comparison()
    pair = _Pair(policy, against, standing, rows)
    if standing is None and policy.over_time.control != "none":
        findings.note("earlier decisions were not counted: this one is judged as if it were the only one")
    try:
        champion = ask(pair.question_champion(), pair.against_model(CHAMPION))
        if champion.reason is not None:
            findings.extend([champion.reason])
        found = Comparison(
            champion.interval,
            pair.threshold,
            champion.rows_needed,
            champion.nominal if champion.nominal != champion.interval else None,
            spending=pair.spending,
        )
        return replace(found, anchor=_judge_anchor(pair, record, champion, findings))
    except ValueError as error:
        findings.refuse(ReasonCode.METRIC_UNDEFINED, str(error))
        return Comparison(spending=pair.spending)


def _judge_anchor(pair: _Pair, record: EvaluationRecord, champion: Reading, findings: Findings) -> AnchorResult | None:
    """Compare with the anchor, and refuse what is not shown, unless the champion is shown to be worse."""
    standing, max_loss, rows = pair.standing, pair.policy.max_loss, pair.rows
    if standing is None or max_loss is None:
        return None
    if standing.anchor is None and standing.anchor_error is None:
        findings.note("not compared with an anchor: the channel has none yet")
        return None
    one = pair.one(record)
    levels = pair.shares(one=one)
    unavailable = None if one else _unavailable(standing, record, rows)
    reading = None
    if unavailable is None:
        reading = ask(pair.question_anchor(max_loss, one=one), pair.against_model(CHAMPION if one else ANCHOR))
    held = reading is not None and reading.shown
    waived = not held and pair.recovered(champion, levels.recovery)
    problem = reading.reason if reading is not None else None
    if unavailable is not None:
        problem = Reason(code=ReasonCode.ANCHOR_UNAVAILABLE, detail=unavailable)
    if problem is not None and waived:
        findings.note(f"the anchor does not block what is better than the champion: {problem.detail}")
    # For superiority there is a reason already, and where both are one model and it was not shown for the champion.
    elif problem is not None and not pair.superiority and (champion.shown or not one):
        findings.extend([problem])
    return AnchorResult(
        version=standing.anchor,
        is_champion=one,
        max_loss=max_loss,
        level=levels.anchor,
        comparison=reading.interval if reading else None,
        held=held,
        better=held and reading is not None and shows(reading.interval, 0.0),
        waived=waived,
        rows_needed=reading.rows_needed if reading else None,
    )


def _unavailable(standing: Standing, record: EvaluationRecord, rows: Rows) -> str | None:
    """Why the anchor cannot be asked; ``None`` where it can."""
    pin = "a person can pin another one with 'retrainer anchor'"
    anchor = record.anchor
    if standing.anchor_error is not None:
        return f"{standing.anchor or 'the anchor'}: {standing.anchor_error}; {pin}"
    if anchor is None:
        return f"anchor {standing.anchor}: {record.anchor_error or 'it was not scored on these rows'}; {pin}"
    if anchor.version != standing.anchor:
        return f"anchor {standing.anchor}: the evaluation scored {anchor.version} instead; evaluate again"
    if set(anchor.labels) != set(record.labels):
        return f"anchor {standing.anchor} knows other labels ({', '.join(anchor.labels)}); {pin}"
    if ANCHOR not in rows.answers:
        return f"anchor {standing.anchor}: its answers could not be used"
    return None


@dataclass(frozen=True, slots=True)
class _Pair:
    """What both comparisons of one decision are made of."""

    policy: Gate
    against: AgainstChampion
    standing: Standing | None
    rows: Rows
    # Several claims are read from one bound, and bounds can take long.
    _known: dict[tuple[str, float], Interval] = field(default_factory=dict, init=False)

    def against_model(self, name: str) -> Callable[[float], Interval]:
        """The interval of the challenger minus that model, at an error rate."""

        def at(level: float) -> Interval:
            if (name, level) not in self._known:
                challenger, other = self.rows.answers[FP32], self.rows.answers[name]
                interval = compare(self.against.metric, self.rows.labels, challenger, other, level)
                self._known[name, level] = interval
            return self._known[name, level]

        return at

    @property
    def superiority(self) -> bool:
        return self.against.mode == "superiority"

    @property
    def threshold(self) -> float:
        return 0.0 if self.superiority else -self.against.margin

    @property
    def spending(self) -> Spending | None:
        return self._spend(self.standing) if self.standing is not None else None

    def _spend(self, standing: Standing) -> Spending:
        return spend(self.policy.over_time, self.against.alpha, standing)

    def one(self, record: EvaluationRecord) -> bool:
        """Whether the champion is the anchor."""
        version = record.champion.version if record.champion is not None else None
        return self.standing is not None and self.standing.anchor_error is None and version == self.standing.anchor

    def shares(self, *, one: bool, standing: Standing | None = None) -> Shares:
        """The levels of the claims, also of what this decision is not."""
        counted = standing or self.standing
        if counted is None:
            return Shares(self.against.alpha, self.against.alpha, self.against.alpha)
        return shares(self._spend(counted), superiority=self.superiority, one=one)

    def question_champion(self) -> Question:
        levels = self._levels(lambda counted: self.shares(one=True, standing=counted).champion)
        per_day = self.standing.rows_per_day if self.standing else None
        worse = ReasonCode.WORSE_THAN_CHAMPION
        return Question(self.against.metric, self.threshold, self.superiority, worse, levels, rows_per_day=per_day)

    def question_anchor(self, max_loss: float, *, one: bool) -> Question:
        levels = self._levels(lambda counted: self.shares(one=one, standing=counted).anchor)
        per_day = self.standing.rows_per_day if self.standing else None
        worse = ReasonCode.WORSE_THAN_ANCHOR
        return Question(self.against.metric, 0.0 - max_loss, False, worse, levels, other="anchor", rows_per_day=per_day)

    def _levels(self, of: Callable[[Standing], float]) -> Levels:
        standing, nominal = self.standing, self.against.alpha
        if standing is None:
            return Levels.single(nominal)
        n = self.rows.labels.size
        return Levels(
            now=of(standing),
            nominal=nominal,
            fresh=of(Standing()),
            with_rows=lambda rows: of(eased(standing, n, rows)),
            history=history(standing, self._spend(standing)),
        )

    def recovered(self, champion: Reading, level: float) -> bool:
        """Whether the challenger is shown to be better than the champion, so that no anchor blocks it."""
        if level <= 0:
            return False
        if self.superiority:
            return champion.shown
        return shows(self.against_model(CHAMPION)(level), 0.0)


def history(standing: Standing, spending: Spending) -> str:
    """What was counted, in words: why the level is what it is."""
    looks = f"{standing.row_looks:,} looks were taken at these rows before"
    of = f"this is decision {spending.decision:,} of {spending.decisions:,} of the channel"
    best = f", the best of {standing.looks} looks" if standing.looks > 1 else ""
    left = "nothing is left for one more" if spending.level == 0 else f"a level of {spending.level:.2g} is left"
    return f"{of}{best}, and {looks}: {left}"
