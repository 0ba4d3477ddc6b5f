"""The parts of the search for near duplicates: values of sketches, bounds, candidates, several sets at once."""

from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planted import NEAR, copy
from retrainer.work.near import verify
from retrainer.work.near.features import features, gram_codes
from retrainer.work.near.search import Texts, look_for
from retrainer.work.near.sketches import PERMUTATIONS, SketchIndex, sketches_of
from retrainer.work.near.text import grams, simplify
from retrainer.work.near.verify import Verifier, gram_sets, similar
from retrainer.work.snapshot_texts import Text

WORDS = [f"{first}{second}" for first in ("ab", "cor", "den", "fil", "gam") for second in ("a", "er", "in", "os", "um")]
sets = st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40), min_size=1, max_size=8)


def generated(count: int, seed: int, words: int = 30) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=words)) for _ in range(count)]


@given(values=sets)
@settings(deadline=None, max_examples=30)
def test_sketches_are_those_of_datasketch(values: list[list[int]]):
    expected = []
    for elements in values:
        one = MinHash(PERMUTATIONS, seed=5, hashfunc=int, scheme="affine32")
        one.update_batch(elements)
        two_bits = one.hashvalues * np.uint32(0x9E3779B1) >> np.uint32(30)
        expected.append(sum(int(bits) << 2 * at for at, bits in enumerate(two_bits)).to_bytes(32, "little"))
    starts = np.cumsum([0, *map(len, values[:-1])])
    found = sketches_of(np.array([*chain(*values)], dtype=np.uint32), starts)
    assert [bytes(sketch) for sketch in found] == expected


def test_texts_have_the_same_features_whatever_is_beside_them():
    """They are worked out in blocks: of short texts many, a long one alone."""
    texts = ["", *generated(400, 1), "", "?!", " ".join(generated(900, 2)), "x", *generated(50, 3, words=12)]
    together = features(texts)
    for at, text in enumerate(texts):
        alone = features([text])
        assert (together.sketches[at] == alone.sketches[0]).all()
        assert together.whole[at] == alone.whole[0]
        assert together.left_out[together.left_out_row == at].tolist() == alone.left_out.tolist()


@given(texts=st.lists(st.text(max_size=80), max_size=12))
@settings(deadline=None, max_examples=60)
def test_codes_stand_for_each_gram_once(texts: list[str]):
    sizes = [len(codes) for codes in gram_codes(texts)]
    assert sizes == [len(grams(simplify(text))) for text in texts]


@pytest.mark.parametrize("pairs", [False, True])
def test_the_nearest_candidate_is_that_of_comparing_all(pairs: bool):
    """Also where many rows share a template and lie on both sides of the threshold."""
    shared = generated(1, 7, words=20)[0]
    singles = [f"{shared} {own}" for own in generated(60, 8, words=9)] + generated(40, 9)
    others = [f"{shared} {own}" for own in generated(60, 10, words=4)] + generated(40, 11)
    texts: list[Text] = list(zip(singles, others, strict=True)) if pairs else [*singles]
    asked = texts[:20]
    candidates = np.arange(20, len(texts))
    verifier = Verifier(texts, 0.8)
    near = 0
    for text, (row, similarity) in zip(asked, verifier.nearest([(text, candidates) for text in asked]), strict=True):
        exact = np.array([similar(gram_sets(text), gram_sets(texts[at])) for at in candidates])
        if exact.max() >= 0.8:
            assert similarity == exact.max()
            assert exact[row - 20] == exact.max()
            near += 1
        else:
            assert (row, similarity) == (-1, 0.0)
    assert 0 < near < len(asked)


def test_of_candidates_that_are_as_near_the_first_is_taken():
    text = generated(1, 12)[0]
    others: list[Text] = [*generated(3, 13), f"{text} um", text, text, f"{text} um"]
    for order, first in (([6, 5, 4, 3], 5), ([3, 6], 3), ([6, 3], 6), ([4, 5], 4)):
        ((row, _),) = Verifier(others, 0.8).nearest([(text, np.array([0, *order]))])
        assert row == first


def test_codes_that_do_not_fit_are_made_in_parts(monkeypatch: pytest.MonkeyPatch):
    texts: list[Text] = [*generated(60, 14)]
    asked = [(text, np.arange(at, at + 10)) for at, text in enumerate(texts[:50])]
    whole = [*Verifier(texts, 0.8).nearest(asked)]
    monkeypatch.setattr(verify, "_CODES_KEPT", 20 * 600)
    verifier = Verifier(texts, 0.8)
    kept = []
    for found, expected in zip(verifier.nearest(asked), whole, strict=True):
        assert found == expected
        kept.append(len(verifier._codes))
    assert 10 <= max(kept) < 40


def test_candidates_are_those_of_comparing_all_sketches():
    """Of the rows that share a band, the most similar first, each once."""
    texts = [text for text in generated(60, 4) for text in (text, text + " um", text + " os er um")]
    sketches = features(texts).sketches
    rows = np.arange(len(texts)) + 1000
    found = {at: (others, estimates) for at, others, estimates in SketchIndex(sketches, rows).candidates(sketches, 0.6)}
    assert len(found) == len(texts)
    bits = np.unpackbits(sketches, axis=1).reshape(len(texts), PERMUTATIONS, 2)
    for at, (others, estimates) in found.items():
        agree = (bits[at] == bits[others - 1000]).all(axis=2).mean(axis=1)
        np.testing.assert_allclose(estimates, (agree - 0.25) / 0.75)
        assert (np.diff(estimates) <= 0).all()
        assert len(np.unique(others)) == len(others)
        bands = (sketches[at].reshape(16, 2) == sketches.reshape(-1, 16, 2)).all(axis=2).any(axis=1)
        every = (bits[at] == bits).all(axis=2).mean(axis=1)
        assert set(rows[bands & ((every - 0.25) / 0.75 >= 0.6)]) == set(others)


def test_several_sets_at_once_find_what_one_after_the_other_finds():
    chance = random.Random(2)
    kinds = list(NEAR)
    first, second = generated(50, 5), generated(50, 6)
    asked = [str(copy(text, chance.choice(kinds), chance, WORDS)) for text in (first + second)[::2]] + generated(20, 7)
    label = np.zeros(100, dtype=np.int64)
    sets = [Texts(texts, label[: len(texts)], 0.8) for texts in (first, second, first)]
    found = look_for(asked, label[: len(asked)], sets)
    left = np.arange(len(asked))
    for one, near in zip(sets, found, strict=True):
        alone = one.near([asked[at] for at in left], label[: len(left)])
        assert near.row[left].tolist() == alone.row.tolist()
        assert (near.row[np.setdiff1d(np.arange(len(asked)), left)] == -1).all()
        left = left[alone.row < 0]
    assert (found[0].row >= 0).sum() >= 20
    assert (found[1].row >= 0).sum() >= 20
    assert (found[2].row >= 0).sum() == 0
