"""Airflow assets of a pipeline: the model that it publishes, what is decided about it, the data that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from airflow.sdk import Asset, AssetAlias, BaseOperator

from retrainer.errors import PipelineError
from retrainer.spec import Pipeline
from retrainer.spec.dataset import HubSource
from retrainer.spec.publish import Publish

_GLOB = frozenset("*?[")
# The outlet of a task that learns only when it runs which model it moves.
MOVED_MODELS = AssetAlias(name="retrainer/moved-models")
# That of a task which does not make an event each time that it succeeds.
DECISIONS = AssetAlias(name="retrainer/decisions")


def model_asset(pipeline: Pipeline) -> Asset:
    """The published model: the moves of its channel. Other DAGs can be scheduled on it.

    Each event's ``extra`` holds ``version``, ``previous``, ``moved``, ``metrics``, ``decision``; of a move by hand
    also who moved it and why, and ``decision`` is then the one that its version was published by.
    """
    return channel_asset(pipeline.name, pipeline.publish, pipeline.publish.channel)


def channel_asset(model: str, publish: Publish, channel: str) -> Asset:
    """The same of any channel of a model."""
    # A channel may be called as the asset of the decisions is.
    other = f"/channels/{channel}" if channel == "decisions" else f"/{channel}"
    return Asset(
        name=f"retrainer/{model}" + ("" if channel == publish.channel else other),
        uri=f"{_as_uri(publish.store)}/{model}/channels/{channel}",
        group="model",
    )


def decisions_asset(pipeline: Pipeline) -> Asset:
    """What is decided about a pipeline's model, refusals too. Other DAGs can be scheduled on it.

    Each event's ``extra`` holds ``verdict`` (of the gate: ``promote`` or ``refuse``; of a person: ``approve`` or
    ``reject``), ``by``, ``reasons`` as a list of ``code`` and ``detail``, ``text``, ``model``, ``channel``,
    ``champion``, ``metrics``, ``decision`` and ``dry_run``.
    """
    publish = pipeline.publish
    return Asset(
        name=f"retrainer/{pipeline.name}/decisions",
        uri=f"{_as_uri(publish.store)}/{pipeline.name}/decisions",
        group="model",
    )


def tell(task: BaseOperator, context: Any, asset: Asset, extra: Mapping[str, Any]) -> None:
    """Describe what happened to an asset in the event that Airflow makes of it when the task succeeds."""
    if asset in task.outlets:
        context["outlet_events"][asset].extra = dict(extra)
        return
    for alias in (MOVED_MODELS, DECISIONS):
        if alias in task.outlets:
            context["outlet_events"][alias].add(asset, extra=dict(extra))


def data_assets(pipeline: Pipeline) -> list[Asset]:
    """The training data: one asset for each path, with the path as URI. For a glob, the folder above it.

    A task that writes the data declares them as its outlets: ``outlets=data_assets(pipeline)``.

    :raises PipelineError: the data is on the hub, where nobody tells Airflow that it changed.
    """
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
