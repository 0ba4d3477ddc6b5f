"""``training.blend_with_champion``: the share of the champion in the trained weights, chosen on validation rows.

Two models fine-tuned from one pretrained model can be averaged weight by weight (Neyshabur, Sedghi and Zhang 2020;
WiSE-FT, Wortsman et al. 2022), and the average keeps more of what the older one had right: fewer of the flips that Xie
et al. 2021 count. Not here: reading the champion (``champion.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from transformers import EvalPrediction

from retrainer.artifacts.training import Blend, TriedShare
from retrainer.gate.answers import Answers, SetAnswers
from retrainer.gate.metrics import METRICS, Metric
from retrainer.work.reporter import Reporter
from retrainer.work.train.champion import ChampionWeights
from retrainer.work.train.encoding import EncodedRows, logits_of
from retrainer.work.train.metrics import answers_of
from retrainer.work.train.trainer import FineTuner

# Of the champion. The new model stays the larger part: beyond half, flips vanish because it comes back to the champion,
# also where the two do not belong together and everything between them is worse than both.
SHARES = tuple(tenths / 10 for tenths in range(6))
WHOLE = 1.0
# What the Trainer calls the log loss.
LOSS, LOG_LOSS = "loss", "log_loss"
# Of one side, as little beyond one standard error as keeps ties of whole rows on the side of "no worse".
ALPHA = 0.15

Labels = npt.NDArray[Any]
Logits = npt.NDArray[np.float32]
Classified: TypeAlias = Answers | SetAnswers


def blend(
    trainer: FineTuner,
    champion: ChampionWeights,
    validation: EncodedRows,
    metric: str,
    reporter: Reporter,
    *,
    positive: int,
) -> tuple[Blend, dict[str, float]]:
    """Try every share, and leave the chosen one in the trainer's model.

    :param metric: that must not get worse, as ``metric_for_best_model`` names it, without ``eval_``.
    :param positive: index of the label that a metric of one label scores.
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
    tried = tried_shares(logits, truth, judged, metric, positive=positive)
    chosen = choose(tried)
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


def tried_shares(
    logits: Mapping[float, Logits], labels: Labels, judged: npt.NDArray[np.bool_], metric: str, *, positive: int
) -> list[TriedShare]:
    """What each share answers on the rows that judge.

    A share is no worse unless the rows show that it is: its score is below that of the unblended model by more than
    about one standard error of the difference, as in the one-standard-error rule (Breiman et al. 1984, *Classification
    and Regression Trees*). The comparison is paired: only rows count that both models answer differently. Were no loss
    accepted at all, a single row would decide, and on a few hundred rows hardly any share be taken. What may be lost
    does not grow from retrain to retrain, each of which starts at the base model and is compared with itself unblended.
    Log loss is not asked unless it is the metric: the average with a champion that is less sure loses by it where it
    has as many rows right.

    :param logits: of every share and of the whole champion, to all rows.
    :param labels: of all rows, as ``EncodedRows`` has them. Of any number of labels all have to be right.
    :param metric: as ``metric_for_best_model`` names it, without ``eval_``.
    :param positive: index of the label that a metric of one label scores.
    """
    measure = METRICS[LOG_LOSS if metric == LOSS else metric]
    given = {share: answers_of(of_all[judged], labels[judged], positive=positive) for share, of_all in logits.items()}
    truth, answers = given[WHOLE][0], {share: said for share, (_, said) in given.items()}
    plain, was_right = answers[SHARES[0]], answers[WHOLE].right(truth)
    tried = []
    for share in SHARES:
        is_right = answers[share].right(truth)
        score = measure.value(truth, answers[share])
        tried.append(
            TriedShare(
                share=share,
                score=score if np.isfinite(score) else None,
                no_worse=_no_worse(measure, truth, answers[share], plain),
                harmful=int((was_right & ~is_right).sum()),
                beneficial=int((~was_right & is_right).sum()),
            )
        )
    return tried


def choose(tried: Sequence[TriedShare]) -> TriedShare:
    """The fewest harmful flips among the shares that are no worse than none; of equal ones the smallest share.

    No more of the champion is taken than flips ask for, since what it holds is older than the data. That the chosen
    share is a little lucky, being the best of several, is for the gate to find out on test rows.

    :param tried: the share of none first.
    """
    plain = tried[0]
    return min((plain, *(one for one in tried if one.no_worse)), key=lambda one: (one.harmful, one.share))


def _no_worse(measure: Metric[Any], truth: Labels, blended: Classified, plain: Classified) -> bool:
    # Halfway between two models that do not belong together there may be no numbers, and without both labels no score.
    if not (np.isfinite(blended.probabilities).all() and np.isfinite(plain.probabilities).all()):
        return False
    try:
        _, bounds = measure.compare(truth, blended, plain, ALPHA)
    except ValueError:
        return False
    return bounds.high >= 0


def mixed(own: Mapping[str, Any], champion: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Weights of which that share is the champion's. What is not a weight, as positions are, is the model's own."""
    if not share:
        return dict(own)
    return {
        name: torch.lerp(tensor, champion[name], share) if tensor.is_floating_point() else tensor
        for name, tensor in own.items()
    }


def _scores(trainer: FineTuner, logits: Logits, labels: Labels) -> dict[str, float]:
    """What training measures of a checkpoint, but for what has no value here."""
    if not np.isfinite(logits).all():  # halfway between two models that do not belong together
        return {}
    loss_of = (
        torch.nn.functional.cross_entropy if labels.ndim == 1 else torch.nn.functional.binary_cross_entropy_with_logits
    )
    loss = loss_of(torch.tensor(logits), torch.tensor(labels))
    measured = trainer.compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))
    return {name: value for name, value in {LOSS: float(loss), **measured}.items() if np.isfinite(value)}
