"""Errors of boto3 about a bucket, in the words of this package: what went wrong, where, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from retrainer.errors import NotFoundError, PreconditionFailed, StorageError
from retrainer.storage.errors import filesystem_errors

_ABSENT = {"NoSuchKey", "404", "NotFound"}
_LOST = {"PreconditionFailed", "412"}
_HINTS = {
    "NoSuchBucket": ("there is no such bucket", "create it, or check its name"),
    "AccessDenied": (
        "access denied",
        "the credentials need s3:ListBucket on the bucket and s3:GetObject, s3:PutObject on its objects; "
        "without ListBucket S3 answers like this for what does not exist, too",
    ),
    "InvalidAccessKeyId": ("the access key is not known there", "check AWS_ACCESS_KEY_ID and the endpoint"),
    "SignatureDoesNotMatch": ("the secret key is wrong", "check AWS_SECRET_ACCESS_KEY"),
    "ExpiredToken": ("the credentials have expired", "renew them"),
    "PermanentRedirect": ("the bucket lies in another region", "set AWS_DEFAULT_REGION to its region"),
    "NotImplemented": (
        "the server does not implement this request",
        "use a server that supports conditional writes (If-None-Match, If-Match)",
    ),
}
_HINTS |= {
    "403": _HINTS["AccessDenied"],
    "Forbidden": _HINTS["AccessDenied"],
    "AllAccessDisabled": _HINTS["AccessDenied"],
    "InvalidToken": _HINTS["ExpiredToken"],
    "ExpiredTokenException": _HINTS["ExpiredToken"],
    "301": _HINTS["PermanentRedirect"],
    "AuthorizationHeaderMalformed": _HINTS["PermanentRedirect"],
    "501": _HINTS["NotImplemented"],
}


@contextmanager
def s3_errors(where: str, *, conditional: bool = False) -> Iterator[None]:
    """Turn every error of boto3 and of the file system in the block into one of this package.

    :param where: the object that the block is about.
    :param conditional: the block is a conditional write, for which a missing object is a lost condition.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
    from botocore.exceptions import ConnectionError as Unreachable

    try:
        with filesystem_errors(where):
            yield
    except ClientError as error:
        raise _translate(error_code(error), str(error), where, conditional=conditional) from error
    except NoCredentialsError as error:
        raise StorageError(
            "no credentials for S3",
            where=where,
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run with a role",
        ) from error
    except (Unreachable, HTTPClientError) as error:
        raise StorageError(
            f"cannot reach the server: {error}",
            where=where,
            hint="check the network, AWS_ENDPOINT_URL and the region",
        ) from error
    except Boto3Error as error:
        # The transfer manager wraps what went wrong in an error that holds it only as text.
        cause = error.__cause__ or error.__context__
        code = error_code(cause) if isinstance(cause, ClientError) else ""
        raise _translate(code, str(error), where, conditional=conditional) from error
    except BotoCoreError as error:
        raise StorageError(f"S3 request failed: {error}", where=where, hint="check the AWS settings") from error


def error_code(error: object) -> str:
    """What S3 calls the error: ``NoSuchKey``, ``SlowDown``, or an HTTP status for answers without a body."""
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _translate(code: str, text: str, where: str, *, conditional: bool) -> StorageError:
    if code in _LOST or (conditional and code in _ABSENT):
        return PreconditionFailed("another writer came first", where=where)
    if code in _ABSENT:
        return NotFoundError("nothing is there", where=where)
    if code in _HINTS:
        message, hint = _HINTS[code]
        return StorageError(message, where=where, hint=hint)
    return StorageError(f"S3 answered: {text}", where=where, hint="try again; check the server if it persists")
