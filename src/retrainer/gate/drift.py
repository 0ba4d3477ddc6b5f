"""Drift: how far the training rows of the challenger are from those of the champion, from their profiles alone.

Pure. Not here: making a profile (``work/profile.py``), and what a profile holds (``artifacts/profile.py``).

Distances are between 0 and 1 and can be read as "that share of the mass moved":

- labels: total variation, half the sum of the absolute differences of the shares. The p value is Pearson's chi-square
  test of homogeneity; where a label has an expected count below 5, by permutation of the rows instead (seeded). Where
  a row has any number of labels, each label is a share of its own, of the rows that have it: the distance is that of
  the share that moved most, and the p value the least of all labels by Bonferroni. How many labels a row has is
  compared as labels are.
- length and style: Kolmogorov and Smirnov's distance of the two histograms, with the asymptotic p value at the
  effective sample size. Rows that share a bin make it smaller, so the test errs at most at its nominal rate.
- vocabulary: see ``retrainer.gate.vocabulary``.

What the p values mean. They are of "both are samples of independent rows from one source". The champion's rows usually
are among the challenger's too. Then only the other rows can differ: a distance is that of the old rows to the
mixture, and the new rows by themselves are further off, by rows / (rows - shared). The difference of two such samples
is smaller by chance; its variance is ``1/n + 1/m - 2 shared / (n m)`` times that of a row rather than ``1/n + 1/m``.
That is exact for means, and so for all that is measured here. When told which rows are shared, the tests use it; else
they reject too seldom. Rows that are copies of one another with small changes are not independent: then they reject too
often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from retrainer.artifacts.evaluation import DriftMeasure
from retrainer.artifacts.profile import (
    EDGES,
    LENGTH_MEASURES,
    STYLE_MEASURES,
    Measure,
    TrainingProfile,
)
from retrainer.gate.paired import holm, tidy
from retrainer.gate.receipt import DriftResult, Reason, ReasonCode
from retrainer.gate.vocabulary import Sizes, measure_vocabulary
from retrainer.spec.gate import Drift, DriftKind

Floats = NDArray[np.float64]

# Cochran's rule for the chi-square approximation.
LEAST_EXPECTED = 5
DEALS = 1_999
SEED = 20_240_229
LABELS_SHOWN = 8
KS = "Kolmogorov-Smirnov distance of histograms, asymptotic p"


def measure_drift(
    champion: TrainingProfile, challenger: TrainingProfile, shared: TrainingProfile | None = None
) -> tuple[DriftMeasure, ...]:
    """Compare two profiles in every respect. A distance that cannot be measured is ``None``.

    :param shared: of those rows that the challenger was trained on and the champion too; ``None`` where there are none,
        or where they are unknown.
    """
    if shared is not None and (shared.rows > min(champion.rows, challenger.rows) or shared.pairs != champion.pairs):
        shared = None  # it says what cannot be
    sizes = Sizes(champion.rows, challenger.rows, shared.rows if shared else 0)
    lengths = [m for m in LENGTH_MEASURES if m in champion.histograms or m in challenger.histograms]
    return (
        *_labels(champion, challenger, shared, sizes),
        *(_histogram("length", measure, champion, challenger, shared, sizes) for measure in lengths),
        measure_vocabulary(champion, challenger, shared, sizes),
        *(_histogram("style", measure, champion, challenger, shared, sizes) for measure in STYLE_MEASURES),
    )


def _still_shared(shared: Floats, before: Floats, after: Floats, sizes: Sizes) -> tuple[Floats, Sizes]:
    """Of the rows with the same id those that can also have the same value: ids do not tell case or labels apart.

    Else a data set whose every row changed in case would be taken for the same rows, that is for certainly no drift.
    """
    same = np.minimum(shared, np.minimum(before, after))
    return same, Sizes(sizes.champion, sizes.challenger, int(same.sum()))


# --- labels ----------------------------------------------------------------------------------------------


def _labels(
    champion: TrainingProfile, challenger: TrainingProfile, shared: TrainingProfile | None, sizes: Sizes
) -> list[DriftMeasure]:
    """Of the labels; nothing where there are none."""
    names = sorted(champion.label_counts.keys() | challenger.label_counts.keys())
    if not names:
        return []

    def counted(profile: TrainingProfile | None) -> Floats:
        return np.array([profile.label_counts.get(name, 0) if profile else 0 for name in names], dtype=np.float64)

    before, after, both = counted(champion), counted(challenger), counted(shared)
    if champion.set_sizes is None or challenger.set_sizes is None:
        return [_categories("label shares", names, before, after, both, sizes)]
    numbers = range(max(len(champion.set_sizes), len(challenger.set_sizes)))

    def sized(profile: TrainingProfile | None) -> Floats:
        known = (profile.set_sizes if profile else None) or ()
        return np.array([*known, *[0] * (len(numbers) - len(known))], dtype=np.float64)

    of_a_row = sized(champion), sized(challenger), sized(shared)
    return [
        _label_shares(names, before, after, both, sizes),
        _categories("labels a row", [f"{number} of them" for number in numbers], *of_a_row, sizes),
    ]


def _categories(
    measure: str, names: Sequence[str], before: Floats, after: Floats, both: Floats, sizes: Sizes
) -> DriftMeasure:
    """Of what a row has exactly one of.

    :param both: rows of each category that both have.
    """
    p, q = before / sizes.champion, after / sizes.challenger
    p_value, approximated = _homogeneity_p(before, after, both, sizes)
    how = "" if approximated else " by permutation"
    return _shares_moved(measure, names, p, q, np.abs(p - q).sum() / 2, f"total variation, chi-square p{how}", p_value)


def _label_shares(names: Sequence[str], before: Floats, after: Floats, both: Floats, sizes: Sizes) -> DriftMeasure:
    """Of labels of which a row has any number: each by itself, rows that have it and rows that do not."""
    p, q = before / sizes.champion, after / sizes.challenger

    def halves(having: Floats, rows: int) -> Floats:
        """Rows that have a label, and rows that do not, ``[labels, 2]``."""
        return np.stack([having, rows - having], axis=1)

    each = zip(halves(before, sizes.champion), halves(after, sizes.challenger), halves(both, sizes.shared), strict=True)
    tested = [_homogeneity_p(first, second, shared, sizes)[0] for first, second, shared in each]
    method = "largest difference of a label's share, least chi-square p by Bonferroni"
    return _shares_moved(
        "label shares", names, p, q, float(np.abs(p - q).max()), method, min(1.0, min(tested) * len(names))
    )


def _shares_moved(
    measure: str, names: Sequence[str], p: Floats, q: Floats, distance: float, method: str, p_value: float
) -> DriftMeasure:
    moved = sorted(range(len(names)), key=lambda at: (-abs(q[at] - p[at]), names[at]))[:LABELS_SHOWN]
    detail = ", ".join(f"{names[at]} {p[at]:.4g} -> {q[at]:.4g}" for at in moved)
    if len(names) > LABELS_SHOWN:
        detail += f", and {len(names) - LABELS_SHOWN} labels that moved less"
    return DriftMeasure(
        kind="labels", measure=measure, distance=tidy(distance), method=method, p_value=tidy(p_value), detail=detail
    )


def _homogeneity_p(before: Floats, after: Floats, both: Floats, sizes: Sizes) -> tuple[float, bool]:
    """P value of "both have the same shares", and whether that is by the chi-square approximation."""
    both, sizes = _still_shared(both, before, after, sizes)
    pooled = before + after - both
    expected = pooled[pooled > 0] / pooled.sum() * min(sizes.champion, sizes.challenger)
    if expected.min() >= LEAST_EXPECTED:
        return _chi_square_p(before, after, pooled, sizes), True
    return _permutation_p(before, after, pooled, sizes), False


def _discrepancy(before: Floats, after: Floats, pooled: Floats, sizes: Sizes) -> Floats:
    """Pearson's statistic over the last axis, for samples that may share rows.

    :param pooled: counts of all different rows.
    """
    squares = (before / sizes.champion - after / sizes.challenger) ** 2
    shares = pooled / np.maximum(pooled.sum(axis=-1, keepdims=True), 1)
    total: Floats = np.divide(squares, shares, out=np.zeros_like(squares), where=pooled > 0).sum(axis=-1)
    return total / sizes.variance


def _chi_square_p(before: Floats, after: Floats, pooled: Floats, sizes: Sizes) -> float:
    degrees = np.count_nonzero(pooled) - 1
    if degrees < 1 or sizes.variance <= 0:
        return 1.0
    return float(special.chdtrc(degrees, _discrepancy(before, after, pooled, sizes)))


def _permutation_p(before: Floats, after: Floats, pooled: Floats, sizes: Sizes) -> float:
    """All rows dealt anew: to one sample alone, to the other alone, and the rest to both."""
    if sizes.variance <= 0:
        return 1.0
    # The cards in the order of their counts: the same deals whatever the labels are called.
    cards = np.tile(np.sort(pooled).astype(np.int64), (DEALS, 1))
    random = np.random.default_rng(SEED)
    small, large = sorted((sizes.champion, sizes.challenger))
    first = _deal(cards, small - sizes.shared, random)
    second = _deal(cards - first, large - sizes.shared, random)
    rest = cards - first - second
    dealt = _discrepancy(
        (first + rest * (sizes.shared > 0)).astype(np.float64),
        (second + rest * (sizes.shared > 0)).astype(np.float64),
        cards.astype(np.float64),
        Sizes(small, large, sizes.shared),
    )
    reached = int((dealt >= float(_discrepancy(before, after, pooled, sizes)) * (1 - 1e-12)).sum())
    p_value = (1 + reached) / (1 + DEALS)
    # What is beyond the deals' reach is left to the approximation: else a small alpha, with Holm's correction on top,
    # could never be met.
    return p_value if reached else min(p_value, _chi_square_p(before, after, pooled, sizes))


def _deal(cards: NDArray[np.int64], hand: int, random: np.random.Generator) -> NDArray[np.int64]:
    """A hand of each pack, without replacement.

    :param cards: of each kind in each pack, ``[packs, kinds]``.
    """
    dealt = np.zeros_like(cards)
    wanted = np.full(len(cards), hand, dtype=np.int64)
    others = cards.sum(axis=1)
    for kind in range(cards.shape[1]):
        others = others - cards[:, kind]
        dealt[:, kind] = random.hypergeometric(cards[:, kind], others, wanted)
        wanted = wanted - dealt[:, kind]
    return dealt


# --- histograms ------------------------------------------------------------------------------------------


def _histogram(
    kind: DriftKind,
    measure: Measure,
    champion: TrainingProfile,
    challenger: TrainingProfile,
    shared: TrainingProfile | None,
    sizes: Sizes,
) -> DriftMeasure:
    before, after = champion.histograms.get(measure), challenger.histograms.get(measure)
    if before is None or after is None:
        who = "champion" if before is None else "challenger"
        detail = f"only one of the two reads pairs of texts, the {who} does not"
        return DriftMeasure(kind=kind, measure=measure, distance=None, method=KS, detail=detail)
    first, second = np.array(before, dtype=np.float64), np.array(after, dtype=np.float64)
    both = np.array(shared.histograms[measure], dtype=np.float64) if shared else np.zeros_like(first)
    _, sizes = _still_shared(both, first, second, sizes)
    cumulated = np.cumsum(first) / sizes.champion - np.cumsum(second) / sizes.challenger
    distance = min(float(np.abs(cumulated).max()), 1.0)
    edges = np.array([*EDGES[measure], EDGES[measure][-1]])
    share = kind == "style" and measure != "word length"
    old, new = (_mean(edges, counts) if share else _median(edges, counts) for counts in (first, second))
    detail = f"mean {old:.2%} -> {new:.2%}" if share else f"median {old:.3g} -> {new:.3g}"
    if kind == "length" and measure != "first text's share":
        detail = f"median {old:,.0f} -> {new:,.0f}"
    return DriftMeasure(
        kind=kind,
        measure=measure,
        distance=tidy(distance),
        method=KS,
        p_value=tidy(_ks_p(distance, sizes)),
        detail=detail,
    )


def _ks_p(distance: float, sizes: Sizes) -> float:
    """As ``scipy.stats.ks_2samp`` with ``method="asymp"``: Kolmogorov's distribution at the effective size."""
    if sizes.variance <= 0:
        return 1.0
    from scipy import stats  # takes half a second to load

    return float(stats.kstwo.sf(distance, max(round(1 / sizes.variance), 1)))


def _median(edges: Floats, counts: Floats) -> float:
    """The value that half of the rows are below, taken as evenly spread within a bin."""
    cumulated = np.cumsum(counts)
    at = int(np.searchsorted(cumulated, cumulated[-1] / 2))
    if edges[at + 1] - edges[at] <= 1 and float(edges[at]).is_integer() and float(edges[at + 1]).is_integer():
        return float(edges[at])
    inside = (cumulated[-1] / 2 - (cumulated[at] - counts[at])) / counts[at]
    return float(edges[at] + inside * (edges[at + 1] - edges[at]))


def _mean(edges: Floats, counts: Floats) -> float:
    """The mean, rows taken in the middle of their bin; those of the first bin as none at all."""
    middles = (edges[:-1] + edges[1:]) / 2
    middles[0] = 0.0
    return float(counts @ middles / counts.sum())


# --- verdict ---------------------------------------------------------------------------------------------


def judge_drift(
    policy: Drift, measures: Sequence[DriftMeasure], alpha: float
) -> tuple[tuple[DriftResult, ...], list[Reason]]:
    """The verdict of each measure, and reasons to refuse.

    A measure that chance explains, its p value after Holm's correction for all measures above ``alpha``, is ``none``;
    without a p value the distance alone counts. Else it is ``block`` from the policy's distance for its kind on, where
    there is one, ``warn`` from ``policy.warn`` on, and ``note`` below. A distance that is missing, NaN or not between
    0 and 1 blocks where its kind can, and is a note where it cannot. A kind that can block and that no measure is of
    refuses.
    """
    p_values = {at: measure.p_value for at, measure in enumerate(measures) if _within(measure.p_value)}
    adjusted = holm([p for p in p_values.values() if p is not None]).tolist() if p_values else []
    corrected = dict(zip(p_values, adjusted, strict=True))
    results, reasons = [], []
    for at, measure in enumerate(measures):
        limit = policy.block.get(measure.kind)
        distance = measure.distance
        if distance is None or not _within(distance):
            verdict, known = ("note" if limit is None else "block"), None
            if limit is not None:
                detail = f"{measure.kind}: the distance of {measure.measure} could not be measured. {measure.detail}"
                reasons.append(Reason(code=ReasonCode.DRIFT_NOT_MEASURED, detail=detail.rstrip(". ")))
        else:
            known = tidy(distance)
            if corrected.get(at, 0.0) > alpha:
                verdict = "none"
            elif limit is not None and not known < limit:
                verdict = "block"
                detail = f"{measure.kind}: {measure.measure} moved by {known:.4f}, refused from {limit:g} on"
                detail += f" (corrected p {corrected[at]:.2g})" if at in corrected else ""
                reasons.append(Reason(code=ReasonCode.DRIFT_BLOCKED, detail=f"{detail}. {measure.detail}".rstrip(". ")))
            else:
                verdict = "note" if known < policy.warn else "warn"
        p_value = tidy(p_values[at]) if at in p_values else None
        fields = {**measure.__dict__, "distance": known, "p_value": p_value, "verdict": verdict}
        results.append(DriftResult.model_validate(fields))
    missing = sorted(set(policy.block) - {measure.kind for measure in measures})
    reasons += [
        Reason(code=ReasonCode.DRIFT_NOT_MEASURED, detail=f"{kind}: drift can block, but nothing was measured")
        for kind in missing
    ]
    return tuple(results), reasons


def _within(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and 0 <= value <= 1
