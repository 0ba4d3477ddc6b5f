"""``notify`` of a pipeline file: whom Airflow tells, of what, and how.

A notifier is any class of ``airflow.sdk.BaseNotifier``, by name, with its arguments: those of Slack, of e-mail, of a
team's own package. Not here: calling one (``airflow/notifying.py``).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from retrainer.records import Record
from retrainer.spec.fields import ImportPath


class Notifier(Record):
    """A notifier of Airflow."""

    notifier: ImportPath = Field(
        description="Its class, such as airflow.providers.smtp.notifications.smtp.SmtpNotifier."
    )
    arguments: dict[str, Any] = Field(
        {}, description="Its arguments. In those that it renders, `{{ retrainer.text }}` says what happened."
    )


class Notify(Record):
    """Whom Airflow tells of what."""

    on_refused: tuple[Notifier, ...] = Field((), description="The gate refuses a challenger, or a person rejects it.")
    on_published: tuple[Notifier, ...] = Field((), description="The channel serves another version.")
    on_failed: tuple[Notifier, ...] = Field(
        (), description="A run failed: it came to no decision, or could not act on it."
    )

    on_decay: tuple[Notifier, ...] = Field((), description="The champion has decayed, as section `decay` says.")

    @property
    def all(self) -> tuple[Notifier, ...]:
        """Every notifier."""
        return (*self.on_refused, *self.on_published, *self.on_failed, *self.on_decay)
