"""``retrainer promote``, ``rollback`` and ``anchor``: move a channel of a published model, once the target was tried.

Not here: publishing, which ``retrainer run`` does after the gate; and the moves themselves (``store``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrainer.cli.libraries import require
from retrainer.cli.store_options import (
    DEFAULT_CHANNEL,
    ChannelOption,
    KeyOption,
    ModelArgument,
    PublicKeysOption,
    StoreArgument,
    open_model,
    signer_of,
)
from retrainer.precisions import REFERENCE
from retrainer.store.causes import Cause

if TYPE_CHECKING:
    from retrainer.store import ModelStore, Published


ReasonOption = Annotated[
    str, typer.Option(metavar="TEXT", help="Why; it stays in the channel's history.", show_default=False)
]
CAUSES = "|".join(Cause.of_people())


def _known_cause(word: str | None) -> str | None:
    if word is not None and word not in Cause.of_people():
        raise typer.BadParameter(f"'{word}' is not one of {CAUSES.replace('|', ', ')}")
    return word


CauseOption = Annotated[
    str | None,
    typer.Option(
        metavar=f"[{CAUSES}]", callback=_known_cause, help="Why, in a word that can be counted.", show_default=False
    ),
]


def promote(
    store: StoreArgument,
    model: ModelArgument,
    to: Annotated[str, typer.Option(metavar="CHANNEL", help="The channel that moves.", show_default=False)],
    reason: ReasonOption,
    from_channel: Annotated[
        str | None,
        typer.Option("--from", metavar="CHANNEL", help="To what this channel serves now.", show_default=False),
    ] = None,
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Or to this version of the store.", show_default=False)
    ] = None,
    cause: CauseOption = None,
    key: KeyOption = None,
    public_key: PublicKeysOption = None,
) -> None:
    """Point a channel at what another one serves, or at any version; no bytes are copied.

    The version is fetched, verified file by file, loaded and checked against its golden rows before the channel
    moves.
    """
    if (version is None) == (from_channel is None):
        raise typer.BadParameter("give either --from or --version", param_hint="--from")
    why = _reason(reason)
    found = _opened(store, model, key, public_key)
    moved = found.promote(
        to,
        version=version,
        from_channel=from_channel,
        actor=_actor(),
        cause=_cause(cause, Cause.RELEASE if from_channel else Cause.UNSPECIFIED),
        reason=why,
        check=_loads,
    )
    _say(model, moved)


def rollback(
    store: StoreArgument,
    model: ModelArgument,
    reason: ReasonOption,
    channel: ChannelOption = DEFAULT_CHANNEL,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="The version to serve; by default the champion before.", show_default=False
        ),
    ] = None,
    cause: CauseOption = None,
    key: KeyOption = None,
    public_key: PublicKeysOption = None,
) -> None:
    """Move a channel back to an earlier version.

    The version is fetched, verified file by file, loaded and checked against its golden rows before the channel
    moves.
    Clients follow within their watch interval. The same bundle is not promoted again by itself.
    """
    why = _reason(reason)
    found = _opened(store, model, key, public_key)
    moved = found.rollback(
        channel, to=to, actor=_actor(), cause=_cause(cause, Cause.UNSPECIFIED), reason=why, check=_loads
    )
    _say(model, moved)


def anchor(
    store: StoreArgument,
    model: ModelArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version to pin.", show_default=False)],
    reason: ReasonOption,
    channel: ChannelOption = DEFAULT_CHANNEL,
    cause: CauseOption = None,
    key: KeyOption = None,
    public_key: PublicKeysOption = None,
) -> None:
    """Pin the anchor of a channel: the version that no challenger may fall behind, however small the steps.

    By itself it is the first champion, then whichever was shown to be better than the anchor. Pin another one where
    that cannot be asked any more, as when the labels changed. What the channel serves stays.
    """
    why = _reason(reason)
    found = _opened(store, model, key, public_key)
    before = found.newest_move(channel)
    move = found.pin_anchor(channel, version, actor=_actor(), reason=why, cause=_cause(cause, Cause.UNSPECIFIED))
    if move == before:
        typer.echo(f"{version} is the anchor of {channel} of {model} already; nothing changed")
    else:
        was = before.anchor if before else "nothing"
        typer.echo(f"{version} is the anchor of {channel} of {model} now, before {was}; it serves {move.to_version}")


def _opened(store: str, model: str, key: str | None, public_key: list[str] | None) -> ModelStore:
    require("serve")  # before anything is fetched
    return open_model(store, model, public_keys=public_key, signer=signer_of(key))


def _reason(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("say why, for whoever reads the history", param_hint="--reason")
    return text.strip()


def _cause(given: str | None, otherwise: Cause) -> Cause:
    return Cause(given) if given else otherwise


def _actor() -> str:
    from retrainer.run.pipeline_run import default_actor

    return default_actor()


def _say(model: str, moved: Published) -> None:
    if moved.moved:
        typer.echo(f"{moved.channel} of {model} serves {moved.version} now, before {moved.previous or 'nothing'}")
    else:
        typer.echo(f"{moved.channel} of {model} serves {moved.version} already; nothing moved")


def _loads(folder: Path) -> None:
    """Load the fp32 graph of a version as a client does, golden rows included.

    Whether int8 answers alike depends on the CPU, and a client that finds otherwise uses fp32.
    """
    from retrainer.serve.folder import load_folder
    from retrainer.serve.loading import Loading

    load_folder(folder, Loading(REFERENCE))
