"""Read pipeline files. Every mistake in one becomes one error that names the line, the key and what was meant.

Not here: whether the data, the model or the store exist; ``retrainer check`` and the steps find that out.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retrainer.errors import PipelineError
from retrainer.regular_files import read_regular
from retrainer.spec.explain import explain, line_of
from retrainer.spec.gate import Gate
from retrainer.spec.model import Pipeline
from retrainer.spec.problems import Place, Problem, found, listed, nearest
from retrainer.spec.yaml_reader import read_yaml
from retrainer.tasks import Writes, that_writes

SUFFIXES = (".yaml", ".yml")
# Far beyond any pipeline, and read in a second.
MOST_BYTES = 1_000_000
_ANY_PIPELINE: Mapping[str, Any] = {
    "name": "any",
    "dataset": {"train": "any.csv"},
    "model": {"base": "any"},
    "publish": {"store": "any"},
}
_TWO_LABELS: Mapping[str, Any] = {"dataset": {"train": "any.csv", "labels": ["a", "b"]}, "positive_label": "b"}


def load_pipeline(path: str | Path) -> Pipeline:
    """The pipeline of a file.

    :raises PipelineError: the file cannot be read, or is wrong; ``where`` is ``file.yaml:LINE``. Several mistakes
        are one error with a line each, the first of the file first.
    """
    file = Path(path)
    value, lines = _mapping(file, "name: ...")
    return _parse(value, lines, str(file), file.absolute().parent)


def try_pipeline(file: Path) -> Pipeline | PipelineError:
    """A pipeline file, or what is wrong with it."""
    try:
        return load_pipeline(file)
    except PipelineError as error:
        return error


def load_gate(path: str | Path, *, writes: Writes = "label") -> Gate:
    """The gate of a file: of a pipeline, or of one that holds only ``gate``, or only the keys of a gate.

    :param writes: what the models answer with that it is for, where the file does not say.
    :raises PipelineError: as of ``load_pipeline``.
    """
    file = Path(path)
    value, lines = _mapping(file, "gate: ...")
    if value.keys() - {"gate"} - Gate.model_fields.keys():
        return _parse(value, lines, str(file), file.absolute().parent).gate
    if "gate" not in value:
        value, lines = {"gate": value}, {**{("gate", *place): line for place, line in lines.items()}, (): lines[()]}
    # What a pipeline checks of its gate is checked of a gate by itself, in one that has nothing else to say.
    silent = {**_ANY_PIPELINE, **(_TWO_LABELS if writes == "label" else {}), "task": that_writes(writes)}
    return _parse({**silent, **value}, lines, str(file), file.absolute().parent).gate


def _mapping(file: Path, such_as: str) -> tuple[dict[str, Any], dict[Place, int]]:
    document = read_yaml(_text(file), where=str(file))
    if not isinstance(document.value, dict):
        raise PipelineError(
            f"expected keys such as '{such_as}', found {found(document.value)}",
            where=f"{file}:{document.lines[()]}",
            hint="retrainer schema prints every key",
        )
    return document.value, document.lines


def pipeline_files(folder: str | Path) -> tuple[Path, ...]:
    """The pipeline files of a folder, sorted by name; without those in folders below it.

    :raises PipelineError: no such folder.
    """
    place = Path(folder)
    if not place.is_dir():
        raise PipelineError("no such folder", where=str(place), hint="it should hold the pipelines' .yaml files")
    return tuple(sorted(file for file in place.iterdir() if file.suffix in SUFFIXES and file.is_file()))


def parse_pipeline(
    mapping: Mapping[str, Any], *, where: str = "pipeline", base_folder: str | Path | None = None
) -> Pipeline:
    """The pipeline of a mapping that did not come from a file, such as the fields of a form.

    :param where: what to call it in errors.
    :param base_folder: what relative paths are relative to; the current folder by default.
    :raises PipelineError: it is wrong.
    """
    if not isinstance(mapping, Mapping):
        raise PipelineError(f"expected a mapping, found {found(mapping)}", where=where)
    return _parse(dict(mapping), None, where, Path(base_folder or ".").absolute())


def _parse(value: dict[str, Any], lines: Mapping[Place, int] | None, where: str, base: Path) -> Pipeline:
    try:
        return Pipeline.model_validate(value, context=base)
    except ValidationError as error:
        problems = [_as_written(problem, value) for problem in explain(error, Pipeline)]
        raise _error(problems, lines, where) from None


def _as_written(problem: Problem, value: Mapping[str, Any]) -> Problem:
    """``dataset: {hub: ...}`` is read as ``dataset: {train: {hub: ...}}``; the person wrote the former."""
    dataset = value.get("dataset")
    if problem.place[:3] == ("dataset", "train", "hub") and isinstance(dataset, dict) and "hub" in dataset:
        return Problem(("dataset", *problem.place[2:]), problem.message.replace("dataset.train.hub", "dataset.hub"))
    return problem


def _error(problems: list[Problem], lines: Mapping[Place, int] | None, where: str) -> PipelineError:
    placed: list[tuple[str, str]]
    if lines is None:
        placed = [(where, problem.message) for problem in problems]
    else:
        numbered = sorted(
            ((line_of(problem.place, lines), problem.message) for problem in problems),
            key=lambda item: item[0],
        )
        placed = [(f"{where}:{line}", message) for line, message in numbered]
    (first_place, first), *rest = placed
    return PipelineError("\n".join([first, *(f"{place}: {message}" for place, message in rest)]), where=first_place)


def _text(file: Path) -> str:
    try:
        data = read_regular(file, MOST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise PipelineError("no such file", where=str(file), hint=_neighbours(file)) from None
    except IsADirectoryError:
        raise PipelineError("is a folder, not a pipeline file", where=str(file), hint=_inside(file)) from None
    except PermissionError:
        raise PipelineError("no permission to read it", where=str(file), hint="check its owner and mode") from None
    except OSError as error:
        raise PipelineError(f"cannot be read: {error.strerror}", where=str(file)) from None
    if len(data) > MOST_BYTES:
        hint = "this does not look like a pipeline file"
        raise PipelineError(f"larger than {MOST_BYTES:,} bytes", where=str(file), hint=hint)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PipelineError(
            f"not UTF-8: byte 0x{data[error.start]:02x} cannot be read",
            where=f"{file}:{line}",
            hint="save the file as UTF-8",
        ) from None


def _neighbours(file: Path) -> str | None:
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    near = nearest(file.name, _names_in(file.parent))
    return f"did you mean {near}?" if near else None


def _inside(folder: Path) -> str | None:
    names = _names_in(folder)
    return f"it holds {listed(names[:5])}" if names else None


def _names_in(folder: Path) -> list[str]:
    """The pipeline files of a folder; none of one that cannot be listed."""
    with suppress(OSError):
        return sorted(other.name for other in folder.iterdir() if other.suffix in SUFFIXES)
    return []
