"""One connection of the server: uvicorn's, with limits for clients that are slow or send endless headers.

uvicorn has a timeout for idle connections after their first answer, and no other. Added here: for a connection on which
nothing ever comes, a request that comes too slowly (headers and body together), headers without end, and a client
that does not read its answer. One sweep each second looks at all connections, which costs less than timers for each
request.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from retrainer.serve.http.predict import TRANSPORT
from retrainer.serve.http.problems import Problem
from retrainer.serve.http.settings import Limits

# A client may offer another protocol with its first request, as Java's does with h2c, and a server may ignore the offer
# (RFC 9110, 7.8). The parser does not: it takes the body for that protocol's bytes. So it does not get to see it.
_OFFER = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_IGNORED = b"\r\nignored:"


class Connection(HttpToolsProtocol):
    """A connection. ``limits`` is set by ``with_limits``."""

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(transport)
        self._heard_at = self.loop.time()
        self._request_began: float | None = None
        self._in_headers = False
        self._header_bytes = 0
        self._writing_paused_at: float | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._heard_at = self.loop.time()
        if b"pgrade:" in data or b"PGRADE:" in data:
            data = _OFFER.sub(_IGNORED, data)
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > self.limits.header_bytes and not self.transport.is_closing():
                self._refuse(Problem("headers-too-large", f"more than {self.limits.header_bytes} bytes"))

    def on_message_begin(self) -> None:
        """The first byte of a request came."""
        super().on_message_begin()
        self._request_began = self._heard_at
        self._in_headers = True
        self._header_bytes = 0
        cast(dict[str, Any], self.scope)["extensions"] = {TRANSPORT: self.transport}

    def on_headers_complete(self) -> None:
        """The headers are there; the request goes to the application."""
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The last byte of a request came."""
        self._request_began = None
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client reads slower than the answer is written."""
        self._writing_paused_at = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It read some."""
        self._writing_paused_at = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered like all other problems."""
        self._refuse(Problem("malformed", "not a valid HTTP request"))

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for long, unless it began before the last answer ended: then the sweep has an eye on it."""
        if self._request_began is None:
            super().timeout_keep_alive_handler()

    def quiet(self, seconds: float) -> bool:
        """Whether nothing is being asked or answered, and nothing was heard for that long."""
        if self._request_began is not None or self._answering:
            return False
        return self.loop.time() - self._heard_at >= seconds

    def sweep(self, now: float) -> None:
        """Give up on a client that takes too long.

        :param now: of the loop's clock.
        """
        if self.transport.is_closing():
            if self._writing_paused_at is not None and now - self._writing_paused_at > self.limits.write_seconds:
                self.transport.abort()
            return
        if self._writing_paused_at is not None:
            if now - self._writing_paused_at > self.limits.write_seconds:
                self.transport.abort()
            return
        if self._request_began is not None:
            if now - self._request_began > self.limits.read_seconds:
                self._refuse(Problem("timeout", f"not complete after {self.limits.read_seconds:g} seconds"))
            return
        # After an answer uvicorn has its own timer; before the first request there is none.
        if self._exchange is None and now - self._heard_at > self.limits.keep_alive_seconds:
            self.transport.close()

    @property
    def _exchange(self) -> RequestResponseCycle | None:
        """The last request and its answer."""
        return cast(RequestResponseCycle | None, self.cycle)

    @property
    def _answering(self) -> bool:
        exchange = self._exchange
        return exchange is not None and not exchange.response_complete

    def _refuse(self, problem: Problem) -> None:
        """Answer without the application and close. Nothing is written into an answer that was begun."""
        exchange = self._exchange
        if not self._answering or (not self._in_headers and exchange is not None and not exchange.response_started):
            body = problem.body()
            lines = [STATUS_LINE[problem.status]]
            lines += [f"{name}: {value}\r\n".encode() for name, value in problem.headers()]
            lines += [b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body), body]
            self.transport.write(b"".join(lines))
        self.transport.close()


def with_limits(limits: Limits) -> type[Connection]:
    """The class of connections within these limits; uvicorn makes the instances."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
