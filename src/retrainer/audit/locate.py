"""Where a receipt is, and where its evidence is: in an artifact root, a store, or by itself; and what is known there.

Not here: whether the receipt is what its evidence gives (``check.py``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrainer.artifacts.evaluation import EvaluationRecord
from retrainer.artifacts.repository import ArtifactManifest, Artifacts
from retrainer.errors import NotFoundError
from retrainer.gate.receipt import Receipt
from retrainer.records import digest_of, sha256_file
from retrainer.storage import is_s3, open_storage
from retrainer.storage.errors import filesystem_errors
from retrainer.store import Keyring, Manifest, Store
from retrainer.store.names import MANIFEST, version_key

RECEIPT = "receipt.json"

_IN_ARTIFACTS = re.compile(r"(?P<root>.+)/decide/(?P<digest>[0-9a-f]{64})(?:/[0-9a-f]{12})?(?:/receipt\.json)?/?")
_IN_STORE = re.compile(r"(?P<store>.+)/(?P<model>[^/]+)/versions/(?P<version>[0-9a-f]{16})(?:/receipt\.json)?/?")


@dataclass(frozen=True, slots=True)
class FoundReceipt:
    """The bytes of a receipt, and what is known about them where they lie.

    :param root: of the artifacts, where it is among them.
    :param artifact: the manifest of its decide artifact.
    :param published: the manifest of its version, whose own name was checked.
    :param decision: the digest that it must have; ``None`` where nothing says so.
    :param said_by: who says so, in words.
    """

    where: str
    data: bytes
    root: str | None = None
    artifact: ArtifactManifest | None = None
    published: Manifest | None = None
    decision: str | None = None
    said_by: str = ""

    @property
    def sha256(self) -> str | None:
        """What the manifest says of the file."""
        if self.artifact is not None:
            return self.artifact.files[RECEIPT].sha256 if RECEIPT in self.artifact.files else None
        if self.published is not None:
            return self.published.files[RECEIPT].sha256 if RECEIPT in self.published.files else None
        return None


def find_receipt(location: str) -> FoundReceipt:
    """The receipt at a path, ``file://`` or ``s3://``; also of the folder, artifact or run folder that holds one.

    :raises NotFoundError: there is none.
    :raises RetrainerError: it, or the manifest beside it, cannot be read.
    """
    place = location if is_s3(location) else _resolved(location)
    if match := _IN_ARTIFACTS.fullmatch(place):
        return decided_receipt(Artifacts(match["root"]), match["digest"], where=location)
    if match := _IN_STORE.fullmatch(place):
        return published_receipt(match["store"], match["model"], match["version"])
    folder, _, name = place.rpartition("/")
    storage = open_storage(folder or "/")
    data = storage.read(name)
    published = None
    if storage.exists(MANIFEST):
        published = Manifest.from_json(storage.read(MANIFEST), where=storage.where(MANIFEST))
    return FoundReceipt(where=location, data=data, published=published, **_decided_as(published))


def decided_receipt(artifacts: Artifacts, digest: str, *, where: str | None = None) -> FoundReceipt:
    """The receipt of a decide artifact.

    :param where: to call it in errors; where it is by default.
    :raises ArtifactError: there is no such artifact, or its manifest cannot be read.
    :raises NotFoundError: it has no receipt.
    """
    manifest = artifacts.get("decide", digest)
    key = "/".join(part for part in ("decide", manifest.digest, manifest.upload, RECEIPT) if part)
    storage = open_storage(artifacts.root)
    return FoundReceipt(
        where=where or storage.where(key),
        data=storage.read(key),
        root=artifacts.root,
        artifact=manifest,
        decision=digest,
        said_by="the name of its decide artifact",
    )


def _resolved(location: str) -> str:
    """The path without links: those of a run folder lead into the artifacts."""
    path = open_storage(location).local_path("") if location.startswith("file://") else Path(location).expanduser()
    assert path is not None
    with filesystem_errors(location):
        for candidate in (path, path / RECEIPT, path / "decide" / RECEIPT):
            if candidate.is_file():
                return str(candidate.resolve())
    raise NotFoundError(
        "there is no receipt",
        where=location,
        hint="give receipt.json of a decide artifact, of a run folder or of a published version",
    )


def published_receipt(store: str, model: str, version: str, *, trusted: Keyring | None = None) -> FoundReceipt:
    """The receipt of a published version.

    :param trusted: public keys, of which one must have signed the version.
    :raises NotFoundError: no such model or version, or one without a receipt.
    :raises IntegrityError: the version's manifest was altered, or is not signed as it must be.
    """
    manifest = Store.open(store, trusted=trusted).model(model).manifest(version)
    storage = open_storage(store)
    key = version_key(model, manifest.version, RECEIPT)
    if RECEIPT not in manifest.files:
        raise NotFoundError("the version was published without a receipt", where=storage.where(key))
    return FoundReceipt(where=storage.where(key), data=storage.read(key), published=manifest, **_decided_as(manifest))


def _decided_as(manifest: Manifest | None) -> dict[str, Any]:
    if manifest is None or "decide" not in manifest.artifacts:
        return {}
    return {"decision": manifest.artifacts["decide"], "said_by": f"the manifest of version {manifest.version}"}


def find_evidence(
    found: FoundReceipt, receipt: Receipt, artifacts: str | None, evaluation: str | None, notes: list[str]
) -> tuple[Path, str, list[str]]:
    """The folder of the evaluate artifact, where it was found, and what of it is not as it was recorded.

    :param artifacts: a root; the one that the receipt is in unless given.
    :param evaluation: the folder itself, instead.
    :param notes: what could not be checked is added.
    :raises NotFoundError: it is not there, or not whole.
    """
    digest = receipt.digests.get("evaluate", "")
    if evaluation is not None:
        folder = Path(evaluation).expanduser()
        if not (folder / EvaluationRecord.file).is_file():
            raise _missing(f"no {EvaluationRecord.file} in that folder", evaluation)
        if not (folder / ArtifactManifest.file).is_file():
            taken = f"{EvaluationRecord.file} is taken as it is, the predictions were checked"
            notes.append(f"the folder has no {ArtifactManifest.file}: {taken}")
            return folder, evaluation, []
        manifest = ArtifactManifest.load(folder)
        return folder, evaluation, _evidence_problems(folder, manifest, digest)
    root = artifacts or found.root
    if root is None:
        raise _missing("the receipt is not in an artifact root", found.where)
    folder, problems = evaluated_in(Artifacts(root), digest)
    return folder, f"{root}/evaluate/{digest}", problems


def evaluated_in(artifacts: Artifacts, digest: str) -> tuple[Path, list[str]]:
    """The folder of an evaluate artifact, and what of it is not as it was recorded.

    :raises NotFoundError: it is not there, or not whole.
    :raises ArtifactError: it was altered in its bucket, or in the copy of it here: there is nothing to decide by.
    """
    manifest = artifacts.find("evaluate", digest) if digest else None
    if manifest is None:
        raise _missing(f"no evaluate artifact {digest[:12]}", artifacts.root)
    folder = artifacts.local / "evaluate" / digest
    if artifacts.remote:
        artifacts.fetch("evaluate", digest)
    return folder, _evidence_problems(folder, manifest, digest)


def _missing(what: str, where: str) -> NotFoundError:
    return NotFoundError(
        f"evidence missing: {what}",
        where=where,
        hint="give the root of the artifacts (--artifacts), or the folder of the evaluate artifact (--evaluation)",
    )


def _evidence_problems(folder: Path, manifest: ArtifactManifest, digest: str) -> list[str]:
    """Whether the files are those that the evaluate step wrote for this decision.

    :raises NotFoundError: one of them is gone, so that nothing can be said.
    """
    problems = []
    if digest not in {manifest.digest, ""} or digest_of(manifest.identity) != manifest.digest:
        problems.append(f"evidence exchanged: the manifest is not that of evaluate artifact {digest[:12]}")
    for name, entry in manifest.files.items():
        path = folder / name
        if name != EvaluationRecord.file and not name.endswith(".parquet"):
            continue  # plots decide nothing
        if not path.is_file():
            raise _missing(f"{name} of the evaluate artifact is gone", str(folder))
        with filesystem_errors(str(path)):
            sha256 = sha256_file(path)
        if sha256 != entry.sha256:
            what = "evaluation changed" if name == EvaluationRecord.file else "predictions changed"
            problems.append(
                f"{what}: {name} has sha256 {sha256[:12]}..., the evaluate step wrote {entry.sha256[:12]}..."
            )
    return problems
