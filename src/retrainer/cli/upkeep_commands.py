"""``retrainer fsck`` and ``gc``: check a store, repair what is safe, delete what nobody needs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrainer.cli import display
from retrainer.cli.libraries import require
from retrainer.cli.store_options import JsonOption, PublicKeysOption, StoreArgument, open_store, trusted_keys
from retrainer.errors import RetrainerError

if TYPE_CHECKING:
    from retrainer.storage import Storage
    from retrainer.store.fsck import Finding, Findings, Progress, Repaired, Severity
    from retrainer.store.gc import Collected, Outcome, Plan

# As of 'retrainer verify': what was checked does not hold. 1 is for a check that could not be made.
DAMAGED = 4
# Between two lines of progress where there is no terminal.
LINE_SECONDS = 3.0
HEADINGS: dict[Severity, str] = {
    "damage": "Damage",
    "suspect": "Suspect: nothing fails, but somebody should look",
    "leftover": "Left over: harmless",
}
WORDS: dict[Severity, str] = {"damage": "damaged", "suspect": "suspect", "leftover": "left over"}
NOUNS = {"channels": "channel", "versions": "version", "files": "file"}

ModelsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[MODEL]...", help="Only these; all by default.", show_default=False)
]


def fsck(
    store: StoreArgument,
    models: ModelsArgument = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Of files check only that they are there and their size.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put right what is safe to put right, then check again.")
    ] = False,
    public_key: PublicKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a store: every move of every channel, manifest, signature and file.

    What is found is damaged, suspect or just left over. Exit code 4 when anything is damaged. --repair restores what
    the store itself can prove: hints from the moves, files from another version that holds the same content.
    """
    from retrainer.store.fsck import check_store
    from retrainer.store.fsck import repair as repair_findings

    storage = _opened(store)
    trusted = trusted_keys(public_key)
    if trusted is not None:
        require("serve", only=("cryptography",))
    with _progress() as tell:
        found = check_store(storage, models=models, trusted=trusted, quick=quick, on_progress=tell)
    repaired: tuple[Repaired, ...] = ()
    remaining = found
    if repair and found.findings:
        repaired = repair_findings(storage, found, trusted=trusted)
    if repaired:
        with _progress() as tell:
            remaining = check_store(storage, models=models, trusted=trusted, quick=quick, on_progress=tell)
    if as_json:
        display.print_json(_document(found, repaired, remaining))
    else:
        _report(found, repaired, remaining, wanted=repair)
    if not remaining.sound:
        raise typer.Exit(DAMAGED)


def _document(found: Findings, repaired: tuple[Repaired, ...], remaining: Findings) -> dict[str, Any]:
    return {
        **found.model_dump(mode="json"),
        "sound": remaining.sound,
        "repaired": [one.model_dump(mode="json") for one in repaired],
        "remaining": [finding.model_dump(mode="json") for finding in remaining.findings],
    }


def _report(found: Findings, repaired: tuple[Repaired, ...], remaining: Findings, *, wanted: bool) -> None:
    _show(found)
    if repaired:
        lines = [f"{one.finding.where}: {one.problem or f'done: {one.finding.repair}'}" for one in repaired]
        display.print_lines(lines, title="Repairs")
        _show(remaining)
    _say_notes(remaining.notes)
    typer.echo(_summary(remaining))
    possible = sum(finding.repair is not None for finding in remaining.findings)
    if possible and not wanted:
        typer.echo(f"{possible} can be repaired: 'retrainer fsck {remaining.store} --repair'")


def _show(findings: Findings) -> None:
    for severity, heading in HEADINGS.items():
        several = findings.of(severity)
        if several:
            display.print_lines([line for finding in several for line in _lines(finding)], title=heading)


def _lines(finding: Finding) -> Iterator[str]:
    channels = f"  [{', '.join(finding.channels)}]" if finding.channels else ""
    yield f"{finding.code}  {finding.where}{channels}"
    yield f"    {' '.join(finding.message.split())}"
    yield f"    repair: {finding.repair}" if finding.repair else f"    {finding.hint}"


def _summary(findings: Findings) -> str:
    how = "sizes only" if findings.quick else f"{_bytes(findings.bytes)} read"
    looked = ", ".join(_count(getattr(findings, name), noun) for name, noun in NOUNS.items())
    counts = ", ".join(f"{count} {WORDS[severity]}" for severity, count in findings.counts().items())
    verdict = "sound" if findings.sound else "DAMAGED"
    return f"{verdict}: {_count(len(findings.models), 'model')}, {looked}, {how}; {counts}"


def gc(
    store: StoreArgument,
    models: ModelsArgument = None,
    keep: Annotated[
        int, typer.Option(metavar="N", min=1, help="Keep what the last N moves of each channel name.")
    ] = 10,
    min_age: Annotated[
        float,
        typer.Option(
            metavar="DAYS", min=1.0, max=36_500.0, callback=_a_number, help="Keep what is younger; at least a day."
        ),
    ] = 1.0,
    delete: Annotated[bool, typer.Option("--delete", help="Delete. Without this nothing is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete versions that no channel and no recent move of one needs. Shows what would go unless --delete is given.

    A model with a channel that is damaged is left alone, with exit code 1. So is one where deleting failed:
    what was deleted before is said, and the other models are done.
    """
    from retrainer.store.fsck import models_of
    from retrainer.store.gc import Collected, plan_gc, run_gc

    storage = _opened(store)
    plans: list[Plan] = []
    collected: list[Collected] = []
    refused: list[RetrainerError] = []
    for model in models_of(storage, models):
        outcomes: list[Outcome] = []
        try:
            plan = plan_gc(storage, model, keep=keep, min_age=timedelta(days=min_age))
            plans.append(plan)
            if delete:
                collected.append(run_gc(storage, plan, on_outcome=outcomes.append))
        except RetrainerError as error:
            refused.append(error)
            if outcomes:
                collected.append(Collected(model=model, outcomes=tuple(outcomes), leftovers=0))
    if as_json:
        display.print_json(
            {
                "plans": [plan.model_dump(mode="json") for plan in plans],
                "collected": [one.model_dump(mode="json") for one in collected],
                "refused": [{"message": one.message, "where": one.where, "hint": one.hint} for one in refused],
            }
        )
    else:
        _show_plans(plans)
        _say_what_became(store, plans, collected, deleted=delete)
    _say_notes(note for plan in plans for note in plan.notes)
    for refusal in refused:
        display.show_error(refusal)
    if refused:
        raise typer.Exit(1)


def _a_number(days: float) -> float:
    """What is not a number is neither too small nor too large."""
    if math.isnan(days):
        raise typer.BadParameter("nan is not a number of days")
    return days


def _say_notes(notes: Iterable[str]) -> None:
    """What could not be looked at; on the error stream, because it is not a finding."""
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def _show_plans(plans: list[Plan]) -> None:
    rows = [
        [plan.model, one.version, _bytes(one.bytes), _age(plan.at, one.newest), one.reason]
        for plan in plans
        for one in plan.delete
    ]
    rows += [
        [
            plan.model,
            "-",
            "?" if one.bytes is None else _bytes(one.bytes),
            _age(plan.at, one.begun),
            f"a write that was never completed: {one.where}",
        ]
        for plan in plans
        for one in plan.leftovers
    ]
    if rows:
        display.print_table(("model", "version", "size", "age", "why"), rows)


def _say_what_became(store: str, plans: list[Plan], collected: list[Collected], *, deleted: bool) -> None:
    kept = sum(len(plan.kept) for plan in plans)
    versions = sum(len(plan.delete) for plan in plans)
    leftovers = sum(len(plan.leftovers) for plan in plans)
    if deleted:
        for one in collected:
            for outcome in one.outcomes:
                if outcome.kept is not None:
                    typer.echo(f"{one.model} {outcome.version} stays: {outcome.kept}")
        gone = sum(outcome.kept is None for one in collected for outcome in one.outcomes)
        size = sum(one.bytes for one in collected)
        rest = sum(one.leftovers for one in collected)
        typer.echo(f"deleted {_count(gone, 'version')}, {_bytes(size)}, and {_count(rest, 'leftover')}; {kept} kept")
    elif versions or leftovers:
        size = sum(plan.bytes for plan in plans)
        typer.echo(
            f"{_count(versions, 'version')}, {_bytes(size)}, and {_count(leftovers, 'leftover')} can go; {kept} stay"
        )
        typer.echo(f"nothing was deleted; to do it: 'retrainer gc {store} --delete' with the same options")
    elif plans:
        typer.echo(f"nothing can go; {_count(kept, 'version')} {'stays' if kept == 1 else 'stay'}")


def _opened(url: str) -> Storage:
    """The storage of a store that is there."""
    from retrainer.storage import open_storage

    open_store(url)
    return open_storage(url)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Tells how far a check is, on the error stream: a bar on a terminal, else a line now and then."""
    console = display.stderr()
    if not console.is_terminal or console.is_dumb_terminal:
        yield _lines_of_progress(console.print)
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def tell(progress: Progress) -> None:
            if progress.model not in tasks:
                tasks[progress.model] = bar.add_task(f"checking {progress.model}", total=progress.total_bytes)
            bar.update(tasks[progress.model], completed=progress.bytes)

        yield tell


def _lines_of_progress(say: Callable[[str], None]) -> Callable[[Progress], None]:
    last = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last < LINE_SECONDS:
            return
        last = time.monotonic()
        files = f"{progress.files}/{progress.total_files} files"
        say(f"checking {progress.model}: {files}, {_bytes(progress.bytes)} of {_bytes(progress.total_bytes)}")

    return tell


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _bytes(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    for power, unit in enumerate(("kB", "MB", "GB"), start=1):
        if size < 1000 ** (power + 1):
            return f"{size / 1000**power:.1f} {unit}"
    return f"{size / 1000**4:.1f} TB"


def _age(now: str, then: str) -> str:
    """How old something was when a plan was made: ``3 days``, ``7 h``."""
    age = datetime.fromisoformat(now).astimezone(UTC) - datetime.fromisoformat(then).astimezone(UTC)
    days = age / timedelta(days=1)
    return f"{days:.0f} days" if days >= 2 else f"{age / timedelta(hours=1):.0f} h"
