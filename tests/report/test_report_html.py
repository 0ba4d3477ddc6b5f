"""``report.html``: valid, alone, harmless whatever the data holds, and complete for every receipt there can be."""

from __future__ import annotations

import base64
import re
import string
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import html5lib
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from retrainer.artifacts.evaluation import DriftMeasure, Leakage, ModelEvidence, ParityEvidence, PredictionsFile
from retrainer.artifacts.measures import Interval, Latency, Score
from retrainer.artifacts.selection import Candidate, Selection
from retrainer.gate.confusion import most_confused
from retrainer.gate.decide import decide
from retrainer.gate.receipt import (
    BudgetResult,
    DriftResult,
    FloorResult,
    PrecisionDecision,
    Reason,
    ReasonCode,
    Receipt,
    SliceResult,
)
from retrainer.report.html import ReportFacts, report_html
from retrainer.report.model_card import CardFacts, model_card
from retrainer.spec.budgets import Budgets
from retrainer.spec.gate import AgainstChampion, Gate, Slices

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
CARD = CardFacts(
    base_model="distilbert-base-uncased",
    max_length=128,
    sources=("s3://corp/news/a.parquet",),
    rows={"train": 8000, "validation": 900, "test": 2000},
    training={"epochs": "3"},
)
FACTS = ReportFacts(
    card=CARD, decision="5" * 64, label_counts={"train": {"label 0": 8000}}, dropped={"duplicates dropped": 3}
)
EMPTY = ReportFacts(card=CardFacts("", 1), decision="")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "</style></svg></title>\x00\x1b\ufffe</pre>",
)


def parse(page: str) -> ElementTree.Element:
    """The tree of the page; any error of syntax raises."""
    tree: ElementTree.Element = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)
    return tree


def check_alone(tree: ElementTree.Element) -> None:
    """Nothing is loaded and nothing can run; headings, captions, names and ids are in order."""
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    levels = []
    for element in tree.iter():
        tag = str(element.tag).rpartition("}")[2]
        assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form", "input", "button"}
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name in {"src", "href", "action", "data", "srcset", "poster"}:
                assert value.startswith("data:image/png;base64,") or value[1:] in ids, value
            if name in {"aria-labelledby", "aria-describedby"}:
                assert set(value.split()) <= set(ids)
        if tag == "style":
            assert not re.search(r"url\(|@import|expression", element.text or "")
        if tag == "img":
            assert element.get("alt")
        if tag == "table":
            caption = element.find("caption")
            assert caption is not None
            assert "".join(caption.itertext()).strip()
            assert all(cell.get("scope") in {"row", "col"} for cell in element.iter("th"))
        if re.fullmatch("h[1-6]", tag):
            levels.append(int(tag[1]))
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def full_receipt(make, *, worse: int = 40) -> Receipt:
    """A receipt in which every part is filled."""
    policy = Gate(
        floors={"accuracy": 0.9, "ece": 0.2},
        slices=Slices(by=("label", "length"), patterns=("offer",), min_rows=60),
        budgets=Budgets(p50_latency_ms=12, size_mb=120, max_latency_ratio=1.5),
        baseline="floor",
    )
    random = np.random.default_rng(0)
    evidence = make.pair(
        2000,
        better=90,
        worse=worse,
        int8=True,
        baseline_wrong=260,
        characters=random.integers(20, 900, 2000),
        patterns={"offer": random.random(2000) < 0.1},
        measured=("accuracy", "f1", "ece"),
        drift=(
            DriftMeasure(kind="vocabulary", measure="vocabulary", distance=0.3, method="a method", p_value=1e-9),
            DriftMeasure(kind="labels", measure="label shares", distance=None, method="a method"),
        ),
        selection=selection("one/model", "another/model"),
        leakage=Leakage(exact={"train_in_test": 1234}, near={"train_in_test": 31}, champion_exact=14),
    )
    return decide(policy, evidence)


def selection(best: str, chosen: str) -> Selection:
    latency, score = Latency(p50=4.0, p95=None), {"accuracy": Score(value=0.9, low=0.88, high=0.92)}
    loss = Interval(
        metric="accuracy", estimate=0.004, low=-0.003, high=0.01, confidence=0.9, method="m", n=900, disagreements=50
    )
    costs = {"latency_ms": latency, "rows_per_second": 250.0, "size_mb": 91.0, "metrics": score, "export": "e"}
    return Selection(
        metric="accuracy",
        rows=900,
        candidates=(
            Candidate(base=best, parameters=66_955_010, difference=None, distinguishable=False, **costs),
            Candidate(base=chosen, parameters=None, difference=loss, distinguishable=False, **costs),
        ),
        agreement={best: {best: 1.0, chosen: 0.945}, chosen: {best: 0.945, chosen: 1.0}},
        chosen=chosen,
        why="as good, and smaller",
    )


def test_everything_that_a_promotion_rests_on_is_there(make):
    receipt = full_receipt(make)
    page = report_html(receipt, FACTS, {"confusion_matrix.png": PIXEL, "reliability.png": PIXEL, "other.png": PIXEL})
    tree = parse(page)
    check_alone(tree)
    said = words(tree)
    assert receipt.promoted
    for heading in (
        "Promote",
        "Against what is live",
        "Against a simple baseline",
        "Scores",
        "Floors",
        "Slices",
        "What serving costs",
        "Precisions",
        "Calibration",
        "Which base model became the challenger",
        "Data",
        "How far the data moved",
        "How to check this decision",
        "The policy",
    ):
        assert any(words(found) == heading for tag in ("h2", "h3") for found in tree.iter(tag)), heading
    assert receipt.comparison is not None
    assert f"{receipt.comparison.estimate:+.4f}" in said
    assert "must be above -0.01" in said
    assert "pattern = offer" in said
    assert "median latency" in said
    assert "94.5%" in said
    assert "1,234" in said
    assert "warning" in said
    assert receipt.digests["evaluate"] in said
    assert receipt.predictions["champion"] in said
    assert "retrainer verify" in said
    plots = [str(image.get("alt")) for image in tree.iter("img")]
    # Champion, baseline, int8; a metric each; slices; what the evaluation left.
    assert len(plots) == 3 + 3 + 1 + 3
    said_of = next(text for text in plots if text.startswith("challenger minus champion: "))
    assert said_of.endswith("The whole interval must be above -0.01; it is.")


def test_a_refusal_starts_with_its_reasons(make):
    receipt = full_receipt(make, worse=200)
    tree = parse(report_html(receipt, FACTS, {}))
    verdict = next(element for element in tree.iter("section") if "verdict" in (element.get("class") or ""))
    assert "refuse" in str(verdict.get("class"))
    said = words(verdict)
    assert said.startswith("Refuse Production does not change.")
    for reason in receipt.reasons:
        assert reason.code.help in said
        assert " ".join(reason.detail.split()) in said


def test_the_same_receipt_gives_the_same_bytes(make):
    receipt = full_receipt(make)
    again = Receipt.from_json(receipt.to_pretty_json(), where="receipt")
    images = {"a.png": PIXEL, "b.png": PIXEL}
    assert report_html(receipt, FACTS, images) == report_html(again, FACTS, dict(reversed(images.items())))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_are_text(make, hostile):
    labels = np.arange(1200) % 2
    evidence = make(
        labels,
        {"fp32": labels, "champion": labels},
        names=(hostile, "harmless"),
        slices={"place": np.array([hostile, "here"])[labels]},
        selection=selection(hostile, "another"),
        drift=(DriftMeasure(kind="labels", measure="shares", distance=0.2, method="m", detail=hostile),),
        champion_error=hostile,
    )
    receipt = decide(Gate(slices=Slices(by=("label", "place"))), evidence)
    card = CardFacts(hostile, 128, (hostile,), {hostile: 3}, {hostile: hostile})
    facts = ReportFacts(card, hostile, {hostile: {hostile: 3}}, {hostile: 1})
    page = report_html(receipt, facts, {f"{hostile}.png": PIXEL, "x.png": b"GIF89a" + hostile.encode()})
    tree = parse(page)
    check_alone(tree)
    assert "x.png" not in page
    assert sum("Plot: " in str(image.get("alt")) for image in tree.iter("img")) == 1
    shown = " ".join("".join(letter if letter.isprintable() else "\ufffd" for letter in hostile).split())
    assert shown.replace("\ufffe", "\ufffd") in words(tree)
    assert "49" not in words(tree) or "{{" not in hostile


def test_no_champion_and_nothing_readable(make):
    labels = np.zeros(100, dtype=np.int64)
    receipt = decide(Gate(), make(labels, {"fp32": labels}, measured=("accuracy",)))
    tree = parse(report_html(receipt, EMPTY, {}))
    check_alone(tree)
    assert "no scores" in words(tree)
    assert "the channel has none yet" in words(tree)


def test_many_slices_keep_the_plot_short(make):
    labels = np.arange(6000) % 2
    places = np.array([f"place {row % 60:02}" for row in range(6000)])
    wrong = labels.copy()
    wrong[places == "place 59"] ^= 1
    evidence = make(labels, {"fp32": wrong, "champion": labels}, slices={"place": places})
    page = report_html(decide(Gate(slices=Slices(by=("place",))), evidence), FACTS, {})
    tree = parse(page)
    plot = next(image for image in tree.iter("img") if "slices; the lowest" in str(image.get("alt")))
    assert str(plot.get("alt")).startswith("24 slices; the lowest is place = place 59 with -1.0000.")
    assert page.count("place = place ") >= 60


def test_many_labels_are_folded_and_the_worst_confusions_listed(make):
    names = tuple(f"reason {at:02}" for at in range(77))
    labels = np.arange(770) % 77
    predicted = labels.copy()
    predicted[labels == 12] = 31
    predicted[np.flatnonzero(labels == 40)[:3]] = 7
    receipt = decide(Gate(), make(labels, {"fp32": predicted}, names=names))
    confusions = most_confused(labels, predicted, names, most=10)
    assert confusions == (("reason 12", "reason 31", 10, 10), ("reason 40", "reason 07", 3, 10))
    facts = replace(FACTS, card=replace(FACTS.card, confusions=confusions))
    tree = parse(report_html(receipt, facts, {}))
    folded = {words(summary) for summary in tree.iter("summary")}
    assert any(title.startswith("Rows by label: 77 rows") for title in folded)
    (open_table,) = [table for table in tree.iter("table") if words(table).startswith("Most confused labels")]
    assert "reason 12reason 311010" in words(open_table)
    card = model_card(receipt, facts.card, loading="")
    assert "| reason 12 | reason 31 | 10 | 10 |" in card
    assert "<details><summary>Test rows by label: 77 rows</summary>\n\n| label |" in card
    assert "`reason 19` and 57 more" in card
    assert "`reason 20`" not in card


# --- every receipt there can be --------------------------------------------------------------------------

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
finite = st.floats(allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1)
counts = st.integers(0, 10**9)
# Without an N, so that no name is a None or a nan that the page made of a missing number.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="nN"), max_size=12)
short = st.text(string.ascii_lowercase.replace("n", ""), min_size=1, max_size=6)
metrics = st.sampled_from(["accuracy", "f1", "ece", "log_loss"])
precisions = st.sampled_from(["fp32", "int8"])


def a(record: type[Any], /, **fields: Any) -> st.SearchStrategy[Any]:
    return st.builds(record, **fields)


def several(strategy: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=most).map(tuple)


intervals = a(
    Interval,
    metric=metrics,
    estimate=finite,
    low=finite,
    high=finite,
    confidence=shares,
    method=names,
    n=counts,
    disagreements=counts,
)
scores = st.dictionaries(metrics, a(Score, value=numbers, low=numbers, high=numbers), max_size=3)
latencies = a(Latency, p50=numbers, p95=numbers)
drift = a(
    DriftResult,
    kind=st.sampled_from(["labels", "length", "vocabulary", "style"]),
    measure=names,
    distance=numbers,
    method=names,
    p_value=numbers,
    detail=names,
    verdict=st.sampled_from(["none", "note", "warn", "block"]),
)
candidates = a(
    Candidate,
    base=names,
    export=short,
    parameters=st.none() | counts,
    size_mb=finite,
    latency_ms=latencies,
    rows_per_second=finite,
    peak_memory_mb=numbers,
    metrics=scores,
    difference=st.none() | intervals,
    distinguishable=st.booleans(),
)
selections = a(
    Selection,
    metric=metrics,
    rows=counts,
    candidates=several(candidates),
    agreement=st.dictionaries(names, st.dictionaries(names, shares, max_size=2), max_size=2),
    chosen=names,
    why=names,
)
policies = st.sampled_from(
    [
        Gate(),
        Gate(against_champion=None),
        Gate(
            floors={"accuracy": 0.9, "ece": 0.1},
            confident=True,
            baseline="floor",
            slices=Slices(by=("label",)),
            against_champion=AgainstChampion(mode="superiority", margin=0.0),
        ),
    ]
)
measured = st.dictionaries(
    names,
    a(
        ModelEvidence,
        metrics=st.just({}),
        latency_ms=st.none() | latencies,
        rows_per_second=numbers,
        size_mb=numbers,
        peak_memory_mb=numbers,
        temperature=finite,
        predictions=st.just(PredictionsFile(file="p", sha256="0")),
    ),
    max_size=2,
)
receipts = a(
    Receipt,
    model=names,
    task=st.sampled_from(["text-classification", "text-pair-classification"]),
    verdict=st.sampled_from(["promote", "refuse"]),
    reasons=several(a(Reason, code=st.sampled_from(list(ReasonCode)), detail=names)),
    notes=several(names),
    policy=policies,
    digests=st.dictionaries(short, short, max_size=2),
    predictions=st.dictionaries(short, short, max_size=2),
    labels=several(names),
    rows=counts,
    excluded_rows=counts,
    label_counts=st.dictionaries(names, counts, max_size=3),
    champion_state=st.sampled_from(["none", "present", "unreadable"]),
    champion_version=st.none() | short,
    metrics=st.dictionaries(st.sampled_from(["fp32", "int8", "champion"]), scores, max_size=3),
    comparison=st.none() | intervals,
    threshold=numbers,
    rows_needed=st.none() | counts,
    floors=several(a(FloorResult, metric=metrics, value=numbers, judged=numbers, bound=finite, met=st.booleans())),
    slices=several(
        a(
            SliceResult,
            by=names,
            value=names,
            rows=counts,
            status=st.sampled_from(["ok", "worse", "insufficient"]),
            challenger_accuracy=numbers,
            champion_accuracy=numbers,
            difference=numbers,
            p_value=numbers,
            holm=numbers,
        )
    ),
    budgets=several(
        a(
            BudgetResult,
            budget=st.sampled_from([*Budgets.model_fields, "another"]),
            precision=precisions,
            measured=numbers,
            limit=finite,
            met=st.booleans(),
        )
    ),
    parity=st.dictionaries(
        precisions, a(ParityEvidence, max_difference=numbers, tolerance=numbers, rows=counts), max_size=2
    ),
    precisions=st.dictionaries(
        precisions, a(PrecisionDecision, publish=st.booleans(), why=names, comparison=st.none() | intervals), max_size=2
    ),
    baseline=st.none() | scores,
    baseline_comparison=st.none() | intervals,
    temperatures=st.dictionaries(precisions, finite, max_size=2),
    leakage=a(
        Leakage,
        exact=st.dictionaries(short, counts, max_size=2),
        near=st.dictionaries(short, counts, max_size=2),
        champion_exact=counts,
        champion_near=counts,
        champion_near_unknown=st.none() | names,
    ),
    drift=st.none() | several(drift),
    selection=st.none() | selections,
)


@settings(max_examples=40, deadline=None, phases=(Phase.explicit, Phase.generate, Phase.shrink))
@given(receipt=receipts, measured=measured)
def test_every_receipt_has_a_page(receipt, measured):
    facts = ReportFacts(CardFacts("base", 128, measured=measured), "d")
    tree = parse(report_html(receipt, facts, {}))
    check_alone(tree)
    said = words(tree)
    assert ("Promote" if receipt.promoted else "Refuse") in said
    assert "None" not in said
    assert "nan" not in said.split()
