"""The decision taken again: the same bytes for the same evidence, and every other byte named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.errors import IntegrityError
from retrainer.gate.decide import decide
from retrainer.gate.verify import ABSENT, Difference, differences, receipt_bytes, verify
from retrainer.spec.budgets import Budgets
from retrainer.spec.gate import AgainstChampion, Gate, Slices

POLICIES = {
    "defaults": Gate(),
    "all of it": Gate(
        floors={"accuracy": 0.8},
        confident=True,
        against_champion=AgainstChampion(mode="superiority"),
        slices=Slices(by=("label",)),
        budgets=Budgets(p95_latency_ms=25, max_latency_ratio=2),
        baseline="floor",
    ),
    "no comparison": Gate(floors={"f1": 0.5}, against_champion=None),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("worse", [10, 200], ids=["good", "bad"])
def test_the_same_evidence_gives_the_same_bytes(make, policy, worse):
    evidence = make.pair(1000, better=30, worse=worse, int8=True, baseline_wrong=300)
    data = receipt_bytes(decide(policy, evidence))
    again = verify(data, evidence)
    assert again.identical
    assert again.differences == ()
    assert again.size == len(data)
    assert again.receipt.verdict == again.recomputed.verdict


def test_rows_in_another_order_are_the_same_evidence(make):
    evidence = make.pair(1000, better=30, worse=10)
    data = receipt_bytes(decide(Gate(), evidence))
    backwards = {
        name: replace(
            table,
            row_ids=table.row_ids[::-1],
            labels=table.labels[::-1],
            predictions=table.predictions[::-1],
            scores=table.scores[::-1],
        )
        for name, table in evidence.tables.items()
    }
    assert verify(data, replace(evidence, tables=backwards)).identical


def test_an_edited_verdict_is_named(make):
    evidence = make.pair(1000, worse=200)
    document = json.loads(receipt_bytes(decide(Gate(), evidence)))
    reasons = document["reasons"]
    document |= {"verdict": "promote", "reasons": []}
    again = verify(json.dumps(document, indent=2).encode(), evidence)
    assert not again.identical
    assert (again.receipt.verdict, again.recomputed.verdict) == ("promote", "refuse")
    assert Difference("verdict", "promote", "refuse") in again.differences
    assert Difference("reasons[0]", ABSENT, reasons[0]) in again.differences


def test_predictions_of_others_are_named(make):
    data = receipt_bytes(decide(Gate(), make.pair(1000, better=30)))
    evidence = make.pair(1000, better=31)
    tables = {name: replace(table, sha256="f" * 64) for name, table in evidence.tables.items()}
    again = verify(data, replace(evidence, tables=tables))
    paths = {at.path for at in again.differences}
    assert {"predictions.fp32", "predictions.champion", "metrics.champion.accuracy.value"} <= paths


@pytest.mark.parametrize(
    "spoil",
    [bytes.rstrip, lambda data: data.replace(b"\n", b"\r\n"), lambda data: json.dumps(json.loads(data)).encode()],
    ids=["no newline at the end", "other line ends", "one line"],
)
def test_other_bytes_of_the_same_content_are_not_identical(make, spoil):
    evidence = make.pair(1000, better=30)
    again = verify(spoil(receipt_bytes(decide(Gate(), evidence))), evidence)
    assert not again.identical
    assert again.differences == ()


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"format_version": 2}'])
def test_what_is_no_receipt_is_an_error(make, data):
    with pytest.raises(IntegrityError, match="not a valid Receipt"):
        verify(data, make.pair(100))


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(documents, documents)
def test_documents_without_a_difference_are_the_same_text(one, other):
    def text(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    found = list(differences(one, other))
    assert list(differences(one, one)) == []
    if found:
        assert all(
            at.in_file is ABSENT
            or at.recomputed is ABSENT
            or at.in_file != at.recomputed
            or type(at.in_file) is not type(at.recomputed)
            for at in found
        )
    # 0.0 and -0.0 are equal numbers in other bytes, which is what comparing bytes is for.
    elif "-0.0" not in text(one) + text(other):
        assert text(one) == text(other)
