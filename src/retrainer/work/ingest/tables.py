"""Rows of Arrow tables: parquet files, and datasets that the `datasets` library reads."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retrainer.errors import DataError, first_line
from retrainer.sources.columns import Wanted, not_parquet, parquet_schema
from retrainer.sources.files import SourceFile
from retrainer.sources.identity import dataset_commit, is_folder
from retrainer.spec.dataset import HubDataset
from retrainer.tasks import that_writes
from retrainer.work.ingest.rows import RawRows, positions, raw_rows


def read_parquet(path: Path, file: SourceFile, name: str, wanted: Wanted) -> RawRows:
    """The wanted columns of a parquet file.

    :raises DataError: not parquet, no rows, a column is missing or holds lists or objects.
    """
    schema = parquet_schema(path, file)
    at = positions(schema.names, wanted, file.url)
    try:
        table = pq.read_table(path, columns=list(at))
    except (pa.ArrowException, ValueError, OSError) as error:
        raise not_parquet(error, file) from None
    names = _class_names(schema, wanted.label) if isinstance(wanted.label, str) else None
    return _rows(table, wanted, name, file.url, file.format, file.size, names)


def read_hub(hub: HubDataset, name: str, wanted: Wanted) -> RawRows:
    """The wanted columns of a dataset, through ``datasets``, at its commit.

    :raises DataError: the dataset, its configuration or its split does not exist or cannot be read.
    """
    import datasets

    where = f"dataset {hub.path}" + (f"/{hub.name}" if hub.name else "") + f", split {hub.split}"
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    # What `datasets` prepared from a folder stays valid in its cache after the folder changed; so none is kept.
    with tempfile.TemporaryDirectory(prefix="retrainer-datasets-") as cache:
        try:
            if is_folder(hub):
                dataset = _from_folder(hub, cache)
            else:
                dataset = datasets.load_dataset(hub.path, hub.name, revision=dataset_commit(hub), split=hub.split)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"cannot be read: {first_line(error)}", where=where, hint="check path, name and split"
            ) from error
        at = positions(dataset.column_names, wanted, where)
        feature = dataset.features[wanted.label_columns[0]]
        feature = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature
        # Of several columns each is its own label.
        is_named = isinstance(feature, datasets.ClassLabel) and isinstance(wanted.label, str)
        names = tuple(feature.names) if is_named else None
        table = dataset.select_columns(list(at)).with_format("arrow")[:]
        return _rows(table, wanted, name, where, "hub", None, names)


def _from_folder(hub: HubDataset, cache: str) -> Any:
    import datasets

    folder = Path(hub.path)
    saved = (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
    if not saved:
        return datasets.load_dataset(hub.path, hub.name, split=hub.split, cache_dir=cache)
    loaded = datasets.load_from_disk(hub.path)
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    lengths = {split: len(rows) for split, rows in splits.items()}
    wanted = datasets.ReadInstruction.from_spec(hub.split).to_absolute(lengths)
    parts = [splits[part.splitname].select(range(part.from_, part.to)) for part in wanted]
    return datasets.concatenate_datasets(parts)


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Label names that `datasets` wrote into a parquet file."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    try:
        feature = json.loads(metadata)["info"]["features"][column]
        # Of a list, the names of its members. It was written as a list of one feature once.
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        return tuple(feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (ValueError, KeyError, TypeError):
        return None  # somebody else's metadata


def _rows(
    table: pa.Table,
    wanted: Wanted,
    name: str,
    where: str,
    form: str,
    size: int | None,
    label_names: tuple[str, ...] | None,
) -> RawRows:
    for column in table.column_names:
        _refuse_nested(table.schema.field(column), where, wanted)

    def values(column: str) -> list[Any]:
        cells = table.column(column)
        if cells.type == pa.float32():
            cells = cells.cast(pa.string())  # 0.1, and not the double next to it
        try:
            found: list[Any] = cells.to_pylist()
        except (pa.ArrowException, ValueError, ArithmeticError, LookupError) as error:
            raise DataError(f"column '{column}' holds what cannot be read: {first_line(error)}", where=where) from None
        if column != wanted.label or label_names is None or wanted.sets:
            return found
        # -1 is what `datasets` writes where the label is not given, as in test splits of benchmarks.
        known = dict(enumerate(label_names)) if wanted.outputs else {}
        return [None if label == -1 else known.get(label, label) for label in found]

    return raw_rows(
        values,
        table.column_names,
        wanted,
        name=name,
        where=where,
        format=form,
        size=size,
        label_names=label_names,
    )


def _refuse_nested(field: pa.Field, where: str, wanted: Wanted) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    labels = is_list and field.name == wanted.label
    kind = kind.value_type if labels and wanted.sets else kind
    if pa.types.is_nested(kind):
        hint = "expected one of text, numbers, true and false"
        if labels and not wanted.sets:
            hint = f"rows with any number of labels are for task {that_writes('labels')}"
        raise DataError(f"column '{field.name}' holds {field.type}", where=where, hint=hint)
