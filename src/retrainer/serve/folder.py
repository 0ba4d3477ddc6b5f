"""A bundle from a folder: one that was just exported, or a version that somebody fetched.

Where a manifest lies beside it, the folder says that it is that version. Then what is read of it must be.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from retrainer.errors import IntegrityError
from retrainer.regular_files import read_regular
from retrainer.serve.cached_version import graph_files, small_files
from retrainer.serve.encoding import TOKENIZER
from retrainer.serve.golden import GOLDEN
from retrainer.serve.loading import Loading, load_checked
from retrainer.serve.predictor import BUNDLE
from retrainer.serve.served import Served
from retrainer.store.manifest import Manifest
from retrainer.store.names import MANIFEST
from retrainer.store.versions import matches

UNPUBLISHED = "unpublished"


def load_folder(folder: Path, loading: Loading) -> Served:
    """Load it. Without a manifest it is ``unpublished``, and only its golden rows are asked.

    :raises IntegrityError: a file is missing or damaged, or is not what the manifest says, or the model does not answer
        as where it was made.
    """
    manifest = _read_manifest(folder / MANIFEST)
    if manifest is None:
        predictor = load_checked(folder, loading)
        return Served(UNPUBLISHED, None, predictor, None, datetime.now(UTC))
    for name in sorted({BUNDLE, TOKENIZER, GOLDEN, *small_files(manifest)}):
        _check(folder, manifest, name)

    def need(precision: str) -> None:
        for name in graph_files(manifest, precision):
            _check(folder, manifest, name)

    predictor = load_checked(folder, loading, need=need)
    for graph in predictor.info.precisions[predictor.precision].files:
        if graph not in graph_files(manifest, predictor.precision):
            raise _another(folder / graph)
    return Served(manifest.version, manifest, predictor, None, datetime.now(UTC))


def _check(folder: Path, manifest: Manifest, name: str) -> None:
    entry = manifest.files.get(name)
    if entry is None or not matches(folder / name, entry):
        raise _another(folder / name)


def _another(path: Path) -> IntegrityError:
    return IntegrityError(
        "not the file that the manifest beside it names"
        if path.is_file()
        else "the manifest names it, and it is missing",
        where=str(path),
        hint=f"fetch the version again; remove {MANIFEST} where the bundle was changed on purpose",
    )


def _read_manifest(path: Path) -> Manifest | None:
    try:
        data = read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IntegrityError(f"the manifest cannot be read: {error.strerror}", where=str(path)) from None
    return Manifest.from_json(data, where=str(path))
