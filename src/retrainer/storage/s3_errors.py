"""Errors of boto3 about a bucket, in the words of this package: what went wrong, where, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from retrainer.errors import (
    DamagedTransfer,
    NotFoundError,
    PreconditionFailed,
    RetrainerError,
    StorageError,
    StoragePermissionError,
    Throttled,
)
from retrainer.storage.errors import translate

ABSENT = {"NoSuchKey", "404", "NotFound"}
_LOST = {"PreconditionFailed", "412"}
# What S3 compared with the checksum in the request.
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run with a role"

# Trying again gives the same answer.
_PERMANENT = {
    "AccessDenied": ("access denied", ""),
    "InvalidAccessKeyId": ("the access key is not known there", "check AWS_ACCESS_KEY_ID and the endpoint"),
    "SignatureDoesNotMatch": ("the secret key is wrong", "check AWS_SECRET_ACCESS_KEY"),
    "InvalidToken": (
        "the session token is wrong",
        "check AWS_SESSION_TOKEN; it goes with one pair of keys, and long-lived keys have none",
    ),
    "KMS.NotFoundException": ("there is no such key in KMS", "check the key's id, account and region"),
    "KMS.DisabledException": ("the key in KMS is disabled", "enable it, or choose another"),
}
_PERMANENT |= dict.fromkeys(("403", "Forbidden", "AllAccessDisabled"), _PERMANENT["AccessDenied"])
# Short-lived keys are renewed, a bucket can be made, a server can be repaired.
_OTHER = {
    "NoSuchBucket": ("there is no such bucket", "create it, or check its name"),
    "ExpiredToken": ("the credentials have expired", "renew them"),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set it; S3 takes requests within 15 minutes"),
    "PermanentRedirect": ("the bucket is in another region", "set AWS_DEFAULT_REGION to its region"),
    "NotImplemented": (
        "the server does not implement this request",
        "use a server that supports conditional writes (If-None-Match)",
    ),
    "ConditionalRequestConflict": (
        "others are writing the same object all the time",
        "try again",
    ),
}
_THROTTLED = {
    *("SlowDown", "503", "ServiceUnavailable", "RequestLimitExceeded", "Throttling", "ThrottlingException"),
    *("SlowDownRead", "SlowDownWrite", "RequestThrottled", "TooManyRequests", "TooManyRequestsException", "429"),
}
_OTHER |= dict.fromkeys(("ExpiredTokenException", "RequestExpired"), _OTHER["ExpiredToken"])
_OTHER |= dict.fromkeys(("301", "AuthorizationHeaderMalformed"), _OTHER["PermanentRedirect"])
_OTHER |= dict.fromkeys(("OperationAborted", "409"), _OTHER["ConditionalRequestConflict"])
_OTHER |= dict.fromkeys(("501", "XNotImplemented"), _OTHER["NotImplemented"])

# What a policy must allow for each request.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
_ACTIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CopyObject": "s3:GetObject and s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
}
_UNLISTED = "; without s3:ListBucket S3 answers like this for what does not exist, too"


@contextmanager
def s3_errors(where: str, *, file: str | None = None) -> Iterator[None]:
    """Turn every error of boto3 and of the file system in the block into one of this package.

    :param where: the object that the block is about.
    :param file: the local file that it is about, if one is.
    """
    from botocore import exceptions as boto
    from urllib3.exceptions import HTTPError

    try:
        yield
    except RetrainerError as error:
        if error.where is not None:
            raise
        raise type(error)(error.message, where=where, hint=error.hint) from error.__cause__
    except KeyError as error:
        raise StorageError(f"an answer lacks {error}", where=where, hint="check the endpoint: is it S3's?") from error
    except boto.ClientError as error:
        raise _translate(error, where) from error
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound) as error:
        raise StoragePermissionError(f"no credentials for S3: {error}", where=where, hint=_CREDENTIALS) from error
    except boto.ReadTimeoutError as error:
        raise StorageError(
            "the server stopped answering", where=where, hint="check the network, or try again"
        ) from error
    except (boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, HTTPError) as error:
        raise StorageError(
            f"cannot reach the server: {error}",
            where=where,
            hint="check the network, the endpoint (AWS_ENDPOINT_URL) and the region",
        ) from error
    except boto.FlexibleChecksumError as error:
        raise DamagedTransfer(
            f"other bytes arrived than were stored: {error}", where=where, hint="try again"
        ) from error
    except boto.BotoCoreError as error:
        raise StorageError(f"S3 request failed: {error}", where=where, hint="check the AWS settings") from error
    except OSError as error:  # last: some errors of botocore are of this kind, too
        raise translate(error, file or where) from error


def error_code(error: object) -> str:
    """What S3 calls the error: ``NoSuchKey``, ``SlowDown``, or an HTTP status for answers without a body."""
    response = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _translate(error: Exception, where: str) -> RetrainerError:
    code = error_code(error)
    if code in _LOST:
        return PreconditionFailed("another writer came first", where=where)
    if code in ABSENT:
        return NotFoundError("nothing is there", where=where)
    if code in _DAMAGED:
        return DamagedTransfer("other bytes arrived than were sent", where=where, hint="try again")
    if code in _PERMANENT:
        message, hint = _PERMANENT[code]
        return StoragePermissionError(message, where=where, hint=hint or _needed(error))
    if code in _THROTTLED:
        return Throttled("the server asks for fewer requests", where=where, hint="try again in a while")
    if code in _OTHER:
        message, hint = _OTHER[code]
        return StorageError(message, where=where, hint=hint)
    return StorageError(f"S3 answered: {error}", where=where, hint="try again; check the server if it persists")


def _needed(error: Exception) -> str:
    operation = getattr(error, "operation_name", "")
    action = _ACTIONS.get(operation, f"what {operation} needs")
    return f"the credentials need {action} there, and the use of its KMS key where it has one" + (
        _UNLISTED if operation in {"GetObject", "HeadObject", "CopyObject"} else ""
    )
