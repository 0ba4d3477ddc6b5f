"""``retrainer predict``: ask a published model, or several, through the same client that services use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from retrainer.cli.compared import NO_LABEL, asked_for, open_places, print_compared
from retrainer.cli.libraries import require
from retrainer.cli.store_options import (
    DEFAULT_CHANNEL,
    ChannelOption,
    PublicKeysOption,
    VersionOption,
    no_such_channel,
    open_model,
    open_store,
)
from retrainer.errors import DataError, NotFoundError, StoragePermissionError
from retrainer.precisions import PRECISIONS

if TYPE_CHECKING:
    from retrainer.serve import Classifier

# Lines of standard input that are answered together: keeps memory flat, and answers appear while input comes.
BATCH_LINES = 256

Text = str | tuple[str, str]


def predict(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STORE MODEL TEXT...",
            help="The store, the pipeline's name, and texts, or - to read them from standard input. "
            "With --compare, texts alone.",
            show_default=False,
        ),
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="For pairs: the second text, once for each first."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Read the texts from a file, one a line.",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE",
            help="Ask several models side by side. Once for each: the folder of a bundle; the dated folder of a run, "
            "with every model that it exported; or STORE/MODEL, with @CHANNEL or @VERSION.",
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Labels for each text, best first; 0 for all. By default the best, or those that apply where a text "
            "has any number of labels.",
            show_default=False,
        ),
    ] = None,
    channel: ChannelOption = DEFAULT_CHANNEL,
    version: VersionOption = None,
    precision: Annotated[str, typer.Option(metavar="NAME", help=f"{', '.join(PRECISIONS)}, or auto.")] = "auto",
    public_key: PublicKeysOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Ask a published model for labels with their scores.

    With - the texts come from standard input, one a line; for a model of pairs, both texts with a tab between them.

    With --compare no store and model are named before the texts, and what each model answers is printed side by side.
    """
    named = list(arguments or ())
    if compare and (version or channel != DEFAULT_CHANNEL):
        raise typer.BadParameter("write STORE/MODEL@... in its place", param_hint="--version/--channel with --compare")
    for missing in () if compare else ("STORE", "MODEL")[len(named) :]:
        raise typer.BadParameter("missing", param_hint=missing)
    store, model, *texts = ["", "", *named] if compare else named
    if bool(texts) == (file is not None):
        raise typer.BadParameter("give texts, or - for standard input, or --file", param_hint="TEXT")
    if pair and (file is not None or texts == ["-"]):
        raise typer.BadParameter("put a tab between both texts of a line in its place", param_hint="--pair")
    require("serve")
    from retrainer.serve.texts import reads_pairs

    with ExitStack() as stack:
        if compare:
            models = open_places(compare, stack, precision=precision, public_keys=public_key)
            answering = next(iter(models.values()))
        else:
            answering = stack.enter_context(_opened(store, model, channel, version, precision, public_key))
        pairs = reads_pairs(answering.task)
        if file is not None or texts == ["-"]:
            stream = stack.enter_context(file.open("rb")) if file is not None else sys.stdin.buffer
            batches = _from_lines(stream, str(file or "standard input"), pairs)
        else:
            batches = iter([_from_arguments(texts, pair or [], pairs)])
        if compare:
            print_compared(models, batches, top_k=asked_for(top_k), as_json=as_json)
            return
        for batch in batches:
            answers = answering.respond(cast(Any, batch), top_k=asked_for(top_k)).predictions
            for text, ranked in zip(batch, answers, strict=True):
                _print(text, ranked, as_json, marked=top_k is not None)


def _opened(
    store: str, model: str, channel: str, version: str | None, precision: str, public_keys: list[str] | None
) -> Classifier:
    from retrainer.serve import Classifier

    open_store(store, public_keys=public_keys)
    try:
        return Classifier.from_store(
            store, model, channel=channel, version=version, precision=precision, public_keys=public_keys or None
        )
    except NotFoundError:
        _say_what_there_is(store, model, channel, public_keys)
        raise


def _say_what_there_is(store: str, model: str, channel: str, public_keys: list[str] | None) -> None:
    """For a model or channel that is not there: which are. Needs the right to list, which a reader need not have.

    :raises NotFoundError: neither is missing where that can be seen.
    """
    with suppress(StoragePermissionError):
        found = open_model(store, model, public_keys=public_keys)
        if channel not in found.channels():
            raise no_such_channel(found, channel)


def _from_arguments(texts: list[str], seconds: list[str], pairs: bool) -> list[Text]:
    if not pairs:
        if seconds:
            raise typer.BadParameter("this model reads single texts", param_hint="--pair")
        return list(texts)
    if len(seconds) != len(texts):
        raise typer.BadParameter(
            f"this model reads pairs: give --pair once for each text, {len(texts)} in all", param_hint="--pair"
        )
    return list(zip(texts, seconds, strict=True))


def _from_lines(stream: Iterable[bytes], source: str, pairs: bool) -> Iterator[list[Text]]:
    batch: list[Text] = []
    for number, line in enumerate(stream, start=1):
        where = f"{source}, line {number}"
        text = _decoded(line, where, first=number == 1).rstrip("\r\n")
        if not text.strip():
            continue
        batch.append(_pair(text, where) if pairs else text)
        if len(batch) == BATCH_LINES:
            yield batch
            batch = []
    if batch:
        yield batch


def _decoded(line: bytes, where: str, *, first: bool) -> str:
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: byte 0x{line[error.start]:02x}"
        raise DataError(problem, where=where, hint="convert it with iconv") from None
    if "\0" in text:  # every other byte of UTF-16 without a mark
        raise DataError("not text: byte 0x00", where=where, hint="if it is UTF-16, convert it with iconv")
    return text


def _pair(line: str, where: str) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not tab:
        raise typer.BadParameter("this model reads pairs: put a tab between both texts", param_hint=where)
    return first, second


def _print(text: Text, ranked: list[Any], as_json: bool, *, marked: bool) -> None:
    """One line.

    :param marked: whether to say of each label that applies that it does, where some may not.
    """
    if as_json:
        asked = {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        typer.echo(json.dumps({**asked, "labels": ranked}, ensure_ascii=False))
        return
    marks = [" applies" if marked and item.get("applies") else "" for item in ranked]
    answer = "  ".join(f"{item['label']} {item['score']:.4f}{mark}" for item, mark in zip(ranked, marks, strict=True))
    shown = text if isinstance(text, str) else " | ".join(text)
    sys.stdout.write(f"{answer or NO_LABEL}\t{shown}\n")
