"""A bundle folder to a predictor whose golden rows agree: it answers here as it did where it was made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from retrainer.errors import IntegrityError, ResourceError, RetrainerError, UserError, WrongTask
from retrainer.precisions import PRECISIONS, REFERENCE
from retrainer.serve.cached_version import AUTO, preferred
from retrainer.serve.engine import ENDS, Brake
from retrainer.serve.errands import GivenUp, NotBegun, Patience
from retrainer.serve.golden import read_golden
from retrainer.serve.predictions import is_count
from retrainer.serve.predictor import BUNDLE, load_info
from retrainer.serve.processor import cpu_features, features_differ
from retrainer.store.bundle import BundleInfo, GoldenRow
from retrainer.tasks import TaskDefinition, known_task

log = logging.getLogger(__name__)

# What a model answers with: one or several of some labels, or text of its own.
Answers: TypeAlias = Literal["label", "text"]
# Who asks the one and the other.
_ASKED_WITH = {"label": "Classifier", "text": "Generator"}

# What loading a graph and its golden rows may take: more for a larger one, on the slowest of machines.
_SECONDS = 30.0
_BYTES_A_SECOND = 10e6
# More is a mistake, and starting them takes longer than loading may.
MOST_THREADS = 1024
# Longer is a mistake; clocks and threads overflow somewhere above.
YEAR = 365 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Loading:
    """How a version is loaded.

    :param precision: ``fp32``, ``int8``, or ``auto``: int8 where the bundle has it and its golden rows agree on this
        CPU, else fp32.
    :param threads: threads of one call; the usable cores when ``None``.
    :param timeout: seconds that loading a graph and asking its golden rows may take; half a minute, and a second for
        each 10 MB of the graph, when ``None``.
    :param answers_with: what the model has to answer with; ``None`` for whatever it does.
    :raises UserError: one of them makes no sense; says what may be given.
    """

    precision: str = AUTO
    threads: int | None = None
    timeout: float | None = None
    answers_with: Answers | None = None

    def __post_init__(self) -> None:
        threads: Any = self.threads
        if self.precision not in (AUTO, *PRECISIONS):
            raise UserError(f"precision must be one of {', '.join((AUTO, *PRECISIONS))}; got {self.precision!r}")
        if threads is not None and not (is_count(threads) and threads <= MOST_THREADS):
            numbers = f"a whole number from 1 to {MOST_THREADS:,}"
            raise UserError(f"threads must be {numbers}, or None for the usable cores; got {threads!r}")
        if self.timeout is not None:
            check_seconds("load_timeout", self.timeout)


def check_seconds(name: str, value: Any) -> None:
    """Insist on a number of seconds that a clock can wait for.

    :raises UserError: it is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= YEAR:
        raise UserError(f"{name} must be a number of seconds above 0, and up to a year, as int or float; got {value!r}")


def open_predictor(
    folder: Path, *, precision: str = REFERENCE, threads: int | None = None, brake: Brake | None = None
) -> Any:
    """What answers from a graph of a bundle: the predictor of the bundle's task. The golden rows are not asked.

    :param brake: see ``Predictor``.
    :raises IntegrityError: a file is missing or damaged, or this version does not know the task.
    """
    kind = known_task(load_info(folder).task, where=str(folder / BUNDLE)).part("predictor")
    return kind(folder, precision=precision, threads=threads, brake=brake)


def load_checked(
    folder: Path, loading: Loading | None = None, *, need: Callable[[str], None] = lambda precision: None
) -> Any:
    """Load a graph of a bundle and ask it its golden rows.

    :param need: is told the precision whose graph is read next, and may put it there. What it raises is raised.
    :raises IntegrityError: a file is missing or damaged, or the golden rows do not agree, or not in time; also for
        whatever else a library raises because of a file.
    :raises WrongTask: the model answers with something else than is asked for.
    :raises ResourceError: memory ran out, or an earlier load of the graph was given up and has not ended yet.
    """
    loading = loading or Loading()
    golden = read_golden(folder)
    info = load_info(folder)
    task = known_task(info.task, where=str(folder / BUNDLE))
    if loading.answers_with is not None and task.answers_with != loading.answers_with:
        raise _of_another_kind(task, folder)
    *others, last = preferred(loading.precision, info.precisions)
    for name in others:
        need(name)
        try:
            return _checked(folder, info, name, golden, loading)
        except IntegrityError as error:
            differs = features_differ(info.precisions[name].cpu_features, cpu_features())
            # As text: a handler that keeps records would keep the frames of the error, and the session in them.
            log.warning("%s is not used: %s%s", name, str(error), f"; {differs}" if differs else "")
    need(last)
    return _checked(folder, info, last, golden, loading)


def _checked(folder: Path, info: BundleInfo, precision: str, golden: Sequence[GoldenRow], loading: Loading) -> Any:
    brake = Brake(loading.threads)
    agreement = known_task(info.task, where=str(folder / BUNDLE)).part("agreement")

    def load() -> tuple[Any, Any]:
        predictor = open_predictor(folder, precision=precision, threads=loading.threads, brake=brake)
        return predictor, agreement(predictor, golden)

    # One alone: what does not end where its brake is pulled keeps its memory and its cores.
    patience = Patience(loading.timeout or _seconds_for(folder, info, precision), most=1)
    try:
        predictor, found = patience.wait_for(f"load-{folder}-{precision}", load)
    except NotBegun:
        # Says nothing of the version either, nor of whether this load would have been in time.
        raise ResourceError(
            f"an earlier load of {precision} was given up, and has not ended in this process",
            where=str(folder),
            hint="try again later, or in another process",
        ) from None
    except GivenUp:
        brake.pull()
        raise IntegrityError(
            f"{precision} was not loaded and did not answer its golden rows within {patience.seconds:g} s",
            where=str(folder),
            hint="publish the model again; give load_timeout where this machine only needs longer",
        ) from None
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
            f"{precision} cannot be loaded: {type(error).__name__}: {error}",
            where=str(folder),
            hint="publish the model again",
        ) from error
    if not found.holds:
        raise IntegrityError(
            f"{precision} does not answer here as where it was made: {found}",
            where=str(folder),
            hint=f"use precision='{REFERENCE}' on this CPU" if precision != REFERENCE else "publish the model again",
        )
    return predictor


def _of_another_kind(task: TaskDefinition, folder: Path) -> WrongTask:
    does = "writes text" if task.writes == "text" else "gives labels"
    return WrongTask(
        f"it is a {task.model}, which {does}",
        where=str(folder),
        hint=f"load it with retrainer.serve.{_ASKED_WITH[task.answers_with]}",
    )


def _seconds_for(folder: Path, info: BundleInfo, precision: str) -> float:
    """By the size of the graph, with the weights that lie beside it."""
    entry = info.precisions.get(precision)
    graphs = [folder / file for file in entry.files] if entry is not None else []
    files = {path for graph in graphs for path in graph.parent.glob(f"{graph.name}*")}
    return round(_SECONDS + sum(path.stat().st_size for path in files) / _BYTES_A_SECOND)
