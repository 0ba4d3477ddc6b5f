"""A bundle folder to a predictor whose golden rows agree: it answers here as it did where it was made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from retrainer.errors import IntegrityError, ResourceError, RetrainerError
from retrainer.precisions import REFERENCE
from retrainer.serve.cached_version import AUTO, preferred
from retrainer.serve.faults import ENDS, described
from retrainer.serve.golden import agreement, read_golden
from retrainer.serve.predictor import BUNDLE, Predictor, load_info
from retrainer.serve.processor import cpu_features, features_differ
from retrainer.store.bundle import GoldenRow
from retrainer.tasks import known_task

log = logging.getLogger(__name__)


def open_predictor(folder: Path, *, precision: str = REFERENCE, threads: int | None = None) -> Predictor:
    """What answers from a graph of a bundle: the predictor of the bundle's task. The golden rows are not asked.

    :raises IntegrityError: a file is missing or damaged, or this version does not know the task.
    """
    kind = known_task(load_info(folder).task, where=str(folder / BUNDLE)).part("predictor")
    predictor: Predictor = kind(folder, precision=precision, threads=threads)
    return predictor


def load_checked(
    folder: Path,
    *,
    precision: str = AUTO,
    threads: int | None = None,
    need: Callable[[str], None] = lambda precision: None,
) -> Predictor:
    """Load a graph of a bundle and ask it its golden rows.

    :param precision: ``fp32``, ``int8``, or ``auto``: int8 where the bundle has it and its golden rows agree on this
        CPU, else fp32.
    :param threads: threads of one call; the usable cores when ``None``.
    :param need: is told the precision whose graph is read next, and may put it there. What it raises is raised.
    :raises IntegrityError: a file is missing or damaged, or the golden rows do not agree; also for whatever else a
        library raises because of a file.
    :raises ResourceError: memory ran out.
    """
    folder = Path(folder)
    golden = read_golden(folder)
    info = load_info(folder)
    *others, last = preferred(precision, info.precisions)
    for name in others:
        need(name)
        try:
            return _checked(folder, name, threads, golden)
        except IntegrityError as error:
            differs = features_differ(info.precisions[name].cpu_features, cpu_features())
            # As text: a handler that keeps records would keep the frames of the error, and the session in them.
            log.warning("%s is not used: %s%s", name, str(error), f"; {differs}" if differs else "")
    need(last)
    return _checked(folder, last, threads, golden)


def _checked(folder: Path, precision: str, threads: int | None, golden: Sequence[GoldenRow]) -> Predictor:
    try:
        predictor = open_predictor(folder, precision=precision, threads=threads)
        found = agreement(predictor, golden)
    except (RetrainerError, *ENDS):
        raise
    except MemoryError as error:
        # Says nothing of the version: it may load when others have ended.
        raise ResourceError(
            "memory ran out while the model was loaded", where=str(folder), hint="give the process more memory"
        ) from error
    except BaseException as error:
        # Whatever a bad file makes a library raise: it is the version that is no good.
        raise IntegrityError(
            f"{precision} cannot be loaded: {described(error)}", where=str(folder), hint="publish the model again"
        ) from error
    if not found.holds:
        raise IntegrityError(
            f"{precision} does not answer here as where it was made: {found}",
            where=str(folder),
            hint=f"use precision='{REFERENCE}' on this CPU" if precision != REFERENCE else "publish the model again",
        )
    return predictor
