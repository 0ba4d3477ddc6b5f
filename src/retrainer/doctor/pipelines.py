"""Pipeline files: whether they can be read, whether their base models can be had, and the keys that they sign with.

Not here: their data, and whether all fits together, which takes longer (``retrainer check``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from retrainer.chain.model_store import check_keys
from retrainer.doctor.findings import Finding, finding, problem
from retrainer.errors import PipelineError
from retrainer.sources.base_models import fingerprint
from retrainer.storage import is_s3
from retrainer.store.signing_keys import SIGNING_KEY

if TYPE_CHECKING:
    from retrainer.doctor.deployment import Deployment
    from retrainer.spec.model import Model
    from retrainer.spec.publish import Publish
    from retrainer.store import Signer


def look_at_files(deployment: Deployment) -> Iterator[Finding]:
    """Each file, and names that two of them have."""
    if deployment.problem is not None:
        yield problem("pipeline files", deployment.problem)
    elif not deployment.files:
        hint = "name files or a folder, or write one with 'retrainer init'"
        yield Finding("warning", "pipeline files", "there are none to look at", hint)
    taken: dict[str, str] = {}
    for file, content in deployment.read:
        if isinstance(content, PipelineError):
            hint = content.hint or f"'retrainer check {file}', once it is put right"
            yield Finding("broken", file.name, f"{content.where}: {content.message}", hint)
        elif content.name in taken:
            text = f"has the name '{content.name}' of {taken[content.name]}, and so the same model and DAG"
            yield Finding("broken", file.name, text, "give it another name")
        else:
            taken[content.name] = file.name
            yield Finding("ok", file.name, f"{content.name}, {content.task}")


def look_at_base_models(deployment: Deployment) -> Iterator[Finding]:
    """Each base model once; one on the hub as ``HF_HUB_OFFLINE`` allows."""
    seen: set[tuple[str, str | None]] = set()
    for pipeline in deployment.pipelines:
        for base in pipeline.model.candidates or (pipeline.model.base,):
            model = pipeline.of_base(base).model
            if (model.base, model.revision) not in seen:
                seen.add((model.base, model.revision))
                yield finding(model.base, partial(_found, deployment, model))


def _found(deployment: Deployment, model: Model) -> str:
    with deployment.reaching_buckets() if is_s3(model.base) else nullcontext():
        identity = fingerprint(model)
    return f"at {identity.rpartition('@')[2]}" if "@" in identity else "is there"


def look_at_keys(deployment: Deployment) -> Iterator[Finding]:
    """The private key of each pipeline that signs."""
    for pipeline in deployment.pipelines:
        if pipeline.publish.sign_with is not None:
            found = signing_key(pipeline.publish, deployment.signer)
            yield replace(found, what=f"key of {pipeline.name}")


def signing_key(publish: Publish, signer: Callable[[Publish], Signer | None] = check_keys) -> Finding:
    """Whether the private key can be loaded, and the pipeline trusts what it signs. It is never shown.

    :param signer: finds it; by default where no connection of Airflow can be read.
    """
    source = str(publish.sign_with)
    if source.startswith("airflow:") and signer is check_keys and not os.environ.get(SIGNING_KEY):
        hint = f"to run the pipeline without Airflow, set ${SIGNING_KEY} to the key, or name file:PATH or env:NAME"
        return Finding("warning", "signing key", f"{source} is a connection that only Airflow's tasks can read", hint)

    def look() -> str:
        found = signer(publish)
        assert found is not None
        return f"{source}, key {found.public.key_id}"

    return finding("signing key", look)
