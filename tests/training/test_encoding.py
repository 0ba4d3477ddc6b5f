"""Packed rows are what the tokenizer gives, for single texts and pairs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from retrainer.spec.model import Model
from retrainer.work.train.encoding import encode

TEXTS = ["open", "the north loop is closed until Friday, sorry", "", "x " * 300]
MODEL = Model(base="base", max_length=32)
PAIRS = ["yes", "no", "maybe " * 200, "?"]


@pytest.mark.parametrize("paired", [False, True])
def test_same_as_the_tokenizer(tiny_bert: Path, tmp_path: Path, paired: bool) -> None:
    columns = {"text": TEXTS, "label": pa.array([0, 1, 0, 1], pa.int64())} | ({"text_pair": PAIRS} if paired else {})
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    rows = encode(tmp_path / "train.parquet", tokenizer, MODEL)
    assert len(rows) == 4
    for index, text in enumerate(TEXTS):
        expected = dict(tokenizer(text, PAIRS[index] if paired else None, truncation=True, max_length=32))
        assert rows[index] == {**expected, "labels": [0, 1, 0, 1][index]}


def test_no_rows(tiny_bert: Path, tmp_path: Path) -> None:
    table = pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())})
    pq.write_table(table, tmp_path / "validation.parquet")
    assert len(encode(tmp_path / "validation.parquet", AutoTokenizer.from_pretrained(tiny_bert), MODEL)) == 0
