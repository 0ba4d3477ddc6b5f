"""What the commands on a store share: their arguments and options, and how they open it.

Not here: what a command does with the store.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from retrainer.cli.libraries import require
from retrainer.errors import NotFoundError
from retrainer.report.figures import listed
from retrainer.spec.problems import nearest

if TYPE_CHECKING:
    from retrainer.store import Keyring, Manifest, ModelStore, Signer, Store

DEFAULT_CHANNEL = "production"
MOST_NAMES = 20
SIGN_WITH = "RETRAINER_SIGN_WITH"

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A folder, file:// or s3://bucket/prefix.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The pipeline's name.")]
ChannelOption = Annotated[str, typer.Option(metavar="NAME", help="The channel.")]
VersionOption = Annotated[
    str | None, typer.Option(metavar="VERSION", help="A version, instead of what a channel serves.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PublicKeysOption = Annotated[
    list[str] | None,
    typer.Option(
        "--public-key",
        metavar="KEY",
        help="Read only what this key signed: ed25519:... or the path of a .pub file. Once for each key. "
        "By default $RETRAINER_PUBLIC_KEYS.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="SOURCE",
        envvar=SIGN_WITH,
        help="Where the private key that signs is: file:PATH or env:NAME. Never the key itself.",
    ),
]


def open_store(url: str, *, public_keys: list[str] | None = None, signer: Signer | None = None) -> Store:
    """The store.

    :param public_keys: as ``--public-key`` gives them; those of ``$RETRAINER_PUBLIC_KEYS`` when there are none.
    :param signer: for commands that write.
    :raises NotFoundError: a folder that does not exist; an empty answer would hide a mistyped path.
    :raises UserError: a public key cannot be read.
    """
    from retrainer.storage import open_storage
    from retrainer.store import Store

    folder = open_storage(url).local_path("")
    if folder is not None and not folder.is_dir():
        raise NotFoundError("no such store", where=url, hint="give what the pipeline file says under publish.store")
    return Store.open(url, signer=signer, trusted=trusted_keys(public_keys))


def open_model(
    url: str,
    name: str,
    *,
    public_keys: list[str] | None = None,
    signer: Signer | None = None,
    unpublished: bool = False,
) -> ModelStore:
    """A model of a store; keys as for ``open_store``.

    :param unpublished: also one that was only judged.
    :raises NotFoundError: the store does not have it.
    :raises IntegrityError: it was written by an earlier version of retrainer.
    """
    from retrainer.store.names import is_name

    store = open_store(url, public_keys=public_keys, signer=signer)
    if is_name(name):
        model = store.model(name)
        if model.channels() or (unpublished and model.ledger.numbers()):
            return model
        model.newest_move(DEFAULT_CHANNEL)  # tells a store that an earlier version of retrainer wrote
    raise NotFoundError(f"no model '{name}'", where=url, hint=_instead(name, store.models(), "it holds", "no model"))


def trusted_keys(public_keys: list[str] | None) -> Keyring | None:
    """The keys that ``--public-key`` names, else those of the environment; ``None`` where nothing is pinned.

    :raises UserError: one cannot be read.
    :raises ResourceError: signatures cannot be checked here.
    """
    from retrainer.store.signing import Keyring
    from retrainer.store.signing_keys import PUBLIC_KEYS, public_keys_from_environment

    if public_keys or os.environ.get(PUBLIC_KEYS):
        require("serve", only=("cryptography",))  # before the first key or signature is met
    return Keyring.of(public_keys) if public_keys else public_keys_from_environment()


def signer_of(key: str | None) -> Signer | None:
    """The signer that ``--key`` or ``$RETRAINER_SIGN_WITH`` names, if any.

    :raises UserError: there is no such key, or it cannot be used.
    """
    from retrainer.store.signing_keys import load_signer

    if not key:
        return None
    require("serve", only=("cryptography",))
    return load_signer(key)


def champion(model: ModelStore, channel: str) -> Manifest:
    """What a channel serves.

    :raises NotFoundError: nothing.
    :raises IntegrityError: the channel's newest moves were deleted or altered.
    """
    manifest = model.champion(channel)
    if manifest is None:
        raise no_such_channel(model, channel)
    return manifest


def no_such_channel(model: ModelStore, channel: str) -> NotFoundError:
    """The error for a channel that a model does not have; names those that it has."""
    channels = model.channels()
    hint = _instead(channel, channels, "its channels:", "none, nothing was published yet")
    return NotFoundError(f"no channel '{channel}'", where=f"model {model.name}", hint=hint)


def _instead(name: str, names: list[str], holds: str, nothing: str) -> str:
    """What there is instead of a name that was not found."""
    if not names:
        return f"{holds} {nothing}"
    near = nearest(name, names)
    return (f"did you mean '{near}'? " if near else "") + f"{holds} {listed(names, most=MOST_NAMES)}"
