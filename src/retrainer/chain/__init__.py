"""What runs on what: the definition of each step, its requests and their digests, and the order of the chain.

A new step is a module in ``steps/`` and an entry in ``order.CHAIN``, beside the module that does the work and its
Airflow operator, both of which its definition names. Loads nothing heavy. Not here: starting a process (``run/``), what
a step does (``work/``).
"""

from retrainer.chain.definition import Step, StepOutput
from retrainer.chain.order import CHAIN, Outcome, Stage, chain_of, outcome_of, stages_of, step_before, step_named
from retrainer.chain.requests import RunContext, StepRef, StepRequest, Unchanged
from retrainer.chain.steps.decay import DECAY, DecayChecked
from retrainer.chain.steps.decide import DECIDE, Decided
from retrainer.chain.steps.evaluate import EVALUATE, Evaluated
from retrainer.chain.steps.export import EXPORT, Exported
from retrainer.chain.steps.ingest import INGEST, Ingested
from retrainer.chain.steps.publish import PUBLISH, Published
from retrainer.chain.steps.select import SELECT, Selected
from retrainer.chain.steps.train import TRAIN, Trained

__all__ = [
    "CHAIN",
    "DECAY",
    "DECIDE",
    "EVALUATE",
    "EXPORT",
    "INGEST",
    "PUBLISH",
    "SELECT",
    "TRAIN",
    "DecayChecked",
    "Decided",
    "Evaluated",
    "Exported",
    "Ingested",
    "Outcome",
    "Published",
    "RunContext",
    "Selected",
    "Stage",
    "Step",
    "StepOutput",
    "StepRef",
    "StepRequest",
    "Trained",
    "Unchanged",
    "chain_of",
    "outcome_of",
    "stages_of",
    "step_before",
    "step_named",
]
