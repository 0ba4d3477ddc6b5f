"""Every metric that a pipeline may ask for: one entry each.

A new metric is its function, in a module of ``gate/``, and its entry here. Names, floors that make sense, which way is
better and how sure one can be of a value all follow from the entry. Light: the function is only named here, and loaded
by ``retrainer.gate.metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

# What the function computes from, and so how the bounds of its values and differences are found:
#   proportion  a share of rows, from confusion matrices: Clopper and Pearson's bounds, Tango's interval of a difference
#   confusion   from confusion matrices, many at once: by the bootstrap, of a difference under each bound
#   mean        a loss of each row, of which the metric is the mean: in closed form
#   statistic   a ``RowStatistic``, which brings its own way
#   right_rows  the share of rows that are right, whatever is said: as a proportion
# Where a row has any number of labels:
#   label_sets  from how often each label is rightly given, wrongly given, missed and rightly left out, with the slopes
#               of its value in them: by the delta method
# Of text, where the function scores one row, in the evaluate step, which writes the scores down for the gate:
#   row_scores  the mean of scores between the lowest and the highest: by the score interval of a mean
IntervalMethod = Literal["proportion", "confusion", "mean", "statistic", "right_rows", "label_sets", "row_scores"]
Family = Literal["classification", "multi_label", "generation"]


@dataclass(frozen=True, slots=True)
class KnownMetric:
    """One metric.

    :param function: ``module:name`` of what computes it, as ``interval`` needs it.
    :param families: of tasks that it judges, as ``TaskDefinition.metrics`` names them: several where it means the same
        of each, and its function can tell what is said apart.
    :param also_called: what the same thing is called elsewhere, where a comparison of spellings would not find it.
    :param lowest: the least value there can be; ``highest`` the largest, infinity where there is no end.
    :param of_one_label: it is the score of one of two labels, whose index its function takes as ``positive``; it has no
        value where there are more labels.
    :param of_its_labels: with more labels it is another quantity: a mean over the labels, or one of their order.
    """

    name: str
    function: str
    interval: IntervalMethod
    families: tuple[Family, ...] = ("classification",)
    also_called: tuple[str, ...] = ()
    lowest: float = 0.0
    highest: float = 1.0
    greater_is_better: bool = True
    of_one_label: bool = False
    of_its_labels: bool = False

    @property
    def range(self) -> str:
        """The values there can be, in words: ``between 0 and 1``."""
        if math.isinf(self.highest):
            return f"at least {self.lowest:g}"
        return f"between {self.lowest:g} and {self.highest:g}"


_GATE = "retrainer.gate"
_OF_TEXT = "retrainer.work.evaluate.row_scores"
_OF_LABELS: tuple[Family, ...] = ("classification", "multi_label")


def _of_sets(name: str, *also_called: str, **more: bool) -> KnownMetric:
    return KnownMetric(name, f"{_GATE}.label_sets:{name}", "label_sets", ("multi_label",), also_called, **more)


_ENTRIES = (
    KnownMetric("accuracy", f"{_GATE}.confusion:accuracy", "proportion", also_called=("acc",)),
    KnownMetric("f1", f"{_GATE}.confusion:f1", "confusion", also_called=("f1_macro", "macro_f1")),
    KnownMetric("precision", f"{_GATE}.confusion:precision", "confusion"),
    KnownMetric("recall", f"{_GATE}.confusion:recall", "confusion"),
    KnownMetric(
        "mcc",
        f"{_GATE}.confusion:mcc",
        "confusion",
        also_called=("matthews_correlation", "matthews_corrcoef"),
        lowest=-1.0,
    ),
    KnownMetric("auroc", f"{_GATE}.ranking:AUROC", "statistic", also_called=("roc_auc", "auc")),
    KnownMetric(
        "log_loss",
        f"{_GATE}.confidence:log_loss_of_rows",
        "mean",
        _OF_LABELS,
        also_called=("cross_entropy", "bce", "binary_cross_entropy"),
        highest=math.inf,
        greater_is_better=False,
    ),
    KnownMetric(
        "ece",
        f"{_GATE}.confidence:ECE",
        "statistic",
        _OF_LABELS,
        also_called=("calibration_error", "expected_calibration_error"),
        greater_is_better=False,
    ),
    KnownMetric(
        "f1_binary", f"{_GATE}.confusion:f1_binary", "confusion", also_called=("binary_f1",), of_one_label=True
    ),
    KnownMetric(
        "quadratic_kappa",
        f"{_GATE}.confusion:quadratic_kappa",
        "confusion",
        also_called=("cohen_kappa_quadratic", "qwk", "quadratic_weighted_kappa"),
        of_its_labels=True,
        lowest=-1.0,
    ),
    KnownMetric(
        "mae",
        f"{_GATE}.confusion:mae",
        "confusion",
        also_called=("mean_absolute_error",),
        of_its_labels=True,
        highest=math.inf,
        greater_is_better=False,
    ),
    _of_sets("f1_micro", "micro_f1", "f1"),
    _of_sets("f1_macro", "macro_f1"),
    KnownMetric(
        "subset_accuracy",
        f"{_GATE}.answers:SetAnswers.right",
        "right_rows",
        ("multi_label",),
        also_called=("exact_match_ratio", "accuracy"),
    ),
    _of_sets("precision_micro", "micro_precision", "precision"),
    _of_sets("recall_micro", "micro_recall", "recall"),
    _of_sets("hamming_loss", "hamming", greater_is_better=False, of_its_labels=True),
    KnownMetric("chrf", f"{_OF_TEXT}:chrf", "row_scores", ("generation",), also_called=("chr_f", "chrf2")),
    KnownMetric("exact_match", f"{_OF_TEXT}:exact_match", "right_rows", ("generation",), also_called=("em",)),
    KnownMetric("rouge_l", f"{_OF_TEXT}:rouge_l", "row_scores", ("generation",), also_called=("rougeL", "rouge")),
)

KNOWN_METRICS: Mapping[str, KnownMetric] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
METRIC_NAMES: tuple[str, ...] = tuple(KNOWN_METRICS)
# Of each family the share of rows that are right, which every receipt has.
SHARE_RIGHT: Mapping[Family, str] = MappingProxyType(
    {"classification": "accuracy", "multi_label": "subset_accuracy", "generation": "exact_match"}
)
OF_ONE_LABEL = frozenset(entry.name for entry in _ENTRIES if entry.of_one_label)


def names_of(family: Family | None) -> tuple[str, ...]:
    """The metrics that judge tasks of this family."""
    return tuple(entry.name for entry in _ENTRIES if family in entry.families)


def lower_is_better(name: str) -> bool:
    """Whether less of this metric is better; false for a name that is not known."""
    return name in KNOWN_METRICS and not KNOWN_METRICS[name].greater_is_better


def meant(name: str, family: Family | None = None) -> str | None:
    """The metric that is called so elsewhere.

    :param family: whose metrics come first.
    """
    found = [entry for entry in _ENTRIES if name in entry.also_called]
    found.sort(key=lambda entry: family not in entry.families)
    return found[0].name if found else None
