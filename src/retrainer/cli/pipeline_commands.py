"""``retrainer check`` and ``retrainer schema``: what can be known about a pipeline file without running it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retrainer.cli import display
from retrainer.cli.libraries import missing
from retrainer.errors import DataError, ModelError, PipelineError, RetrainerError, StorageError, first_line

if TYPE_CHECKING:
    from retrainer.spec import Pipeline
    from retrainer.spec.dataset import HubSource
    from retrainer.spec.delimited import Csv


# Of the five seconds that a person waits for an answer.
REHEARSAL_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    :param state: a note is worth knowing here, and may be as it should be elsewhere.
    """

    state: Literal["ok", "problem", "note"]
    what: str
    text: str
    hint: str | None = None


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A reference in Markdown instead, as it is in docs/pipeline.md.")
    ] = False,
) -> None:
    """Print the pipeline file's JSON Schema, for editors and forms."""
    from retrainer.spec import json_schema, reference

    if markdown:
        typer.echo(reference.markdown(), nl=False)
    else:
        display.print_json(json_schema())


def check(
    pipeline_files: Annotated[
        list[Path],
        typer.Argument(metavar="PIPELINE.yaml...", help="Pipeline files.", readable=False),
    ],
) -> None:
    """Check pipeline files: keys and values, the data's columns, the base model, the signing key, the store.

    Reads headers, not rows; trains and writes nothing. Exit code 1 when there is a problem.
    """
    problems = 0
    for number, file in enumerate(pipeline_files):
        if number:
            typer.echo()
        typer.echo(str(file))
        for finding in check_file(file):
            _show(finding)
            problems += finding.state == "problem"
    if problems:
        typer.echo(f"\n{problems} problem{'s' if problems > 1 else ''} found", err=True)
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    from rich.text import Text

    style = {"ok": "green", "problem": "bold red", "note": "yellow"}[finding.state]
    lines = [*finding.text.splitlines(), *([f"hint: {finding.hint}"] if finding.hint else [])]
    console = display.stdout()
    for number, line in enumerate(lines):
        head = f"  {finding.state:<8} {finding.what:<15} " if number == 0 else " " * 27
        console.print(Text(head, style=style if number == 0 else "") + Text(line), soft_wrap=True)


def check_file(file: Path) -> Iterator[Finding]:
    """Every check of a pipeline file, as soon as its outcome is known. Later ones need the file to be readable."""
    from retrainer.spec import load_pipeline

    try:
        pipeline = load_pipeline(file)
    except PipelineError as error:
        yield Finding("problem", "pipeline", f"{error.where}: {error.message}", error.hint)
        return
    yield _finding("pipeline", partial(_task, pipeline))
    dataset = pipeline.dataset
    judged = "train" if dataset.test is None else "test"  # only the rows that judge need the columns of slices
    for name, source in dataset.sources.items():
        wanted = [*dataset.text_columns, *dataset.label_columns, *(pipeline.slice_columns if name == judged else ())]
        yield _finding(f"{name} data", partial(_data, source, wanted, dataset.csv))
    if dataset.corrections is not None:
        yield _finding("corrections", partial(_corrections, pipeline, dataset.corrections))
    seen: dict[str, str] = {}
    for base in pipeline.model.candidates or (pipeline.model.base,):
        yield _finding("base model", partial(_base_model, pipeline, base, seen))
    if pipeline.training.trainer is not None:
        yield _finding("trainer", partial(_own_trainer, pipeline.name, pipeline.training.trainer))
    if pipeline.publish.sign_with is not None:
        yield _signing_key(pipeline)
    yield _finding("store", partial(_store, pipeline))
    yield from _weights_of_champion(pipeline)
    yield from _rehearsal(pipeline)
    if absent := missing("train"):
        text = f"not installed here: {', '.join(absent)}; needed where it trains"
        yield Finding("note", "libraries", text, "pip install 'airflow-retrainer[train]'")


def _rehearsal(pipeline: Pipeline) -> Iterator[Finding]:
    """What only datasets and transformers know, where the pipeline leaves that open and they are installed here."""
    from retrainer.chain.training_packages import require_packages
    from retrainer.run.rehearsing import rehearsed
    from retrainer.spec.dataset import HubSource
    from retrainer.spec.training_combinations import is_plain

    hub = any(isinstance(source, HubSource) for source in pipeline.dataset.sources.values())
    if (is_plain(pipeline.training) and not hub) or missing("train"):
        return
    try:
        require_packages(pipeline)
        tried = rehearsed(pipeline, seconds=REHEARSAL_SECONDS)
    except RetrainerError as error:
        yield _problem("rehearsal", error)
    else:
        if tried:
            yield Finding("ok", "rehearsal", "datasets and transformers take it")
        else:
            yield Finding("note", "rehearsal", "splits and training arguments were not tried; the first step does that")


def _problem(what: str, error: RetrainerError) -> Finding:
    text = f"{error.where}: {error.message}" if error.where else error.message
    return Finding("problem", what, text, error.hint)


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding("ok", what, look())
    except RetrainerError as error:
        return _problem(what, error)
    except (OSError, ValueError) as error:  # of a name that no file system takes: a NUL in it, 5,000 characters
        return Finding("problem", what, f"cannot be looked at: {first_line(error)}")


def _task(pipeline: Pipeline) -> str:
    from retrainer.tasks import trainable_task

    return f"{pipeline.name}, {trainable_task(pipeline.task, where=pipeline.name).name}"


def _data(source: HubSource | tuple[str, ...], wanted: Sequence[str], csv: Csv | None) -> str:
    """Every file of a source is there, can be read and has the columns that the pipeline names."""
    from retrainer.sources import expand, fingerprint, read_columns
    from retrainer.spec.dataset import HubSource

    if isinstance(source, HubSource):
        fingerprint(source)
        return f"{source.hub.path}, split {source.hub.split}"
    files = expand(source, csv)
    for file in files:
        columns = read_columns(file)
        absent = [name for name in wanted if name not in columns]
        if absent:
            raise DataError(_missing(absent, columns), where=file.url, hint=f"its columns: {', '.join(columns)}")
    size = sum(file.size for file in files) / 1e6
    names = files[0].url if len(files) == 1 else f"{len(files)} files, first {files[0].url}"
    return f"{names}, {size:.1f} MB"


def _corrections(pipeline: Pipeline, place: str) -> str:
    """They can be read, and name labels of the pipeline, as far as it lists them."""
    from retrainer.cli.relabel_command import require_known
    from retrainer.sources.corrections import read_corrections

    found = read_corrections(place, len(pipeline.dataset.text_columns))
    require_known(found, pipeline)
    last = f", the last by {found[-1].who} on {found[-1].when[:10]}" if found else ""
    return f"{place}, {len(found):,} corrections{last}"


def _missing(absent: list[str], columns: tuple[str, ...]) -> str:
    from retrainer.spec.problems import suggestion

    return "; ".join(f"no column '{name}'{suggestion(name, columns)}" for name in absent)


def _base_model(pipeline: Pipeline, base: str, seen: dict[str, str]) -> str:
    """One base model is there, and is not one of those seen before it: there would be nothing to choose."""
    from retrainer.sources import base_models

    one = pipeline.of_base(base)
    base_models.require_sizes(one)
    identity = base_models.fingerprint(one.model)
    first = seen.setdefault(identity, base)
    if first != base:
        raise ModelError(f"the same model as {first}", where=f"model.base: {base}", hint="list each model once")
    return base if "@" not in identity else identity


def _own_trainer(name: str, trainer: str) -> str:
    """The module of the pipeline's own trainer is there; that its class is, is known where it is imported."""
    from retrainer.sources import trainer_code

    trainer_code.fingerprint(trainer, where=name)
    return trainer


def _signing_key(pipeline: Pipeline) -> Finding:
    """The private key can be loaded, and the pipeline trusts what it signs. It is never shown."""
    from retrainer.chain.model_store import check_keys
    from retrainer.store.signing_keys import SIGNING_KEY

    source = str(pipeline.publish.sign_with)
    if source.startswith("airflow:") and not os.environ.get(SIGNING_KEY):
        hint = f"to run the pipeline without Airflow, set ${SIGNING_KEY} to the key, or name file:PATH or env:NAME"
        return Finding("note", "signing key", f"{source} is a connection that only Airflow's tasks can read", hint)

    def look() -> str:
        signer = check_keys(pipeline.publish)
        assert signer is not None
        return f"{source}, key {signer.public.key_id}"

    return _finding("signing key", look)


def _store(pipeline: Pipeline) -> str:
    from retrainer.chain.model_store import check_channel, model_of
    from retrainer.storage import open_storage

    url, channel = pipeline.publish.store, pipeline.publish.channel
    folder = open_storage(url).local_path("")
    if folder is not None:
        _require_writable(folder)
    model = model_of(pipeline)
    check_channel(pipeline.publish, model.newest_move(channel))
    champion = model.champion(channel)
    return f"{url}, {channel} " + (f"serves version {champion.version}" if champion else "serves nothing yet")


def _weights_of_champion(pipeline: Pipeline) -> Iterator[Finding]:
    """Whether there is, and will be, a checkpoint to start from or to blend with.

    A run goes on without one, so neither is a problem.
    """
    from retrainer.chain.champion import read_champion
    from retrainer.chain.model_store import model_of
    from retrainer.chain.steps.train import has_checkpoint

    training = pipeline.training
    blends = training.blend_with_champion != "none"
    if not blends and training.warm_start == "none":
        return
    what, use = ("blending", "blend the next model with") if blends else ("warm start", "start the next training from")
    if not pipeline.publish.include_checkpoint:
        text = f"publish.include_checkpoint is off: what is published holds nothing to {use}"
        yield Finding("note", what, text, "set publish.include_checkpoint: true")
    try:
        champion = read_champion(model_of(pipeline), pipeline.publish.channel).champion
    except RetrainerError:  # said of the store
        return
    if champion is not None and not has_checkpoint(champion):
        yield Finding("note", what, f"the champion, version {champion.version}, was published without its checkpoint")


def _require_writable(folder: Path) -> None:
    """The folder, or the nearest that exists above it, where it would be made."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise StorageError("is a file, not a folder", where=str(place), hint="name another publish.store")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError("no permission to write", where=str(place), hint="check its owner and mode")
