"""Which rows the graph is compared on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.work.export.sample import Row, choose, thin
from tests.export import tiny

BACKEND = tiny.tokenizer().backend_tokenizer


def row(words: int, *, pair: bool = False) -> Row:
    text = " ".join(["rain"] * words)
    return Row(f"{words:016x}", (text, "open") if pair else text)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=60), count=st.integers(1, 70))
def test_from_shortest_to_longest_with_one_that_is_cut(lengths: list[int], count: int) -> None:
    sample = choose([row(words) for words in lengths], BACKEND, max_length=16, count=count)
    real = [words + 2 for words in lengths]
    assert list(sample.tokens) == sorted(sample.tokens)
    assert sample.tokens[0] == min(real)
    if max(real) > 16 and count > 1:
        assert sample.tokens[-1] == max(real)
        assert len(sample.rows) == min(count, len(real))
    if any(lengths) and count > 1:
        assert sample.tokens[-1] > 16


def test_short_rows_are_joined_into_one_that_is_cut() -> None:
    sample = choose([row(2), row(3)], BACKEND, max_length=16, count=256)
    assert len(sample.rows) == 3
    assert sample.rows[-1].row_id == "several rows joined"
    assert sample.tokens[-1] > 16
    assert set(str(sample.rows[-1].text).split()) == {"rain"}


def test_pairs_are_joined_as_pairs() -> None:
    sample = choose([row(2, pair=True)], BACKEND, max_length=16, count=256)
    text = sample.rows[-1].text
    assert isinstance(text, tuple)
    first, second = text
    assert len(first.split()) > len(second.split()) > 1


@pytest.mark.parametrize("count", [1, 2, 16, 100])
def test_thinned_from_end_to_end(count: int) -> None:
    sample = choose([row(words) for words in range(20, 60)], BACKEND, max_length=16, count=256)
    positions = thin(sample, count)
    assert len(positions) == min(count, 40)
    assert positions == sorted(set(positions))
    assert positions[0] == 0
    if count > 1:
        assert positions[-1] == 39
