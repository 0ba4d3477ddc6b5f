"""``retrainer keygen`` and ``sign``: make a pair of keys, and sign what a store holds with a new one.

Not here: what a signature covers (``store.signing``), and publishing, which signs by itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from retrainer.cli import display
from retrainer.cli.libraries import require
from retrainer.cli.store_options import JsonOption, KeyOption, StoreArgument, open_store, signer_of, trusted_keys
from retrainer.errors import NotFoundError


def keygen(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="Makes PATH.key and PATH.pub; never overwrites a file.", show_default=False
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Make a pair of Ed25519 keys: a private one that signs what is published, a public one for readers to pin.

    The private key is written to PATH.key, which only you may read, and is never printed. Keep a copy where only
    people who may publish can read it: without it, every reader has to pin a new one.
    """
    require("serve", only=("cryptography",))
    from retrainer.store.signing_keys import PUBLIC_KEYS, make_key_pair

    pair = make_key_pair(path)
    source = f"file:{pair.private.absolute()}"
    if as_json:
        display.print_json(
            {
                "public_key": str(pair.key),
                "key_id": pair.key.key_id,
                "private_file": str(pair.private),
                "public_file": str(pair.public),
                "sign_with": source,
            }
        )
        return
    facts = [("public key", str(pair.key)), ("key id", pair.key.key_id)]
    display.print_facts(facts, title=f"{pair.private} (secret: only you may read it) and {pair.public.name}")
    display.print_lines(
        [f"sign_with: {json.dumps(source)}", f"trusted_keys: [{json.dumps(str(pair.key))}]"],
        title="In the pipeline file, under publish:",
    )
    display.print_lines([f"{PUBLIC_KEYS}={pair.key}"], title="For readers, in their environment:")


def sign(
    store: StoreArgument,
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="One model; all by default.", show_default=False)
    ] = None,
    key: KeyOption = None,
    public_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="An old key, whose signatures are checked first: ed25519:... or the path of a .pub file. Once for "
            "each. By default $RETRAINER_PUBLIC_KEYS.",
            show_default=False,
        ),
    ] = None,
    every_version: Annotated[
        bool, typer.Option("--all", help="Also every version that an old key signed, not only what is live.")
    ] = False,
    trust_unsigned: Annotated[
        bool,
        typer.Option(
            "--trust-unsigned",
            help="Also sign what nobody signed: for a store that was begun without keys, once you have looked at it.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Sign what a store serves with a new key, where an old key's signature holds. Running it again changes nothing.

    The way to a new key: readers pin the old and the new one, publish with the new one, sign, readers drop the old.
    """
    require("serve", only=("cryptography",))
    from retrainer.run.pipeline_run import default_actor
    from retrainer.storage import open_storage
    from retrainer.store.rotation import sign_again

    signer = signer_of(key)
    if signer is None:
        raise typer.BadParameter("name the new private key: file:PATH or env:NAME", param_hint="--key")
    old = trusted_keys(public_key)
    names = open_store(store).models()
    if model is not None and model not in names:
        raise NotFoundError(f"no model '{model}'", where=store, hint=f"it holds {', '.join(names) or 'no model'}")
    storage = open_storage(store)
    lines = (
        line
        for name in ([model] if model else names)
        for line in sign_again(
            storage,
            name,
            signer=signer,
            old=old,
            actor=default_actor(),
            every_version=every_version,
            trust_unsigned=trust_unsigned,
        )
    )
    if as_json:
        display.print_json({"key_id": signer.public.key_id, "done": [asdict(line) for line in lines]})
        return
    for line in lines:  # as it is done: after an error, what was signed before is above it
        why = f": {line.problem}" if line.problem else ""
        typer.echo(display.printable(f"{line.model}\t{line.what}\t{line.done}{why}"))
