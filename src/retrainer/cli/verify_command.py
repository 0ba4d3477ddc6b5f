"""``retrainer verify``: take a decision again from its evidence, offline, and compare byte for byte."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrainer.cli import display
from retrainer.cli.libraries import require
from retrainer.cli.store_options import DEFAULT_CHANNEL, PublicKeysOption, champion, open_model, trusted_keys

if TYPE_CHECKING:
    from retrainer.audit import CheckedReceipt, FoundReceipt
    from retrainer.gate.verify import Difference
    from retrainer.store.ledger import Ledger

DOES_NOT_HOLD = 4
# What the gate computes with. No model is loaded, so the rest of the extra is not needed.
LIBRARIES = ("numpy", "scipy", "sklearn", "pyarrow")
SHOWN_DIFFERENCES = 12


def verify(
    receipt: Annotated[
        str | None,
        typer.Argument(
            metavar="RECEIPT",
            help="receipt.json, or the decide artifact, run folder or version folder that holds it: a path, file:// "
            "or s3://.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Instead of RECEIPT: the store of a published version, whose receipt is checked."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="With --store: the model.")] = None,
    channel: Annotated[str, typer.Option(metavar="NAME", help="With --store: the channel.")] = DEFAULT_CHANNEL,
    version: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="With --store: a version, instead of what a channel serves."),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Root of the artifacts that hold the evaluation; by default the one that the receipt is in.",
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Folder of the evaluate artifact, instead of --artifacts."),
    ] = None,
    decision: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST", help="The decision's digest, where you know it from a log or a channel's history."
        ),
    ] = None,
    ledger: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="With RECEIPT: the store whose ledger of decisions must bear it out. --store does that."
        ),
    ] = None,
    public_key: PublicKeysOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a receipt: take its decision again from the per-row predictions, and compare byte for byte.

    Also checked: that the policy is the one that the decision was taken with, and that evaluation and predictions
    are the files that were recorded; with a store, that its ledger of decisions holds this one and gives the same
    counts of earlier ones. Nothing is trained, no model is loaded, and only s3:// needs the network.

    Exit codes: 0 the receipt holds, 1 it could not be checked, 2 wrong usage, 4 it does not hold.
    """
    if (receipt is None) == (store is None):
        raise typer.BadParameter("give either a receipt, or --store and --model", param_hint="RECEIPT")
    if (store is None) != (model is None):
        raise typer.BadParameter("--store and --model belong together", param_hint="--store")
    if public_key and store is None:
        raise typer.BadParameter("a key vouches for a published version: give --store", param_hint="--public-key")
    if ledger is not None and store is not None:
        raise typer.BadParameter("--store holds the receipt against its own ledger", param_hint="--ledger")
    if artifacts is not None and evaluation is not None:
        raise typer.BadParameter("give either --artifacts or --evaluation", param_hint="--artifacts")
    require("train", only=LIBRARIES)
    from retrainer.audit import check_receipt, find_receipt

    found = (
        find_receipt(receipt)
        if receipt is not None
        else _published(str(store), str(model), channel, version, public_key)
    )
    books = _ledger(found, store or ledger, model)
    checked = check_receipt(found, artifacts=artifacts, evaluation=evaluation, decision=decision, ledger=books)
    if as_json:
        display.print_json(_as_json(checked))
    else:
        _print(checked)
    if not checked.holds:
        raise typer.Exit(DOES_NOT_HOLD)


def _ledger(found: FoundReceipt, store: str | None, model: str | None) -> Ledger | None:
    """The ledger that has to bear the receipt out."""
    from retrainer.gate.receipt import Receipt
    from retrainer.store import Store

    if store is None:
        return None
    name = model or Receipt.from_json(found.data, where=found.where).model
    return Store.open(store).model(name).ledger


def _published(
    store: str, model: str, channel: str, version: str | None, public_keys: list[str] | None
) -> FoundReceipt:
    from retrainer.audit import published_receipt

    opened = open_model(store, model, public_keys=public_keys)
    return published_receipt(
        store, model, version or champion(opened, channel).version, trusted=trusted_keys(public_keys)
    )


def _print(checked: CheckedReceipt) -> None:
    from rich.text import Text

    verification = checked.verification
    receipt = verification.receipt
    same = verification.receipt.verdict == verification.recomputed.verdict
    again = "the same again" if same else f"{verification.recomputed.verdict} when taken again"
    facts = [
        ("receipt", checked.found.where),
        ("evidence", checked.evidence),
        ("decision", _decision(checked)),
        ("rows", f"{receipt.rows:,}"),
        *((f"{name} predictions", _predictions(checked, name)) for name in _models(checked)),
        ("verdict", f"{verification.receipt.verdict}, {again}"),
        *(("not checked", note) for note in checked.notes),
    ]
    display.print_facts(facts, title=f"{receipt.model}: the decision taken again")
    if verification.differences:
        shown = verification.differences[:SHOWN_DIFFERENCES]
        rows = [_row(at) for at in shown]
        display.print_table(("place in the receipt", "in the file", "recomputed"), rows)
        if len(verification.differences) > len(shown):
            sys.stdout.write(f"and {len(verification.differences) - len(shown)} more; --json lists all\n")
    console = display.stdout()
    for problem in checked.problems:
        console.print(Text(problem, style="bold red"), soft_wrap=True)
    if checked.holds:
        line = f"identical, {verification.size:,} bytes: the receipt holds"
        console.print(Text(line, style="bold green"), soft_wrap=True)
    else:
        console.print(Text("the receipt does not hold", style="bold red"), soft_wrap=True)


def _decision(checked: CheckedReceipt) -> str:
    found = checked.found
    return f"{found.decision} ({found.said_by})" if found.decision else "in no artifact and no published version"


def _models(checked: CheckedReceipt) -> list[str]:
    return list(dict.fromkeys([*checked.verification.receipt.predictions, *checked.rows]))


def _predictions(checked: CheckedReceipt, name: str) -> str:
    sha256 = checked.verification.recomputed.predictions.get(name)
    return f"{checked.rows[name]:,} rows, sha256 {sha256}" if sha256 else "not readable"


def _row(at: Difference) -> list[str]:
    return [at.path or "document", _cell(at.in_file), _cell(at.recomputed)]


def _cell(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _as_json(checked: CheckedReceipt) -> dict[str, Any]:
    verification = checked.verification
    return {
        "receipt": checked.found.where,
        "holds": checked.holds,
        "identical": verification.identical,
        "bytes": verification.size,
        "model": verification.receipt.model,
        "rows": verification.receipt.rows,
        "verdict": {"receipt": verification.receipt.verdict, "recomputed": verification.recomputed.verdict},
        "decision": checked.found.decision,
        "evidence": checked.evidence,
        "predictions": {
            name: {"rows": checked.rows[name], "sha256": sha256}
            for name, sha256 in verification.recomputed.predictions.items()
        },
        "problems": list(checked.problems),
        "notes": list(checked.notes),
        "differences": [_difference(at) for at in verification.differences],
    }


def _difference(at: Difference) -> dict[str, Any]:
    from retrainer.gate.verify import ABSENT

    said = {"receipt": at.in_file, "recomputed": at.recomputed}
    return {"path": at.path, **{name: value for name, value in said.items() if value is not ABSENT}}
