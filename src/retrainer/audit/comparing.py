"""Two models compared on the rows that both were asked, from stored answers: no model is loaded.

A model's answers are in the evaluation that asked it as a challenger, and in those that asked it as the champion or the
anchor. Of the evaluations of the two, those are taken that have the most rows in common; of equally many one that asked
both. A row id stands for its text. Where the two know other labels, all labels of both are known ones here, so that a
row whose label a model does not know is one that it has wrong. The true labels are those of the later evaluation.

By the gate's own statistics, so that a champion and its challenger differ here as in their receipt; but whatever is
shown is shown of these two, who are chosen after the fact: nothing here is spent of an error rate, or promotes anybody.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrainer.artifacts.evaluation import ANCHOR, CHAMPION, ChampionEvidence, EvaluationRecord
from retrainer.artifacts.measures import Interval, Score
from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import split_file
from retrainer.artifacts.texts import texts_of_rows
from retrainer.audit.compared import (
    Answered,
    Compared,
    Group,
    Mixed,
    OnCommonRows,
    Right,
    ScoredTwice,
    Side,
    Which,
    WhoIsRight,
    facts_of,
    why_not_comparable,
)
from retrainer.audit.locate import evaluated_in
from retrainer.errors import ArtifactError, IntegrityError, NotFoundError
from retrainer.gate.answers import Answers, Floats, Ints, Rights, Said, SetAnswers, TextAnswers
from retrainer.gate.confusion import confusion_matrix
from retrainer.gate.evidence import Evidence, load_evidence
from retrainer.gate.mean_interval import Mean
from retrainer.gate.metrics import METRICS, compare, score
from retrainer.gate.paired import holm, probability_not_worse, tidy
from retrainer.gate.slices import Grouping, groups
from retrainer.gate.tables import ANOTHER, Table, TextTable
from retrainer.gate.validity import Rows, check
from retrainer.precisions import REFERENCE
from retrainer.spec.gate import Slices
from retrainer.spec.known_metrics import KNOWN_METRICS, OF_ONE_LABEL, SHARE_RIGHT

# Of each kind of row on which the two differ.
MOST_SHOWN = 20
MOST_MIXED = 12
MOST_GROUPS = 60
# A test split with more bytes is not read for the sake of some of its texts.
MOST_TEXT_BYTES = 100_000_000
# Of what a label can be mistaken for, beside other labels.
NOT_GIVEN, WITHOUT_IT = "(not given)", "(without it)"


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """An evaluation that asked a model.

    :param table: its answers; ``labels`` in the order that they index.
    :param precision: of the graph that gave them.
    """

    digest: str
    made_at: str
    record: EvaluationRecord
    table: Table
    precision: str


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Answers of both to the common rows, in one order and with one truth.

    :param labels: that either knows; ``later`` the evaluation with the truth.
    """

    first: _Asked
    second: _Asked
    later: _Asked
    a: Table
    b: Table
    labels: tuple[str, ...]
    relabelled: int
    left_out: int


def compare_models(artifacts: Artifacts, a: Side, b: Side, alpha: float) -> Compared:
    """Compare two models in every respect that is recorded.

    :param alpha: error rate of each end of an interval.
    """
    facts = facts_of(a, b)
    problems: list[str] = []
    why_not = why_not_comparable(a, b)
    if why_not is None:
        pair = _closest(artifacts, a, b, problems)
        if pair is not None:
            return Compared(a=a, b=b, facts=facts, on_rows=_on_rows(pair, alpha))
        why_not = " ".join([*problems, "So no row is known that both were asked."])
    return Compared(a=a, b=b, facts=facts, why_not=why_not)


def with_texts(artifacts: Artifacts, compared: Compared) -> Compared:
    """The same with the texts of the rows on which the two differ, as far as the snapshot is still there.

    :raises ArtifactError: it was altered.
    """
    found = compared.on_rows
    if found is None or found.snapshot is None or not found.differing:
        return compared
    manifest, name = artifacts.find("ingest", found.snapshot), split_file(Path(), "test").name
    if manifest is None or name not in manifest.files or manifest.files[name].size > MOST_TEXT_BYTES:
        return compared
    content = artifacts.read("ingest", found.snapshot, name)
    texts = texts_of_rows(content, [one.row_id for one in found.differing])
    rows = tuple(one.model_copy(update={"text": texts.get(one.row_id)}) for one in found.differing)
    return compared.model_copy(update={"on_rows": found.model_copy(update={"differing": rows})})


# --- finding the rows --------------------------------------------------------------------------------------


def _closest(artifacts: Artifacts, a: Side, b: Side, problems: list[str]) -> _Pair | None:
    """The answers with the most rows in common; where there are none, why is added."""
    evidence = {}
    for digest in dict.fromkeys(side.evaluation for side in (a, b) if side.evaluation is not None):
        found = _evidence(artifacts, digest)
        if isinstance(found, str):
            problems.append(found)
        else:
            evidence[digest] = found
    for side in (a, b):
        if side.evaluation is None:
            problems.append(f"It is not known which evaluation asked {_called(side)}.")
    tried = [
        (_common(first, second), first.digest == second.digest, first, second)
        for first in _asked(a, evidence)
        for second in _asked(b, evidence)
    ]
    best = max(tried, key=lambda one: (one[0], one[1]), default=None)
    if best is None:
        return None
    if not best[0]:
        sizes = " and ".join(f"{asked.table.row_ids.size:,} rows" for asked in best[2:])
        problems.append(f"They were asked {sizes}, none of which are the same: their test sets are different ones.")
        return None
    return _paired(best[2], best[3], problems)


def _called(side: Side) -> str:
    return f"version {side.name}" if side.published else f"the challenger of decision {side.name[:12]}"


def _evidence(artifacts: Artifacts, digest: str) -> tuple[str, Evidence] | str:
    """When an evaluation was made, and what it holds; or why it cannot be used."""
    try:
        folder, changed = evaluated_in(artifacts, digest)
        evidence = load_evidence(folder)
        made_at = artifacts.get("evaluate", digest).created_at
    except (NotFoundError, ArtifactError, IntegrityError) as error:
        return f"The evaluation {digest[:12]} was removed, or is not whole: {error.message}."
    rows, wrong = check(evidence)
    if changed or rows is None:
        why = changed[0] if changed else wrong[0].detail
        return f"The evaluation {digest[:12]} cannot be used: {why}."
    usable = {name: table for name, table in evidence.tables.items() if name in rows.answers}
    return made_at, Evidence(evidence.record, usable)


def _asked(side: Side, evidence: Mapping[str, tuple[str, Evidence]]) -> Iterator[_Asked]:
    for digest, (made_at, found) in evidence.items():
        others: dict[str, ChampionEvidence | None] = {CHAMPION: found.record.champion, ANCHOR: found.record.anchor}
        names = [name for name, other in others.items() if other is not None and other.version == side.name]
        for name in [REFERENCE] if digest == side.evaluation else names[:1]:
            if name in found.tables:
                other = others.get(name)
                precision = other.precision if other is not None else name
                yield _Asked(digest, made_at, found.record, found.tables[name], precision)


def _common(first: _Asked, second: _Asked) -> int:
    return int(np.intersect1d(first.table.row_ids, second.table.row_ids, assume_unique=True).size)


def _paired(first: _Asked, second: _Asked, problems: list[str]) -> _Pair | None:
    labels = tuple(dict.fromkeys([*first.record.labels, *second.record.labels]))
    _, at_first, at_second = np.intersect1d(
        first.table.row_ids, second.table.row_ids, assume_unique=True, return_indices=True
    )
    a, b = _among(first, labels, at_first), _among(second, labels, at_second)
    later = max((first, second), key=lambda asked: (asked.made_at, asked.digest))
    other = a.truth != b.truth
    relabelled, left_out = int(other.sum()), 0
    if relabelled and isinstance(a, TextTable):
        # Their scores are by the right texts of their own evaluation.
        same = np.flatnonzero(~other)
        a, b = _taken(a, same), _taken(b, same)
        relabelled, left_out = 0, relabelled
        if not same.size:
            problems.append(f"They were asked {left_out:,} rows in common, all with other right texts.")
            return None
    every = np.arange(a.row_ids.size)
    a, b = (a, b.of_rows(every, a)) if later is first else (a.of_rows(every, b), b)
    return _Pair(first, second, later, a, b, labels, relabelled, left_out)


def _among(asked: _Asked, labels: tuple[str, ...], rows: NDArray[np.int64]) -> Table:
    places = np.array([labels.index(label) for label in asked.record.labels], dtype=np.int64)
    return _taken(asked.table, rows).among(places, len(labels))


def _taken(table: Table, rows: NDArray[np.int64]) -> Table:
    return table.taken(lambda column: column[rows])


# --- comparing ---------------------------------------------------------------------------------------------


def _on_rows(pair: _Pair, alpha: float) -> OnCommonRows:
    record = pair.later.record
    positive = pair.labels.index(record.positive_label) if record.positive_label in pair.labels else 1
    a, b = pair.a.said(positive), pair.b.said(positive)
    truth = pair.a.labels
    right_a, right_b = a.right(truth), b.right(truth)
    scores = tuple(_scored(pair, truth, a, b, alpha))
    metric = record.share_right
    if isinstance(a, TextAnswers) and isinstance(b, TextAnswers):
        metric = next((one.metric for one in scores if one.metric in a.scores and one.metric in b.scores), metric)
    return OnCommonRows(
        rows=truth.size,
        asked_a=pair.first.table.row_ids.size,
        asked_b=pair.second.table.row_ids.size,
        evaluation_a=pair.first.digest,
        evaluation_b=pair.second.digest,
        precision_a=pair.first.precision,
        precision_b=pair.second.precision,
        truth=pair.later.digest,
        snapshot=record.digests.get("ingest"),
        relabelled=pair.relabelled,
        left_out=pair.left_out,
        labels=pair.labels,
        metric=metric,
        alpha=alpha,
        scores=scores,
        right=WhoIsRight(
            both=int((right_a & right_b).sum()),
            a=int((right_a & ~right_b).sum()),
            b=int((right_b & ~right_a).sum()),
            neither=int((~right_a & ~right_b).sum()),
            alike=int((a.predictions == b.predictions).sum()),
        ),
        groups=_groups(pair, a, b, metric, alpha),
        mixed=_mixed(pair, a, b),
        differing=tuple(_differing(pair, a, b, metric)),
    )


def _scored(pair: _Pair, truth: Ints, a: Said, b: Said, alpha: float) -> Iterator[ScoredTwice]:
    """By every metric that both evaluations know; of one label only where both mean the same."""
    one, other = pair.first.record, pair.second.record
    for name in _metrics(one):
        if name not in _metrics(other) or (name in OF_ONE_LABEL and one.positive_label != other.positive_label):
            continue
        found = [_score(name, truth, said, alpha) for said in (a, b)]
        difference = _difference(name, truth, a, b, alpha) if all(one.value is not None for one in found) else None
        yield ScoredTwice(
            metric=name,
            lower_is_better=not KNOWN_METRICS[name].greater_is_better,
            a=found[0],
            b=found[1],
            difference=difference,
        )


def _metrics(record: EvaluationRecord) -> list[str]:
    return [name for name in record.challenger[REFERENCE].metrics if name in METRICS]


def _score(name: str, truth: Ints, said: Said, alpha: float) -> Score:
    if isinstance(said, TextAnswers) and METRICS[name].known.interval == "row_scores" and name not in said.scores:
        return Score(value=None)
    return score(name, truth, said, alpha)


def _difference(name: str, truth: Ints, a: Said, b: Said, alpha: float) -> Interval | None:
    try:
        return compare(name, truth, a, b, alpha)
    except ValueError:  # it has no value on these rows
        return None


def _groups(pair: _Pair, a: Said, b: Said, metric: str, alpha: float) -> tuple[Group, ...]:
    """By label, by length, and by every column and pattern that the evaluation has; the largest differences first."""
    table, patterns = pair.a, pair.later.record.patterns
    rows = Rows(
        labels=table.labels,
        answers={},
        characters=table.characters,
        slices=table.slices,
        patterns=dict(zip(patterns, table.patterns.T, strict=False)) if table.patterns is not None else {},
        sets=table.sets,
    )
    by = (*(("label",) if pair.labels else ()), *(("length",) if table.characters is not None else ()), *table.slices)
    policy = Slices(by=tuple(dict.fromkeys(by)), patterns=tuple(rows.patterns))
    groupings, _ = groups(policy, rows, pair.labels)
    one, other = _row_scores(a, metric, table.labels), _row_scores(b, metric, table.labels)
    found = [
        _group(grouping, code, metric, one, other)
        for grouping in groupings
        for code in range(len(grouping.values))
        if 0 < int((grouping.codes == code).sum()) < table.labels.size
    ]
    told = [at for at, (group, _, _) in enumerate(found) if group.rows >= policy.min_rows]
    corrected = dict(zip(told, holm([min(1.0, 2 * min(found[at][2])) for at in told]).tolist(), strict=True))
    made = []
    for at, (group, members, _) in enumerate(found):
        if at not in corrected:
            made.append(group)
            continue
        difference = _difference(metric, table.labels[members], _some(a, members), _some(b, members), alpha)
        shown: Which | None = None
        if difference is not None and corrected[at] <= 2 * alpha and difference.estimate:
            shown = "a" if difference.estimate > 0 else "b"
        changes = {"difference": difference, "holm": tidy(corrected[at]), "better": shown}
        made.append(group.model_copy(update=changes))
    return tuple(sorted(made, key=_by_difference)[:MOST_GROUPS])


def _by_difference(group: Group) -> tuple[bool, float, str, str]:
    return group.difference is None, -abs(group.a - group.b), group.by, group.value


def _row_scores(said: Said, metric: str, truth: Ints) -> Floats:
    if isinstance(said, TextAnswers) and metric in said.scores:
        return said.scores[metric]
    return said.right(truth).astype(np.float64)


def _group(
    grouping: Grouping, code: int, metric: str, one: Floats, other: Floats
) -> tuple[Group, NDArray[np.int64], tuple[float, float]]:
    """The group without its interval, its rows, and the p values of "a is not worse" and "b is not worse"."""
    members = np.flatnonzero(grouping.codes == code)
    apart = METRICS[metric].sign * (one[members] - other[members])
    widest = max(1.0, float(np.abs(apart).max()))
    if metric in SHARE_RIGHT.values():
        better, worse = int((apart > 0).sum()), int((apart < 0).sum())
        tested = [float(probability_not_worse(*counts)) for counts in ((better, worse), (worse, better))]
    else:
        tested = [Mean(side, -widest, widest).probability_not_below(0.0) for side in (apart, -apart)]
    group = Group(
        by=grouping.by,
        value=grouping.values[code],
        rows=int(members.size),
        a=tidy(one[members].mean()),
        b=tidy(other[members].mean()),
    )
    return group, members, (tested[0], tested[1])


def _some(said: Said, rows: NDArray[np.int64]) -> Said:
    """The answers to some of the rows."""
    if isinstance(said, Answers):
        return Answers(said.predictions[rows], said.probabilities[rows], said.positive)
    if isinstance(said, SetAnswers):
        return SetAnswers(said.truth[rows], said.applies[rows], said.probabilities[rows], said.foreign[rows])
    assert isinstance(said, TextAnswers)
    return TextAnswers(said.predictions[rows], {name: values[rows] for name, values in said.scores.items()})


def _mixed(pair: _Pair, a: Said, b: Said) -> tuple[Mixed, ...]:
    """The mistakes that one makes more often than the other; nothing of texts."""
    found: list[Mixed] = []
    if isinstance(a, Answers):
        size = len(pair.labels)
        ours, theirs = (confusion_matrix(pair.a.labels, said.predictions, size) for said in (a, b))
        said = [*pair.labels, ANOTHER]
        of = ours.sum(axis=1)
        changed = np.argwhere((ours != theirs) & ~np.eye(size, size + 1, dtype=np.bool_))
        found = [
            Mixed(
                true=pair.labels[true],
                said=said[given],
                a=int(ours[true, given]),
                b=int(theirs[true, given]),
                of=int(of[true]),
            )
            for true, given in changed.tolist()
        ]
    elif isinstance(a, SetAnswers) and isinstance(b, SetAnswers):
        for at, label in enumerate(pair.labels):
            has, given_a, given_b = a.truth[:, at], a.applies[:, at], b.applies[:, at]
            missed = Mixed(true=label, said=NOT_GIVEN, **_counts(has, ~given_a, ~given_b))
            wrong = Mixed(true=WITHOUT_IT, said=label, **_counts(~has, given_a, given_b))
            found += [one for one in (missed, wrong) if one.a != one.b]
    return tuple(sorted(found, key=lambda one: (-abs(one.a - one.b), one.true, one.said))[:MOST_MIXED])


def _counts(could: Rights, a: Rights, b: Rights) -> dict[str, int]:
    return {"a": int((could & a).sum()), "b": int((could & b).sum()), "of": int(could.sum())}


def _differing(pair: _Pair, a: Said, b: Said, metric: str) -> Iterator[Answered]:
    """Rows on which the two differ, the surest mistakes of each kind first."""
    truth = pair.a.labels
    right_a, right_b = a.right(truth), b.right(truth)
    differ = a.predictions != b.predictions
    sure_a, sure_b = _sure(a, metric), _sure(b, metric)
    kinds: tuple[tuple[Right, Rights, Floats], ...] = (
        ("a", right_a & ~right_b, _gravity(b)),
        ("b", right_b & ~right_a, _gravity(a)),
        ("neither", ~right_a & ~right_b & differ, np.maximum(_gravity(a), _gravity(b))),
    )
    for right, mask, gravity in kinds:
        at = np.flatnonzero(mask)
        # The row id decides between equally sure ones, so that the same answers give the same page.
        order = np.lexsort((pair.a.row_ids[at], -gravity[at]))[:MOST_SHOWN]
        for row in at[order].tolist():
            yield Answered(
                row_id=str(pair.a.row_ids[row]),
                right=right,
                true=_in_words(pair.a, row, pair.labels)[0],
                a=_in_words(pair.a, row, pair.labels)[1],
                b=_in_words(pair.b, row, pair.labels)[1],
                sure_a=_finite(sure_a[row]),
                sure_b=_finite(sure_b[row]),
            )


def _in_words(table: Table, row: int, labels: tuple[str, ...]) -> tuple[str, str]:
    # A label that nobody here knows is the last, where -1 points.
    return table.in_words(row, (*labels, ANOTHER) if labels else labels)


def _sure(said: Said, metric: str) -> Floats:
    """How sure it is of its answer, or the score of its text, ``[n]``; NaN where that is not known."""
    if isinstance(said, Answers):
        known = said.predictions >= 0
        chosen = said.probabilities[np.arange(known.size), np.maximum(said.predictions, 0)]
        return np.where(known, chosen, np.nan)
    if isinstance(said, TextAnswers):
        return said.scores.get(metric, np.full(said.predictions.size, np.nan))
    return np.full(said.predictions.size, np.nan)


def _gravity(said: Said) -> Floats:
    """How bad a mistake each row would be, ``[n]``."""
    if isinstance(said, Answers):
        return np.nan_to_num(_sure(said, ""))
    return said.gravity(np.arange(said.predictions.size))


def _finite(value: float) -> float | None:
    return tidy(value) if math.isfinite(value) else None
