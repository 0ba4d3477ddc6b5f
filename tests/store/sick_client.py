"""A process that does with a store what it is told, and tells how that ended: one line of JSON each.

Run as ``python -m tests.store.sick_client STORE FOLDER``, so that its memory is its own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrainer.errors import RetrainerError
from retrainer.storage import open_storage
from retrainer.store import Keyring, Manifest, ModelStore, Signer
from retrainer.store.fsck import check_store

SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
TRUSTED = Keyring((SIGNER.public,))


class Client:
    """What is done with a model, each time anew."""

    def __init__(self, url: str, bundles: Path) -> None:
        self._url = url
        self._bundles = bundles
        self._copies = 0

    def _model(self) -> ModelStore:
        return ModelStore(open_storage(self._url), "news", signer=SIGNER, trusted=TRUSTED)

    def load(self) -> str:
        model = self._model()
        move = model.newest_move("production")
        assert move is not None
        self._copies += 1
        model.fetch(move.to_version, self._bundles / f"copy {self._copies}", sha256=move.manifest_sha256)
        return move.to_version

    def watch(self) -> str:
        first = next(iter(self._model().history("production", limit=2)[1:]))
        return self._model().move_after(first).to_version

    def publish(self, number: int) -> str:
        folder = self._bundles / f"{number:04d}"
        manifest = Manifest.from_json((folder / "manifest").read_bytes(), where=str(folder))
        model = self._model()
        live = model.newest_move("production")
        expected = live.to_version if live else None
        return model.publish(
            folder, manifest, channel="production", actor="ada", reason="", decision=None, expected=expected
        ).version

    def promote(self) -> str:
        return self._model().promote("staging", from_channel="production", actor="ada", reason="").version

    def fsck(self) -> str:
        return ", ".join(
            str(finding.code) for finding in check_store(open_storage(self._url), trusted=TRUSTED).findings
        )


def main(url: str, bundles: str) -> None:
    client = Client(url, Path(bundles))
    for line in sys.stdin:
        operation, _, number = line.strip().partition(" ")
        began = time.monotonic()
        act: Callable[..., str] = getattr(client, operation)
        try:
            said, error = act(*([int(number)] if number else [])), ""
        except RetrainerError as refused:
            said, error = "", str(refused)
        except Exception as broken:  # noqa: BLE001 - what is looked for
            said, error = "", f"BROKEN {type(broken).__name__}: {broken}"
        seconds = time.monotonic() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({"said": said, "error": error, "seconds": seconds, "peak": peak}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
