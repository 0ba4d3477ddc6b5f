"""``retrainer predict``: ask a published model, through the same client that services use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, cast

import typer

from retrainer.cli.libraries import require
from retrainer.cli.store_options import (
    DEFAULT_CHANNEL,
    ChannelOption,
    ModelArgument,
    PublicKeysOption,
    StoreArgument,
    VersionOption,
    no_such_channel,
    open_model,
    open_store,
)
from retrainer.errors import DataError, NotFoundError, StoragePermissionError
from retrainer.precisions import PRECISIONS

# Lines of standard input that are answered together: keeps memory flat, and answers appear while input comes.
BATCH_LINES = 256

Text = str | tuple[str, str]


def predict(
    store: StoreArgument,
    model: ModelArgument,
    texts: Annotated[
        list[str],
        typer.Argument(metavar="TEXT...", help="Texts, or - to read them from standard input."),
    ],
    pair: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="For pairs: the second text, once for each first."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, metavar="N", help="Labels for each text, best first; 0 for all.")] = 1,
    channel: ChannelOption = DEFAULT_CHANNEL,
    version: VersionOption = None,
    precision: Annotated[str, typer.Option(metavar="NAME", help=f"{', '.join(PRECISIONS)}, or auto.")] = "auto",
    public_key: PublicKeysOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Ask a published model for labels with their scores.

    With - the texts come from standard input, one a line; for a model of pairs, both texts with a tab between them.
    """
    if top_k < 0:
        raise typer.BadParameter("cannot be negative", param_hint="--top-k")
    require("serve")
    from retrainer.serve import Classifier
    from retrainer.serve.texts import reads_pairs

    open_store(store, public_keys=public_key)
    try:
        classifier = Classifier.from_store(
            store, model, channel=channel, version=version, precision=precision, public_keys=public_key or None
        )
    except NotFoundError:
        _say_what_there_is(store, model, channel, public_key)
        raise
    pairs = reads_pairs(classifier.task)
    batches = _from_lines(pairs) if texts == ["-"] else iter([_from_arguments(texts, pair or [], pairs)])
    for batch in batches:
        answers: Any = classifier(cast(Any, batch), top_k=None)
        for text, ranked in zip(batch, answers, strict=True):
            _print(text, ranked[: top_k or None], as_json)


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


def _from_lines(pairs: bool) -> Iterator[list[Text]]:
    batch: list[Text] = []
    for number, line in enumerate(sys.stdin.buffer, start=1):
        text = _decoded(line, number).rstrip("\r\n")
        if not text.strip():
            continue
        batch.append(_pair(text, number) if pairs else text)
        if len(batch) == BATCH_LINES:
            yield batch
            batch = []
    if batch:
        yield batch


def _decoded(line: bytes, number: int) -> str:
    where = f"standard input, line {number}"
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8: byte 0x{line[error.start]:02x}"
        raise DataError(problem, where=where, hint="convert it with iconv") from None
    if "\0" in text:  # every other byte of UTF-16 without a mark
        raise DataError("not text: byte 0x00", where=where, hint="if it is UTF-16, convert it with iconv")
    return text


def _pair(line: str, number: int) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not tab:
        raise typer.BadParameter(
            "this model reads pairs: put a tab between both texts", param_hint=f"standard input, line {number}"
        )
    return first, second


def _print(text: Text, ranked: list[Any], as_json: bool) -> None:
    if as_json:
        asked = {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        typer.echo(json.dumps({**asked, "labels": ranked}, ensure_ascii=False))
        return
    answer = "  ".join(f"{item['label']} {item['score']:.4f}" for item in ranked)
    shown = text if isinstance(text, str) else " | ".join(text)
    sys.stdout.write(f"{answer}\t{shown}\n")
