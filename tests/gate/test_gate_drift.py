"""Drift between profiles: distances, honest p values by simulation, and verdicts that fail closed."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retrainer.artifacts.evaluation import DriftMeasure
from retrainer.artifacts.profile import BUCKETS, EDGES, ONLY_PAIRS, SHARE_UNIT, SQUARE_UNIT, TrainingProfile, Vocabulary
from retrainer.gate.drift import judge_drift, measure_drift
from retrainer.gate.receipt import DriftResult, ReasonCode
from retrainer.spec.gate import Drift
from retrainer.work.profile import profile_of

TOPICS = 6
LABELS = tuple(f"topic {number}" for number in range(TOPICS))


def profile_rows(folder: Path, texts: Sequence[str], labels: Sequence[int], names: tuple[str, ...]) -> TrainingProfile:
    ids = [hashlib.blake2b(f"{at} {text}".encode(), digest_size=8).hexdigest() for at, text in enumerate(texts)]
    pq.write_table(
        pa.table({"row_id": ids, "text": texts, "label": pa.array(labels, pa.int64())}), folder / "x.parquet"
    )
    return profile_of(folder / "x.parquet", names)


def rows_by_topic(random: np.random.Generator, rows: int, topics: Sequence[float]) -> tuple[list[str], list[int]]:
    """Texts whose words go together: each has a topic, from which most of its words come, some again and again."""
    labels = random.choice(TOPICS, rows, p=topics)
    texts = []
    for label in labels:
        words = random.zipf(1.4, random.integers(5, 40)) % 400
        owned = random.random(words.size) < 0.6
        burst = [f"again{random.integers(3000)}"] * int(random.integers(0, 5))
        texts.append(
            " ".join([*(f"w{word}t{label if own else 9}" for word, own in zip(words, owned, strict=True)), *burst])
        )
    return texts, labels.tolist()


EVEN = [1 / TOPICS] * TOPICS


def synthetic(
    rows: int, seed: int = 0, labels: dict[str, int] | None = None, vocabulary_seed: int | None = None
) -> TrainingProfile:
    """A profile that no rows were read for: any counts."""
    random = np.random.default_rng(seed)
    words = np.random.default_rng(seed if vocabulary_seed is None else vocabulary_seed)
    means = words.dirichlet(np.full(BUCKETS + 1, 0.3))
    squares = np.maximum(means**2 * 3, means**2)
    return TrainingProfile(
        rows=rows,
        label_counts=labels or {"a": rows},
        histograms={
            measure: tuple(random.multinomial(rows, random.dirichlet(np.full(len(edges), 0.2))).tolist())
            for measure, edges in EDGES.items()
            if measure not in ONLY_PAIRS
        },
        vocabulary=Vocabulary(
            means=tuple(np.rint(means * SHARE_UNIT).astype(int).tolist()),
            squares=tuple(np.rint(squares * SQUARE_UNIT).astype(int).tolist()),
            second=40.0,
            third=90.0,
            spread=500.0,
            words={"the": rows},
        ),
    )


def by_name(measures: Sequence[DriftMeasure]) -> dict[str, DriftMeasure]:
    return {measure.measure: measure for measure in measures}


def known(value: float | None) -> float:
    assert value is not None
    return value


# --- distances -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 10**6), st.integers(0, 10**6))
def test_distances_are_symmetric_and_within_bounds(first_rows, second_rows, first_seed, second_seed):
    first, second = synthetic(first_rows, first_seed), synthetic(second_rows, second_seed)
    forth, back = measure_drift(first, second), measure_drift(second, first)
    for measure, mirrored in zip(forth, back, strict=True):
        assert measure.distance is not None
        assert 0 <= measure.distance <= 1
        assert measure.p_value is not None
        assert 0 <= measure.p_value <= 1
        assert mirrored.distance == pytest.approx(measure.distance, abs=1e-9)
        assert mirrored.p_value == pytest.approx(measure.p_value, abs=1e-9)
    for measure in (*measure_drift(first, first), *measure_drift(first, first, first)):
        assert measure.distance == 0
        assert known(measure.p_value) > 0.3


def test_every_kind_is_measured_and_says_its_numbers():
    measures = measure_drift(synthetic(500, 1), synthetic(400, 2))
    assert {measure.kind for measure in measures} == {"labels", "length", "vocabulary", "style"}
    assert len(by_name(measures)) == len(measures) == 11
    assert all(measure.detail for measure in measures if measure.kind != "vocabulary")


def test_label_shares_are_a_total_variation_and_a_chi_square_test():
    before, after = {"a": 250, "b": 250, "old": 500}, {"a": 400, "b": 200, "new": 200}
    found = by_name(measure_drift(synthetic(1000, 1, before), synthetic(800, 1, after)))["label shares"]
    assert found.distance == pytest.approx(0.5)
    assert found.p_value == pytest.approx(
        stats.chi2_contingency([[250, 250, 0, 500], [400, 200, 200, 0]]).pvalue, rel=1e-6
    )
    assert "a 0.25 -> 0.5" in found.detail
    assert "new 0 -> 0.25" in found.detail
    renamed = by_name(measure_drift(synthetic(50, 1, {"a": 50}), synthetic(50, 1, {"b": 50})))["label shares"]
    assert renamed.distance == 1
    assert known(renamed.p_value) < 1e-6


def test_histograms_give_the_distance_and_p_value_of_scipy():
    """On values that are bin edges nothing is lost."""
    random = np.random.default_rng(3)
    first, second = random.choice(EDGES["words"][:80], 400), random.choice(EDGES["words"][10:90], 300)
    profiles = []
    for rows, values in ((400, first), (300, second)):
        base = synthetic(rows, 1)
        counts = np.bincount(np.searchsorted(EDGES["words"], values), minlength=len(EDGES["words"]))
        profiles.append(base.model_copy(update={"histograms": {**base.histograms, "words": tuple(counts.tolist())}}))
    found = by_name(measure_drift(*profiles))["words"]
    expected = stats.ks_2samp(first, second, method="asymp")
    assert found.distance == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)


def test_disjoint_words_are_at_distance_one(tmp_path):
    first = profile_rows(tmp_path, [f"a{row % 5} b{row % 3}" for row in range(60)], [0] * 60, ("x",))
    second = profile_rows(tmp_path, [f"c{row % 5} d{row % 3}" for row in range(60)], [0] * 60, ("x",))
    found = by_name(measure_drift(first, second))["vocabulary"]
    assert known(found.distance) > 0.95
    assert known(found.p_value) < 1e-9


def test_one_text_against_pairs_cannot_be_measured():
    single, base = synthetic(100, 1), synthetic(100, 2)
    share = tuple([100] + [0] * (len(EDGES["first text's share"]) - 1))
    pairs = base.model_copy(update={"histograms": {**base.histograms, "first text's share": share}})
    for measures in (measure_drift(single, pairs), measure_drift(pairs, single)):
        assert by_name(measures)["first text's share"].distance is None
        _, reasons = judge_drift(Drift(block={"length": 0.99}), measures, 0.05)
        assert ReasonCode.DRIFT_NOT_MEASURED in {reason.code for reason in reasons}


# --- p values --------------------------------------------------------------------------------------------

RUNS = 80


def most_rejected(runs: int) -> int:
    """More is a chance of one in a thousand where the truth is 5 %."""
    return int(stats.binom.isf(0.001, runs, 0.05))


@pytest.mark.parametrize("runs", [RUNS // 2, pytest.param(4 * RUNS, marks=pytest.mark.long)])
@pytest.mark.parametrize(("n", "m", "shared"), [(150, 150, 0), (300, 80, 0), (200, 250, 150)])
def test_one_source_is_rejected_at_the_nominal_rate(n, m, shared, runs, tmp_path):
    """Words of one row go together here: a test that took words for independent would reject nearly always."""
    rejected: dict[str, int] = {}
    vocabulary = []
    any_rejected = 0
    for run in range(runs):
        random = np.random.default_rng(run)
        texts, labels = rows_by_topic(random, n + m - shared, EVEN)
        parts = [slice(0, n), slice(n - shared, None), slice(n - shared, n)]
        champion, challenger, *both = [
            profile_rows(tmp_path, texts[part], labels[part], LABELS) for part in parts if labels[part]
        ]
        measures = measure_drift(champion, challenger, *both)
        for measure in measures:
            rejected[measure.measure] = rejected.get(measure.measure, 0) + (known(measure.p_value) <= 0.05)
        vocabulary.append(by_name(measures)["vocabulary"])
        any_rejected += any(result.verdict != "none" for result in judge_drift(Drift(), measures, 0.05)[0])
    assert max(rejected.values()) <= most_rejected(runs), rejected
    assert any_rejected <= most_rejected(runs)
    assert np.mean([known(measure.p_value) for measure in vocabulary]) == pytest.approx(0.5, abs=0.15)
    # Near 0 whatever the sizes; without the correction it would be about 0.3 here.
    assert np.mean([known(measure.distance) for measure in vocabulary]) < 0.06


def test_rare_labels_are_rejected_at_the_nominal_rate():
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(40, 0.3))
    p_values = []
    for _ in range(RUNS):
        first, second = random.multinomial(120, shares), random.multinomial(60, shares)
        counts = [{f"l{at}": int(count) for at, count in enumerate(sample)} for sample in (first, second)]
        found = measure_drift(synthetic(120, 1, counts[0]), synthetic(60, 1, counts[1]))[0]
        assert "permutation" in found.method
        p_values.append(known(found.p_value))
    assert sum(p <= 0.05 for p in p_values) <= most_rejected(RUNS)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.15)


def test_shared_rows_make_the_same_difference_more_certain(tmp_path):
    random = np.random.default_rng(1)
    texts, labels = rows_by_topic(random, 600, EVEN)
    new_texts, new_labels = rows_by_topic(random, 150, [0.6, 0.08, 0.08, 0.08, 0.08, 0.08])
    champion = profile_rows(tmp_path, texts, labels, LABELS)
    challenger = profile_rows(tmp_path, texts + new_texts, labels + new_labels, LABELS)
    untold, told = (by_name(measure_drift(champion, challenger, shared)) for shared in (None, champion))
    for measure in ("label shares", "vocabulary"):
        assert known(untold[measure].p_value) > 0.05
        assert known(told[measure].p_value) < 0.01
    assert told["label shares"].distance == untold["label shares"].distance


def test_a_profile_of_shared_rows_that_cannot_be_is_not_believed():
    first, second = synthetic(100, 1), synthetic(200, 2)
    assert measure_drift(first, second, synthetic(150, 3)) == measure_drift(first, second)


def test_rows_of_the_same_ids_that_changed_are_not_taken_for_the_same(tmp_path):
    """Ids do not tell case apart, nor labels, nor in the worst case texts: none of that may pass as "nothing new"."""
    texts, labels = rows_by_topic(np.random.default_rng(2), 300, EVEN)
    champion = profile_rows(tmp_path, texts, labels, LABELS)
    shouted = profile_rows(tmp_path, [text.upper() for text in texts], labels, LABELS)
    relabelled = profile_rows(tmp_path, texts, [0 if label < 3 else label for label in labels], LABELS)
    rewritten = profile_rows(tmp_path, [text.replace("t9", "x") for text in texts], labels, LABELS)
    changed = {"upper case": shouted, "label shares": relabelled, "vocabulary": rewritten}
    for measure, challenger in changed.items():
        results, _ = judge_drift(Drift(), measure_drift(champion, challenger, challenger), 0.05)
        assert {result.measure: result.verdict for result in results}[measure] == "warn"
    results, _ = judge_drift(Drift(), measure_drift(champion, shouted, shouted), 0.05)
    assert {result.measure for result in results if result.verdict != "none"} == {"upper case"}


# --- verdicts --------------------------------------------------------------------------------------------


def measure(distance, p_value=1e-9, kind="labels", name="label shares") -> DriftMeasure:
    return DriftMeasure(kind=kind, measure=name, distance=distance, method="m", p_value=p_value, detail="a 0.1 -> 0.4")


@pytest.mark.parametrize(
    ("distance", "p_value", "verdict"),
    [
        (0.29, 0.2, "none"),
        (0.9, 0.06, "none"),
        (0.0999, 0.001, "note"),
        (0.1, 0.001, "warn"),
        (0.2999, 0.001, "warn"),
        (0.3, 0.001, "block"),
        (1.0, 0.05, "block"),
        (0.05, None, "note"),
        (0.3, None, "block"),
        (0.3, float("nan"), "block"),
        (0.3, 7.0, "block"),
    ],
)
def test_the_verdict(distance, p_value, verdict):
    (result,), reasons = judge_drift(Drift(block={"labels": 0.3}), [measure(distance, p_value)], 0.05)
    assert result.verdict == verdict
    assert [reason.code for reason in reasons] == ([ReasonCode.DRIFT_BLOCKED] if verdict == "block" else [])
    result.to_json()
    if reasons:
        assert "label shares" in reasons[0].detail
        assert f"{distance:.4f}" in reasons[0].detail
        assert "a 0.1 -> 0.4" in reasons[0].detail


@pytest.mark.parametrize("distance", [None, float("nan"), float("inf"), -0.5, 1.5])
def test_what_was_not_measured_blocks_where_it_can(distance):
    (result,), reasons = judge_drift(Drift(block={"labels": 0.3}), [measure(distance, 1.0)], 0.05)
    assert result.verdict == "block"
    assert [reason.code for reason in reasons] == [ReasonCode.DRIFT_NOT_MEASURED]
    result.to_json()
    (result,), reasons = judge_drift(Drift(block={}), [measure(distance, 1.0)], 0.05)
    assert (result.verdict, reasons) == ("note", [])
    result.to_json()


def test_a_kind_that_can_block_must_be_there():
    policy = Drift(block={"labels": 0.5, "style": 0.5})
    _, reasons = judge_drift(policy, [measure(0.0)], 0.05)
    assert [reason.code for reason in reasons] == [ReasonCode.DRIFT_NOT_MEASURED]
    assert "style" in reasons[0].detail
    assert judge_drift(Drift(), [], 0.05) == ((), [])


def test_p_values_are_corrected_for_their_number():
    # 0.02 alone is enough, as one of eleven it is not.
    many = [measure(0.5, 0.02), *(measure(0.01, 0.9, "style", f"s{at}") for at in range(10))]
    assert judge_drift(Drift(), many[:1], 0.05)[0][0].verdict == "warn"
    assert judge_drift(Drift(), many, 0.05)[0][0].verdict == "none"


# --- real rows -------------------------------------------------------------------------------------------


@pytest.mark.data
def test_real_rows(public_data, tmp_path):
    with (public_data / "ag_news" / "test.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))[:6000]
    with (public_data / "imdb" / "test.csv").open(newline="") as stream:
        reviews = [row["text"] for row in csv.DictReader(stream)][:400]
    names = tuple(sorted({row["label"] for row in rows}))
    order = np.random.default_rng(0).permutation(len(rows)).tolist()

    def news(part: Sequence[int], lower: bool = False) -> TrainingProfile:
        texts = [rows[at]["text"].lower() if lower else rows[at]["text"] for at in part]
        return profile_rows(tmp_path, texts, [names.index(rows[at]["label"]) for at in part], names)

    def verdicts(after: TrainingProfile) -> dict[str, DriftResult]:
        results, _ = judge_drift(Drift(), measure_drift(champion, after), 0.05)
        return {result.measure: result for result in results}

    champion, rest = news(order[:2000]), order[2000:]
    assert {result.verdict for result in verdicts(news(rest)).values()} == {"none"}

    world = [at for at in rest if rows[at]["label"] == names[-1]]
    others = [at for at in rest if rows[at]["label"] != names[-1]]
    doubled = verdicts(news([*world, *others[: len(others) // 2]]))
    assert doubled["label shares"].verdict == "warn"
    assert doubled["vocabulary"].verdict == "note"

    lower = verdicts(news(rest, lower=True))
    assert known(lower["upper case"].distance) > 0.9
    assert {result.measure for result in lower.values() if result.verdict != "none"} == {"upper case"}

    films = verdicts(profile_rows(tmp_path, reviews, [0] * len(reviews), ("neg",)))
    assert known(films["vocabulary"].distance) > 0.3
    assert {"label shares", "characters", "words", "vocabulary", "upper case"} <= {
        result.measure for result in films.values() if result.verdict == "warn"
    }
    assert "movie" in films["vocabulary"].detail
