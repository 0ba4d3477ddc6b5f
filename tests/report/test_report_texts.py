"""What people read of a decision on a model that writes text: predictions beside targets, and what there is none of."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import html5lib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence
from retrainer.gate.receipt import Receipt
from retrainer.report.examples import examples_part
from retrainer.report.html import ReportFacts, report_html
from retrainer.report.model_card import CardFacts, model_card
from retrainer.spec.gate import Gate
from retrainer.tasks import TASKS
from retrainer.work.examples import MOST_SHOWN, examples_of
from retrainer.work.flips import flips_of
from tests.gate.texts import text_evidence

TASK = "text2text-generation"
CARD = CardFacts(base_model="t5-tiny", max_length=128, rows={"train": 900}, max_new_tokens=32)


@pytest.fixture
def evidence() -> Evidence:
    random = np.random.default_rng(0)
    champion = np.where(random.random(200) < 0.4, 1.0, random.beta(4, 3, 200))
    challenger = champion.copy()
    challenger[:5] = (0.9, 0.1, 0.5, 0.3, 0.7)
    champion[:5] = 1.0
    return text_evidence({"fp32": challenger, "champion": champion}, characters=np.arange(200))


@pytest.fixture
def receipt(evidence: Evidence) -> Receipt:
    gate = {"against_champion": {"metric": "chrf", "margin": 0.1}, "slices": {"by": ["length"]}}
    return decide(Gate.model_validate(gate), evidence)


@pytest.fixture
def split(evidence: Evidence, tmp_path: Path) -> Path:
    row_ids = evidence.tables["fp32"].row_ids.tolist()
    table = pa.table({"row_id": row_ids, "text": [f"<b>read</b> {row_id}" for row_id in row_ids]})
    pq.write_table(table, tmp_path / "test.parquet")
    return tmp_path / "test.parquet"


def test_examples_show_what_was_written_beside_what_is_right(evidence: Evidence, split: Path) -> None:
    examples = examples_of(evidence, "chrf", split)
    assert examples is not None
    scores = [one.score for one in examples.spread]
    assert len(scores) == MOST_SHOWN
    assert scores == sorted(scores)
    assert (scores[0], scores[-1]) == (evidence.tables["fp32"].scores[:, 0].min(), 1.0)
    worst = examples.lost[0]
    assert worst.row_id == f"{1:016x}"
    assert worst.difference == pytest.approx(-0.9)
    assert worst.text == f"<b>read</b> {1:016x}"
    assert worst.target == "target 1 / another target 1"
    assert worst.written == "something by fp32 1"
    assert worst.champion == "another target 1"
    assert len(examples.lost) == 5  # all others came out alike
    reverse = np.arange(200)[::-1]
    shuffled = {
        name: table.of_rows(reverse, replace(table, row_ids=table.row_ids[reverse], targets=table.truth[reverse]))  # type: ignore[call-arg]
        for name, table in evidence.tables.items()
    }
    assert examples_of(replace(evidence, tables=shuffled), "chrf", split) == examples


def test_without_texts_rows_are_named_and_scored(evidence: Evidence) -> None:
    examples = examples_of(evidence, "chrf", None)
    shown = examples_part(examples)
    assert shown.tables[0].head == ("row", "chrf", "difference")
    assert "something" not in shown.markdown()
    alone = replace(evidence, tables={"fp32": evidence.tables["fp32"]})
    assert examples_part(examples_of(alone, "chrf", None)).tables[0].head == ("row", "chrf")
    assert examples_of(alone, "rouge_l", None) is None  # which was not measured


def test_the_page_has_what_means_something_and_says_what_does_not(
    evidence: Evidence, receipt: Receipt, split: Path
) -> None:
    facts = ReportFacts(
        card=CARD, decision="0" * 64, flips=flips_of(evidence, split), examples=examples_of(evidence, "chrf", split)
    )
    page = report_html(receipt, facts, {})
    html5lib.HTMLParser(strict=True).parse(page)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "What it writes" in text
    assert "&lt;b&gt;read&lt;/b&gt;" in page
    assert "something by fp32 1" in text
    assert "chrf by slice" in text
    assert "Right is what matches its target exactly." in text
    for said in (
        "no confusion matrix, and no search for labels",
        "TF-IDF with logistic regression does not write text.",
        "Text comes without probabilities",
    ):
        assert said in text
    for nonsense in ("Most confused", "temperature", "Labels that may be wrong", "0 labels", "Rows by label"):
        assert nonsense not in text
    assert "Of 200 rows the champion has 5 right that the challenger has wrong" in text


def test_the_card_says_what_it_does_and_how_it_is_asked(receipt: Receipt) -> None:
    task = TASKS[TASK]
    card = model_card(receipt, CARD, loading=task.loading_code("s3://models", "answers"))
    matter = yaml.safe_load(card.split("---\n")[1])
    assert matter["pipeline_tag"] == TASK
    assert matter["metrics"] == ["chrf", "exact_match"]
    assert "Answers texts with text of its own." in card
    assert "Sorts" not in card
    assert "from retrainer.serve import Generator" in card
    assert 'generator = Generator.from_store("s3://models", "answers")' in card
    assert "- Outputs end after 32 tokens." in card
    assert "| slice | rows |" in card


def test_flips_of_texts_are_counted_by_group_without_labels(evidence: Evidence, split: Path) -> None:
    source = np.where(np.arange(200) < 3, "mail", "chat")
    tables = {name: replace(table, slices={"source": source}) for name, table in evidence.tables.items()}
    flips = flips_of(replace(evidence, tables=tables), split)
    assert flips is not None
    assert (flips.counts.harmful, flips.counts.beneficial, flips.surest) == (5, 0, ())
    assert [(one.group, one.harmful) for one in flips.groups] == [("source = mail", 3), ("source = chat", 2)]
