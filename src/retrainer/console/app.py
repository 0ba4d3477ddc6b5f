"""The console's routes, every one behind the guard that the host gives. Those that a form is sent to start something,
and ask first whether the visitor may and whether this site's own page sent it; the others read.

A page is HTML, or with ``Accept: application/json`` the record that it is made of. Its state is in its address; links
are relative, since nobody here knows where the host mounts it. Not here: who may (``host.Visitor``), what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from retrainer.audit.locate import RECEIPT
from retrainer.chain.model_store import loading_code
from retrainer.console.access import Access, channel_of
from retrainer.console.acting import Acting
from retrainer.console.answers import HEADERS, Theme, answer, failed
from retrainer.console.approvals import waiting_in
from retrainer.console.compare import compare_page
from retrainer.console.data import data_page
from retrainer.console.decision import REPORT, decision_page, texts_for
from retrainer.console.host import MOST_QUESTIONS, Host, Visitor
from retrainer.console.model import model_page
from retrainer.console.overview import overview
from retrainer.console.pages import ASSETS, asset
from retrainer.console.stores import Stores
from retrainer.errors import NotAllowed, RetrainerError

# The report comes from the artifacts, which others write: it may show itself, and nothing else.
_POLICY_OF_REPORT = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'self'"
)


def console_app(
    host: Host,
    visitor: Callable[..., Visitor],
    *,
    guards: Sequence[Callable[..., Any]] = (),
    stores: Stores | None = None,
) -> FastAPI:
    """The console as an application to mount.

    :param visitor: a FastAPI dependency that gives who asks, or refuses.
    :param guards: more dependencies, which every route has.
    """
    stores = stores or Stores()
    acting = Acting(host, stores, lambda: _now())  # noqa: PLW0108 - the clock is looked up when it is read
    console = _Console(host, stores, acting)
    asks = Depends(visitor)
    dependencies = [*map(Depends, guards), asks]
    app = FastAPI(
        title="retrainer",
        dependencies=dependencies,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(RetrainerError, failed)

    @app.get("/")
    def all_models(
        request: Request,
        q: str = Query("", max_length=200),
        theme: Theme | None = None,
        who: Visitor = asks,
    ) -> Response:
        return console.all_models(request, who, q)

    @app.get("/model")
    def model(
        request: Request,
        name: str,
        channel: str | None = None,
        metric: str | None = None,
        on: date | None = None,
        theme: Theme | None = None,
        who: Visitor = asks,
    ) -> Response:
        return console.model(request, who, name, channel, metric, on)

    @app.get("/decision")
    def decision(
        request: Request,
        name: str,
        decision: str,
        channel: str | None = None,
        view: Literal["page", "report"] = "page",
        theme: Theme | None = None,
        who: Visitor = asks,
    ) -> Response:
        return console.decision(request, who, name, channel, decision, view)

    @app.get("/compare")
    def compare(
        request: Request,
        name: str,
        a: str | None = None,
        b: str | None = None,
        channel: str | None = None,
        rows: Literal["all", "a", "b", "neither"] = "all",
        theme: Theme | None = None,
        who: Visitor = asks,
    ) -> Response:
        return console.compare(request, who, name, channel, a or None, b or None, rows)

    @app.get("/data")
    def data(
        request: Request,
        name: str,
        snapshot: str | None = None,
        decision: str | None = None,
        channel: str | None = None,
        theme: Theme | None = None,
        who: Visitor = asks,
    ) -> Response:
        return console.data(request, who, name, channel, snapshot or None, decision or None)

    @app.get("/report.html")
    def report(name: str, decision: str, who: Visitor = asks) -> Response:
        return console.report(who, name, decision)

    @app.get("/receipt.json")
    def receipt(name: str, decision: str, who: Visitor = asks) -> Response:
        return console.receipt(who, name, decision)

    @app.get("/approvals")
    def approvals(request: Request, theme: Theme | None = None, who: Visitor = asks) -> Response:
        return acting.approvals(request, who)

    @app.get("/run")
    def run(request: Request, dag_id: str, run_id: str, theme: Theme | None = None, who: Visitor = asks) -> Response:
        return acting.run(request, who, dag_id, run_id)

    @app.get("/move")
    def move(
        request: Request, name: str, channel: str | None = None, theme: Theme | None = None, who: Visitor = asks
    ) -> Response:
        return acting.move(request, who, name, channel)

    @app.post("/move")
    async def start_move(
        request: Request, name: str, channel: str | None = None, theme: Theme | None = None, who: Visitor = asks
    ) -> Response:
        return await acting.start_move(request, who, name, channel)

    @app.get("/try")
    def try_text(
        request: Request,
        name: str,
        channel: str | None = None,
        version: str | None = None,
        theme: Theme | None = None,
        who: Visitor = asks,
    ) -> Response:
        return acting.try_text(request, who, name, channel, version)

    @app.post("/try")
    async def ask_version(
        request: Request, name: str, channel: str | None = None, theme: Theme | None = None, who: Visitor = asks
    ) -> Response:
        return await acting.ask_version(request, who, name, channel)

    @app.get("/dag")
    def dag(
        request: Request,
        dag_id: str,
        run_id: str | None = None,
        theme: Theme | None = None,
        who: Visitor = asks,
    ) -> Response:
        return acting.dag(request, who, dag_id, run_id)

    for name in ASSETS:
        app.router.routes.append(_asset_route(name, dependencies))
    return app


def _asset_route(name: str, dependencies: Sequence[Any]) -> APIRoute:
    content, kind = asset(name)

    def serve() -> Response:
        return Response(content, media_type=kind, headers={**HEADERS, "Cache-Control": "private, max-age=300"})

    return APIRoute(f"/{name}", serve, methods=["GET"], dependencies=list(dependencies))


class _Console:
    """What the routes do."""

    def __init__(self, host: Host, stores: Stores, acting: Acting) -> None:
        self._host = host
        self._stores = stores
        self._acting = acting
        self._access = Access(host, stores)

    def all_models(self, request: Request, who: Visitor, query: str) -> Response:
        """The first page."""
        catalogue = self._host.catalogue()
        shown = self._access.readable(catalogue, who)
        runs = self._host.runs([one.dag_id for one in shown])
        with self._host.reaching_stores():
            page = overview(catalogue, shown, runs, self._stores, _now())
        page = page.model_copy(update={"waiting": waiting_in(shown, self._host, who)})
        if query:
            wanted = query.casefold()
            kept = (row for row in page.rows if wanted in f"{row.model} {row.channel}".casefold())
            page = page.model_copy(update={"rows": tuple(kept)})
        channels = {one.dag_id: one.pipeline.publish.channel for one in shown}
        asked: dict[tuple[str, str], str | None] = {}
        for one in page.waiting:
            key = (one.dag_id, channels[one.dag_id])
            # Straight to where it is answered; to the list where there are several, or nothing is to be answered.
            asked[key] = one.address if one.for_you and key not in asked else None
        return answer(request, "overview.html.jinja", page, query=query, asked=asked, most=MOST_QUESTIONS)

    def model(
        self, request: Request, who: Visitor, name: str, channel: str | None, metric: str | None, on: date | None
    ) -> Response:
        """The second."""
        one = self._access.shown(who, name)
        channel = channel_of(one, channel)
        runs = self._host.runs([one.dag_id])
        with self._host.reaching_stores():
            page = model_page(
                one,
                channel,
                runs.get(one.dag_id),
                self._stores,
                _now(),
                metric=metric,
                on=on,
                loading_code=loading_code(one.pipeline),
            )
        waiting = waiting_in([one], self._host, who) if channel == one.pipeline.publish.channel else ()
        offered = self._acting.offered(who, one, page)
        address = self._host.dag_address(one.dag_id)
        return answer(request, "model.html.jinja", page, dag_address=address, waiting=waiting, **offered)

    def decision(
        self, request: Request, who: Visitor, name: str, channel: str | None, decision: str, view: str
    ) -> Response:
        """The third."""
        one, root = self._access.shown(who, name), self._host.catalogue().root
        with self._host.reaching_stores():
            page = decision_page(
                one,
                channel_of(one, channel),
                decision,
                root,
                self._stores,
                may_read_texts=who.may_read_texts(one.dag_id),
            )
        if view == "report" and not page.report:
            raise NotAllowed("the report holds texts of rows, which are not for you", hint=page.texts_because)
        run = page.place.run if page.place is not None else None
        address = self._host.dag_address(one.dag_id, run)
        return answer(request, "decision.html.jinja", page, dag_address=address, view=view)

    def compare(
        self, request: Request, who: Visitor, name: str, channel: str | None, a: str | None, b: str | None, rows: str
    ) -> Response:
        """Two versions, or challengers, on the rows that both were asked."""
        one, root = self._access.shown(who, name), self._host.catalogue().root
        texts, channel = who.may_read_texts(one.dag_id), channel_of(one, channel)
        with self._host.reaching_stores():
            page = compare_page(one, channel, root, self._stores, a, b, may_read_texts=texts)
        status = 404 if page.missing else 200
        return answer(request, "compare.html.jinja", page, status=status, only=rows)

    def data(
        self,
        request: Request,
        who: Visitor,
        name: str,
        channel: str | None,
        snapshot: str | None,
        decision: str | None,
    ) -> Response:
        """What a model learnt from."""
        one, root = self._access.shown(who, name), self._host.catalogue().root
        texts, channel, now = who.may_read_texts(one.dag_id), channel_of(one, channel), _now().isoformat()
        with self._host.reaching_stores():
            page = data_page(one, channel, root, self._stores, now, snapshot, decision, may_read_texts=texts)
        return answer(request, "data.html.jinja", page)

    def report(self, who: Visitor, name: str, decision: str) -> Response:
        """The report of a decision, as the decide step wrote it."""
        one, root = self._access.shown(who, name), self._host.catalogue().root
        with self._host.reaching_stores():
            receipt = self._access.receipt(one, root, decision)
            texts, because = texts_for(receipt, may_read_texts=who.may_read_texts(one.dag_id), dag_id=one.dag_id)
            if receipt.policy.report_texts and not texts:
                raise NotAllowed("the report holds texts of rows, which are not for you", hint=because)
            content = self._access.file_of_decision(root, decision, REPORT)
        headers = {**HEADERS, "Content-Security-Policy": _POLICY_OF_REPORT}
        return Response(content, media_type="text/html; charset=utf-8", headers=headers)

    def receipt(self, who: Visitor, name: str, decision: str) -> Response:
        """The receipt, byte for byte."""
        one, root = self._access.shown(who, name), self._host.catalogue().root
        with self._host.reaching_stores():
            self._access.receipt(one, root, decision)
            content = self._access.file_of_decision(root, decision, RECEIPT)
        return Response(content, media_type="application/json", headers=HEADERS)


def _now() -> datetime:
    return datetime.now(UTC)
