"""A small S3 endpoint that gives out what is in a folder: as fast as one core can, and it remembers every request.

For readers: GET and HEAD of objects, ranges, ETags, conditional requests, S3's errors. Nothing is written or listed
here; whoever publishes does so in the folder, as a store on a folder. In a process of its own, so that the processor
time of those who are measured is theirs. moto, which other benchmarks ask, answers one request at a time, slowly.
``python -m benchmarks.read_only_s3 FOLDER`` prints its port.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote

from benchmarks.data import REPOSITORY

_LOG = "/.requests"
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_KEY_ID = re.compile(r"Credential=([^/,]+)/")
_REASONS = {200: "OK", 206: "Partial Content", 304: "Not Modified", 404: "Not Found", 501: "Not Implemented"}
_CODES = {404: "NoSuchKey", 501: "NotImplemented"}


@dataclass(frozen=True, slots=True)
class Request:
    """One that was answered.

    :ivar at: seconds since the epoch.
    :ivar host: the access key's id that it was signed with.
    :ivar key: with the bucket before it.
    :ivar sent: bytes of the body.
    """

    at: float
    host: str
    key: str
    status: int
    sent: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """It runs."""

    url: str

    def requests(self) -> list[Request]:
        """All that were answered so far, in order."""
        with urllib.request.urlopen(self.url + _LOG) as answer:
            return [Request(**one) for one in json.load(answer)]


@contextmanager
def endpoint(folder: Path) -> Iterator[Endpoint]:
    """Give out a folder of buckets for as long as the block runs."""
    command = [sys.executable, "-m", "benchmarks.read_only_s3", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    try:
        yield Endpoint(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


class _Server:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._requests: list[Request] = []

    async def serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                writer.write(self._answer(head))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def _answer(self, head: str) -> bytes:
        first, *lines = head.rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path = unquote(target.partition("?")[0])
        if path == _LOG:
            return _http(200, json.dumps([asdict(request) for request in self._requests]).encode())
        status, body, more = self._object(method, path, headers)
        signed = _KEY_ID.search(headers.get("authorization", ""))
        host = signed[1] if signed else ""
        self._requests.append(Request(time.time(), host, path.removeprefix("/"), status, len(body)))
        return _http(status, body, more, with_body=method == "GET")

    def _object(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and further headers."""
        if method not in {"GET", "HEAD"} or path.count("/") < 2:
            return 501, _error(501, path), {}
        try:
            body = (self._folder / path.removeprefix("/")).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return 404, _error(404, path), {}
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        named = {"ETag": etag, "Last-Modified": formatdate(0, usegmt=True), "Accept-Ranges": "bytes"}
        if headers.get("if-none-match") == etag:
            return 304, b"", named
        if wanted := _RANGE.fullmatch(headers.get("range", "")):
            start, end = int(wanted[1]), min(int(wanted[2]), len(body) - 1)
            return 206, body[start : end + 1], {**named, "Content-Range": f"bytes {start}-{end}/{len(body)}"}
        return 200, body, named


def _error(status: int, path: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{_CODES[status]}</Code><Message>{_REASONS[status]}'
        f"</Message><Key>{path}</Key><RequestId>1</RequestId><HostId>1</HostId></Error>"
    ).encode()


def _http(status: int, body: bytes, headers: dict[str, str] | None = None, *, with_body: bool = True) -> bytes:
    lines = {
        "Content-Length": str(len(body)),
        "Content-Type": "application/xml" if status >= 400 else "application/octet-stream",
        "Server": "AmazonS3",
        "x-amz-request-id": "1",
        "Date": formatdate(usegmt=True),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {_REASONS[status]}\r\n{head}\r\n".encode() + (body if with_body else b"")


if __name__ == "__main__":
    asyncio.run(_Server(Path(sys.argv[1])).serve())
