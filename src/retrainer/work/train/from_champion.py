"""What a training takes from the champion: weights to start from, to be blended with, or a reason why not.

Neither ends a run when it cannot be done. Not here: reading the champion (``champion.py``), and which share of it is
taken (``blending.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retrainer.artifacts.snapshot import split_file
from retrainer.artifacts.training import Blend, WarmStart
from retrainer.chain import StepRequest
from retrainer.tasks import trainable_task
from retrainer.work.distributed import is_first_rank
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import BLENDED_WITH, read_text_keys
from retrainer.work.train.blending import blend
from retrainer.work.train.champion import ChampionWeights, read_champion_weights
from retrainer.work.train.encoding import EncodedRows
from retrainer.work.train.loading import Base
from retrainer.work.train.trainer import FineTuner

_NO_ROWS = "there are no validation rows to choose a share on"


@dataclass(frozen=True, slots=True)
class UsedChampion:
    """A champion, and what a training does with it.

    :param champion: ``None`` where it is not used.
    :param start: what became of starting from it; ``None`` where the pipeline does not ask for it.
    :param to_blend: the champion, or why nothing is blended; ``None`` where the pipeline does not ask for it.
    """

    champion: ChampionWeights | None
    start: WarmStart | None
    to_blend: ChampionWeights | Blend | None

    def blended(
        self, trainer: FineTuner, validation: EncodedRows, first_metric: str, reporter: Reporter, *, positive: int
    ) -> tuple[Blend | None, dict[str, float]]:
        """Blend what can be, in the trainer's model.

        :param positive: index of the label that metrics of one label score.
        :return: what became of it, and the scores of the weights where they are no longer those of the training.
        """
        if not isinstance(self.to_blend, ChampionWeights):
            return self.to_blend, {}
        metric = str(trainer.args.metric_for_best_model or first_metric).removeprefix("eval_")
        blended, scores = blend(trainer, self.to_blend, validation, metric, reporter, positive=positive)
        reporter.log(blended.line())
        return blended, scores

    def leave_its_rows(self, folder: Path, blended: Blend | None) -> None:
        """Leave what is known of the rows that the champion brings with it, where it is part of the weights."""
        started = self.start is not None and self.start.why_not is None
        if self.champion is not None and (started or (blended is not None and blended.share)):
            (folder / BLENDED_WITH).mkdir()
            for name, content in self.champion.about_its_rows.items():
                (folder / BLENDED_WITH / name).write_bytes(content)


def use_champion(
    request: StepRequest,
    snapshot: Path,
    base: Base,
    labels: tuple[str, ...],
    train: EncodedRows,
    validation: EncodedRows,
    reporter: Reporter,
) -> UsedChampion:
    """Read the champion as the request has planned it, and put its weights into the model that starts from them.

    Every process starts from them; only the first blends.
    """
    start, mix = request.identity.get("warm_start"), request.identity.get("blend")
    if not is_first_rank():
        mix = None
    planned = start or mix
    starts = start is not None and start["why_not"] is None
    blends = mix is not None and mix["why_not"] is None and len(validation) > 0
    found: ChampionWeights | str = _NO_ROWS
    if planned and (starts or blends):
        keys = read_text_keys(split_file(snapshot, "validation"))
        task = trainable_task(request.pipeline.task, where=request.pipeline.name)
        collate = task.part("collate")(base, pad_to_multiple_of=None)
        rows = validation if len(validation) else train
        version = planned["champion"]
        found = read_champion_weights(request, version, base, labels, rows, keys, collate, reporter)
    return UsedChampion(
        champion=found if isinstance(found, ChampionWeights) else None,
        start=_start(start["why_not"] or found, start["champion"], base, reporter) if start else None,
        to_blend=_to_blend(mix["why_not"] or found, mix["champion"], validation, reporter) if mix else None,
    )


def _start(found: ChampionWeights | str, version: str | None, base: Base, reporter: Reporter) -> WarmStart:
    if isinstance(found, ChampionWeights):
        base.model.load_state_dict(found.weights)
        start = WarmStart(champion=version, seen_validation=int(found.seen_validation.sum()))
    else:
        start = WarmStart(champion=version, why_not=found)
    reporter.log(start.line(), level="warning" if start.why_not and version else "info")
    return start


def _to_blend(
    found: ChampionWeights | str, version: str | None, validation: EncodedRows, reporter: Reporter
) -> ChampionWeights | Blend:
    """What the trained weights are to be blended with; or why there is nothing."""
    why_not = found
    if isinstance(found, ChampionWeights):
        if len(validation) and not found.seen_validation.all():
            return found
        why_not = "the champion was trained on every validation row" if len(validation) else _NO_ROWS
    outcome = Blend(champion=version, why_not=str(why_not))
    reporter.log(outcome.line(), level="warning" if version else "info")
    return outcome
