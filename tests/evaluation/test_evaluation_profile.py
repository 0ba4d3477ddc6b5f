"""The profile of training rows: what is counted, what is left out, and that the order of the rows does not matter."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrainer.artifacts.profile import BUCKETS, EDGES, LEAST_ROWS, MOST_WORDS, SHARE_UNIT, TrainingProfile
from retrainer.errors import DataError, IntegrityError
from retrainer.work import profile as module
from retrainer.work.profile import profile_of, shared_rows

Text = str | tuple[str, str]
LABELS = ("no", "yes")


def write(path: Path, texts: Sequence[Text], labels: Sequence[int] | None = None) -> Path:
    pairs = [text if isinstance(text, tuple) else (text, "") for text in texts]
    columns = {
        "row_id": [hashlib.blake2b(repr(text).encode(), digest_size=8).hexdigest() for text in texts],
        "text": [first for first, _ in pairs],
        **({"text_pair": [second for _, second in pairs]} if isinstance(texts[0], tuple) else {}),
        "label": pa.array(labels if labels is not None else [0] * len(texts), pa.int64()),
    }
    pq.write_table(pa.table(columns), path)
    return path


def bins(profile: TrainingProfile, measure: str) -> dict[float, int]:
    """The lower edges of the bins that hold rows."""
    edges = {str(name): values for name, values in EDGES.items()}[measure]
    counts = {str(name): values for name, values in profile.histograms.items()}[measure]
    return {edge: count for edge, count in zip(edges, counts, strict=True) if count}


def test_edges_ascend_from_nought() -> None:
    for edges in EDGES.values():
        assert edges[0] == 0
        assert all(low < high for low, high in pairwise(edges))


def test_what_is_counted(tmp_path: Path) -> None:
    profile = profile_of(write(tmp_path / "x.parquet", ["Ab1 ¡é!", "", "the cat sat"], [1, 0, 1]), LABELS)
    assert profile.rows == 3
    assert profile.label_counts == {"no": 1, "yes": 2}
    assert bins(profile, "characters") == {0: 1, 7: 1, 11: 1}
    assert bins(profile, "words") == {0: 1, 2: 1, 3: 1}
    assert bins(profile, "upper case") == {0: 2, 0.33: 1}
    assert bins(profile, "digits") == {0: 2, 0.14: 1}
    assert bins(profile, "punctuation") == {0: 2, 0.28: 1}
    assert bins(profile, "non-ASCII") == {0: 2, 0.28: 1}
    assert bins(profile, "white space") == {0: 1, 0.14: 1, 0.18: 1}
    assert bins(profile, "word length") == {0: 1, 2: 1, 3: 1}
    assert bins(profile, "short words") == {0: 1, 1: 2}
    # A third of all rows has no word.
    assert profile.vocabulary.means[BUCKETS] == pytest.approx(SHARE_UNIT / 3, rel=1e-5)
    assert sum(profile.vocabulary.means) == pytest.approx(SHARE_UNIT, abs=100)


def test_words_are_those_of_their_script(tmp_path: Path) -> None:
    profile = profile_of(
        write(tmp_path / "x.parquet", ["天気がいい", "हिन्दी भाषा", "naïve CAFÉ", "snake_case"]), LABELS
    )
    assert bins(profile, "words") == {2: 3, 5: 1}
    often = profile_of(write(tmp_path / "y.parquet", [f"天气 हिन्दी n {row}" for row in range(20)]), LABELS)
    assert set(often.vocabulary.words) == {"天", "气", "हिन्दी"}


def test_of_pairs_both_texts_count(tmp_path: Path) -> None:
    profile = profile_of(write(tmp_path / "x.parquet", [("one two", "three"), ("ab", "abcdef")]), LABELS)
    assert profile.pairs
    assert bins(profile, "words") == {2: 1, 3: 1}
    assert bins(profile, "characters") == {8: 1, 12: 1}
    assert bins(profile, "first text's share") == {0.25: 1, 0.58: 1}


def test_rare_words_and_numbers_do_not_leak(tmp_path: Path) -> None:
    texts = [
        f"patient number {row} is well 0123456789 x {'smith' if row < LEAST_ROWS - 1 else ''}" for row in range(40)
    ]
    texts += ["once " * 50]
    profile = profile_of(write(tmp_path / "x.parquet", texts), LABELS)
    assert set(profile.vocabulary.words) == {"patient", "number", "is", "well"}
    written = profile.to_json()
    assert b"smith" not in written
    assert b"once" not in written
    assert b"0123456789" not in written


def test_it_is_small_whatever_the_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    words = np.array(
        [f"{chr(97 + a)}{chr(97 + b)}{'z' * (c % 20)}" for a in range(26) for b in range(26) for c in range(9)]
    )
    texts = [" ".join(random.choice(words, 60)) for _ in range(3000)]
    profile = profile_of(write(tmp_path / "x.parquet", texts), LABELS)
    assert len(profile.vocabulary.words) == MOST_WORDS
    assert len(profile.to_json()) < 100_000


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=25),
    random=st.randoms(use_true_random=False),
)
def test_neither_order_nor_batches_matter(texts: list[str], random, tmp_path: Path) -> None:
    labels = [len(text) % 2 for text in texts]
    first = profile_of(write(tmp_path / "a.parquet", texts, labels), LABELS)
    order = list(range(len(texts)))
    random.shuffle(order)
    shuffled = write(tmp_path / "b.parquet", [texts[at] for at in order], [labels[at] for at in order])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_ROWS", 3)
        second = profile_of(shuffled, LABELS)
    assert first.to_json() == second.to_json()
    assert TrainingProfile.from_json(first.to_json(), where="x") == first


def test_of_many_rows_the_same_sample_is_taken_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COVARIANCE_ROWS", 20)
    texts = [f"row {row} of {row % 7} things {row % 3}" for row in range(100)]
    first = profile_of(write(tmp_path / "a.parquet", texts), LABELS)
    second = profile_of(write(tmp_path / "b.parquet", texts[::-1]), LABELS)
    assert first == second
    assert first.vocabulary.second > 0


def test_moments_are_those_of_all_pairs_and_triples(tmp_path: Path) -> None:
    """Against the definition, by loops."""
    texts = ["a b", "a a c", "b c", "a", "c c b d", "d a"]
    profile = profile_of(write(tmp_path / "x.parquet", texts), LABELS)
    shares = np.array([[text.split().count(word) / len(text.split()) for word in "abcd"] for text in texts])
    kernel = (shares / shares.mean(axis=0)) @ shares.T - 1
    n = len(texts)
    pairs = [kernel[i, j] ** 2 for i in range(n) for j in range(n) if i != j]
    triples = [
        kernel[i, j] * kernel[j, k] * kernel[k, i]
        for i in range(n)
        for j in range(n)
        for k in range(n)
        if len({i, j, k}) == 3
    ]
    assert profile.vocabulary.second == pytest.approx(np.mean(pairs), rel=1e-4)
    assert profile.vocabulary.third == pytest.approx(np.mean(triples), rel=1e-3, abs=1e-4)


def test_only_some_rows(tmp_path: Path) -> None:
    texts = [f"text {row}" for row in range(30)]
    path = write(tmp_path / "x.parquet", texts, [row % 2 for row in range(30)])
    ids = pq.read_table(path).column("row_id").to_pylist()
    trained = np.array(sorted(int(row_id, 16) for row_id in [*ids[::3], "00000000000000ff"]), dtype=">u8")
    trained.tofile(tmp_path / "train_rows.bin")
    shared = shared_rows(path, tmp_path)
    assert shared == set(ids[::3])
    alone = profile_of(write(tmp_path / "y.parquet", texts[::3], [row % 2 for row in range(0, 30, 3)]), LABELS)
    assert profile_of(path, LABELS, only=shared) == alone


def test_what_cannot_be_profiled_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", ["a"], [2])
    with pytest.raises(DataError, match="none of the 2"):
        profile_of(path, LABELS)
    with pytest.raises(DataError, match="no row"):
        profile_of(path, LABELS, only=frozenset())


def test_a_profile_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    content = profile_of(write(tmp_path / "x.parquet", ["a b", "c"]), LABELS).model_dump(mode="json")
    spoiled: list[dict[str, Any]] = [
        {"rows": 3},
        {"label_counts": {"no": 1, "yes": 0}},
        {"histograms": {**content["histograms"], "words": content["histograms"]["words"][:-1]}},
        {"histograms": {name: counts for name, counts in content["histograms"].items() if name != "digits"}},
        {"vocabulary": {**content["vocabulary"], "words": {"a": 5}}},
        {"vocabulary": {**content["vocabulary"], "means": content["vocabulary"]["means"][1:]}},
    ]
    for change in spoiled:
        with pytest.raises(IntegrityError):
            TrainingProfile.from_json(json.dumps({**content, **change}), where="profile.json")


@pytest.mark.data
def test_words_of_real_rows(public_data: Path, tmp_path: Path) -> None:
    with (public_data / "ag_news" / "test.csv").open(newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)][:2000]
    profile = profile_of(write(tmp_path / "x.parquet", texts), LABELS)
    assert next(iter(profile.vocabulary.words)) == "the"
    expected = sum("reuters" in text.lower() for text in texts)
    assert profile.vocabulary.words["reuters"] == pytest.approx(expected, rel=0.05)
