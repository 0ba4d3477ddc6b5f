"""The record of an export check, ``parity.json``: how well the graphs compute what the checkpoint computes.

Not here: the check itself (``work/export/parity.py``).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from retrainer.records import FileRecord


class ParityReport(FileRecord):
    """``parity.json``: the graphs of a bundle against the checkpoint.

    :param exporter: which one traced the graph.
    :param rows: that were compared, each at every batch size.
    :param longest_tokens: of the rows compared, before they were cut.
    :param truncated_rows: of the rows compared.
    :param tolerance: largest difference of a logit that is accepted of fp32; of a model that writes text, as a share of
        the greatest logit where that is above 1. int8 is only measured here; the gate judges it by its predictions.
    :param tie_margin: where the checkpoint's two best probabilities are closer than this, fp32 may choose the other of
        the two labels; every other row must get the same one. Where a row has any number of labels: where the
        probability of one is closer than this to its threshold, fp32 may decide it otherwise.
    :param ties: rows within that margin.
    :param max_difference: precision to the largest absolute difference of a logit; of a model that writes text, of
        those tokens that could come.
    :param label_agreement: precision to the share of rows that get the checkpoint's label, ties included; of a model
        that writes text the share of rows whose tokens are all the checkpoint's; of one that gives any number of labels
        the share that get the same ones at the thresholds that were fitted to the graph.
    """

    file: ClassVar[str] = "parity.json"
    format_version: Literal[1] = 1
    exporter: str
    rows: int
    longest_tokens: int
    truncated_rows: int
    batch_sizes: tuple[int, ...]
    tolerance: float = Field(gt=0)
    tie_margin: float = Field(ge=0)
    ties: int
    max_difference: dict[str, float]
    label_agreement: dict[str, float]
