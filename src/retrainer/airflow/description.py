"""A pipeline described in Markdown, for its DAG's page. It holds the whole pipeline, so that a change of the file
shows as a new version of the DAG.
"""

from __future__ import annotations

from typing import Any

import yaml

from retrainer.spec import Pipeline
from retrainer.spec.dataset import HubSource, Source


def describe_pipeline(pipeline: Pipeline) -> str:
    """A table of what matters, and below it the pipeline as YAML, defaults left out."""
    rows = {
        "Task": pipeline.task,
        "Training data": _source(pipeline.dataset.train),
        **_base_models(pipeline),
        "Gate": _gate(pipeline),
        "Publishes to": f"`{pipeline.publish.store}`, model `{pipeline.name}`, channel `{pipeline.publish.channel}`"
        + (", after a person approved" if pipeline.publish.approval.required else ""),
        "Starts": _starts(pipeline),
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])
    content = yaml.dump(
        _written(pipeline),
        Dumper=_DUMPER,
        sort_keys=False,
        allow_unicode=True,
    )
    return (
        f"Reads labelled text, {_building(pipeline)}, compares it with the model that is "
        "live, and publishes it when the gate promotes it. A refused challenger skips publishing and the run stays "
        f"green; the log of `gate` says why.\n\n{table}\n\n```yaml\n{content}```\n"
    )


def _building(pipeline: Pipeline) -> str:
    if not pipeline.model.candidates:
        return "fine-tunes the base model, exports it to ONNX"
    return (
        "fine-tunes each base model, exports them to ONNX, chooses one on the validation rows (the log of `select` "
        "shows all of them)"
    )


def _base_models(pipeline: Pipeline) -> dict[str, str]:
    candidates = pipeline.model.candidates
    if not candidates:
        return {"Base model": f"`{pipeline.model.base}`"}
    return {
        "Base models": ", ".join(f"`{base}`" for base in candidates),
        "Chosen by": f"{pipeline.choose_by} on the validation rows; the smaller, then the faster of those that tie",
    }


def _written(pipeline: Pipeline) -> dict[str, Any]:
    """The record as its file may say it, defaults left out."""
    content = pipeline.model_dump(mode="json", exclude_defaults=True)
    candidates = content["model"].pop("candidates", None)
    if candidates:
        content["model"]["base"] = candidates
    return content


# The same output, an order of magnitude faster; a folder of pipelines is read each time Airflow parses it.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _source(source: Source) -> str:
    if isinstance(source, HubSource):
        return f"`{source.hub.path}` on the hub"
    return ", ".join(f"`{path}`" for path in source)


def _gate(pipeline: Pipeline) -> str:
    gate = pipeline.gate
    parts = [f"{metric} at least {floor:g}" for metric, floor in gate.floors.items()]
    if gate.against_champion is not None:
        against = gate.against_champion
        how = "better than" if against.mode == "superiority" else f"at most {against.margin:g} worse than"
        parts.append(f"{against.metric} {how} the champion")
    return "; ".join(parts) or "none"


def _starts(pipeline: Pipeline) -> str:
    schedule = pipeline.schedule
    parts = [f"`{schedule.cron}` ({schedule.timezone})"] if schedule.cron else []
    if schedule.on_new_data:
        rows = f"{schedule.min_new_rows:,} rows have" if schedule.min_new_rows > 1 else "data has"
        parts.append(f"when new {rows} come and nothing has changed for {schedule.quiet_seconds} s")
    return ", or ".join(parts) or "by hand"
