"""What the routes do on which somebody can act, and those of runs: approvals, moves, texts on trial, a run's end.

Who may is asked before anything that was sent is read. Not here: what is on a page, and the rules of each form (the
module of each).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response

from retrainer.chain.model_store import model_of
from retrainer.console.access import Access, channel_of
from retrainer.console.actions import Moves, asked_move, moves_of
from retrainer.console.actions import refuse_unless as refuse_move_unless
from retrainer.console.answers import HEADERS, answer, status_of, wants_json
from retrainer.console.approvals import Approvals, described, waiting_in
from retrainer.console.forms import credentials_of, form_of
from retrainer.console.host import MOST_QUESTIONS, Host, Mover, RunSeen, Shown, Visitor
from retrainer.console.model import MOST_MOVES, ModelPage
from retrainer.console.run import RunPage, move_page, retrain_page
from retrainer.console.stores import Problem, Stores
from retrainer.console.try_text import page_of, trial_of, try_page
from retrainer.console.try_text import refuse_unless as refuse_try_unless
from retrainer.errors import NotAllowed, NotFoundError, RetrainerError, StorageError, UserError
from retrainer.store import Move
from retrainer.store.summary import Summary


class Acting:
    """What those routes do.

    :param now: the clock.
    """

    def __init__(self, host: Host, stores: Stores, now: Callable[[], datetime]) -> None:
        self._host = host
        self._stores = stores
        self._access = Access(host, stores)
        self._now = now

    def dag(self, request: Request, who: Visitor, dag_id: str, run_id: str | None) -> Response:
        """Where a DAG or a run leads: to its model, or to what happened in the run."""
        if run_id is not None:
            return RedirectResponse(_address("run", request, dag_id=dag_id, run_id=run_id), 303)
        one = self._of_dag(who, dag_id)
        return RedirectResponse(_address("model", request, name=one.name), 303)

    def _of_dag(self, who: Visitor, dag_id: str) -> Shown:
        shown = self._access.readable(self._host.catalogue(), who)
        one = next((one for one in shown if one.dag_id == dag_id), None)
        if one is None:
            raise NotFoundError(f"the DAG '{dag_id}' retrains no model that you may see")
        return one

    def approvals(self, request: Request, who: Visitor) -> Response:
        """All that wait for a person."""
        shown = self._access.readable(self._host.catalogue(), who)
        found = waiting_in(shown, self._host, who)
        more = len(found) > MOST_QUESTIONS
        page = Approvals(now=self._now(), waiting=found[:MOST_QUESTIONS], more=more)
        return answer(request, "approvals.html.jinja", page)

    def run(self, request: Request, who: Visitor, dag_id: str, run_id: str) -> Response:
        """What happened in a run: of a pipeline's DAG, or of the one that moves channels."""
        if dag_id == self._host.mover().dag_id:
            page = self._run_of_move(who, dag_id, run_id)
        else:
            one = self._of_dag(who, dag_id)
            seen = self._seen(dag_id, run_id)
            asked = [question for question in seen.questions if question.answer is None]
            waiting = described({dag_id: one.name}, asked, self._host, who)
            page = retrain_page(
                one.name,
                one.pipeline.publish.channel,
                seen,
                waiting if seen.state == "running" else (),
                self._now(),
                may_read_logs=who.may_read_texts(dag_id),
            )
        return answer(request, "run.html.jinja", page, host=self._host)

    def _run_of_move(self, who: Visitor, dag_id: str, run_id: str) -> RunPage:
        if not who.readable({dag_id}):
            raise NotFoundError(f"there is no DAG '{dag_id}' that you may see")
        page = move_page(self._seen(dag_id, run_id), self._now(), may_read_logs=who.may_read_texts(dag_id))
        self._access.shown(who, page.model)
        return page

    def _seen(self, dag_id: str, run_id: str) -> RunSeen:
        seen = self._host.run(dag_id, run_id) if "\0" not in run_id else None  # which databases refuse
        if seen is None:
            raise NotFoundError(f"the DAG '{dag_id}' has no run '{run_id}'")
        return seen

    def move(
        self,
        request: Request,
        who: Visitor,
        name: str,
        channel: str | None,
        given: Mapping[str, str] | None = None,
        wrong: UserError | None = None,
    ) -> Response:
        """The forms that move a channel."""
        one = self._access.shown(who, name)
        mover = self._host.mover()
        refuse_move_unless(who.may_start(mover.dag_id), mover.dag_id)
        with self._host.reaching_stores():
            page = self._moves(one, channel_of(one, channel), mover, given, str(wrong) if wrong else None)
        return answer(request, "move.html.jinja", page, status=status_of(wrong) if wrong else 200)

    def offered(self, who: Visitor, one: Shown, page: ModelPage) -> dict[str, Any]:
        """What a visitor can do from the page of a model, by what that page has read."""
        mover = self._host.mover()
        moves = None
        if who.may_start(mover.dag_id):
            key = ("summary", one.store, one.name)
            summary = self._stores.kept([key]).get(key, Summary(model=one.name, written_at=page.now))
            moves = moves_of(one.name, page.channel, mover, page.moves, summary)
        may_try = self._host.trials() is not None and who.may_read_texts(one.dag_id)
        return {"offered": moves, "asking": page_of(one, page.channel, None, page.moves) if may_try else None}

    def _moves(
        self, one: Shown, channel: str, mover: Mover, given: Mapping[str, str] | None, wrong: str | None
    ) -> Moves:
        log, told = ("log", one.store, one.name, channel), ("summary", one.store, one.name)
        answers = self._stores.ask_several(
            [
                (
                    one.store,
                    {
                        log: lambda: tuple(model_of(one.pipeline).history(channel, limit=MOST_MOVES)),
                        told: partial(self._stores.summary, one.store, one.name),
                    },
                )
            ]
        )
        moves: tuple[Move, ...] | Problem = answers[log]
        summary: Summary | Problem = answers[told]
        for problem in (moves, summary):
            if isinstance(problem, Problem):
                raise StorageError(problem.text, where=one.store)
        assert not isinstance(moves, Problem)
        assert not isinstance(summary, Problem)
        return moves_of(one.name, channel, mover, moves, summary, given, wrong)

    async def start_move(self, request: Request, who: Visitor, name: str, channel: str | None) -> Response:
        """Start the run that moves it, and lead to its page."""
        mover = await run_in_threadpool(self._host.mover)
        refuse_move_unless(await run_in_threadpool(who.may_start, mover.dag_id), mover.dag_id)
        given = await form_of(request, self._host.origins())
        one = await run_in_threadpool(self._access.shown, who, name)
        try:
            conf = asked_move(given, one.name, channel_of(one, channel), mover)
            run_id = await self._host.start(credentials_of(request), mover.dag_id, conf, conf["reason"])
        except NotAllowed:
            raise
        except UserError as error:
            return await run_in_threadpool(self.move, request, who, name, channel, given, error)
        address = _address("run", request, dag_id=mover.dag_id, run_id=run_id)
        if wants_json(request.headers.get("accept", "")):
            started = {"dag_id": mover.dag_id, "run_id": run_id}
            return JSONResponse(started, 201, headers={**HEADERS, "Location": address})
        return RedirectResponse(address, 303)

    def try_text(self, request: Request, who: Visitor, name: str, channel: str | None, version: str | None) -> Response:
        """The page on which a version is asked something."""
        one = self._access.shown(who, name)
        refuse_try_unless(self._host.trials(), who.may_read_texts(one.dag_id))
        with self._host.reaching_stores():
            page = try_page(one, channel_of(one, channel), version, self._stores)
        return answer(request, "try.html.jinja", page)

    async def ask_version(self, request: Request, who: Visitor, name: str, channel: str | None) -> Response:
        """The same with an answer."""
        one = await run_in_threadpool(self._access.shown, who, name)
        refuse_try_unless(self._host.trials(), await run_in_threadpool(who.may_read_texts, one.dag_id))
        given = await form_of(request, self._host.origins())
        return await run_in_threadpool(self._asked, request, one, channel_of(one, channel), given)

    def _asked(self, request: Request, one: Shown, channel: str, given: Mapping[str, str]) -> Response:
        trials = self._host.trials()
        assert trials is not None
        with self._host.reaching_stores():
            page = try_page(one, channel, given.get("version"), self._stores)
            page = page.model_copy(update={"text": given.get("text", ""), "pair": given.get("pair", "")})
            try:
                tried = trials.ask(trial_of(one, page, given, self._stores))
            except RetrainerError as error:
                wrong = page.model_copy(update={"wrong": str(error)})
                return answer(request, "try.html.jinja", wrong, status=status_of(error))
        return answer(request, "try.html.jinja", page.model_copy(update={"tried": tried}))


def _address(page: str, request: Request, **query: str) -> str:
    """A relative address with its query, in the theme of the one that was asked."""
    theme = request.query_params.get("theme")
    return f"{page}?{urlencode({**query, **({'theme': theme} if theme in {'light', 'dark'} else {})})}"
