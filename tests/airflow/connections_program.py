"""Asks Airflow's own API server for the forms of connections and has it test some, as a person does in its UI.

Run in a process of its own: ``python connections_program.py QUESTIONS.json ANSWER.json``. The questions are
connections; the answer has the forms, what everybody is told of Airflow's health, which heavy modules that loaded, and
what each test said.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow.api_fastapi.app import create_app, get_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi.testclient import TestClient

OURS = ("retrainer_store", "retrainer_signing_key")
HEAVY = ("torch", "transformers", "datasets", "onnxruntime", "boto3", "botocore", "numpy", "retrainer.airflow.hooks")


def main(questions: Path, answer: Path) -> None:
    app = create_app(apps="core")
    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="ada", role="admin"))
    found: dict[str, Any] = {"tests": {}}
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        forms = client.get("/ui/connections/hook_meta").json()
        found["forms"] = {form["connection_type"]: form for form in forms if form["connection_type"] in OURS}
        found["health"] = client.get("/api/v2/monitor/health", headers={"Authorization": ""}).json()
        found["console"] = client.get("/retrainer/", headers={"Authorization": ""}).status_code
        found["loaded"] = [name for name in HEAVY if name in sys.modules]
        for name, connection in json.loads(questions.read_text()).items():
            body = {"connection_id": name, **connection}
            said = client.post("/api/v2/connections/test", json=body)
            found["tests"][name] = said.json()
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
