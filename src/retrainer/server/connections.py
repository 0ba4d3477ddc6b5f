"""One connection of the server: uvicorn's, with limits for clients that are slow or send endless headers.

uvicorn has a timeout for idle connections after their first answer, and no other. Added here: for a connection on which
nothing ever comes, a request that comes too slowly (headers and body together), headers without end, and a client
that does not read its answer. One sweep each second looks at all connections, which costs less than timers for each
request.

Clients may send further requests before they have the answer to the first. So what is wrong with one request never
takes the answers to those before it: they are answered, and then the connection is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from retrainer.server.predict import TRANSPORT
from retrainer.server.problems import Problem
from retrainer.server.settings import Limits

# A client that sends nothing more may still wait for its answer (``nc -N``), or be gone; TCP tells both with the same
# packet. One that only ends its side does so with its last byte, and one that gives up does so after a while.
HALF_CLOSE_SECONDS = 0.5


def _uncounted(status: int) -> None:
    """Nobody counts."""


class Connection(HttpToolsProtocol):
    """A connection. ``limits`` and ``refused`` are set by ``with_limits``."""

    limits = Limits()
    # Told the status of each answer that is given here, without the application.
    refused: Callable[[int], None] = staticmethod(_uncounted)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        # Requests that the application has or will get, and that are not answered yet. The first is being answered.
        self._open: deque[RequestResponseCycle] = deque()
        self._heard_at = self._idle_since = self.loop.time()
        self._request_began: float | None = None
        self._in_headers = False
        self._header_bytes = 0
        self._chunk_bytes = 0
        self._began_in_chunk = False
        self._offered = False
        self._problem: Problem | None = None
        self._ended = False
        self._writing_paused_at: float | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: whoever works for it is told. uvicorn tells the newest request only."""
        for exchange in self._open:
            exchange.disconnected = True
            exchange.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._heard_at = self.loop.time()
        if not self._ended:
            self._unset_keepalive_if_required()
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        self._chunk_bytes = len(data)
        self._began_in_chunk = False
        left: list[bytes | memoryview] = [data]
        try:
            while left:
                piece = left.pop()
                try:
                    self.parser.feed_data(piece)
                except httptools.HttpParserUpgrade as offer:
                    left += [memoryview(piece)[offer.args[0] :], self._without_offer()]
        except httptools.HttpParserError:
            self._refuse(self._problem or Problem("no-http", "not a valid HTTP request"))
            return
        if self._in_headers and not self._began_in_chunk:
            self._header_bytes += len(data)
            if self._header_bytes > self.limits.header_bytes:
                self._refuse(self._headers_too_large())

    def _without_offer(self) -> bytes:
        """The headers that came, without their offer of another protocol, for another parser.

        Java's client, for one, offers h2c with its first request, and a server may ignore the offer (RFC 9110, 7.8).
        The parser does not: it takes the body for that protocol's bytes.
        """
        lines = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                lines += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn sets it.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"".join([*lines, b"\r\n"])

    def on_message_begin(self) -> None:
        """The first byte of a request came."""
        super().on_message_begin()
        if self._request_began is None:
            self._request_began = self._heard_at
        self._in_headers = True
        self._header_bytes = 0
        self._began_in_chunk = True
        cast(dict[str, Any], self.scope)["extensions"] = {TRANSPORT: self.transport}

    def on_headers_complete(self) -> None:
        """The headers are there; the request goes to the application."""
        self._offered = self.parser.should_upgrade()
        self._problem = self._what_is_wrong()
        if self._problem is not None:
            raise self._problem  # ends the parser's work on what came
        if self._offered:
            return  # it is read again
        if self._open:
            # A drain closes after each answer. Here the next request came already, and its answer is the last.
            before = self._open[-1]
            before.default_headers = [header for header in before.default_headers if header[0] != b"connection"]
        super().on_headers_complete()
        self._in_headers = False
        self._open.append(self.cycle)

    def on_message_complete(self) -> None:
        """The last byte of a request came."""
        if self._offered:
            return
        self._request_began = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer ended; the next one begins."""
        self._open.popleft()
        self._heard_at = self._idle_since = self.loop.time()
        super().on_response_complete()
        self.flow.resume_reading()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more. Whether the connection stays open for an answer."""
        if self._ended:
            return bool(self._open)
        return self.loop.time() - self._heard_at < HALF_CLOSE_SECONDS and self._end_after_answers()

    def pause_writing(self) -> None:
        """The client reads slower than the answer is written."""
        self._writing_paused_at = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It read some."""
        self._writing_paused_at = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for long, unless it began before the last answer ended: then the sweep has an eye on it."""
        if self._request_began is None:
            super().timeout_keep_alive_handler()

    def quiet(self, seconds: float) -> bool:
        """Whether nothing is being asked or answered, and nothing was heard for that long."""
        if self._request_began is not None or self._open:
            return False
        return self.loop.time() - self._heard_at >= seconds

    def sweep(self, now: float) -> None:
        """Give up on a client that takes too long.

        :param now: of the loop's clock.
        """
        if self._writing_paused_at is not None:
            if now - self._writing_paused_at > self.limits.write_seconds:
                self.transport.abort()
        elif self.transport.is_closing():
            return
        elif self._request_began is not None:
            if self._open and self._open[0] is not self._unfinished:
                # While others are answered it may not even be read: its time begins after them.
                self._request_began = now
            elif now - self._request_began > self.limits.read_seconds:
                self._refuse(Problem("timeout", f"not complete after {self.limits.read_seconds:g} seconds"))
        # uvicorn has a timer after an answer, which anything that comes ends, and none before the first request.
        elif not self._open and now - self._idle_since > self.limits.keep_alive_seconds:
            self.transport.close()

    @property
    def _unfinished(self) -> RequestResponseCycle | None:
        """The request whose body is on its way."""
        if self._request_began is None or self._in_headers:
            return None
        return self.cycle

    def _what_is_wrong(self) -> Problem | None:
        """With the headers that are complete now."""
        if self._header_bytes + self._chunk_bytes > self.limits.header_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.limits.header_bytes:
                return self._headers_too_large()
        if self._offered and self.parser.get_method() == b"CONNECT":
            return Problem("no-http", "this is no proxy")
        hosts = [name for name, _ in self.headers].count(b"host")
        # RFC 9112, 3.2.
        if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):
            return Problem("no-http", "several Host headers" if hosts else "the header Host is missing")
        return None

    def _headers_too_large(self) -> Problem:
        return Problem("headers-too-large", f"more than {self.limits.header_bytes} bytes")

    def _refuse(self, problem: Problem) -> None:
        """Answer the newest request without the application, and close.

        Those before it are answered first; then the connection ends without a word on it, as the last of their answers
        says. Nothing is written into an answer that was begun, or after one.
        """
        if self.transport.is_closing() or self._end_after_answers():
            return
        # What is left is the request itself: nobody was asked yet, or its body is on its way.
        unfinished = self._unfinished
        if unfinished is None or not unfinished.response_started:
            body = problem.body()
            lines = [STATUS_LINE[problem.status]]
            lines += [f"{name}: {value}\r\n".encode() for name, value in problem.headers()]
            lines += [b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body), body]
            self.transport.write(b"".join(lines))
            self.refused(problem.status)
        self.transport.close()

    def _end_after_answers(self) -> bool:
        """Take no more, and close once all that was asked completely is answered.

        :return: whether there is anything like that; otherwise nothing is done.
        """
        unfinished = self._unfinished
        if len(self._open) > 1 and self._open[-1] is unfinished:
            # Nobody has begun with it: it waits in the pipeline, as the newest.
            self._open.pop()
            self.pipeline.popleft()
        elif not self._open or self._open[-1] is unfinished:
            return False
        self._open[-1].keep_alive = False
        self._ended = True
        self._request_began = None
        return True


class _Flow(FlowControl):
    """Whether the client is read from: not while requests wait, so that it cannot make more and more of them wait."""

    def __init__(self, transport: asyncio.Transport, pipeline: deque[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Read on, unless a whole request waits already."""
        if not self._pipeline:
            super().resume_reading()


def with_limits(limits: Limits, *, refused: Callable[[int], None] = _uncounted) -> type[Connection]:
    """The class of connections within these limits; uvicorn makes the instances.

    :param refused: told the status of each answer that a connection gives without the application.
    """
    return type("LimitedConnection", (Connection,), {"limits": limits, "refused": staticmethod(refused)})
