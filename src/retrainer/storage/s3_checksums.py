"""SHA-256 of what is sent to a bucket in parts, and what the server says has arrived.

S3 compares each request with the SHA-256 in its header. For an object that was sent in parts it then keeps the SHA-256
of the parts' SHA-256 values, followed by their number ("checking object integrity" in the S3 user guide): from the
parts' digests, which are taken here, anybody can tell whether that is the object that was meant.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CHECKSUM = "ChecksumSHA256"
_EXPECTED = "retrainer_expected"
_BLOCK = 1 << 20


def checksum(digest: bytes) -> str:
    """A digest as S3 writes it."""
    return base64.b64encode(digest).decode()


class Checksums:
    """Names the SHA-256 of every body that the transfer manager sends, and keeps the server's answers.

    :param client: whose requests are meant. Those that name a checksum of their own are left alone.
    """

    def __init__(self, client: S3Client) -> None:
        self._parts: dict[str, dict[int, bytes]] = {}
        self._answers: dict[str, tuple[str, str | None]] = {}
        events = client.meta.events
        for operation in ("PutObject", "UploadPart"):
            events.register(f"before-parameter-build.s3.{operation}", self._before_body)
        events.register("before-parameter-build.s3.CompleteMultipartUpload", self._before_complete)
        events.register("before-parameter-build.s3.AbortMultipartUpload", self._before_abort)
        for operation in ("PutObject", "CompleteMultipartUpload"):
            events.register(f"after-call.s3.{operation}", self._after)

    def take(self, key: str) -> tuple[str | None, str | None]:
        """The checksum that the object of that key must have, and the one that the server named if it did."""
        return self._answers.pop(key, (None, None))

    def _before_body(self, params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        if _CHECKSUM in params:
            return
        body = params["Body"]
        digest = hashlib.sha256()
        while block := body.read(_BLOCK):
            digest.update(block)
        body.seek(0)
        params[_CHECKSUM] = checksum(digest.digest())
        if "UploadId" in params:
            self._parts.setdefault(params["UploadId"], {})[params["PartNumber"]] = digest.digest()
        else:
            context[_EXPECTED] = (params["Key"], params[_CHECKSUM])

    def _before_complete(self, params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        parts = self._parts.pop(params["UploadId"], {})
        digests = [parts.get(part["PartNumber"], b"") for part in params["MultipartUpload"]["Parts"]]
        context[_EXPECTED] = (params["Key"], checksum(hashlib.sha256(b"".join(digests)).digest()))

    def _before_abort(self, params: dict[str, Any], **_: object) -> None:
        self._parts.pop(params["UploadId"], None)

    def _after(self, http_response: Any, parsed: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        expected = context.pop(_EXPECTED, None)
        if expected is not None and http_response.status_code < 300:
            found = parsed.get(_CHECKSUM)
            self._answers[expected[0]] = (expected[1], found and found.partition("-")[0])
