"""The checks of a deployment that know nothing of Airflow, in the order in which they are made: one entry each."""

from retrainer.doctor import gpus, interpreter, machine, pipelines, stores
from retrainer.doctor.findings import Check

CHECKS = (
    Check("Pipeline files", pipelines.look_at_files),
    Check("Base models", pipelines.look_at_base_models),
    Check("Interpreter that trains", interpreter.look),
    Check("GPUs", gpus.look),
    Check("Disks", machine.look_at_disks),
    Check("Memory", machine.look_at_memory),
    Check("Limits", machine.look_at_limits),
    Check("Buckets", stores.look_at_buckets),
    Check("Artifact root", stores.look_at_artifacts),
    Check("Stores", stores.look_at_stores),
    Check("Signing keys", pipelines.look_at_keys),
)
