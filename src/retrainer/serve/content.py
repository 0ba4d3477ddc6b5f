"""Files of the cache by their content: what several versions have in common is kept, and fetched, once.

::

    <cache>/.content/<sha256>      a hard link to the file of some version; never written into

Version folders hold hard links to the same files, so nothing is copied, and the number of links tells when no version
needs a file any more. Where a file system has no hard links, nothing is shared, and each version has its own files.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from retrainer.store.manifest import FileEntry
from retrainer.store.versions import matches

# After this long, the process that was putting a file in place is taken to have been killed.
_ABANDONED_SECONDS = 3600.0


class Content:
    """The folder ``.content`` of a cache, shared by all its models."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / ".content"

    def place(self, entry: FileEntry, target: Path) -> bool:
        """Put a file of that content there, replacing what is there; ``False`` when there is none, or none sound."""
        path = self._folder / entry.sha256
        temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, temporary)
        except OSError:
            return False
        try:
            # Checked under its new name: the one in the folder may be removed at any time.
            if matches(temporary, entry):
                temporary.replace(target)
                return True
        finally:
            temporary.unlink(missing_ok=True)
        with suppress(OSError):
            path.unlink()
        return False

    def add(self, entry: FileEntry, source: Path) -> None:
        """Share a file that was just checked. A cache that cannot share it works without."""
        path = self._folder / entry.sha256
        temporary = path.with_name(f".{entry.sha256}-{uuid.uuid4().hex[:8]}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.samefile(source):
                return
            os.link(source, temporary)
            temporary.replace(path)
        except OSError:
            return
        finally:
            # Where both names were one file already, renaming leaves the temporary one.
            temporary.unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove what no version has any more. Safe beside processes that add and place."""
        for path in self._files():
            # A file that is being placed has its second link by now, or the placing finds nothing and fetches.
            with suppress(OSError):
                state = path.stat()
                abandoned = path.name.startswith(".") and time.time() - state.st_ctime > _ABANDONED_SECONDS
                if state.st_nlink == 1 or abandoned:
                    path.unlink()

    def _files(self) -> Iterator[Path]:
        with suppress(FileNotFoundError):
            yield from list(self._folder.iterdir())
