"""The demo's own folders inside the checkout, and the files in them that change during its story."""

from __future__ import annotations

import csv
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parent.parent
EXAMPLE = CHECKOUT / "examples" / "trail_status"
LOCK = "lock"
PIPELINE = CHECKOUT / "dags" / "pipelines" / "trail_status.yaml"


class WorkspaceBusy(Exception):
    """Another demo runs in this checkout. The message is for people."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where the demo keeps what it makes: ``.demo`` (data, pipeline, artifacts, store) and ``.airflow``."""

    folder: Path = CHECKOUT / ".demo"
    airflow_home: Path = CHECKOUT / ".airflow"
    dags: Path = CHECKOUT / "dags"
    plugins: Path = CHECKOUT / "plugins"

    @property
    def pipeline_file(self) -> Path:
        """The pipeline that is run: the one of ``dags/pipelines``, on the demo's copy of the data."""
        return self.folder / "pipelines" / PIPELINE.name

    @property
    def data_file(self) -> Path:
        """The training data: what the nightly export of the story writes."""
        return self.folder / "data" / "train.csv"

    @property
    def store(self) -> Path:
        """The model store."""
        return self.folder / "store"

    @property
    def environment(self) -> dict[str, str]:
        """What Airflow has to know to use these folders."""
        return {
            "RETRAINER_PIPELINES": str(self.pipeline_file.parent),
            "RETRAINER_ARTIFACT_ROOT": str(self.folder / "artifacts"),
            "HF_HUB_OFFLINE": "1",
        }

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else uses these folders meanwhile; released however the holder ends.

        :raises WorkspaceBusy: somebody does.
        """
        self.airflow_home.mkdir(parents=True, exist_ok=True)
        with (self.airflow_home / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkspaceBusy(f"another demo uses {self.airflow_home}; stop it first") from None
            yield

    def clear(self) -> None:
        """Forget what an earlier demo made."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for entry in self.airflow_home.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()

    def fill(self) -> None:
        """Copy data and pipeline; what is there stays."""
        self.data_file.parent.mkdir(parents=True, exist_ok=True)
        self.pipeline_file.parent.mkdir(parents=True, exist_ok=True)
        for name in ("train.csv", "test.csv"):
            if not (self.data_file.parent / name).exists():
                shutil.copy(EXAMPLE / name, self.data_file.parent / name)
        pipeline = yaml.safe_load(PIPELINE.read_text())
        pipeline["dataset"] |= {
            "train": str(self.data_file),
            "test": str(self.data_file.parent / "test.csv"),
        }
        pipeline["publish"]["store"] = str(self.store)
        self.pipeline_file.write_text(yaml.safe_dump(pipeline, sort_keys=False))

    def restore_labels(self) -> None:
        """The data as it was."""
        shutil.copy(EXAMPLE / "train.csv", self.data_file)

    def swap_labels(self) -> int:
        """Call every open trail closed and the other way round.

        :return: the number of rows.
        """
        other = {"open": "closed", "closed": "open"}
        with (EXAMPLE / "train.csv").open(newline="", encoding="utf-8") as source:
            rows = list(csv.DictReader(source))
        with self.data_file.open("w", newline="", encoding="utf-8") as target:
            writer = csv.DictWriter(target, ["status", "label"])
            writer.writeheader()
            writer.writerows({**row, "label": other[row["label"]]} for row in rows)
        return len(rows)
