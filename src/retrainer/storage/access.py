"""How a bucket is reached: endpoint, credentials, encryption, patience. What is not said is left to boto3's own chain.

Credentials are never part of a pipeline file, a request, an argument list or a log. They come from boto3's chain, or
from an ``S3Access`` that somebody who holds them (an Airflow connection) puts around the work with ``use_access``, or
hands to a child process as its environment.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Literal, Self, cast, get_args

from retrainer.errors import StorageError

AddressingStyle = Literal["auto", "path", "virtual"]
Encryption = Literal["AES256", "aws:kms", "aws:kms:dsse"]

ADDRESSING_STYLE = "RETRAINER_S3_ADDRESSING_STYLE"
SSE = "RETRAINER_S3_SSE"
SSE_KMS_KEY_ID = "RETRAINER_S3_SSE_KMS_KEY_ID"
BUCKET_KEY = "RETRAINER_S3_BUCKET_KEY"
TIMEOUT = "RETRAINER_S3_TIMEOUT"

# A second try after half of it, and a caller that looks once more, still end within half a minute.
DEFAULT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class S3Access:
    """All that reaching a bucket takes beside its name. ``None`` leaves a choice to boto3's chain.

    :ivar verify: path of a bundle of certificates that the endpoint's is checked against; ``None`` for boto3's.
    :ivar addressing_style: ``path`` puts the bucket into the path, as MinIO and its kin want it. ``None``: ``path``
        where an endpoint is given, else as boto3 chooses.
    :ivar sse: server-side encryption that every write asks for. ``None`` leaves it to the bucket's default.
    :ivar sse_kms_key_id: with ``aws:kms``; ``None`` for the account's default key.
    :ivar bucket_key: with ``aws:kms``: whether S3 derives object keys from one key of the bucket, which spares
        requests to KMS.
    :ivar timeout: seconds in which whatever is small has to be answered, all tries included: an object that is read or
        written, a page of a list. A file has as long as it moves; it may stand still for twice that time.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    verify: str | None = None
    addressing_style: AddressingStyle | None = None
    sse: Encryption | None = None
    sse_kms_key_id: str | None = None
    bucket_key: bool | None = None
    timeout: float = DEFAULT_TIMEOUT

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        :raises StorageError: half of a key pair, settings of an encryption that is not asked for, or no time at all.
        """
        if not 0 < self.timeout < math.inf:
            raise StorageError(f"a timeout of {self.timeout} s", where=TIMEOUT, hint="give seconds, more than 0")
        if (self.access_key_id is None) != (self.secret_access_key is None) or (
            self.session_token is not None and self.access_key_id is None
        ):
            raise StorageError("half of a key pair is given", hint="give both the access key's id and its secret")
        if (self.sse_kms_key_id or self.bucket_key) and self.sse not in {"aws:kms", "aws:kms:dsse"}:
            raise StorageError("a KMS key is given without its encryption", hint=f"set {SSE} to aws:kms")

    @property
    def patience(self) -> float:
        """Seconds for which a file may stand still."""
        return 2 * self.timeout

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """What this package's own variables say; the ``AWS_`` ones are boto3's to read.

        :raises StorageError: a variable has a value that it cannot have.
        """
        env = os.environ if environment is None else environment
        return cls(
            addressing_style=cast(AddressingStyle | None, _choice(env, ADDRESSING_STYLE, get_args(AddressingStyle))),
            sse=cast(Encryption | None, _choice(env, SSE, get_args(Encryption))),
            sse_kms_key_id=env.get(SSE_KMS_KEY_ID) or None,
            bucket_key={"true": True, "false": False, None: None}[_choice(env, BUCKET_KEY, ("true", "false"))],
            timeout=_seconds(env.get(TIMEOUT) or DEFAULT_TIMEOUT),
        )

    def to_environment(self) -> dict[str, str]:
        """Variables under which a child process reaches the bucket in the same way. They hold secrets."""
        values = {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_PROFILE": self.profile,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_SESSION_TOKEN": self.session_token,
            "AWS_CA_BUNDLE": self.verify,
            ADDRESSING_STYLE: self.addressing_style,
            SSE: self.sse,
            SSE_KMS_KEY_ID: self.sse_kms_key_id,
            BUCKET_KEY: None if self.bucket_key is None else str(self.bucket_key).lower(),
            TIMEOUT: str(self.timeout),
        }
        if self.access_key_id is not None:
            # A token that the child would inherit belongs to other keys.
            values["AWS_SESSION_TOKEN"] = self.session_token or ""
            values["AWS_SECURITY_TOKEN"] = ""
        return {name: value for name, value in values.items() if value is not None}

    def to_public_environment(self) -> dict[str, str]:
        """The same without secrets, for a process that has credentials of its own."""
        # A path of this machine leads nowhere on another one.
        public = replace(
            self, profile=None, access_key_id=None, secret_access_key=None, session_token=None, verify=None
        )
        return public.to_environment()


_ambient: ContextVar[S3Access | None] = ContextVar("s3_access", default=None)
_ends: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextmanager
def use_access(access: S3Access | None) -> Iterator[None]:
    """Every storage that is opened in the block, in this thread or task, reaches its bucket like that."""
    token = _ambient.set(access)
    try:
        yield
    finally:
        _ambient.reset(token)


def current_access() -> S3Access:
    """What ``use_access`` set, else what the environment says."""
    return _ambient.get() or S3Access.from_environment()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Whatever is asked of a bucket in the block, by this thread or in its context, fails once that time is over.

    Each request then raises ``StorageError``, also in the middle of a file that is fetched; one that is sent goes on.
    Not cut short is the look-up of a host's name, which the system does. A folder knows no deadline.
    """
    token = _ends.set(min(_ends.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _ends.reset(token)


def ends_at() -> float:
    """When the deadline is that holds here, on the monotonic clock; infinity for none."""
    return _ends.get()


def _seconds(value: str | float) -> float:
    try:
        return float(value)
    except ValueError:
        raise StorageError(f"'{value}' is not a number of seconds", where=TIMEOUT, hint="such as 10") from None


def _choice(environment: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    value = environment.get(name) or None
    if value is not None and value not in allowed:
        raise StorageError(f"'{value}' is no value of {name}", where=name, hint=f"one of {', '.join(allowed)}")
    return value
