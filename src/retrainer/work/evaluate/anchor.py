"""The channel's anchor on the test rows: fetched and verified as the champion is, scored once for each set of texts.

Not here: whether a challenger may fall behind it (``gate``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import StepRequest
from retrainer.gate.answers import Said
from retrainer.precisions import REFERENCE
from retrainer.records import canonical_json, digest_of
from retrainer.store.bundle import BundleInfo
from retrainer.work.evaluate.champion import fetch_version
from retrainer.work.evaluate.held_out import HeldOutRows
from retrainer.work.evaluate.written import kept, said_again
from retrainer.work.reporter import Reporter

# Artifacts of this name are answers of published versions; no step is called so.
ANSWERS = "answers"
FILE = "answers.npz"


@dataclass(frozen=True, slots=True)
class FetchedAnchor:
    """The anchor.

    :param version: ``None`` where the channel has none, or nothing is held against it.
    :param folder: its bundle; ``None`` where it is the champion itself, or cannot be had.
    :param error: why it cannot be had.
    """

    version: str | None = None
    folder: Path | None = None
    info: BundleInfo | None = None
    error: str | None = None


def fetch_anchor(request: StepRequest, folder: Path, info: BundleInfo, reporter: Reporter) -> FetchedAnchor:
    """The anchor that the request was planned against. One that cannot be had is for the gate to judge.

    :param folder: where its bundle goes; does not exist.
    :param info: of the challenger.
    :raises StorageError: the store cannot be reached.
    """
    version = request.identity["anchor"]
    if version is None or version == request.identity["champion"]:
        return FetchedAnchor(version)
    fetched = fetch_version(request, version, folder, info.task)
    if isinstance(fetched, str):
        reporter.log(f"the channel's anchor, version {version}, cannot be asked: {fetched}", level="warning")
        return FetchedAnchor(version, error=fetched)
    return FetchedAnchor(version, folder, fetched)


def anchor_answers(
    request: StepRequest,
    anchor: FetchedAnchor,
    rows: HeldOutRows,
    labels: tuple[str, ...],
    score: Callable[..., Said],
    reporter: Reporter,
) -> Said | None:
    """What the anchor says of each row, from the artifacts where it was asked the same texts before; ``None`` where it
    need not or cannot be asked.

    :param score: the task's own, which asks a bundle.
    """
    if anchor.folder is None:
        return None
    identity = {
        "format": 1,
        "version": anchor.version,
        "texts": hashlib.sha256(canonical_json(rows.texts)).hexdigest(),
        "labels": list(labels),
        "store": request.pipeline.publish.store,
        "name": request.pipeline.name,
    }
    artifacts = Artifacts(request.root)
    digest = digest_of(identity)
    with artifacts.lock(ANSWERS, digest, holder=request.holder, say=reporter.log):
        if artifacts.find(ANSWERS, digest) is None:
            answers = score(anchor.folder, REFERENCE, rows, labels, reporter, name=f"anchor {anchor.version}")
            with artifacts.staging(ANSWERS, digest) as staging:
                np.savez(staging / FILE, **kept(answers))
                artifacts.commit(
                    staging,
                    step=ANSWERS,
                    digest=digest,
                    identity=identity,
                    inputs={},
                    output={},
                    created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                )
        else:
            reporter.log(
                f"the anchor, version {anchor.version}, answered these rows before: its answers are used again"
            )
        with np.load(artifacts.fetch(ANSWERS, digest) / FILE) as arrays:
            return said_again(dict(arrays), rows)
