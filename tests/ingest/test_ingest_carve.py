"""What holds for whatever rows come: where they are carved, what counts as the same."""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.artifacts.snapshot import SplitName
from retrainer.spec.dataset import Checks
from retrainer.work.ingest.carve import TEST, TRAIN, VALIDATION, carve, draw
from retrainer.work.ingest.checks import find_duplicates
from retrainer.work.ingest.leakage import set_exact_aside
from retrainer.work.ingest.pools import Pool, row_keys
from retrainer.work.near.text import normalise

keys_and_labels = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 3)), min_size=1, max_size=120, unique_by=lambda row: row[0]
)
shares = st.tuples(st.floats(0, 0.45), st.floats(0.01, 0.45))


def arrays(rows: list[tuple[int, int]]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    return (
        np.array([key for key, _ in rows], dtype=np.uint64),
        np.array([label for _, label in rows], dtype=np.int64),
    )


@given(rows=keys_and_labels, more=keys_and_labels, share=shares, seed=st.integers())
@settings(deadline=None)
def test_growth_never_moves_a_row(rows, more, share, seed):
    validation, test = share
    known = {key for key, _ in rows}
    grown = rows + [row for row in more if row[0] not in known]
    options = {"validation": validation, "test": test, "seed": seed, "stratify": False}
    before = carve(*arrays(rows), **options)
    after = carve(*arrays(grown), **options)
    assert (after[: len(rows)] == before).all()


@given(rows=keys_and_labels, share=shares, seed=st.integers(), order=st.randoms())
@settings(deadline=None)
def test_order_does_not_matter(rows, share, seed, order):
    shuffled = list(rows)
    order.shuffle(shuffled)
    options = {"validation": share[0], "test": share[1], "seed": seed, "stratify": True}
    first = dict(zip((key for key, _ in rows), carve(*arrays(rows), **options), strict=True))
    second = dict(zip((key for key, _ in shuffled), carve(*arrays(shuffled), **options), strict=True))
    assert first == second


@given(rows=keys_and_labels, share=shares, seed=st.integers())
@settings(deadline=None)
def test_stratified_labels_are_in_every_split(rows, share, seed):
    keys, labels = arrays(rows)
    split = carve(keys, labels, validation=share[0], test=share[1], seed=seed, stratify=True)
    plain = carve(keys, labels, validation=share[0], test=share[1], seed=seed, stratify=False)
    for label in np.unique(labels):
        mine = split[labels == label]
        if len(mine) >= 3:
            assert {TRAIN, TEST} <= set(mine)
            assert (VALIDATION in mine) == (share[0] > 0)
        else:
            assert (mine == plain[labels == label]).all()


def test_stratify_changes_nothing_where_every_label_has_plenty():
    keys = np.arange(20_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    labels = np.arange(20_000) % 4
    split = carve(keys, labels, validation=0.1, test=0.2, seed=42, stratify=True)
    assert (split == carve(keys, labels, validation=0.1, test=0.2, seed=42, stratify=False)).all()
    assert abs((split == TEST).mean() - 0.2) < 0.01
    assert abs((split == VALIDATION).mean() - 0.1) < 0.01


def test_draws_are_uniform_and_independent():
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64, 50_000, dtype=np.uint64)
    test, validation, other = draw(keys, 1, "test"), draw(keys, 1, "validation"), draw(keys, 2, "test")
    for one in (test, validation, other):
        assert one.min() >= 0
        assert one.max() < 1
        assert (np.abs(np.histogram(one, 10, (0, 1))[0] / 5_000 - 1) < 0.06).all()
    assert abs(np.corrcoef(test, validation)[0, 1]) < 0.02
    assert abs(np.corrcoef(test, other)[0, 1]) < 0.02


def test_draws_stay_the_same_for_ever():
    # Frozen: another value here would carve other test sets from everybody's data.
    keys = np.array([0, 1, 2**64 - 1], dtype=np.uint64)
    assert draw(keys, 42, "test").round(12).tolist() == FROZEN_DRAWS
    assert row_keys([pa.array(["Trails are  OPEN"])])[0].tolist() == [FROZEN_KEY]
    assert row_keys([pa.array(["a"]), pa.array(["b"])])[0].tolist() == [FROZEN_PAIR_KEY]


FROZEN_DRAWS = [0.788444858793, 0.617799815602, 0.187487892604]
FROZEN_KEY = 16775121376114633339
FROZEN_PAIR_KEY = 17891760522800452624


@given(text=st.text())
def test_form_case_and_white_space_do_not_matter(text: str):
    same = normalise(text)
    assert normalise(f"  {text}\t\n") == same
    assert normalise(unicodedata.normalize("NFD", text)) == normalise(unicodedata.normalize("NFC", text))
    assert "  " not in same
    assert same == same.strip()


def test_what_is_the_same():
    assert normalise("Trails\u00a0are\n CLOSED ") == "trails are closed"
    assert normalise("ＦＵＬＬ") == "full"
    assert normalise("Straße") == normalise("STRASSE")
    assert normalise("ﬁne") == "fine"
    assert normalise("a-b") != normalise("a b")


@settings(deadline=None)  # the first call loads pyarrow's compute functions
@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), min_size=1, max_size=20))
def test_keys_are_equal_where_normalised_pairs_are(rows):
    first, second = (pa.array([row[at] for row in rows], pa.large_string()) for at in (0, 1))
    keys, missing = row_keys([first, second])
    seen: dict[tuple[str, str], int] = {}
    for (left, right), key, blank in zip(rows, keys.tolist(), missing.tolist(), strict=True):
        normal = (normalise(left), normalise(right))
        assert blank == (not all(normal))
        if not blank:
            assert seen.setdefault(normal, key) == key
    assert len(set(seen.values())) == len(seen)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=40))
def test_duplicates_against_the_obvious_way(rows):
    keys, labels = arrays(rows)
    found = find_duplicates(keys, labels)
    labels_of: dict[int, set[int]] = {}
    for key, label in rows:
        labels_of.setdefault(key, set()).add(label)
    seen: set[int] = set()
    for at, (key, _) in enumerate(rows):
        conflict = len(labels_of[key]) > 1
        assert found.conflicting[at] == conflict
        assert found.repeated[at] == (not conflict and key in seen)
        seen.add(key)
    assert found.conflicts == sum(len(labels) > 1 for labels in labels_of.values())


def pool_of(split: SplitName, keys: list[int]) -> Pool:
    rows = len(keys)
    return Pool(
        split=split,
        files=(),
        label=np.zeros(rows, dtype=np.int64),
        key=np.array(keys, dtype=np.uint64),
        row_id=np.array(keys, dtype=np.uint64),
        blank=np.zeros(rows, dtype=np.bool_),
        kept=np.ones(rows, dtype=np.bool_),
    )


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_leakage_against_the_obvious_way(keys, others):
    pools: dict[SplitName, Pool] = {"train": pool_of("train", keys), "test": pool_of("test", others)}
    leaked = [key in others for key in keys]
    assert set_exact_aside(pools, Checks()) == {"train_in_test": sum(leaked)}
    assert pools["train"].kept.tolist() == [not one for one in leaked]
    assert pools["test"].kept.all()
