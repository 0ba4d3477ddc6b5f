"""What a run found and did, for people: made from the references of its steps alone, so that any front end can say it.

Each step's own lines are made by its record (``chain/steps/``). Not here: colour and layout of a terminal (``cli``),
the whole evidence (the receipt and the model card, which are with the artifacts and with the published version).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import indent

from retrainer.chain import DECIDE, EVALUATE, PUBLISH, Outcome, StepOutput, StepRef, Unchanged, outcome_of, step_named
from retrainer.chain.model_store import loading_code
from retrainer.report.figures import Section, aligned
from retrainer.spec.model import Pipeline


@dataclass(frozen=True, slots=True)
class Report:
    """A run, said.

    :param headline: the outcome in one sentence.
    :param code: Python that loads what the channel serves; empty when it serves nothing.
    """

    outcome: Outcome
    headline: str
    sections: tuple[Section, ...]
    code: str

    def text(self) -> str:
        """Everything as plain text, the headline last, where a person looks first."""
        blocks = [f"{section.title}\n{aligned(section.facts)}" for section in self.sections]
        if self.code:
            blocks.append(f"How to load it\n{indent(self.code, '  ')}")
        return "\n\n".join([*blocks, self.headline]) + "\n"


def make_report(pipeline: Pipeline, steps: Mapping[str, StepRef], *, folder: str | None = None) -> Report:
    """The report of a run.

    :param steps: the steps that were taken; those not reached are left out of the report.
    :param folder: the run's dated folder.
    """
    outcome = outcome_of(steps, approved=PUBLISH.name in steps)
    sections = [_section(ref) for ref in steps.values() if not (ref.unchanged and ref.step == DECIDE.name)]
    places = [("run folder", folder)] if folder else []
    places += [("artifacts", next(iter(steps.values())).root)] if steps else []
    sections.append(Section("Where", tuple(places)))
    champion = _champion(steps)
    return Report(
        outcome=outcome,
        headline=_headline(outcome, pipeline, steps, champion),
        sections=tuple(section for section in sections if section.facts),
        code=loading_code(pipeline) if champion else "",
    )


def handed_on(ref: StepRef) -> StepOutput | Unchanged:
    """The record behind a reference, which knows the lines that people see."""
    return ref.unchanged or step_named(ref.step).output_of(ref)


def brief(ref: StepRef) -> str:
    """What came out of a step, in a few words."""
    return handed_on(ref).brief()


def _section(ref: StepRef) -> Section:
    again = " (done before)" if ref.reused and not ref.unchanged else ""
    return Section(f"{step_named(ref.step).output.title}{again}", handed_on(ref).facts())


def _headline(outcome: Outcome, pipeline: Pipeline, steps: Mapping[str, StepRef], champion: str | None) -> str:
    channel, name = pipeline.publish.channel, pipeline.name
    if outcome == "unchanged":
        return f"unchanged: {channel} already serves this model, version {champion} of {name}"
    if outcome == "promoted":
        return f"promoted: version {champion} of {name} is live on {channel}"
    stays = f"{channel} stays at version {champion}" if champion else f"{channel} has not moved"
    if outcome == "unapproved":
        return f"not approved: the gate promotes the new {name}, a person has to approve it; {stays}"
    codes = DECIDE.output_of(steps[DECIDE.name]).codes if DECIDE.name in steps else ""
    return f"refused: {codes or 'no decision'}; {stays}"


def _champion(steps: Mapping[str, StepRef]) -> str | None:
    """The version that the channel serves at the end of the run."""
    if published := steps.get(PUBLISH.name):
        return PUBLISH.output_of(published).version
    if (evaluation := steps.get(EVALUATE.name)) is None:
        return None
    return evaluation.unchanged.version if evaluation.unchanged else EVALUATE.output_of(evaluation).champion_version
