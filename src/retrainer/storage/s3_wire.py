"""Each call of a client on its wire: answered in time, within bounds, and by S3 rather than by what is in its place.

botocore limits the wait for each piece that arrives, so that a byte now and then holds a call for ever; it reads
answers whole, whatever their size, and takes a login page for an answer. Here every call has a clock that runs while
pieces are waited for, through all tries, and a most of bytes; and an answer has to have what S3's answers have.
Not here: how long and how large in each case (``s3.py``, ``s3_transfers.py``), and retries, which are botocore's.
"""

from __future__ import annotations

import io
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import urllib3
from botocore import awsrequest
from botocore import exceptions as boto
from botocore.httpsession import ProxyConfiguration, create_urllib3_context, mask_proxy_url
from botocore.parsers import ResponseParserFactory
from botocore.utils import get_environ_proxies

from retrainer.errors import RetrainerError, StorageError
from retrainer.storage.access import TIMEOUT, ends_at
from retrainer.storage.hashing import too_large

# Of a page of a list with a thousand keys of the longest, which is the largest answer that is no object.
MOST_ANSWER = 4 * 1024 * 1024
_HEADERS = 64 * 1024
# A file may move slowly, but not stand still: each piece pays back some of the seconds that it was waited for.
_LEAST_PER_SECOND = 100
_PAUSES = (0.1, 0.4, 1.6)
# A body that ends too early. botocore's own tries end with the headers.
_CUT = (boto.ResponseStreamingError, urllib3.exceptions.HTTPError)
# Of each of a host's addresses. An answer has as long as its call.
_CONNECT_SECONDS = 3
# That are kept: one for each part that is under way at once, and some for what is asked meanwhile.
_CONNECTIONS = 16
_BLOCK = 128 * 1024
# What botocore says, and tries again, where urllib3 says that; the first that fits.
_SAID: dict[type[Exception], type[boto.BotoCoreError]] = {
    urllib3.exceptions.SSLError: boto.SSLError,
    urllib3.exceptions.NewConnectionError: boto.EndpointConnectionError,
    urllib3.exceptions.ProxyError: boto.ProxyConnectionError,
    urllib3.exceptions.ConnectTimeoutError: boto.ConnectTimeoutError,
    urllib3.exceptions.ReadTimeoutError: boto.ReadTimeoutError,
    urllib3.exceptions.ProtocolError: boto.ConnectionClosedError,
    Exception: boto.HTTPClientError,
}

# What S3 names in each answer, and nobody else: in its headers, or at the root of its XML.
_WITH_ETAG = {"GetObject", "HeadObject", "PutObject", "UploadPart"}
_ROOTS = {
    "ListObjectsV2": b"ListBucket",
    "ListMultipartUploads": b"ListMultipartUploads",
    "CreateMultipartUpload": b"InitiateMultipartUpload",
    "CompleteMultipartUpload": b"CompleteMultipartUpload",
    "CopyObject": b"CopyObject",
    "DeleteObjects": b"Delete",
}
_PAGES = (b"<!doctype html", b"<html")

Result = TypeVar("Result")


@dataclass(slots=True)
class Call:
    """What a call of the client may take, its tries together.

    :ivar most: bytes that an answer may have.
    :ivar patience: seconds that may pass without anything worthwhile. One try has half of them: a connection that died
        while it was not used says nothing, and a new one does.
    :ivar ends: on the monotonic clock, whatever arrives.
    :ivar small: whether ``ends`` comes of how small the answer is.
    :ivar waited: seconds so far; what arrives pays for them.
    """

    most: int
    patience: float
    ends: float = math.inf
    small: bool = False
    waited: float = 0.0

    def left(self) -> float:
        """Seconds for the next piece.

        :raises StorageError: there are none.
        """
        left = min(self.ends - time.monotonic(), self.patience - self.waited)
        if left > 0:
            return min(left, self.patience / 2)
        if self.small:
            message, hint = f"no whole answer within {self.patience:.3g} s", f"; {TIMEOUT} sets the time"
        else:
            message, hint = f"next to nothing moved for {min(self.waited, self.patience):.0f} s", ""
        raise StorageError(message, hint=f"check the network and the server{hint}")

    @contextmanager
    def waiting(self) -> Iterator[list[int]]:
        """Have the clock run in the block, which adds the bytes that moved to the list that it is given."""
        moved: list[int] = []
        began = time.monotonic()
        try:
            yield moved
        finally:
            self.waited = max(0.0, self.waited + time.monotonic() - began - sum(moved) / _LEAST_PER_SECOND)


_call: ContextVar[Call] = ContextVar("s3_call")


def small_call(seconds: float, *, most: int = MOST_ANSWER) -> AbstractContextManager[None]:
    """What is asked in the block is answered in that time and within the deadline that holds, all together."""
    began = time.monotonic()
    ends = min(began + seconds, ends_at())
    return _as_call(Call(most, max(ends - began, 0.0), ends, small=True))


def large_call(patience: float, *, most: int) -> AbstractContextManager[None]:
    """What is asked in the block may stand still for that time, and has until the deadline that holds."""
    return _as_call(Call(most, patience, ends_at()))


@contextmanager
def _as_call(call: Call) -> Iterator[None]:
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


def whole(read: Callable[[], Result]) -> Result:
    """Ask, and ask again where the body was cut, with pauses; where it stopped only once more, for that takes long."""
    for pause in _PAUSES:
        try:
            return read()
        except boto.ReadTimeoutError:
            break
        except _CUT:
            time.sleep(pause * random.uniform(0.5, 1.0))
    return read()


def not_s3(found: str) -> StorageError:
    """The error for an answer that no S3 gives."""
    return StorageError(
        f"something else answered in place of S3: {found}",
        hint="check the endpoint, and whether a proxy or the login page of a network is in between",
    )


# How botocore is told


class Parsers(ResponseParserFactory):
    """botocore's parsers of answers. Whatever one stumbles over is said of the answer."""

    def create_parser(self, protocol_name: str) -> Any:
        """See ``ResponseParserFactory.create_parser``."""
        parser = super().create_parser(protocol_name)
        parse = parser.parse

        def parsed(response: Any, shape: Any) -> Any:
            try:
                return parse(response, shape)
            except Exception as error:  # there can be anything in an answer
                raise not_s3(f"an answer that cannot be read ({type(error).__name__})") from error

        parser.parse = parsed  # type: ignore[method-assign]
        return parser


class Wire:
    """Sends a client's requests as botocore's own session would, whose connections have no public name.

    Each request has to be in a block of ``small_call`` or ``large_call``.

    :param endpoint: a URL; the environment says whether it is reached through a proxy.
    :param certificates: the file that the endpoint's certificate is checked against.
    """

    def __init__(self, endpoint: str, certificates: str) -> None:
        proxies = ProxyConfiguration(get_environ_proxies(endpoint))
        proxy = proxies.proxy_url_for(endpoint)
        self._proxy_shown = mask_proxy_url(proxy or "")
        options: dict[str, Any] = {
            "maxsize": _CONNECTIONS,
            "blocksize": _BLOCK,
            "ssl_context": create_urllib3_context(),
            "ca_certs": certificates,
        }
        self._manager = (
            urllib3.ProxyManager(proxy, proxy_headers=proxies.proxy_headers_for(proxy), **options)
            if proxy
            else urllib3.PoolManager(**options)
        )
        self._manager.pool_classes_by_scheme = {"http": _Pool, "https": _SafePool}

    def send(self, request: awsrequest.AWSPreparedRequest, event_name: str, **_: object) -> awsrequest.AWSResponse:
        """For ``before-send``: botocore takes the answer for its own, and tries again after errors that are its own."""
        call, url = _call.get(), request.url
        call.left()
        path = "/" + url.split("/", 3)[3]  # as it was signed
        try:
            pool: Any = self._manager.connection_from_url(url)
            raw = pool.urlopen(
                request.method,
                url if self._manager.proxy and url.startswith("http:") else path,
                request.body,
                request.headers,
                retries=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
            answer = awsrequest.AWSResponse(url, raw.status, raw.headers, raw)
            fault = _fault_of(answer, request, event_name.rpartition(".")[2], call.most)
        except RetrainerError:
            raise
        except Exception as error:
            call.left()
            said = next(said for kind, said in _SAID.items() if isinstance(error, kind))
            raise said(endpoint_url=url, proxy_url=self._proxy_shown, error=error) from error
        if fault is not None:
            raw.close()
            raise fault
        return answer


def _fault_of(
    answer: awsrequest.AWSResponse, request: awsrequest.AWSPreparedRequest, operation: str, most: int
) -> RetrainerError | None:
    """What is wrong with an answer: it is not S3's, or is larger than it may be. Reads it, unless it is a stream."""
    headers, status = answer.headers, answer.status_code
    length, kind = str(headers.get("Content-Length", "")), str(headers.get("Content-Type", ""))
    content = b""
    if request.stream_output and status < 300:
        page = kind.startswith("text/html") and not any(name.lower().startswith("x-amz-") for name in headers)
        if length.isdecimal() and int(length) > most and not page:
            return too_large(most)
    else:
        content = answer.content
        # With 5xx a load balancer says like that that there is no server behind it, now.
        page = content[:1024].lstrip().lower().startswith(_PAGES) and status < 500
    root = _ROOTS.get(operation, b"")
    lacking = ""
    if page:
        lacking = "a web page"
    elif status < 300 and operation in _WITH_ETAG and not headers.get("ETag"):
        lacking = "an answer without ETag"
    elif status < 300 and root not in content[:1024] and b"<Error" not in content[:1024]:
        lacking = f"an answer without {root.decode()}Result"
    elif status in {302, 303}:  # S3 has others for another region
        lacking = "a redirection"
    elif status == 404 and request.method != "HEAD" and b"<Code>" not in content:
        lacking = "an answer that does not say what is missing"
    return not_s3(f"{lacking} ({kind or 'no type'}, status {status})") if lacking else None


# Connections


class _Socket:
    """A socket whose waits are on the clock of the call that waits."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def sendall(self, data: bytes) -> None:
        call = _call.get()
        with call.waiting() as moved:
            self._socket.settimeout(call.left())
            self._socket.sendall(data)
            moved.append(len(data))

    def makefile(self, mode: str = "r", buffering: int | None = None) -> io.RawIOBase | io.BufferedReader:
        """The answer, as ``http.client`` reads it: always of bytes."""
        answer = _Answer(self._socket, self._socket.makefile("rb", buffering=0), _call.get())
        return answer if buffering == 0 else io.BufferedReader(answer)


class _Answer(io.RawIOBase):
    """What a server sends, as it arrives."""

    def __init__(self, socket: Any, raw: io.RawIOBase, call: Call) -> None:
        self._socket = socket
        self._raw = raw
        self._call = call
        self._left = call.most + _HEADERS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        with self._call.waiting() as moved:
            self._socket.settimeout(self._call.left())
            count = self._raw.readinto(buffer)
            moved.append(count or 0)
        self._left -= count or 0
        if self._left < 0:
            raise too_large(self._call.most)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _OnTheClock:
    """A connection of botocore's."""

    timeout: Any
    sock: Any

    def connect(self) -> None:
        call = _call.get()
        with call.waiting():
            self.timeout = min(_CONNECT_SECONDS, call.left())
            super().connect()  # type: ignore[misc]
        self.sock = _Socket(self.sock)


class _Connection(_OnTheClock, awsrequest.AWSHTTPConnection):  # type: ignore[misc]  # botocore's own bases do not agree
    pass


class _SafeConnection(_OnTheClock, awsrequest.AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(awsrequest.AWSHTTPConnectionPool):
    ConnectionCls = _Connection


class _SafePool(awsrequest.AWSHTTPSConnectionPool):
    ConnectionCls = _SafeConnection
