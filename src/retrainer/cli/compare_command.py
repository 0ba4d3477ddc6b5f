"""``retrainer compare``: two versions of a model, or challengers, on the rows that both were asked.

Not here: how that goes (``audit/comparing.py``), asking models new texts (``predict --compare``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retrainer.cli import display
from retrainer.cli.libraries import require
from retrainer.cli.store_options import JsonOption, ModelArgument, PublicKeysOption, StoreArgument, open_model

if TYPE_CHECKING:
    from retrainer.report.presentation import Part

Named = Annotated[str, typer.Argument(help="A version, or the digest of a decision about a challenger.")]


def compare(
    store: StoreArgument,
    model: ModelArgument,
    a: Named,
    b: Named,
    artifacts: Annotated[
        str, typer.Option(metavar="ROOT", help="Root of the artifacts that the runs wrote: their evaluations.")
    ],
    alpha: Annotated[
        float, typer.Option(metavar="SHARE", min=0.0001, max=0.4, help="Error rate of each end of an interval.")
    ] = 0.05,
    texts: Annotated[bool, typer.Option("--texts", help="Show the texts of rows on which the two differ.")] = False,
    public_key: PublicKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models on the rows that both were asked, from the answers that were stored: no model is loaded.

    Scores with the interval of their difference, who is right where, groups of rows, mistakes, rows on which the two
    differ, costs, and what differs in how they were made. The console's page shows the same.

    Exit codes: 0 compared, 1 it could not be, 2 wrong usage.
    """
    from retrainer.audit.compared import LIBRARIES, without_texts

    require("train", only=LIBRARIES)
    from retrainer.artifacts.repository import Artifacts
    from retrainer.audit.comparing import compare_models, with_texts
    from retrainer.audit.side_by_side import parts
    from retrainer.audit.sides import side_of
    from retrainer.errors import NotFoundError
    from retrainer.tasks import TASKS

    opened, root = open_model(store, model, public_keys=public_key, unpublished=True), Artifacts(artifacts)
    compared = compare_models(root, side_of(opened, root, a), side_of(opened, root, b), alpha)
    if texts:
        compared = with_texts(root, compared)
    else:
        compared = without_texts(compared, writes_text=TASKS[compared.a.task].writes == "text")
    if as_json:
        display.print_json(compared.model_dump(mode="json"))
        return
    for part in parts(compared).values():
        if part.said:
            _print(part)
    if compared.on_rows is None:
        raise NotFoundError(compared.why_not or "", where=artifacts)


def _print(part: Part) -> None:
    display.print_lines(part.sentences, title=part.title)
    for table in part.tables:
        display.print_table(table.head, [[str(cell) for cell in row] for row in table.rows])
