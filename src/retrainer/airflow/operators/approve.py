"""The operator that asks a person whether what the gate promotes goes live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from retrainer.airflow.context import actor_of
from retrainer.airflow.settings import SettingsLike, as_mapping, in_task
from retrainer.airflow.step_operator import Upstream
from retrainer.artifacts.rejections import Rejection, reject, withdraw_rejection
from retrainer.chain import StepRef

if TYPE_CHECKING:
    from airflow.sdk import Context


class ApproveModelOperator(ApprovalOperator):  # type: ignore[misc]
    """Airflow's ``ApprovalOperator``, which also remembers a no.

    ``EvaluationGateOperator`` then does not let the same decision through to be asked about again, in whatever run,
    until something changes or a run is started with ``{"ask_again": true}``.

    :param decision: what ``EvaluationGateOperator`` returned. (templated)
    :param settings: see ``Settings``. (templated)
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "decision", "settings")

    def __init__(self, *, decision: Upstream, settings: SettingsLike = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.decision = decision
        self.settings = as_mapping(settings)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Remember the answer before acting on it: skipping what is downstream leaves the task by an exception."""
        with in_task(self.settings, self.log):
            self._remember(StepRef.from_content(self.decision, where="decision"), context, event)
        return super().execute_complete(context=context, event=event)

    def _remember(self, decision: StepRef, context: Any, event: Mapping[str, Any]) -> None:
        chosen = event.get("chosen_options") or ()
        if self.REJECT in chosen:
            run, user = context["dag_run"], event.get("responded_by_user") or {}
            no = Rejection(
                decision=decision.digest,
                by=user.get("name") or user.get("id") or actor_of(run),
                run_id=run.run_id,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            reject(decision.root, no)
            self.log.info("%s rejected it; nobody is asked again about the same decision", no.by)
        elif self.APPROVE in chosen:
            withdraw_rejection(decision.root, decision.digest)
