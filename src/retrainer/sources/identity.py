"""What identifies the content of a source, so that the same data is ingested once wherever it is."""

from __future__ import annotations

from pathlib import Path

from retrainer.errors import DataError
from retrainer.records import digest_of, sha256_file
from retrainer.sources.files import expand, near_hint, unreadable, visible_files
from retrainer.sources.hub import commit_of
from retrainer.spec.dataset import HubDataset, HubSource
from retrainer.spec.delimited import Csv


def fingerprint(source: HubSource | tuple[str, ...], csv: Csv | None = None) -> str:
    """A digest of the files' contents, or name and commit on the hub; neither says where the data is.

    Files count in their order and by format; their names do not. On S3 the ETag represents the content.

    :param csv: what the pipeline says of files of rows and fields; it may name files of any suffix.
    :raises DataError: the source does not exist or cannot be read.
    :raises StorageError: a bucket cannot be read.
    """
    if isinstance(source, HubSource):
        return _hub(source.hub)
    return digest_of({"files": [[file.format, file.fingerprint()] for file in expand(source, csv)]})


def is_folder(hub: HubDataset) -> bool:
    """Whether it is a dataset in a local folder. Paths in a pipeline are absolute once it has been loaded."""
    return Path(hub.path).is_absolute()


def dataset_commit(hub: HubDataset) -> str:
    """The commit of a dataset on the hub.

    :raises DataError: it cannot be found out.
    """
    return commit_of(
        hub.path,
        hub.revision,
        kind="dataset",
        where=f"dataset {hub.path}",
        instead="name files",
        error=DataError,
    )


def _hub(hub: HubDataset) -> str:
    if not is_folder(hub):
        name = f"{hub.path}/{hub.name}" if hub.name else hub.path
        return f"hub:{name}@{dataset_commit(hub)}:{hub.split}"
    folder = Path(hub.path)
    if not folder.is_dir():
        raise DataError("no such folder", where=hub.path, hint=near_hint(folder))
    # A dataset in a folder finds its splits by file names, so here they belong to the content.
    try:
        files = {file.relative_to(folder).as_posix(): sha256_file(file) for file in visible_files(folder)}
    except OSError as error:
        raise unreadable(error, str(error.filename or folder)) from None
    return digest_of({"files": files, "name": hub.name, "split": hub.split})
