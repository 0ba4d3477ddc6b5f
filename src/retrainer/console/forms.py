"""Reading what a form sends, and refusing what another site made a browser send.

Ordinary forms, and the same as JSON for scripts. Not here: who may (``host.Visitor``), what a form asks for.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request

from retrainer.console.host import Credentials
from retrainer.errors import NotAllowed, UserError

MOST_BYTES = 100_000
_MOST_FIELDS = 30
_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"


async def form_of(request: Request, origins: Collection[str]) -> dict[str, str]:
    """The fields that are filled in.

    :param origins: where the host's own pages come from, beside the address that was asked.
    :raises NotAllowed: another site sent it.
    :raises UserError: it is not a form, or too long.
    """
    refuse_other_sites(request.headers, origins)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise UserError(f"more than {MOST_BYTES // 1000} kB were sent")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == _FORM:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
            # As a browser sends line breaks.
            return _text({name: value.replace("\r\n", "\n") for name, value in pairs if value})
        if kind == _JSON:
            content = json.loads(body)
            if isinstance(content, dict) and all(isinstance(value, str | None) for value in content.values()):
                return _text({name: value for name, value in content.items() if value})
    except ValueError:
        pass
    raise UserError("that is not a form", hint=f"send fields of text as {_FORM} or {_JSON}")


def _text(fields: dict[str, str]) -> dict[str, str]:
    """The fields, where each is text that can be passed on.

    :raises ValueError: half of a surrogate pair, or a NUL, which databases refuse.
    """
    for piece in (*fields, *fields.values()):
        piece.encode()
        if "\0" in piece:
            raise ValueError
    return fields


def refuse_other_sites(headers: Mapping[str, str], origins: Collection[str]) -> None:
    """Refuse what a browser sends with its cookie without one of the host's own pages having asked for it.

    Browsers say so: ``Sec-Fetch-Site`` where the connection is trusted, and ``Origin`` always (Fetch Standard, *CORS
    protocol*, and W3C, *Fetch Metadata*). Whoever shows a token of their own needs no cookie, and no other site can
    send that.

    :raises NotAllowed: another site sent it, or nobody knows which.
    """
    if headers.get("authorization", "").lower().startswith("bearer "):
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != "same-origin":
        raise NotAllowed("this was sent from a page of another site", hint="fill in the form of this page itself")
    if site is None and (origin is None or not _is_own(origin, headers.get("host", ""), origins)):
        raise NotAllowed(
            f"this was not sent from a page of this site, but from {origin or 'somewhere that is not known'}",
            hint="fill in the form of this page itself; behind a proxy, set [api] base_url to what browsers ask",
        )


def _is_own(origin: str, host: str, origins: Collection[str]) -> bool:
    return origin in origins or (bool(host) and urlsplit(origin).netloc == host)


def credentials_of(request: Request) -> Credentials:
    """Who sent a form, for the host to act in their name."""
    address = (request.client.host, request.client.port) if request.client is not None else ("", 0)
    return Credentials(headers=dict(request.headers), address=address)
