"""The test rows that neither model was trained on, and how many had to go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.chain import StepRequest
from retrainer.errors import DataError, IntegrityError
from retrainer.gate.records import Leakage
from retrainer.work.evaluate.rows import HeldOutRows, read_rows, trained_on
from retrainer.work.near import NEAR_ROWS
from retrainer.work.near.index import near_rows
from retrainer.work.reporter import Reporter

SHOWN = 3


def held_out_rows(
    request: StepRequest, snapshot: Path, bundle: Path, champion: Path | None, reporter: Reporter
) -> tuple[HeldOutRows, Leakage]:
    """Test rows that both models see for the first time.

    :param bundle: the challenger's; ingest left nothing of its training rows among the test rows.
    :param champion: its bundle; ``None`` where there is none to compare with.
    :raises DataError: no row is left; or the champion was trained on some, and ``on_leakage`` is ``fail``.
    """
    statistics = SnapshotStatistics.load(snapshot)
    slices = request.pipeline.gate.slices
    rows = read_rows(snapshot / "test.parquet", slices.patterns if slices else ())
    rows = rows.where(~trained_on(rows, bundle))
    leakage = Leakage(exact=statistics.leakage, near=statistics.near_leakage)
    if champion is not None and len(rows):
        exact = trained_on(rows, champion)
        near, unknown = _nearly_trained_on(request, rows, statistics.labels, champion)
        near &= ~exact
        leakage = leakage.model_copy(
            update={
                "champion_exact": int(exact.sum()),
                "champion_near": int(near.sum()),
                "champion_near_unknown": unknown,
            }
        )
        if request.pipeline.dataset.checks.on_leakage == "fail" and exact.any():
            raise _leakage_error(request, rows, exact)
        rows = rows.where(~(exact | near))
        _say(leakage, reporter)
    if not len(rows):
        raise DataError(
            "no test row is left that neither model was trained on",
            where=f"{request.pipeline.name}: dataset.test",
            hint="add fresh test rows",
        )
    return rows, leakage


def _leakage_error(request: StepRequest, rows: HeldOutRows, exact: npt.NDArray[np.bool_]) -> DataError:
    """Only of exact copies: near ones are told from sketches, without the champion's texts, and may be mistaken."""
    first = ", ".join(rows.row_ids[at] for at in np.flatnonzero(exact)[:SHOWN])
    return DataError(
        f"the champion was trained on {int(exact.sum()):,} of the {len(rows):,} test rows, row_id {first}",
        where=f"{request.pipeline.name}: dataset.test",
        hint="name other test rows, or set dataset.checks.on_leakage: remove to leave them out of the comparison",
    )


def _nearly_trained_on(
    request: StepRequest, rows: HeldOutRows, labels: tuple[str, ...], champion: Path
) -> tuple[npt.NDArray[np.bool_], str | None]:
    """Rows that are nearly a training row of the champion; and why that is unknown, where it is.

    An index that cannot be used is no reason to stop: it would stop every run until somebody replaces the champion.
    """
    nothing = np.zeros(len(rows), dtype=np.bool_)
    similarity = request.pipeline.dataset.checks.near_duplicate_similarity
    if similarity is None:
        return nothing, None
    index = champion / NEAR_ROWS
    if not index.is_file():
        return nothing, "the champion was published without an index of its training rows"
    try:
        return near_rows(index, rows.texts, [labels[label] for label in rows.labels], similarity), None
    except IntegrityError as error:
        return nothing, error.message


def _say(leakage: Leakage, reporter: Reporter) -> None:
    left_out = leakage.champion_exact + leakage.champion_near
    if left_out:
        nearly = f", on {leakage.champion_near:,} of them nearly" if leakage.champion_near else ""
        reporter.log(f"{left_out:,} test rows left out: the champion was trained on them{nearly}", level="warning")
    if leakage.champion_near_unknown:
        reporter.log(
            f"near duplicates of the champion's training rows were not looked for: {leakage.champion_near_unknown}",
            level="warning",
        )
