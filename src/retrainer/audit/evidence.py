"""Where the evidence of a receipt lies, and whether its files are those that the evaluate step wrote."""

from __future__ import annotations

from pathlib import Path

from retrainer.artifacts.repository import MANIFEST, ArtifactManifest, Artifacts
from retrainer.audit.receipts import FoundReceipt
from retrainer.errors import NotFoundError
from retrainer.gate.records import Receipt
from retrainer.records import digest_of, sha256_file
from retrainer.storage.errors import filesystem_errors

EVALUATION = "evaluation.json"


def find_evidence(
    found: FoundReceipt, receipt: Receipt, artifacts: str | None, evaluation: str | None, notes: list[str]
) -> tuple[Path, str, list[str]]:
    """The folder of the evaluate artifact, where it was found, and what of it is not as it was recorded.

    :param artifacts: a root; that in which the receipt lies unless given.
    :param evaluation: the folder itself, instead.
    :param notes: what could not be checked is added.
    :raises NotFoundError: it is not there, or not whole.
    """
    digest = receipt.digests.get("evaluate", "")
    if evaluation is not None:
        folder = Path(evaluation).expanduser()
        if not (folder / EVALUATION).is_file():
            raise _missing(f"no {EVALUATION} in that folder", evaluation)
        if not (folder / MANIFEST).is_file():
            notes.append(
                f"the folder has no {MANIFEST}: {EVALUATION} itself is taken as it is, the predictions were checked"
            )
            return folder, evaluation, []
        manifest = ArtifactManifest.from_json((folder / MANIFEST).read_bytes(), where=str(folder / MANIFEST))
        return folder, evaluation, _evidence_problems(folder, manifest, digest)
    root = artifacts or found.root
    if root is None:
        raise _missing("the receipt lies in no artifact root", found.where)
    opened = Artifacts(root)
    found_manifest = opened.find("evaluate", digest) if digest else None
    if found_manifest is None:
        raise _missing(f"no evaluate artifact {digest[:12]}", root)
    folder = opened.local / "evaluate" / digest
    if opened.remote:
        # What was altered in the bucket, or in the copy of it here, is an error: there is nothing to decide by.
        opened.fetch("evaluate", digest)
    return folder, f"{root}/evaluate/{digest}", _evidence_problems(folder, found_manifest, digest)


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
        if name != EVALUATION and not name.endswith(".parquet"):
            continue  # plots decide nothing
        if not path.is_file():
            raise _missing(f"{name} of the evaluate artifact is gone", str(folder))
        with filesystem_errors(str(path)):
            sha256 = sha256_file(path)
        if sha256 != entry.sha256:
            what = "evaluation changed" if name == EVALUATION else "predictions changed"
            problems.append(
                f"{what}: {name} has sha256 {sha256[:12]}..., the evaluate step wrote {entry.sha256[:12]}..."
            )
    return problems
