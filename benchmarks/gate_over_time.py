"""What many nights of decisions add up to: histories of a channel whose truth is known, decided by the gate's rules.

The levels, how they are divided and the intervals are the gate's functions; only the answers are counted for many
histories at once (``verdicts``, which a test holds against ``decide``). A model of quality ``q`` is right on a row
where ``sqrt(r) g + sqrt(1 - r) e`` is below the normal quantile of ``q``: ``g`` is how hard the row is, for every
model, ``e`` is what the training made of it. So rows are of unequal difficulty, a model's true accuracy is ``q``, and
``r`` follows from the share of rows on which two models disagree. From one night to the next ``e`` may be correlated.
``python -m benchmarks.gate --only time``
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from benchmarks.gate_lines import ALPHA, Line, Options, at_least, at_most
from retrainer.artifacts.standing import Standing
from retrainer.gate.against_champion import shares
from retrainer.gate.paired import tango_interval
from retrainer.gate.spending import spend
from retrainer.spec.gate import AgainstChampion, Gate, OverTime

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MARGIN = 0.01
NON_INFERIORITY = Gate(against_champion=AgainstChampion(margin=MARGIN))
SUPERIORITY = Gate(against_champion=AgainstChampion(mode="superiority"))
# Histories that are simulated side by side.
BATCH = 250


# --- decisions of many histories at once -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows that only the challenger gets right, and only the other model, in each history ``[histories]``."""

    better: NDArray[np.int64]
    worse: NDArray[np.int64]

    @classmethod
    def of(cls, challenger: Bools, other: Bools) -> Counts:
        """Of answers ``[histories, rows]``."""
        return cls((challenger & ~other).sum(axis=1), (other & ~challenger).sum(axis=1))

    def low(self, n: int, level: float) -> Floats:
        """The lower bounds of the difference; nothing is shown at a level of 0."""
        if level <= 0:
            return np.full(self.better.shape, -1.0)
        return tango_interval(self.better, self.worse, n, level)[0]


def verdicts(
    policy: Gate,
    standing: Standing,
    promotions: NDArray[np.int64],
    one: Bools,
    champion: Counts,
    anchor: Counts,
    n: int,
) -> tuple[Bools, Bools]:
    """Which histories promote, and in which the anchor moves.

    :param standing: common to all, but for ``promotions`` ``[histories]``.
    :param one: where the champion is the anchor.
    """
    against = policy.against_champion
    assert against is not None
    superiority = against.mode == "superiority"
    threshold = 0.0 if superiority else -against.margin
    promoted, moved = np.zeros(one.size, dtype=bool), np.zeros(one.size, dtype=bool)
    counted = promotions if policy.over_time.control == "fdr" else np.zeros_like(promotions)
    for before, same in {*zip(counted.tolist(), one.tolist(), strict=True)}:
        of = np.flatnonzero((counted == before) & (one == same))
        mine = Counts(champion.better[of], champion.worse[of])
        spending = spend(policy.over_time, against.alpha, standing.model_copy(update={"promotions": before}))
        levels = shares(spending, superiority=superiority, one=same)
        shown = mine.low(n, levels.champion) > threshold
        if policy.max_loss is None:
            promoted[of] = shown
            continue
        recovered = shown if superiority else mine.low(n, levels.recovery) > 0
        low = (mine if same else Counts(anchor.better[of], anchor.worse[of])).low(n, levels.anchor)
        promoted[of] = shown & ((low > -policy.max_loss) | recovered)
        moved[of] = promoted[of] & (low > 0)
    return promoted, moved


# --- models and rows ---------------------------------------------------------------------------------------


@cache
def common(discordant: float, quality: float) -> float:
    """How much of the latent score is the row's, so that two models of a quality disagree on that share of rows."""
    k = stats.norm.ppf(quality)

    def distance(r: float) -> float:
        both = stats.multivariate_normal.cdf([k, k], mean=[0, 0], cov=[[1, r], [r, 1]])
        return float(2 * (quality - both) - discordant)

    return float(brentq(distance, 0.0, 0.9999))


@dataclass(frozen=True, slots=True)
class World:
    """How answers come about.

    :param discordant: share of rows on which two unrelated models of quality ``quality`` disagree.
    :param memory: correlation of what training makes of a row from one night to the next.
    :param frozen: the same rows every night; else new ones.
    """

    n: int = 2000
    discordant: float = 0.08
    quality: float = 0.9
    memory: float = 0.0
    frozen: bool = True


class Rows:
    """The test rows of many histories, and what models say on them."""

    def __init__(self, world: World, histories: int, seed: int) -> None:
        self._world = world
        self._random = np.random.default_rng(seed)
        self._shape = (histories, world.n)
        r = common(world.discordant, world.quality)
        self._row, self._own = np.sqrt(np.float32(r)), np.sqrt(np.float32(1 - r))
        self._hard = self._normal()
        self._training = self._normal()

    def _normal(self) -> NDArray[np.float32]:
        return self._random.standard_normal(self._shape, dtype=np.float32)

    def renew(self) -> None:
        """Other rows."""
        self._hard = self._normal()

    def next_night(self) -> None:
        """Another training, which resembles the last one as much as the world says."""
        memory = np.float32(self._world.memory)
        self._training = memory * self._training + np.sqrt(1 - memory**2) * self._normal()

    def right(self, quality: Floats) -> Bools:
        """The answers of tonight's training at a quality ``[histories]``."""
        k = stats.norm.ppf(quality).astype(np.float32)[:, None]
        answers: Bools = self._row * self._hard + self._own * self._training < k
        return answers


class Channel:
    """Many histories of one channel, night by night.

    :ivar champion: true quality of what is live, ``[histories]``; ``anchor`` of the anchor, ``best`` of the best anchor
        so far.
    :ivar promotions: how many challengers went live.
    """

    def __init__(
        self, policy: Gate, world: World, histories: int, seed: int, *, looks: int = 1, decided: int = 0
    ) -> None:
        """:param looks: challengers a night, the best of which is decided about; ``decided`` decisions were before."""
        self.policy, self.world, self.histories = policy, world, histories
        self.looks, self.decided = looks, decided
        self.rows = Rows(world, histories, seed)
        self.champion = np.full(self.histories, self.world.quality)
        self.anchor, self.best = self.champion.copy(), self.champion.copy()
        self.champion_right = self.rows.right(self.champion)
        self.anchor_right = self.champion_right.copy()
        self.one = np.ones(self.histories, dtype=bool)
        self.promotions = np.zeros(self.histories, dtype=np.int64)

    def night(self, quality: Floats) -> Bools:
        """Decide about challengers of a quality ``[histories]``, the best of ``looks`` of them on the test rows.

        :return: which of them go live.
        """
        if not self.world.frozen:
            self._new_rows()
        candidates = []
        for _ in range(self.looks):
            self.rows.next_night()
            candidates.append(self.rows.right(quality))
        best = np.argmax([right.sum(axis=1) for right in candidates], axis=0)
        right = candidates[0] if self.looks == 1 else np.stack(candidates)[best, np.arange(self.histories)]
        champion, anchor = Counts.of(right, self.champion_right), Counts.of(right, self.anchor_right)
        seen = self.decided * self.looks if self.world.frozen else 0
        standing = Standing(decisions=self.decided, looks=self.looks, wear=seen + self.looks - 1)
        promoted, moved = verdicts(self.policy, standing, self.promotions, self.one, champion, anchor, self.world.n)
        self.decided += 1
        self.promotions += promoted
        self.champion = np.where(promoted, quality, self.champion)
        self.champion_right[promoted] = right[promoted]
        self.anchor = np.where(moved, quality, self.anchor)
        self.anchor_right[moved] = right[moved]
        self.best = np.maximum(self.best, self.anchor)
        self.one = np.where(promoted, moved, self.one)
        return promoted

    def _new_rows(self) -> None:
        self.rows.renew()
        self.rows.next_night()
        self.anchor_right = self.rows.right(self.anchor)
        self.rows.next_night()
        self.champion_right = np.where(self.one[:, None], self.anchor_right, self.rows.right(self.champion))


def _batches(histories: int) -> Iterator[tuple[int, int]]:
    """Sizes and seeds."""
    for seed, start in enumerate(range(0, histories, BATCH)):
        yield min(BATCH, histories - start), seed


# --- the lines ---------------------------------------------------------------------------------------------


def lines(options: Options) -> Iterator[Line]:
    """Every requirement."""
    yield from guard_lines(options)
    yield from equal_lines(options)
    yield from false_promotion_lines(options)
    yield from power_lines(options)
    yield from broken_lines(options)


NOTHING = NON_INFERIORITY.model_copy(update={"over_time": OverTime(control="none"), "anchor": None})
ANCHOR_ALONE = NON_INFERIORITY.model_copy(update={"over_time": OverTime(control="none")})


def small_losses(policy: Gate, world: World, histories: int, nights: int) -> tuple[float, float, float]:
    """Challengers 0.1 to 0.5 points worse than the champion of their time.

    :return: share of histories in which what is live was ever more than the margin below the best anchor so far; mean
        loss in the end; promotions.
    """
    lost, total, promotions = 0, 0.0, 0
    for size, seed in _batches(histories):
        channel = Channel(policy, world, size, seed)
        random = np.random.default_rng([seed, 1])
        below = np.zeros(size, dtype=bool)
        for _ in range(nights):
            channel.night(channel.champion - random.uniform(0.001, 0.005, size))
            below |= channel.champion < channel.best - MARGIN - 1e-12
        lost += int(below.sum())
        total += float((channel.best - channel.champion).sum())
        promotions += int(channel.promotions.sum())
    return lost / histories, total / histories, promotions / histories


def guard_lines(options: Options) -> Iterator[Line]:
    """Small losses must not add up."""
    histories, nights = options.runs(1000, 250), 200
    frozen = World(memory=0.9)
    for name, world, runs in (
        ("n = 2,000 frozen rows, 8 % discordant", frozen, histories),
        ("n = 2,000 new rows each night", replace(frozen, frozen=False, memory=0.0), histories),
        ("n = 10,000 frozen rows, 2 % discordant", World(10_000, 0.02, memory=0.9), histories // 4),
    ):
        what = f"200 nights, 0.1 to 0.5 points worse each, {name}: ever more than 1 point below the best anchor"
        share, loss, promotions = small_losses(NON_INFERIORITY, world, runs, nights)
        line = at_most(what, ALPHA, share, runs)
        yield replace(line, measured=f"{line.measured} (loss {100 * loss:.2f} points, {promotions:.1f} went live)")
    for name, policy in (("no control, no anchor", NOTHING), ("no control, anchor", ANCHOR_ALONE)):
        share, loss, promotions = small_losses(policy, frozen, BATCH, nights)
        measured = f"{share:.1%} (loss {100 * loss:.2f} points, {promotions:.1f} went live)"
        yield Line(f"the same, n = 2,000 frozen rows, {name}", "printed", measured, True, runs=f"{BATCH}")


def went_live(policy: Gate, world: World, histories: int, nights: int) -> tuple[float, float]:
    """Share of challengers, as good as the champion, that go live, and two standard errors of it.

    A history is the unit, not a night: those of one history depend on each other.
    """
    shares: list[Floats] = []
    for size, seed in _batches(histories):
        channel = Channel(policy, world, size, seed)
        shares.append(np.mean([channel.night(channel.champion) for _ in range(nights)], axis=0))
    of_each = np.concatenate(shares)
    return float(of_each.mean()), 2 * float(of_each.std()) / histories**0.5


def equal_lines(options: Options) -> Iterator[Line]:
    """The guard must not refuse everything."""
    runs = options.runs(400, 20)
    for frozen in (True, False):
        rows = "frozen rows" if frozen else "new rows each night"
        share, error = went_live(NON_INFERIORITY, World(10_000, 0.03, frozen=frozen), runs, 200)
        yield Line(
            f"200 nights, equal retrains, n = 10,000 {rows}, 3 % discordant: went live",
            ">= 90.0%",
            f"{share:.1%}",
            share >= 0.9 - error,
            f"{error:.1%}",
            f"{runs} x 200",
        )
        share, _ = went_live(NON_INFERIORITY, World(2000, 0.08, frozen=frozen), runs, 200)
        yield Line(f"the same, n = 2,000, 8 %, {rows}", "printed", f"{share:.1%}", True, runs=f"{runs} x 200")


def any_false_promotion(world: World, histories: int, looks: int, nights: int = 100) -> float:
    """Share of histories in which a challenger as good as the champion was said to be better."""
    found = 0
    for size, seed in _batches(histories):
        channel = Channel(SUPERIORITY, world, size, seed, looks=looks)
        for _ in range(nights):
            channel.night(channel.champion)
        found += int((channel.promotions > 0).sum())
    return found / histories


def false_share(policy: Gate, world: World, histories: int, looks: int, nights: int = 100) -> tuple[float, float]:
    """A gain of 3 points every fifth night, else equal models.

    :return: mean share of promotions that were false; share of the gains that were promoted.
    """
    shares_, gained, gains = 0.0, 0, 0
    for size, seed in _batches(histories):
        channel = Channel(policy, world, size, seed, looks=looks)
        false = np.zeros(size, dtype=np.int64)
        for night in range(nights):
            gain = np.where(channel.champion < 0.96, 0.03 * (night % 5 == 4), 0.0)
            promoted = channel.night(channel.champion + gain)
            false += promoted & (gain == 0)
            gained += int((promoted & (gain > 0)).sum())
            gains += int((gain > 0).sum())
        shares_ += float((false / np.maximum(channel.promotions, 1)).sum())
    return shares_ / histories, gained / gains


def false_promotion_lines(options: Options) -> Iterator[Line]:
    """Superiority, equal models."""
    runs = options.runs(1000, 250)
    for frozen in (False, True):
        for looks in (1, 5):
            rows = "the same rows" if frozen else "fresh rows"
            best = ", the best of five" if looks > 1 else ""
            what = f"100 decisions, superiority, equal models, {rows}{best}: any false promotion"
            histories = runs if looks == 1 else runs // 2
            yield at_most(what, ALPHA, any_false_promotion(World(frozen=frozen), histories, looks), histories)
    policy = SUPERIORITY.model_copy(update={"over_time": OverTime(control="fdr")})
    for frozen in (False, True):
        for looks in (1, 5):
            rows = "the same rows" if frozen else "fresh rows"
            best = ", the best of five" if looks > 1 else ""
            histories = runs // 2 if looks == 1 else runs // 4
            world = World(discordant=0.15, quality=0.6, frozen=frozen)
            share, gained = false_share(policy, world, histories, looks)
            what = f"100 decisions, fdr, 3 points gained every fifth night, {rows}{best}: false share"
            line = at_most(what, ALPHA, share, histories)
            yield replace(line, measured=f"{line.measured} ({gained:.0%} of the gains promoted)")


def promoted_at(decision: int, discordant: float, runs: int, gain: float = 0.03, n: int = 2000) -> float:
    """Share of challengers with a true gain that are promoted as that decision on the same rows, superiority."""
    random = np.random.default_rng([decision, int(1000 * discordant)])
    cells = [(discordant + gain) / 2, (discordant - gain) / 2, 1 - discordant]
    drawn = random.multinomial(n, cells, size=runs)
    counts = Counts(drawn[:, 0], drawn[:, 1])
    standing = Standing(decisions=decision - 1, wear=decision - 1)
    ones, none = np.ones(runs, dtype=bool), np.zeros(runs, dtype=np.int64)
    return float(verdicts(SUPERIORITY, standing, none, ones, counts, counts, n)[0].mean())


def power_lines(options: Options) -> Iterator[Line]:
    """A true gain must be seen."""
    runs = options.runs(20_000, 5000)
    for decision, least in ((10, 0.9), (50, 0.8), (365, None)):
        for discordant in (0.08, 0.05, 0.12, 0.15):
            share = promoted_at(decision, discordant, runs)
            what = (
                f"3 points better, superiority, n = 2,000, {discordant:.0%} discordant, decision {decision}: promoted"
            )
            if least is not None and discordant == 0.08:
                yield at_least(what, least, share, runs)
            else:
                yield Line(what, "printed", f"{share:.1%}", True, runs=f"{runs:,}")


def broken_lines(options: Options) -> Iterator[Line]:
    """Ten nights of broken data after a hundred decisions, and recovery where a broken model did go live."""
    runs = options.runs(1000, 250)
    broken, repaired = 0, 0
    for size, seed in _batches(runs):
        channel = Channel(NON_INFERIORITY, World(), size, seed, decided=100)
        good = channel.champion.copy()
        ever = np.zeros(size, dtype=bool)
        for _ in range(10):
            ever |= channel.night(good - 0.05)
        broken += int(ever.sum())
        # Somebody puts the broken model live all the same.
        channel = Channel(NON_INFERIORITY, World(), size, seed, decided=110)
        channel.rows.next_night()
        channel.champion = good - 0.05
        channel.champion_right, channel.one = channel.rows.right(channel.champion), np.zeros(size, dtype=bool)
        repaired += int(channel.night(good).sum())
    what = "broken data for ten nights, 5 points worse, n = 2,000, 8 % discordant, after 100 decisions"
    yield at_most(f"{what}: any goes live", 0.001, broken / runs, runs)
    yield at_least("a broken model went live: the repaired one goes live the same night", 0.95, repaired / runs, runs)
