"""Pages as tests ask for them: as HTML, and as the record that they are made of."""

from __future__ import annotations

import re
from typing import Any

from fastapi.testclient import TestClient

JSON = {"Accept": "application/json"}
EVIL = "<script>alert('x')</script>"
# Of the deployment's rows.
TEXT = re.compile(r"report no\. \d+")


def content(client: TestClient, page: str, **query: str) -> Any:
    answer = client.get(page, params=query, headers=JSON)
    assert answer.status_code == 200, answer.text
    return answer.json()


def shown(client: TestClient, page: str, **query: str) -> str:
    answer = client.get(page, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text
