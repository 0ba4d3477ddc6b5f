"""``retrainer relabel``: corrections of labels, which the next snapshot of a pipeline uses.

Not here: how corrections are kept (``sources/corrections.py``), what they do (``work/ingest/corrections.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrainer.errors import DataError, PipelineError

if TYPE_CHECKING:
    from retrainer.sources.corrections import Correction
    from retrainer.spec import Pipeline


def relabel(
    decisions: Annotated[
        Path,
        typer.Argument(
            metavar="DECISIONS.csv",
            help="A row for each text: row_id or the text, and in the column label the label that is right; who, when "
            "and why where they differ. Rows without a label are left out, so suspects.csv can be filled in.",
            show_default=False,
        ),
    ],
    pipeline_files: Annotated[
        list[Path],
        typer.Argument(metavar="PIPELINE.yaml...", help="Pipelines whose labels are wrong.", show_default=False),
    ],
    who: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who decided; by default $RETRAINER_ACTOR or the user.")
    ] = None,
    why: Annotated[str, typer.Option(metavar="TEXT", help="Why, where the file does not say.")] = "",
) -> None:
    """Correct labels: add a file of corrections to the folder that dataset.corrections names.

    The data stays as it is. The next run makes a snapshot with the corrected labels, and says which were used; the rows
    that judge stay the same rows.
    """
    from retrainer.run.pipeline_run import default_actor
    from retrainer.sources.corrections import add_corrections, stamp
    from retrainer.spec import load_pipeline

    now, name = datetime.now(UTC), who or default_actor()
    found: dict[str, tuple[Correction, ...]] = {}
    for file in pipeline_files:  # all are read before anything is written
        pipeline = load_pipeline(file)
        if pipeline.dataset.corrections is None:
            raise PipelineError(
                "names no place for corrections",
                where=str(file),
                hint="add corrections: corrections/ under dataset: a folder beside the file, or s3://...",
            )
        found[pipeline.dataset.corrections] = _decided(decisions, pipeline)
    for place, corrections in found.items():
        signed = [
            replace(one, who=one.who or name, when=one.when or stamp(now), why=one.why or why) for one in corrections
        ]
        written = add_corrections(place, signed, now)
        typer.echo(f"{len(signed):,} correction{'s' * (len(signed) != 1)} by {_names(signed)} in {written}")


def _decided(decisions: Path, pipeline: Pipeline) -> tuple[Correction, ...]:
    """What the file says for a pipeline.

    :raises DataError: nothing was decided, or a label is not one that the pipeline lists.
    """
    from retrainer.sources.corrections import read_decisions

    corrections = read_decisions(str(decisions.absolute()), pipeline.dataset.text_columns)
    if not corrections:
        raise DataError(
            "no row has a label", where=str(decisions), hint="write the right label into the column 'label'"
        )
    require_known(corrections, pipeline)
    return corrections


def require_known(corrections: Sequence[Correction], pipeline: Pipeline) -> None:
    """The labels are among those that the pipeline lists; where it lists none, only the data can tell.

    :raises DataError: one is not; or is no list, where a row has any number of labels.
    """
    from retrainer.label_names import members, position, spelled
    from retrainer.spec.problems import listed, suggestion
    from retrainer.tasks import TASKS

    labels, values = pipeline.dataset.label_names, pipeline.dataset.meanings
    sets = TASKS[pipeline.task].writes == "labels"
    for one in corrections:
        names = members(one.label, where=one.where) if sets else [one.label]
        for name in names if labels is not None else ():
            if position(values.get(name, name), labels or ()) is None:
                near = suggestion(name, labels or ())
                raise DataError(
                    f"unknown label {spelled(name)}{near}", where=one.where, hint=f"labels: {listed(labels or ())}"
                )


def _names(corrections: Sequence[Correction]) -> str:
    return ", ".join(dict.fromkeys(one.who for one in corrections))
