"""Whether a bundle writes what its checkpoint writes: the same token ids on real rows, in the client's own sessions.

The graphs are led along the checkpoint's answers, and asked at each token which would come next. So one difference does
not hide what comes after it, and each token is compared under the same past.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import GenerationConfig, PreTrainedModel

from retrainer.artifacts.parity import ParityReport
from retrainer.errors import ExportError
from retrainer.precisions import PRECISIONS
from retrainer.serve.generation import GenerationPredictor
from retrainer.serve.predictor import load_info
from retrainer.work.export.parity import name_of
from retrainer.work.export.sample import Sample

# Of the greatest score of a token, where that is above 1: scores of large vocabularies are, and sums in float32 are off
# in proportion. The checkpoint's own are off by as much from those in float64.
TOLERANCE = 1e-3
# Two scores that are each off by up to the tolerance can change their order where they are closer than this.
TIE_MARGIN = 2 * TOLERANCE
ROWS = 64
BATCH_SIZES = (1, 32)
# Without the cache, all tokens are read again for each new one. What could go wrong there does at once.
UNCACHED_TOKENS = 8
REFERENCE_ROWS = 16
# Tokens of which the scores are compared at each place: those that could come.
_BEST = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What the checkpoint writes to one text.

    :param tokens: ids, the one that ended it included.
    :param best: at each place the ids of the tokens with the greatest scores, greatest first, ``[tokens, best]``.
    :param scores: theirs.
    """

    tokens: tuple[int, ...]
    best: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    @property
    def scale(self) -> npt.NDArray[np.float32]:
        """What the tolerance is measured in, at each place."""
        finite = np.where(np.isfinite(self.scores), np.abs(self.scores), 0)
        return np.asarray(np.maximum(np.float32(1), finite.max(axis=1)))

    @property
    def level(self) -> npt.NDArray[np.bool_]:
        """Where the two best tokens are so close that either may come."""
        with np.errstate(invalid="ignore"):
            lead = self.scores[:, 0] - self.scores[:, 1]
        return np.asarray(lead < TIE_MARGIN * self.scale)


def reference_answers(
    model: PreTrainedModel, tokenizer: object, texts: Sequence[str], config: GenerationConfig, max_length: int
) -> list[Answer]:
    """What the checkpoint itself writes, by transformers' ``generate``.

    Tokenised by transformers and without any padding: only texts of the same length share a batch.

    :raises ExportError: a score is not a number.
    """
    rows = [tokenizer(text, truncation=True, max_length=max_length)["input_ids"] for text in texts]  # type: ignore[operator]
    by_length: dict[int, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        by_length[len(row)].append(position)
    answers: dict[int, Answer] = {}
    model.generation_config = config  # what is not set in the one that is given is taken from this
    for positions in by_length.values():
        for start in range(0, len(positions), REFERENCE_ROWS):
            chosen = positions[start : start + REFERENCE_ROWS]
            ids = torch.tensor([rows[position] for position in chosen])
            for position, answer in zip(chosen, _generated(model, ids, config), strict=True):
                if np.isnan(answer.scores).any():
                    raise ExportError(
                        f"the checkpoint itself gives no number for '{texts[position][:40]}'",
                        hint="training diverged; lower training.learning_rate",
                    )
                answers[position] = answer
    return [answers[position] for position in range(len(texts))]


def _generated(model: PreTrainedModel, ids: torch.Tensor, config: GenerationConfig) -> Iterator[Answer]:
    with torch.inference_mode():
        given = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    begun_with = 1 if model.config.is_encoder_decoder else ids.shape[1]
    best = [scores.float().topk(min(_BEST, scores.shape[-1]), dim=-1) for scores in given.scores]
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    for row, sequence in enumerate(given.sequences[:, begun_with:].tolist()):
        length = next((place + 1 for place, token in enumerate(sequence) if token in ends), len(sequence))
        yield Answer(
            tuple(sequence[:length]),
            np.stack([found.indices[row].numpy() for found in best[:length]]),
            np.stack([found.values[row].numpy() for found in best[:length]]),
        )


@dataclass(slots=True)
class _Led:
    """Leads a graph along the checkpoint's answers, and notes where it would have gone elsewhere.

    :ivar elsewhere: row -> place and token of the first difference that is none between tokens that stand level.
    :ivar changed: rows with any difference.
    :ivar worst: largest difference of a score; ``worst_of_scale``: the same in that of the place.
    """

    answers: Sequence[Answer]
    elsewhere: dict[int, tuple[int, int]] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    worst: float = 0.0
    worst_of_scale: float = 0.0
    worst_row: int = 0
    _places: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def __call__(self, row: int, scores: npt.NDArray[np.float32]) -> int:
        """The checkpoint's next token."""
        answer, place = self.answers[row], self._places[row]
        self._places[row] += 1
        expected, found = answer.tokens[place], int(scores.argmax())
        ours, theirs = scores[answer.best[place]], answer.scores[place]
        finite = np.isfinite(ours) & np.isfinite(theirs)
        difference = float(np.abs(ours[finite] - theirs[finite]).max(initial=0.0))
        if difference / float(answer.scale[place]) > self.worst_of_scale:
            self.worst_of_scale, self.worst_row = difference / float(answer.scale[place]), row
        self.worst = max(self.worst, difference)
        if found != expected:
            self.changed.add(row)
            if not answer.level[place]:
                self.elsewhere.setdefault(row, (place, found))
        return expected


def check_bundle(bundle: Path, sample: Sample, answers: Sequence[Answer], *, exporter: str) -> ParityReport:
    """Ask the graphs of a bundle for each token of the checkpoint's answers.

    :param answers: of the checkpoint, to each row of the sample.
    :raises ExportError: fp32 gives another token; names the row and the first token that differs. Or its scores differ
        by more than the tolerance.
    :raises IntegrityError: a graph cannot be run.
    """
    if not sample.rows:
        raise ExportError("there is no row to compare the graph with the checkpoint on", where=str(bundle))
    info = load_info(bundle)
    differences: dict[str, float] = {}
    agreement: dict[str, float] = {}
    for precision in sorted(info.precisions):
        predictor = GenerationPredictor(bundle, precision=precision)
        exact = PRECISIONS[precision].exact
        worst, agreeing = 0.0, 1.0
        # One that is not exact is asked row by row where it serves, and judged by its predictions later.
        for batch_size in BATCH_SIZES if exact else BATCH_SIZES[:1]:
            for cached in (True, False) if exact else (True,):
                led = _Led(answers)
                most = None if cached else UNCACHED_TOKENS
                predictor.choose(_texts(sample), led, most=most, batch_size=batch_size, cached=cached)
                setting = f"{precision}, batch {batch_size}, with{'' if cached else 'out'} cache"
                if exact:
                    _refuse_other_tokens(led, sample, answers, predictor, setting)
                worst = max(worst, led.worst)
                agreeing = min(agreeing, 1 - len(led.changed) / len(answers))
        differences[precision], agreement[precision] = worst, agreeing
    return ParityReport(
        exporter=exporter,
        rows=len(sample.rows),
        longest_tokens=max(sample.tokens),
        truncated_rows=sum(tokens > info.max_length for tokens in sample.tokens),
        batch_sizes=BATCH_SIZES,
        tolerance=TOLERANCE,
        tie_margin=TIE_MARGIN,
        ties=sum(bool(answer.level.any()) for answer in answers),
        max_difference=differences,
        label_agreement=agreement,
    )


def _texts(sample: Sample) -> list[str]:
    return [str(text) for text in sample.texts]


def _refuse_other_tokens(
    led: _Led, sample: Sample, answers: Sequence[Answer], predictor: GenerationPredictor, setting: str
) -> None:
    hint = "this exporter does not fit the model; nothing was published, the champion still serves"
    if led.elsewhere:
        row = min(led.elsewhere)
        place, found = led.elsewhere[row]
        expected = answers[row].tokens[place]
        raise ExportError(
            f"the exported graph does not write what the checkpoint writes: at row {name_of(sample.rows[row])} token "
            f"{place + 1} of the answer is {predictor.name_of(found)}, and {predictor.name_of(expected)} in the "
            f"checkpoint ({setting}); {len(led.elsewhere)} of {len(answers)} rows differ",
            where=str(predictor.folder),
            hint=hint,
        )
    if led.worst_of_scale > TOLERANCE:
        raise ExportError(
            f"the exported graph does not compute what the checkpoint computes: at row "
            f"{name_of(sample.rows[led.worst_row])} scores differ by {led.worst_of_scale:.3g} of the greatest "
            f"({setting}; allowed {TOLERANCE:g})",
            where=str(predictor.folder),
            hint=hint,
        )
