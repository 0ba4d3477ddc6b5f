"""An SQS queue that a bucket tells of new objects, as a bell: it says when to list the bucket, and nothing more.

What is new is told by the listing, so a message that is lost, comes twice or is about something else does no harm,
and none has to be understood. Not here: the watch (``watch.py``).
"""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import urlsplit

from retrainer.storage.access import S3Access, current_access
from retrainer.storage.s3_errors import s3_errors

# The bucket is listed at least so often, in case that it does not tell the queue.
RELIST_SECONDS = 900.0
_AT_ONCE = 10
# Longer than nothing: a request that does not wait asks only some of the servers that hold a queue.
_WAIT_SECONDS = 1
_REGION = re.compile(r"(?:^|\.)sqs\.([a-z0-9-]+)\.amazonaws\.|^([a-z0-9-]+)\.queue\.amazonaws\.")


class Bell:
    """Whether something came since it was asked last.

    :param queue: the URL of the queue, which nobody else reads.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._asked: float | None = None
        self._made: tuple[S3Access, Any] | None = None

    def rang(self) -> bool:
        """Take all messages from the queue. Also true when nobody has looked for long.

        :raises StorageError: the queue cannot be read; without a retry where the credentials do not allow it.
        """
        now = time.monotonic()
        due = self._asked is None or now - self._asked > RELIST_SECONDS
        with s3_errors(self._queue):
            came = self._drain()
        if due or came:
            self._asked = now
        return due or came

    def _drain(self) -> bool:
        client = self._client()
        came = False
        while messages := client.receive_message(
            QueueUrl=self._queue, MaxNumberOfMessages=_AT_ONCE, WaitTimeSeconds=_WAIT_SECONDS
        ).get("Messages"):
            came = True
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(messages)
            ]
            client.delete_message_batch(QueueUrl=self._queue, Entries=entries)
        return came

    def _client(self) -> Any:
        access = current_access()
        if self._made is None or self._made[0] != access:
            self._made = (access, self._client_of(access))
        return self._made[1]

    def _client_of(self, access: S3Access) -> Any:
        import botocore.session

        place = urlsplit(self._queue)
        found = _REGION.search(place.hostname or "")
        return botocore.session.Session(profile=access.profile).create_client(
            "sqs",
            region_name=(found and (found[1] or found[2])) or access.region,
            endpoint_url=f"{place.scheme}://{place.netloc}",
            verify=access.verify,
            aws_access_key_id=access.access_key_id,
            aws_secret_access_key=access.secret_access_key,
            aws_session_token=access.session_token,
        )
