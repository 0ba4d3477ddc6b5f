"""Whether a bundle answers as its checkpoint does, measured on real rows in the client's own sessions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.parity import ParityReport
from retrainer.errors import ExportError
from retrainer.precisions import PRECISIONS
from retrainer.serve.golden import clearness, given
from retrainer.serve.predictor import Predictor, load_info
from retrainer.store.bundle import BundleInfo
from retrainer.work.export.checkpoint import check_labels
from retrainer.work.export.sample import Row, Sample

TOLERANCE = 1e-4
# Logits that are off by up to the tolerance can change the order of two labels only where their probabilities are
# closer than half of it, and move one past its threshold only where it is closer than a quarter of it, over the
# temperature, which is at least 0.05. This leaves room for both and is still not a difference that a user would see.
TIE_MARGIN = 1e-3
ROWS = 256
BATCH_SIZES = (1, 32)
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """One graph of a bundle on the sample.

    :param predictor: that was asked.
    :param logits: what it answers, ``[rows, labels]``, by the size of the batches.
    :param difference: largest absolute difference of a logit from the checkpoint's.
    """

    predictor: Predictor
    logits: Mapping[int, npt.NDArray[np.float32]]
    difference: float


def check_reference(bundle: Path, sample: Sample, reference: npt.NDArray[np.float32], labels: tuple[str, ...]) -> None:
    """Go on only where there is something to compare a bundle with.

    :param reference: logits of the checkpoint, ``[rows, labels]``.
    :param labels: what the logits should mean, in order.
    :raises ExportError: there is no row, the checkpoint does not give numbers, or the labels are not those.
    """
    if not sample.rows:
        raise ExportError("there is no row to compare the graph with the checkpoint on", where=str(bundle))
    if not np.isfinite(reference).all():
        row = sample.rows[int(np.flatnonzero(~np.isfinite(reference).all(axis=1))[0])]
        raise ExportError(
            f"the checkpoint itself gives no number for row {name_of(row)}",
            where=str(bundle),
            hint="training diverged; lower training.learning_rate",
        )
    check_labels(load_info(bundle).labels, labels, where=str(bundle / BundleInfo.file))
    check_labels(configured_labels(bundle / CONFIG), labels, where=str(bundle / CONFIG))


def measure(
    bundle: Path,
    precision: str,
    sample: Sample,
    reference: npt.NDArray[np.float32],
    *,
    tolerance: float = TOLERANCE,
) -> Measured:
    """Score a graph of a bundle on the sample, and compare it with the checkpoint's logits.

    :param tolerance: largest difference of a logit that is accepted of fp32.
    :raises ExportError: fp32 differs by more; names the row.
    :raises IntegrityError: the graph cannot be run.
    """
    predictor = Predictor(bundle, precision=precision)
    logits = {}
    worst = 0.0
    for batch_size in BATCH_SIZES:
        logits[batch_size] = predictor.logits(sample.texts, batch_size=batch_size)
        difference = np.abs(logits[batch_size] - reference).max(axis=1)
        # One that is not exact is judged by its predictions later; but a number it must be.
        allowed = tolerance if PRECISIONS[precision].exact else np.inf
        _refuse_worst(difference, allowed, sample, f"{precision}, batch {batch_size}", bundle)
        worst = max(worst, float(difference.max()))
    return Measured(predictor, logits, worst)


def compare_labels(
    bundle: Path,
    sample: Sample,
    reference: npt.NDArray[np.float32],
    graphs: Mapping[str, Measured],
    *,
    exporter: str,
    tolerance: float = TOLERANCE,
    tie_margin: float = TIE_MARGIN,
) -> ParityReport:
    """Compare what the graphs' logits say with what the checkpoint's do: the best label, or where a row has any number
    of them, which of all apply at the thresholds of the graph.

    :param graphs: precision to what was measured, its predictor loaded since the thresholds were fitted.
    :param tie_margin: where the two best probabilities of the reference are closer, or one is closer to its threshold,
        fp32 may choose the other label.
    :raises ExportError: fp32 gives a row another label; names the row.
    """
    info = load_info(bundle)
    ties = 0
    agreement: dict[str, float] = {}
    for precision, measured in graphs.items():
        predictor = measured.predictor
        expected, decided = given(predictor, reference), clearness(predictor, reference) >= tie_margin
        ties = max(ties, int((~decided).any(axis=1).sum()))
        agreeing = 1.0
        for logits in measured.logits.values():
            here = given(predictor, logits)
            changed = here != expected
            if PRECISIONS[precision].exact:
                _refuse_other_label((changed & decided).any(axis=1), sample, here, expected, info.labels, bundle)
            agreeing = min(agreeing, float(1 - changed.any(axis=1).mean()))
        agreement[precision] = agreeing
    return ParityReport(
        exporter=exporter,
        rows=len(sample.rows),
        longest_tokens=max(sample.tokens),
        truncated_rows=sum(tokens > info.max_length for tokens in sample.tokens),
        batch_sizes=BATCH_SIZES,
        tolerance=tolerance,
        tie_margin=tie_margin,
        ties=ties,
        max_difference={precision: measured.difference for precision, measured in graphs.items()},
        label_agreement=agreement,
    )


def _refuse_worst(
    difference: npt.NDArray[np.float32], allowed: float, sample: Sample, setting: str, bundle: Path
) -> None:
    bad = ~np.isfinite(difference) | (difference > allowed)
    if not bad.any():
        return
    # Not-a-number counts as the largest.
    index = int(np.where(np.isnan(difference), np.inf, difference).argmax())
    raise ExportError(
        f"the exported graph does not compute what the checkpoint computes: at row {name_of(sample.rows[index])}, "
        f"{sample.tokens[index]} tokens, logits differ by {difference[index]:.3g} ({setting}; allowed {allowed:g}); "
        f"{int(bad.sum())} of {len(sample.rows)} rows are off",
        where=str(bundle),
        hint="this exporter does not fit the model; nothing was published, the champion still serves",
    )


def _refuse_other_label(
    changed: npt.NDArray[np.bool_],
    sample: Sample,
    here: npt.NDArray[np.int64],
    expected: npt.NDArray[np.int64],
    labels: tuple[str, ...],
    bundle: Path,
) -> None:
    if not changed.any():
        return
    index = int(changed.argmax())
    raise ExportError(
        f"the exported graph gives other labels than the checkpoint: row {name_of(sample.rows[index])} becomes "
        f"{_named(here[index], labels)}, and {_named(expected[index], labels)} in the checkpoint; "
        f"{int(changed.sum())} of {len(sample.rows)} rows change",
        where=str(bundle),
        hint="this exporter does not fit the model; nothing was published, the champion still serves",
    )


def _named(said: npt.NDArray[np.int64], labels: tuple[str, ...]) -> str:
    """A row of what ``given`` gives, in words."""
    if len(said) == 1:
        return f"'{labels[said[0]]}'"
    return " and ".join(f"'{labels[at]}'" for at in np.flatnonzero(said)) or "no label"


def name_of(row: Row) -> str:
    """A row in the words of an error message: its id and how it begins."""
    text = row.text if isinstance(row.text, str) else " / ".join(row.text)
    return f"{row.row_id} ('{text[:40]}{'…' if len(text) > 40 else ''}')"


def configured_labels(config: Path) -> tuple[str, ...]:
    """The labels of a transformers ``config.json``, in the order of the logits."""
    names: Mapping[str, str] = json.loads(config.read_bytes())["id2label"]
    return tuple(names[key] for key in sorted(names, key=int))
