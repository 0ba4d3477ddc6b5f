"""To which version a rollback goes: the line of champions that the moves of a channel leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retrainer.store.move import Move


def line_of_champions(moves: Sequence[Move]) -> list[str]:
    """The versions that rollbacks go back through: oldest first, the present champion last.

    A publication or promotion adds a version; signing changes nothing. A rollback takes away what was added since its
    target, so that the next one goes further back, and never returns to what was rolled back from. One to a version
    that is not among them goes forward, or aside: it adds it, so that the next one goes back to what was served just
    before.

    :param moves: newest first, as ``ChannelLog.walk`` gives them.
    """
    line = _line(moves)
    assert line is not None  # the oldest move is among them
    return line


def champion_before(moves: Iterator[Move]) -> str | None:
    """The last but one of the line of champions; ``None`` where there is but one.

    :param moves: newest first. Only as many are read as it takes, however long the history is.
    """
    newest: list[Move] = []
    enough = 2
    for move in moves:
        newest.append(move)
        if len(newest) >= enough:
            line = _line(newest)
            if line is not None and len(line) > 1:
                return line[-2]
            enough *= 2
    line = line_of_champions(newest)
    return line[-2] if len(line) > 1 else None


def _line(moves: Sequence[Move]) -> list[str] | None:
    """The upper end of the line of champions, as far as these moves tell; ``None`` where they do not.

    :param moves: newest first; where the oldest is missing, what lies below its champion is unknown.
    """
    base = moves[-1].from_version if moves else None
    line = [base] if base is not None else []
    for move in reversed(moves):
        if move.action == "sign":
            continue
        if move.action != "rollback":
            line.append(move.to_version)
            continue
        below = line[:-1]
        if move.to_version in below:
            while below[-1] != move.to_version:
                below.pop()
            line = below
        elif base is not None:
            return None
        elif line[-1:] != [move.to_version]:
            line.append(move.to_version)
    return line
