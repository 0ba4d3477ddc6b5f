"""The pipeline file: what a user writes, as typed records, and how it is read.

``model.py`` holds the records, ``load.py`` reads YAML into them and turns every mistake into one error
with its line, ``training_arguments.py`` knows the names that transformers accepts. Nothing here reads
data or imports transformers.
"""

from retrainer.spec.load import load_gate, load_pipeline, parse_pipeline, pipeline_files, try_pipeline
from retrainer.spec.model import Pipeline
from retrainer.spec.schema import json_schema

__all__ = [
    "Pipeline",
    "json_schema",
    "load_gate",
    "load_pipeline",
    "parse_pipeline",
    "pipeline_files",
    "try_pipeline",
]
