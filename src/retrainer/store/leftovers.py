"""What killed writers left of a model: only below the folders of the layout, so that nobody else's is touched."""

from __future__ import annotations

from collections.abc import Iterator

from retrainer.storage import Leftover, Storage
from retrainer.store.names import FOLDERS


def leftovers_of(storage: Storage, model: str) -> Iterator[Leftover]:
    """Temporary files, and uploads in parts that were never completed.

    Other applications may upload to the same bucket, below a folder that looks like a model, too. On a folder their
    names tell whose they are.

    :raises StorageError: they cannot be listed. Some servers cannot, and a publisher's policy does not allow it.
    """
    if storage.local_path() is not None:
        yield from storage.leftovers(model)
        return
    for folder in FOLDERS:
        yield from storage.leftovers(f"{model}/{folder}")


def unlisted(error: Exception) -> str:
    """What to tell people where they cannot be listed; everything else goes on without."""
    return f"unfinished uploads could not be listed: {error}"
