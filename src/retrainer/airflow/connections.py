"""Secrets from Airflow's connections: how a bucket is reached, and the key that signs.

A connection is read when a task runs, never when a DAG is parsed. What it holds goes into this process's memory and
into the environment of the step's process, and from there nowhere else; the values are masked in logs. The fields are
those that Airflow's amazon provider documents for the type ``aws``, whatever the type of the connection. Without a role
to assume they are read here, with or without that provider; a role is assumed by the provider, which has to be
installed for it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from retrainer.chain.model_store import signer_of
from retrainer.errors import PipelineError, ResourceError
from retrainer.spec.publish import Publish
from retrainer.storage.access import AddressingStyle, Encryption, S3Access

if TYPE_CHECKING:
    from retrainer.store import Signer

AIRFLOW_KEY = "airflow:"
STORE_TYPE = "retrainer_store"
"""Type of a connection to buckets, with a form and a test of this package (``hooks.py``)."""
KEY_TYPE = "retrainer_signing_key"
"""Type of a connection that holds a private key."""
# Types under which a connection to buckets may stand. All are read alike.
_TYPES = {STORE_TYPE, "aws", "s3", "generic", "", None}
_AMAZON = "airflow.providers.amazon"
# A line of what stands between the marks of a PEM.
_BODY = re.compile(r"[A-Za-z0-9+/=]{16,}")


def s3_access(conn_id: str | None) -> S3Access | None:
    """How the buckets are reached; ``None`` leaves it to the worker's environment and boto3's own chain.

    :raises PipelineError: the connection says something that cannot be used.
    :raises ResourceError: there is no such connection, or it asks for a role and the amazon provider is not installed.
    """
    if not conn_id:
        return None
    connection = connection_named(conn_id, what="aws_conn_id")
    where = f"connection '{conn_id}'"
    if connection.conn_type not in _TYPES:
        raise PipelineError(
            f"is of type '{connection.conn_type}'",
            where=where,
            hint=f"a bucket needs one of type '{STORE_TYPE}' or 'aws'",
        )
    extra = _mapping(connection.extra_dejson, where)
    s3 = _mapping(_mapping(extra.get("service_config"), where).get("s3"), where)
    style = _mapping(_mapping(extra.get("config_kwargs"), where).get("s3"), where).get("addressing_style")
    if style is not None and style not in get_args(AddressingStyle):
        raise _wrong("config_kwargs.s3.addressing_style", get_args(AddressingStyle), where)
    # What it leaves open, this package's own variables on the worker say, as they do in the step's process.
    own = S3Access.from_environment()
    arguments = _mapping(s3.get("extra_args"), where)
    encryption = _encryption(arguments, where) if arguments else _encryption_of(own)
    key, secret, token = _credentials(conn_id, connection, extra)
    access = S3Access(
        endpoint_url=s3.get("endpoint_url", extra.get("endpoint_url")) or None,
        region=extra.get("region_name") or None,
        # The provider has used the profile up to assume the role.
        profile=None if key else extra.get("profile_name") or None,
        access_key_id=key,
        secret_access_key=secret,
        session_token=token,
        verify=_certificates(extra.get("verify"), where),
        addressing_style=cast(AddressingStyle | None, style) or own.addressing_style,
        timeout=own.timeout,
        **encryption,
    )
    for value in (access.secret_access_key, access.session_token):
        if value:
            mask_secret(value)
    return access


def step_environment(access: S3Access | None) -> dict[str, str]:
    """The variables under which a step's process reaches the buckets in that way. They hold secrets.

    Keys in the worker's own environment would go before the connection's profile; botocore takes an empty variable
    for one that is not set.
    """
    if access is None:
        return {}
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    return {**(dict.fromkeys(keys, "") if access.profile else {}), **access.to_environment()}


def signing_key(publish: Publish) -> str | None:
    """The private key of ``airflow:CONNECTION``: the connection's password. ``None`` for any other source.

    :raises PipelineError: the connection has no password.
    :raises ResourceError: there is no such connection.
    """
    source = publish.sign_with
    if source is None or not source.startswith(AIRFLOW_KEY):
        return None
    return private_key(source.removeprefix(AIRFLOW_KEY), what="publish.sign_with")


def private_key(conn_id: str, *, what: str) -> str:
    """The private key that a connection holds as its password, masked from now on.

    :param what: names the connection, for errors.
    :raises PipelineError: it has no password.
    :raises ResourceError: there is no such connection.
    """
    password = connection_named(conn_id, what=what).password
    if not password:
        raise PipelineError(
            "has no password", where=f"connection '{conn_id}'", hint="put the private key there, as keygen wrote it"
        )
    # Logs are masked line by line, and so is the key, however its line breaks are written.
    for secret in (password, *_BODY.findall(password.replace("\\n", "\n"))):
        mask_secret(secret)
    return str(password)


def signer(publish: Publish) -> Signer | None:
    """The key that a pipeline signs with, for use in this process; ``None`` where it signs nothing.

    :raises UserError: it cannot be loaded, or the pipeline would not trust what it signs. The message never quotes it.
    """
    return signer_of(publish, pem=signing_key(publish))


def connection_named(conn_id: str, *, what: str) -> Any:
    """A connection, with what it holds.

    :param what: which setting names it, for errors.
    :raises ResourceError: there is no such connection.
    """
    try:
        return Connection.get(conn_id)
    except AirflowNotFoundException:
        # Not final: Airflow says the same of a backend of secrets that did not answer.
        raise ResourceError(
            f"Airflow has no connection '{conn_id}', or could not read it",
            where=what,
            hint="create it, or name another",
        ) from None


def _credentials(conn_id: str, connection: Any, extra: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Key, secret and token; ``None`` leaves them to boto3's own chain."""
    if extra.get("role_arn"):
        return _of_role(conn_id)
    token = extra.get("aws_session_token") or None
    if connection.login and connection.password:
        return connection.login, connection.password, token
    if extra.get("aws_access_key_id") and extra.get("aws_secret_access_key"):
        return extra["aws_access_key_id"], extra["aws_secret_access_key"], token
    if connection.login or connection.password:
        raise PipelineError(
            "has one of login and password alone",
            where=f"connection '{conn_id}'",
            hint="login is the access key id, password the secret key; leave both out to use the worker's own role",
        )
    return None, None, None


def _of_role(conn_id: str) -> tuple[str, str, str | None]:
    """The credentials of the role that the connection asks for, as the amazon provider gets them.

    They are those of this moment. Each try of a task asks anew.
    """
    if importlib.util.find_spec("airflow.providers") is None or importlib.util.find_spec(_AMAZON) is None:
        raise ResourceError(
            "asks for a role, which Airflow's amazon provider assumes, and that is not installed",
            where=f"connection '{conn_id}'",
            hint="pip install apache-airflow-providers-amazon, or give the worker the role itself",
        )
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

    from retrainer.storage.s3_errors import s3_errors

    with s3_errors(f"role of connection '{conn_id}'"):
        credentials = AwsBaseHook(aws_conn_id=conn_id, client_type="sts").get_credentials()
    return credentials.access_key, credentials.secret_key, credentials.token


def _encryption(arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What ``S3Hook`` calls ``extra_args``, as far as it is about encryption."""
    known = ("ServerSideEncryption", "SSEKMSKeyId", "BucketKeyEnabled")
    if unknown := sorted(set(arguments) - set(known)):
        raise PipelineError(
            f"service_config.s3.extra_args has {', '.join(unknown)}", where=where, hint=f"known: {', '.join(known)}"
        )
    sse, key_id, bucket_key = (arguments.get(name) for name in known)
    if sse is not None and sse not in get_args(Encryption):
        raise _wrong("ServerSideEncryption", get_args(Encryption), where)
    if bucket_key is not None and not isinstance(bucket_key, bool):
        raise _wrong("BucketKeyEnabled", ("true", "false"), where)
    if (key_id is not None or bucket_key is not None) and not str(sse).startswith("aws:kms"):
        raise PipelineError(
            "names a key of KMS without encryption by KMS", where=where, hint='"ServerSideEncryption": "aws:kms"'
        )
    return {"sse": sse, "sse_kms_key_id": key_id, "bucket_key": bucket_key}


def _encryption_of(access: S3Access) -> dict[str, Any]:
    return {"sse": access.sse, "sse_kms_key_id": access.sse_kms_key_id, "bucket_key": access.bucket_key}


def _certificates(verify: Any, where: str) -> str | None:
    if verify is None or verify is True:
        return None
    if isinstance(verify, str) and verify:
        return verify
    raise PipelineError(
        "turns off the check of the server's certificate (verify)",
        where=where,
        hint="give the path of a bundle of certificates that the server's is checked against",
    )


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise PipelineError("a part of its extra is no JSON object where one belongs", where=where)
    return value


def _wrong(key: str, allowed: tuple[str, ...], where: str) -> PipelineError:
    return PipelineError(f"{key} is none of {', '.join(allowed)}", where=where)
