"""A bundle folder to a predictor whose golden rows agree: it answers here as it did where it was made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from retrainer.errors import IntegrityError
from retrainer.serve.golden import agreement, read_golden
from retrainer.serve.predictor import Predictor, load_info
from retrainer.serve.processor import cpu_features, features_differ
from retrainer.store.bundle import GoldenRow

log = logging.getLogger(__name__)

AUTO = "auto"


def load_checked(folder: Path, *, precision: str = AUTO, threads: int | None = None) -> Predictor:
    """Load a graph of a bundle and ask it its golden rows.

    :param precision: ``fp32``, ``int8``, or ``auto``: int8 where the bundle has it and its golden rows agree on this
        CPU, else fp32.
    :param threads: threads of one call; the usable cores when ``None``.
    :raises IntegrityError: a file is missing or damaged, or the golden rows do not agree.
    """
    folder = Path(folder)
    golden = read_golden(folder)
    if precision != AUTO:
        return _checked(folder, precision, threads, golden)
    info = load_info(folder)
    if "int8" in info.precisions:
        try:
            return _checked(folder, "int8", threads, golden)
        except IntegrityError as error:
            differs = features_differ(info.precisions["int8"].cpu_features, cpu_features())
            log.warning("int8 is not used: %s%s", error, f"; {differs}" if differs else "")
    return _checked(folder, "fp32", threads, golden)


def _checked(folder: Path, precision: str, threads: int | None, golden: Sequence[GoldenRow]) -> Predictor:
    predictor = Predictor(folder, precision=precision, threads=threads)
    found = agreement(predictor, golden)
    if not found.holds:
        raise IntegrityError(
            f"{precision} does not answer here as where it was made: {found}",
            where=str(folder),
            hint="use precision='fp32' on this CPU" if precision != "fp32" else "publish the model again",
        )
    return predictor
