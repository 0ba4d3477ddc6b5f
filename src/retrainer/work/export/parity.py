"""Whether a bundle answers as its checkpoint does, measured on real rows in the client's own sessions."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
# closer than half of it. This leaves room for the last digits and is still no difference that a user would see.
TIE_MARGIN = 1e-3
ROWS = 256
BATCH_SIZES = (1, 32)
CONFIG = "config.json"


def check_bundle(
    bundle: Path,
    sample: Sample,
    reference: npt.NDArray[np.float32],
    *,
    labels: tuple[str, ...],
    exporter: str,
    tolerance: float = TOLERANCE,
    tie_margin: float = TIE_MARGIN,
) -> ParityReport:
    """Score every graph of a bundle on the sample and compare with the checkpoint's logits.

    :param reference: of the checkpoint, ``[rows, labels]``.
    :param labels: what the logits should mean, in order.
    :param tolerance: largest difference of a logit that is accepted of fp32.
    :param tie_margin: where the two best probabilities of the reference are closer, or one is closer to its threshold,
        fp32 may choose the other label.
    :raises ExportError: fp32 differs by more than the tolerance, or gives a row another label, or the labels are not
        those; names the row.
    :raises IntegrityError: a graph cannot be run.
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
    info = load_info(bundle)
    check_labels(info.labels, labels, where=str(bundle / BundleInfo.file))
    check_labels(configured_labels(bundle / CONFIG), labels, where=str(bundle / CONFIG))
    ties = 0
    differences: dict[str, float] = {}
    agreement: dict[str, float] = {}
    for precision in sorted(info.precisions):
        predictor = Predictor(bundle, precision=precision)
        expected, decided = given(predictor, reference), clearness(predictor, reference) >= tie_margin
        ties = int((~decided).any(axis=1).sum())
        worst, agreeing = 0.0, 1.0
        for batch_size in BATCH_SIZES:
            logits = predictor.logits(sample.texts, batch_size=batch_size)
            difference = np.abs(logits - reference).max(axis=1)
            # One that is not exact is judged by its predictions later; but a number it must be.
            allowed = tolerance if PRECISIONS[precision].exact else np.inf
            _refuse_worst(difference, allowed, sample, f"{precision}, batch {batch_size}", bundle)
            here = given(predictor, logits)
            changed = here != expected
            if PRECISIONS[precision].exact:
                _refuse_other_label((changed & decided).any(axis=1), sample, here, expected, info.labels, bundle)
            worst = max(worst, float(difference.max()))
            agreeing = min(agreeing, float(1 - changed.any(axis=1).mean()))
        differences[precision], agreement[precision] = worst, agreeing
    return ParityReport(
        exporter=exporter,
        rows=len(sample.rows),
        longest_tokens=max(sample.tokens),
        truncated_rows=sum(tokens > info.max_length for tokens in sample.tokens),
        batch_sizes=BATCH_SIZES,
        tolerance=tolerance,
        tie_margin=tie_margin,
        ties=ties,
        max_difference=differences,
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
