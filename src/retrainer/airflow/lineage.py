"""What OpenLineage is told of a step, where Airflow's openlineage provider is installed: what it read, what it left.

Data, base model, artifacts and the published model are datasets; metrics are a facet of what was made. Pipeline,
verdict and what the run changed are one of the run. The provider asks for it once the task has succeeded, in a process
of its own. Not here: which step that was (``step_operator.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from retrainer.chain import INGEST, TRAIN, Evaluated, Published, StepRef, step_named
from retrainer.spec import Pipeline
from retrainer.spec.dataset import HubSource
from retrainer.storage import join_url

HUB = "huggingface"
FACET = "retrainer"


def lineage_of(ref: StepRef, pipeline: Pipeline, inputs: Mapping[str, str]) -> Any:
    """An ``OperatorLineage``.

    :param ref: what the step left.
    :param inputs: step to digest of the artifacts that it read.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.facet_v2 import RunFacet
    from openlineage.client.generated.base import InputDataset, OutputDataset

    output = None if ref.unchanged else step_named(ref.step).output_of(ref)
    run: dict[str, Any] = {
        "pipeline": pipeline.name,
        "artifact": ref.digest,
        "reused": ref.reused,
        "unchanged": ref.unchanged is not None,
        "changes": ref.changes.lines(),
        **{name: ref.output[name] for name in ("verdict", "reasons", "champion_version") if name in ref.output},
    }
    read = (*_artifacts(ref.root, inputs), *_sources(ref, pipeline), *_champion(output, pipeline))
    return OperatorLineage(
        inputs=[InputDataset(namespace=namespace, name=name) for namespace, name in dict.fromkeys(read)],
        outputs=[
            OutputDataset(namespace=namespace, name=name, facets=_facets(ref, output))
            for namespace, name in _made(ref, output)
        ],
        run_facets={FACET: RunFacet().with_additional_properties(**run)},
    )


def named(place: str) -> tuple[str, str]:
    """Namespace and name of a path or URL, as OpenLineage gives them."""
    if "://" not in place:
        return "file", place
    parts = urlsplit(place)
    if parts.scheme == "file":
        return "file", parts.path
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or "/"


def _artifacts(root: str, digests: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return (named(join_url(root, step, digest)) for step, digest in digests.items())


def _sources(ref: StepRef, pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """What a step reads from outside: data, a base model."""
    if ref.step == INGEST.name:
        for source in pipeline.dataset.sources.values():
            yield from ((HUB, source.hub.path),) if isinstance(source, HubSource) else map(named, source)
    if ref.step == TRAIN.name:
        base = ref.base or pipeline.model.base
        yield named(base) if base.startswith(("/", "s3://")) else (HUB, base)


def _champion(output: object, pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    if isinstance(output, Evaluated) and output.champion_version:
        yield named(join_url(pipeline.publish.store, pipeline.name))


def _made(ref: StepRef, output: object) -> Iterator[tuple[str, str]]:
    if isinstance(output, Published):
        yield named(join_url(output.store, output.model))
    elif ref.digest:
        yield named(join_url(ref.root, ref.step, ref.digest))


def _facets(ref: StepRef, output: object) -> dict[str, Any]:
    from openlineage.client.facet_v2 import DatasetFacet, dataset_version_dataset

    metrics = ref.output.get("metrics") or {}
    plain = {name: score["value"] if isinstance(score, dict) else score for name, score in metrics.items()}
    facets: dict[str, Any] = {}
    if plain:
        facets[f"{FACET}_metrics"] = DatasetFacet().with_additional_properties(**plain)
    version = output.version if isinstance(output, Published) else ref.digest
    facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)
    return facets
