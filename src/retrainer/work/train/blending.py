"""``training.blend_with_champion``: the share of the champion in the trained weights, chosen on validation rows.

Two models fine-tuned from one pretrained model can be averaged weight by weight (Neyshabur, Sedghi and Zhang 2020;
WiSE-FT, Wortsman et al. 2022), and the average keeps more of what the older one had right: fewer of the flips that Xie
et al. 2021 count. Not here: reading the champion (``champion.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import EvalPrediction

from retrainer.artifacts.training import Blend, TriedShare
from retrainer.spec.known_metrics import lower_is_better
from retrainer.work.reporter import Reporter
from retrainer.work.train.champion import ChampionWeights
from retrainer.work.train.encoding import EncodedRows, logits_of
from retrainer.work.train.trainer import FineTuner

# Of the champion. The new model stays the larger part: beyond half, flips vanish because it comes back to the champion,
# also where the two do not belong together and everything between them is worse than both.
SHARES = tuple(tenths / 10 for tenths in range(6))
WHOLE = 1.0
LOSS = "loss"


def blend(
    trainer: FineTuner, champion: ChampionWeights, validation: EncodedRows, metric: str, reporter: Reporter
) -> tuple[Blend, dict[str, float]]:
    """Try every share, and leave the chosen one in the trainer's model.

    :param metric: that must not get worse.
    :return: what became of it, and the scores on all validation rows, as training has them; none of these where the
        weights are as they were.
    """
    truth, judged = validation.labels, ~champion.seen_validation
    own = {name: tensor.detach().cpu().clone() for name, tensor in trainer.model.state_dict().items()}

    logits = {}
    for done, share in enumerate((WHOLE, *SHARES), start=1):
        trainer.model.load_state_dict(mixed(own, champion.weights, share))
        logits[share] = logits_of(
            trainer.model, validation, trainer.data_collator, trainer.args.per_device_eval_batch_size
        )
        reporter.progress("blending", done=done, total=len(SHARES) + 1, unit="share")
    was_right = logits.pop(WHOLE).argmax(axis=1) == truth
    tried = []
    for share, given in logits.items():
        is_right = given.argmax(axis=1) == truth
        tried.append(
            TriedShare(
                share=share,
                score=_scores(trainer, given[judged], truth[judged]).get(metric),
                harmful=int((was_right & ~is_right & judged).sum()),
                beneficial=int((~was_right & is_right & judged).sum()),
            )
        )
    chosen = choose(tried, greater_is_better=metric != LOSS and not lower_is_better(metric))
    trainer.model.load_state_dict(mixed(own, champion.weights, chosen.share))
    outcome = Blend(
        champion=champion.version,
        share=chosen.share,
        metric=metric,
        rows=int(judged.sum()),
        left_out=int((~judged).sum()),
        tried=tuple(tried),
    )
    return outcome, _scores(trainer, logits[chosen.share], truth) if chosen.share else {}


def choose(tried: Sequence[TriedShare], *, greater_is_better: bool) -> TriedShare:
    """The fewest harmful flips among the shares that score no worse than none; of equal ones the smallest share.

    No loss of score is accepted, not even one that may be chance: what seems free on a few hundred rows would be paid
    anew by every retrain. And no more of the champion is taken than flips ask for, since what it holds is older than
    the data. That the chosen share is a little lucky, being the best of several, is for the gate to find out on test
    rows.

    :param tried: the share of none first.
    """
    plain, sign = tried[0], 1 if greater_is_better else -1
    if plain.score is None:
        return plain
    able = [one for one in tried if one.score is not None and sign * one.score >= sign * plain.score]
    return min(able, key=lambda one: (one.harmful, one.share))


def mixed(own: Mapping[str, Any], champion: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Weights of which that share is the champion's. What is not a weight, as positions are, is the model's own."""
    if not share:
        return dict(own)
    return {
        name: torch.lerp(tensor, champion[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in own.items()
    }


def _scores(trainer: FineTuner, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """What training measures of a checkpoint, but for what has no value here."""
    if not np.isfinite(logits).all():  # halfway between two models that do not belong together
        return {}
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels))
    measured = trainer.compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))
    return {name: value for name, value in {LOSS: float(loss), **measured}.items() if np.isfinite(value)}
