"""Times and names as the pages say them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

# As many as tell versions of one model apart.
SHORT = 8
_UNITS = (
    (timedelta(days=365), "year"),
    (timedelta(days=30), "month"),
    (timedelta(days=1), "day"),
    (timedelta(hours=1), "hour"),
    (timedelta(minutes=1), "minute"),
)


def short(version: str) -> str:
    """The first digits of a version or digest."""
    return version[:SHORT]


def moment(text: str) -> datetime:
    """A time of a record, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def ago(then: datetime, now: datetime) -> str:
    """``3 hours ago``; ``in 2 days`` of what is to come; ``just now`` within a minute."""
    apart = abs(now - then)
    for unit, name in _UNITS:
        if apart >= unit:
            count = apart // unit
            said = f"{count} {name}{'s' * (count != 1)}"
            return f"{said} ago" if then <= now else f"in {said}"
    return "just now"


def shown_time(then: datetime) -> str:
    """``3 Nov 2026, 14:05 UTC``."""
    return f"{then.day} {then:%b %Y, %H:%M} UTC"


def who(actor: str) -> str:
    """Who did something. A run that nobody started goes by the name of its DAG."""
    dag = actor.removeprefix("airflow:")
    return actor if dag == actor else f"a run of {dag}"
