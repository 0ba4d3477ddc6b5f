"""Airflow assets of a pipeline: the model that it publishes, the data that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from retrainer.errors import PipelineError
from retrainer.spec import Pipeline
from retrainer.spec.model import HubSource

if TYPE_CHECKING:
    from airflow.sdk import Asset

_GLOB = frozenset("*?[")


def model_asset(pipeline: Pipeline) -> Asset:
    """The published model: the moves of its channel. Other DAGs can be scheduled on it.

    Each event's ``extra`` holds ``version``, ``previous``, ``moved``, ``metrics``, ``decision``.
    """
    from airflow.sdk import Asset

    publish = pipeline.publish
    return Asset(
        name=f"retrainer/{pipeline.name}",
        uri=f"{_as_uri(publish.store)}/{pipeline.name}/channels/{publish.channel}",
        group="model",
    )


def data_assets(pipeline: Pipeline) -> list[Asset]:
    """The training data: one asset for each path, with the path as URI. For a glob, the folder above it.

    A task that writes the data declares them as its outlets: ``outlets=data_assets(pipeline)``.

    :raises PipelineError: the data is on the hub, where nobody tells Airflow that it changed.
    """
    from airflow.sdk import Asset

    source = pipeline.dataset.train
    if isinstance(source, HubSource):
        raise PipelineError(
            "on_new_data needs files: nothing tells Airflow when a dataset on the hub changes",
            where=f"{pipeline.name}: schedule.on_new_data",
            hint="give schedule.cron instead",
        )
    uris = dict.fromkeys(_as_uri(_without_glob(path)) for path in source)
    return [Asset(uri) for uri in uris]


def _without_glob(path: str) -> str:
    parts = path.split("/")
    for position, part in enumerate(parts):
        if _GLOB & set(part):
            return "/".join(parts[:position])
    return path


def _as_uri(place: str) -> str:
    if "://" in place and not place.startswith("file://"):
        return place.rstrip("/")
    path = unquote(place.removeprefix("file://")) if place.startswith("file://") else place
    return Path(path).absolute().as_uri()
