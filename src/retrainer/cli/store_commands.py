"""``retrainer models``, ``show``, ``history`` and ``rollback``: a store of published models, looked at and moved."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrainer.cli import display
from retrainer.cli.libraries import require
from retrainer.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from retrainer.gate.records import Receipt
    from retrainer.store import Manifest, ModelStore, Store

StoreArgument = Annotated[
    str, typer.Argument(metavar="STORE", help="A folder, file:// or s3://bucket/prefix.", show_default=False)
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The pipeline's name.", show_default=False)]
ChannelOption = Annotated[str, typer.Option(metavar="NAME", help="The channel.")]
VersionOption = Annotated[
    str | None, typer.Option(metavar="VERSION", help="A version, instead of what a channel serves.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

RECEIPT = "receipt.json"
DEFAULT_CHANNEL = "production"
NO_VERSION: dict[str, Any] = {
    "version": None,
    "moves": 0,
    "moved_at": None,
    "task": None,
    "metrics": {},
    "problem": None,
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (models, show, history, rollback):
        app.command(command.__name__)(command)


def models(store: StoreArgument, as_json: JsonOption = False) -> None:
    """List the models of a store and what their channels serve."""
    opened = open_store(store)
    rows = [row for name in opened.models() for row in _rows(opened.model(name))]
    if as_json:
        display.print_json(rows)
        return
    columns = ("model", "channel", "version", "moves", "moved at", "task", "metrics")
    display.print_table(columns, [[_cell(row, name.replace(" ", "_")) for name in columns] for row in rows])


def _rows(model: ModelStore) -> list[dict[str, Any]]:
    return [row for channel in model.channels() if (row := _row(model, channel))]


def _row(model: ModelStore, channel: str) -> dict[str, Any]:
    """A channel in a list. One that is damaged says so in its line, and does not hide the others."""
    row = {"model": model.name, "channel": channel, **NO_VERSION}
    try:
        pointer = model.pointer(channel)
        if pointer is None:
            return {}
        row |= {"version": pointer.version, "moves": pointer.sequence, "moved_at": pointer.moved_at}
        manifest = model.manifest(pointer.version)
    except (IntegrityError, NotFoundError) as error:
        return row | {"problem": str(error)}
    return row | {"task": manifest.task, "metrics": dict(manifest.metrics)}


def show(
    store: StoreArgument,
    model: ModelArgument,
    version: VersionOption = None,
    channel: ChannelOption = DEFAULT_CHANNEL,
    as_json: JsonOption = False,
) -> None:
    """Show a published version: what it is, how it scored, why it was promoted, what it was made from."""
    found = open_model(store, model)
    manifest = found.manifest(version) if version else champion(found, channel)
    receipt = _receipt(found, manifest)
    serving = [name for name in found.channels() if (p := found.pointer(name)) and p.version == manifest.version]
    if as_json:
        display.print_json(
            {
                "version": manifest.version,
                "channels": serving,
                "manifest": manifest.model_dump(mode="json"),
                "receipt": receipt.model_dump(mode="json") if receipt else None,
            }
        )
        return
    display.print_facts(_about(manifest, serving), title=f"{manifest.model} {manifest.version}")
    if receipt is not None:
        from retrainer.gate.explain import explain

        display.print_lines(explain(receipt), title="Decision")
    display.print_facts(_provenance(manifest), title="Made from")
    files = [(name, f"{entry.size:>12,} bytes  {entry.sha256}") for name, entry in sorted(manifest.files.items())]
    display.print_facts(files, title="Files")


def _about(manifest: Manifest, serving: list[str]) -> list[tuple[str, str]]:
    from retrainer.report import scores

    graphs = ", ".join(f"{name} ({entry.file})" for name, entry in manifest.precisions.items())
    return [
        ("channels", ", ".join(serving) or "none serves it now"),
        ("task", manifest.task),
        ("labels", ", ".join(manifest.labels)),
        ("metrics", scores(manifest.metrics)),
        ("graphs", graphs),
        ("max length", f"{manifest.max_length} tokens"),
        ("size", f"{manifest.size / 1e6:.1f} MB"),
    ]


def _provenance(manifest: Manifest) -> list[tuple[str, str]]:
    return [
        ("base model", manifest.base_model),
        ("revision", manifest.base_revision),
        ("git commit", manifest.git_commit or "unknown"),
        *((f"{step} artifact", digest) for step, digest in manifest.artifacts.items()),
        ("libraries", ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())),
    ]


def _receipt(model: ModelStore, manifest: Manifest) -> Receipt | None:
    """The decision that promoted a version, where it was published with one."""
    if RECEIPT not in manifest.files:
        return None
    import tempfile

    from retrainer.gate.records import Receipt

    with tempfile.TemporaryDirectory(prefix="retrainer-") as folder:
        model.fetch(manifest.version, Path(folder), [RECEIPT])
        data = (Path(folder) / RECEIPT).read_bytes()
    return Receipt.from_json(data, where=f"{RECEIPT} of version {manifest.version}")


def history(
    store: StoreArgument, model: ModelArgument, channel: ChannelOption = DEFAULT_CHANNEL, as_json: JsonOption = False
) -> None:
    """List who moved a channel, when, from what to what and why; newest first. The chain is verified."""
    found = open_model(store, model)
    entries = found.history(channel)
    if not entries:
        raise _no_such_channel(found, channel)
    if as_json:
        display.print_json([entry.model_dump(mode="json") for entry in entries])
        return
    display.print_table(
        ("move", "at", "action", "from", "to", "by", "reason"),
        [
            [
                str(entry.sequence),
                _time(entry.at),
                entry.action,
                entry.from_version or "-",
                entry.to_version,
                entry.actor,
                entry.reason,
            ]
            for entry in entries
        ],
    )


def rollback(
    store: StoreArgument,
    model: ModelArgument,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; it stays in the channel's history.", show_default=False)
    ],
    channel: ChannelOption = DEFAULT_CHANNEL,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="The version to serve; the champion before unless given.", show_default=False
        ),
    ] = None,
) -> None:
    """Move a channel back to an earlier version.

    The version is fetched, verified file by file, loaded and asked its golden rows before the channel moves.
    Clients follow within their watch interval. The same bundle is not promoted again by itself.
    """
    from retrainer.run import default_actor

    if not reason.strip():
        raise typer.BadParameter("say why, for whoever reads the history", param_hint="--reason")
    found = open_model(store, model)
    moved = found.rollback(channel, to=to, actor=default_actor(), reason=reason.strip(), check=_loads)
    if moved.moved:
        typer.echo(f"{channel} of {model} serves {moved.version} now, before {moved.previous}")
    else:
        typer.echo(f"{channel} of {model} serves {moved.version} already; nothing moved")


def _loads(folder: Path) -> None:
    """Load the fp32 graph of a version as a client does, golden rows included.

    Whether int8 answers alike depends on the CPU, and a client that finds otherwise uses fp32.
    """
    require("serve")
    from retrainer.serve import Classifier

    Classifier.from_folder(folder, precision="fp32")


def open_store(url: str) -> Store:
    """The store.

    :raises NotFoundError: a folder that does not exist; an empty answer would hide a mistyped path.
    """
    from retrainer.storage import open_storage
    from retrainer.store import Store

    folder = open_storage(url).local_path("")
    if folder is not None and not folder.is_dir():
        raise NotFoundError("no such store", where=url, hint="give what the pipeline file says under publish.store")
    return Store.open(url)


def open_model(url: str, name: str) -> ModelStore:
    """A model of a store.

    :raises NotFoundError: the store does not have it.
    """
    store = open_store(url)
    names = store.models()
    if name not in names:
        holds = f"it holds {', '.join(names)}" if names else "it holds no model"
        raise NotFoundError(f"no model '{name}'", where=url, hint=holds)
    return store.model(name)


def champion(model: ModelStore, channel: str) -> Manifest:
    """What a channel serves.

    :raises NotFoundError: nothing.
    """
    manifest = model.champion(channel)
    if manifest is None:
        raise _no_such_channel(model, channel)
    return manifest


def _no_such_channel(model: ModelStore, channel: str) -> NotFoundError:
    channels = model.channels()
    hint = f"its channels: {', '.join(channels)}" if channels else "nothing was published yet"
    return NotFoundError(f"no channel '{channel}'", where=f"model {model.name}", hint=hint)


def _cell(row: dict[str, Any], name: str) -> str:
    if name == "metrics":
        from retrainer.report import scores

        return f"damaged: {row['problem']}" if row["problem"] else scores(row["metrics"]) or "-"
    if row[name] is None:
        return "-"
    return _time(row[name]) if name == "moved_at" else str(row[name])


def _time(at: str) -> str:
    """A time of the store as people read it, to the second, in UTC."""
    return datetime.fromisoformat(at).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
