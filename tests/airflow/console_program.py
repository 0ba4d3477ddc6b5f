"""Asks the console that Airflow's own API server mounts, as nobody, as a viewer, and as somebody who may see no DAG.

Run in a process of its own: ``python console_program.py ANSWER MODEL DECISION``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow.api_fastapi.app import create_app, get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.plugins_manager import get_fastapi_plugins
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def main(answer: Path, model: str, decision: str) -> None:
    app = create_app(apps="core")
    (mounted,) = (one["app"] for one in get_fastapi_plugins()[0] if one["name"] == "retrainer")
    routes = [route for route in mounted.routes if isinstance(route, APIRoute)]
    assert len(routes) == len(mounted.routes)  # nothing is mounted past the dependencies
    query = {"name": model, "decision": decision, "dag_id": f"retrain__{model.replace('-', '_')}"}
    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="vera", role="viewer"))
    viewer = {"Authorization": f"Bearer {token}"}
    forged = {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}
    found: dict[str, Any] = {"routes": {}, "methods": {}}
    with TestClient(app, follow_redirects=False) as client:
        for route in routes:
            address = f"/retrainer{route.path}"
            found["routes"][route.path] = {
                who: {
                    method: client.request(method, address, params=query, headers=headers).status_code
                    for method in METHODS
                }
                for who, headers in (("nobody", {}), ("forged", forged), ("viewer", viewer))
            }
            found["methods"][route.path] = sorted(route.methods)
        page = client.get("/retrainer/", headers=viewer)
        found["overview"] = page.text
        found["json"] = client.get("/retrainer/", headers={**viewer, "Accept": "application/json"}).json()
        client.cookies.set("_token", token)
        found["cookie"] = client.get("/retrainer/").status_code
        client.cookies.clear()
        found["views"] = client.get("/api/v2/plugins", headers=admin()).json()
    answer.write_text(json.dumps(found))


def admin() -> dict[str, str]:
    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="ada", role="admin"))
    return {"Authorization": f"Bearer {token}"}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4])
