"""What the channel of a pipeline says before anything is judged: its champion, and what was rolled back from it."""

from __future__ import annotations

from typing import NamedTuple

from retrainer.artifacts.evaluation import ChampionState
from retrainer.errors import IntegrityError, NotFoundError
from retrainer.store import Manifest, ModelStore

REMEMBERED_MOVES = 200


class Live(NamedTuple):
    """What a channel says.

    :ivar champion: the manifest of the version that it serves; ``None`` where there is none that can be read.
    :ivar anchor: the version that challengers must not fall behind.
    :ivar problem: why the champion cannot be read.
    """

    champion: Manifest | None
    anchor: str | None
    state: ChampionState
    problem: str = ""


def read_champion(model: ModelStore, channel: str) -> Live:
    """What a channel says. A store that cannot be reached is an error, not "none"."""
    anchor = None
    try:
        move = model.newest_move(channel)
        if move is None:
            return Live(None, None, "none")
        anchor = move.anchor
        return Live(model.champion_of(move), anchor, "present")
    except IntegrityError as error:
        return Live(None, anchor, "unreadable", str(error))


def withdrawn(model: ModelStore, channel: str, export_digest: str) -> bool:
    """Whether that bundle was live on the channel and somebody rolled it back; the newest move of it counts.

    Of the last ``REMEMBERED_MOVES`` only: a channel may have moved for years, and each move is a request.
    """
    moves = model.history(channel, limit=REMEMBERED_MOVES)
    if all(move.action != "rollback" for move in moves):
        return False
    is_bundle: dict[str, bool] = {}
    for move in moves:
        for version, verdict in ((move.to_version, False), (move.from_version, True)):
            if version is None or (verdict and move.action != "rollback"):
                continue
            if version not in is_bundle:
                is_bundle[version] = _made_from(model, version) == export_digest
            if is_bundle[version]:
                return verdict
    return False


def _made_from(model: ModelStore, version: str) -> str | None:
    """The digest of the export that a version came from; ``None`` for a damaged one, which cannot be published again
    as it is, and so is not the bundle at hand."""
    try:
        return model.manifest(version).artifacts.get("export")
    except (IntegrityError, NotFoundError):
        return None
