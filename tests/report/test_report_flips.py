"""The section on flips of a report: counts, groups, and the texts of the surest mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence
from retrainer.report.flips import MOST_CHARACTERS, Flip, FlipCounts, Flips, flips_part
from retrainer.report.html import report_html
from retrainer.spec.gate import Gate
from retrainer.work.flips import MOST_SHOWN, flips_of
from tests.report.test_report_html import FACTS, HOSTILE, check_alone, parse, words


def split_of(evidence: Evidence, folder: Path, **second: list[str]) -> Path:
    """A test split with a text for each row, in another order than the predictions."""
    row_ids = [str(row_id) for row_id in evidence.tables["fp32"].row_ids[::-1]]
    path = folder / "test.parquet"
    pq.write_table(pa.table({"row_id": row_ids, "text": [f"text of {row_id}" for row_id in row_ids], **second}), path)
    return path


def surer(evidence: Evidence, row: int, probability: float) -> Evidence:
    """The same with a challenger that is as sure of one row as that."""
    table = evidence.tables["fp32"]
    scores = table.scores.copy()
    scores[row] = (1 - probability) / (scores.shape[1] - 1)
    scores[row, table.predictions[row]] = probability
    return replace(evidence, tables={**evidence.tables, "fp32": replace(table, scores=scores)})


def test_counts_groups_and_texts(make, tmp_path: Path) -> None:
    evidence = make.pair(900, better=30, worse=40, slices={"place": np.array(["here", ""] * 450)})
    table, champion = evidence.tables["fp32"], evidence.tables["champion"]
    lost = (champion.predictions == table.labels) & (table.predictions != table.labels)
    surest = int(np.flatnonzero(lost)[7])
    flips = flips_of(surer(evidence, surest, 0.97), split_of(evidence, tmp_path))
    assert flips is not None
    assert flips.counts == FlipCounts(group="", rows=900, harmful=40, beneficial=30)
    by_label = [one for one in flips.groups if one.group.startswith("label = ")]
    assert sum(one.harmful for one in by_label) == 40
    assert sum(one.rows for one in by_label) == 900
    (place,) = [one for one in flips.groups if one.group.startswith("place")]
    assert (place.group, place.rows) == ("place = here", 450)
    assert place.harmful == int((lost & (np.arange(900) % 2 == 0)).sum())
    shares = [one.harmful / one.rows for one in flips.groups]
    assert shares == sorted(shares, reverse=True)

    assert len(flips.surest) == MOST_SHOWN
    first = flips.surest[0]
    assert first.row_id == table.row_ids[surest]
    assert first.text == f"text of {first.row_id}"
    assert first.label == evidence.record.labels[table.labels[surest]]
    assert first.predicted == evidence.record.labels[table.predictions[surest]]
    assert first.probability == pytest.approx(0.97)
    # Equally sure ones are in the order of their ids.
    rest = [one.row_id for one in flips.surest[1:]]
    assert rest == sorted(rest)


def test_both_texts_of_a_pair(make, tmp_path: Path) -> None:
    evidence = make.pair(50, worse=1)
    flips = flips_of(evidence, split_of(evidence, tmp_path, text_pair=["other"] * 50))
    assert flips is not None
    assert flips.surest[0].text == f"text of {flips.surest[0].row_id} | other"


def test_texts_can_be_kept_out(make, tmp_path: Path) -> None:
    flips = flips_of(make.pair(500, worse=9), None)
    assert flips is not None
    assert [one.text for one in flips.surest] == [None] * 9
    table = flips_part(flips).tables[1]
    assert "text" not in table.head
    assert {len(row) for row in table.rows} == {len(table.head)}


def test_nothing_is_said_where_nothing_can_be_compared(make) -> None:
    alone = make(np.arange(10) % 2, {"fp32": np.arange(10) % 2})
    assert flips_of(alone, None) is None
    assert not flips_part(None).said
    pair = make.pair(20, worse=2)
    other = replace(pair.tables["champion"], row_ids=pair.tables["champion"].row_ids[::-1])
    assert flips_of(replace(pair, tables={**pair.tables, "champion": other}), None) is None


@pytest.mark.parametrize("hostile", HOSTILE)
def test_texts_from_the_data_are_text(make, hostile: str) -> None:
    flips = Flips(
        counts=FlipCounts(group="", rows=10, harmful=1, beneficial=2),
        groups=(FlipCounts(group=f"label = {hostile}", rows=5, harmful=1, beneficial=0),),
        surest=(Flip(row_id="ab" * 8, text=hostile, label=hostile, predicted="other", probability=0.875),),
    )
    receipt = decide(Gate(), make.pair(300, worse=1))
    tree = parse(report_html(receipt, replace(FACTS, flips=flips), {}))
    check_alone(tree)
    said = words(tree)
    assert "Of 10 rows the champion has 1 right that the challenger has wrong (10 %)" in said
    assert "1 more right in all" in said
    assert "0.875" in said
    assert "49" not in said or "{{" not in hostile


def test_long_texts_are_cut() -> None:
    flips = Flips(
        counts=FlipCounts(group="", rows=1, harmful=1, beneficial=0),
        surest=(Flip(row_id="1", text="word \n" * 500, label="a", predicted="b", probability=1.0),),
    )
    shown = flips_part(flips).tables[0].rows[0][1].text
    assert len(shown) == MOST_CHARACTERS
    assert "\n" not in shown
