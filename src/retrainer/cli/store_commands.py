"""``retrainer models``, ``versions`` and ``show``: a look into a store of published models.

Not here: the moves of a channel (``history_command``), and what changes a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrainer.cli import display
from retrainer.cli.store_options import (
    DEFAULT_CHANNEL,
    ChannelOption,
    JsonOption,
    ModelArgument,
    PublicKeysOption,
    StoreArgument,
    VersionOption,
    champion,
    open_model,
    open_store,
    trusted_keys,
)
from retrainer.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from retrainer.gate.receipt import Receipt
    from retrainer.store import Manifest, ModelStore, VersionInfo

RECEIPT = "receipt.json"
MOST_LABELS = 20
NO_VERSION: dict[str, Any] = {
    "version": None,
    "moves": 0,
    "moved_at": None,
    "task": None,
    "metrics": {},
    "problem": None,
}


def models(store: StoreArgument, public_key: PublicKeysOption = None, as_json: JsonOption = False) -> None:
    """List the models of a store and what their channels serve."""
    opened = open_store(store, public_keys=public_key)
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
        move = model.newest_move(channel)
        if move is None:
            return {}
        row |= {"version": move.to_version, "moves": move.sequence, "moved_at": move.at}
        manifest = model.manifest(move.to_version)
    except (IntegrityError, NotFoundError) as error:
        return row | {"problem": str(error)}
    return row | {"task": manifest.task, "metrics": dict(manifest.metrics)}


def versions(
    store: StoreArgument,
    model: ModelArgument,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 20,
    public_key: PublicKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the versions that a model's channels were last pointed at, newest first."""
    found = open_model(store, model, public_keys=public_key).versions(limit=limit)
    if as_json:
        display.print_json([_version_record(info) for info in found])
        return
    display.print_table(
        ("version", "channels", "moved at", "metrics"),
        [
            [
                info.version,
                ", ".join(info.channels) or "-",
                display.utc(info.moved_at) if info.moved_at else "-",
                _scores(info.metrics, info.problem),
            ]
            for info in found
        ],
    )


def _version_record(info: VersionInfo) -> dict[str, Any]:
    return {
        "version": info.version,
        "channels": list(info.channels),
        "moved_at": info.moved_at,
        "metrics": info.metrics,
        "problem": info.problem,
    }


def show(
    store: StoreArgument,
    model: ModelArgument,
    version: VersionOption = None,
    channel: ChannelOption = DEFAULT_CHANNEL,
    public_key: PublicKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a published version: what it is, how it scored, why it was promoted, what it was made from, who signed."""
    found = open_model(store, model, public_keys=public_key)
    manifest = found.manifest(version) if version else champion(found, channel)
    receipt = _receipt(found, manifest)
    serving = _serving(found, manifest.version)
    signed_by = [each.signature.key_id for each in found.signatures(manifest.version)]
    if as_json:
        display.print_json(
            {
                "version": manifest.version,
                "channels": serving,
                "signed_by": signed_by,
                "manifest": manifest.model_dump(mode="json"),
                "receipt": receipt.model_dump(mode="json") if receipt else None,
            }
        )
        return
    about = [*_about(manifest, serving), ("signed by", _signers(signed_by, trusted_keys(public_key) is not None))]
    display.print_facts(about, title=f"{manifest.model} {manifest.version}")
    if receipt is not None:
        from retrainer.report.decision import explain

        display.print_lines(explain(receipt), title="Decision")
    display.print_facts(_provenance(manifest), title="Made from")
    files = [(name, f"{entry.size:>12,} bytes  {entry.sha256}") for name, entry in sorted(manifest.files.items())]
    display.print_facts(files, title="Files")


def _serving(model: ModelStore, version: str) -> list[str]:
    """The channels that serve a version. One that is damaged is another command's matter, and does not hide this."""
    serving = []
    for name in model.channels():
        try:
            move = model.newest_move(name)
        except IntegrityError:
            continue
        if move is not None and move.to_version == version:
            serving.append(name)
    return serving


def _signers(key_ids: list[str], checked: bool) -> str:
    """Who signed. Where a key is pinned, a version that is shown has passed, and these are keys that hold."""
    if not key_ids:
        return "nobody"
    return f"{', '.join(key_ids)} ({'checked' if checked else 'not checked: no public key is given'})"


def _about(manifest: Manifest, serving: list[str]) -> list[tuple[str, str]]:
    from retrainer.report.figures import listed, scores

    graphs = ", ".join(f"{name} ({entry.file})" for name, entry in manifest.precisions.items())
    return [
        ("channels", ", ".join(serving) or "no channel serves it now"),
        ("task", manifest.task),
        ("labels", listed(manifest.labels, most=MOST_LABELS)),
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

    from retrainer.gate.receipt import Receipt

    with tempfile.TemporaryDirectory(prefix="retrainer-") as folder:
        model.fetch(manifest.version, Path(folder), [RECEIPT])
        data = (Path(folder) / RECEIPT).read_bytes()
    return Receipt.from_json(data, where=f"{RECEIPT} of version {manifest.version}")


def _cell(row: dict[str, Any], name: str) -> str:
    if name == "metrics":
        return _scores(row["metrics"], row["problem"])
    if row[name] is None:
        return "-"
    return display.utc(row[name]) if name == "moved_at" else str(row[name])


def _scores(metrics: Mapping[str, float], problem: str | None) -> str:
    from retrainer.report.figures import scores

    return f"damaged: {problem}" if problem else scores(metrics) or "-"
