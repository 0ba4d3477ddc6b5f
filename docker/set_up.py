"""What Airflow and the S3 server of compose.yaml need before they are used: tables, pools, connection, user, buckets.

Runs at each start, in Airflow's image, and changes nothing that is there already but the tables of an older Airflow,
the slots of the pools and the connection. Not here: secrets (``prepare.py``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
from botocore.config import Config

from retrainer.storage import S3Access, open_storage
from retrainer.store.conditional import require_conditional_writes

SECRETS = Path(os.environ.get("RETRAINER_SECRETS", "/run/secrets/airflow"))
CONNECTION = "models"
BUCKETS = ("models", "artifacts")


def airflow(*arguments: str) -> None:
    """Airflow's command line. Its arguments are not shown: a password is among them.

    :raises SystemExit: it failed.
    """
    done = subprocess.run(["airflow", *arguments], check=False)
    if done.returncode:
        sys.exit(f"airflow {' '.join(arguments[:2])} failed with {done.returncode}; see above")


def set_up_airflow(content: str) -> None:
    """Tables, pools, connection, administrator."""
    airflow("db", "migrate")
    # What waits for a slot may wait for long; what has one and waits for a worker fails in the end.
    airflow("pools", "set", "default_pool", os.environ.get("DEFAULT_POOL_SLOTS", "2"), "Whatever takes no GPU")
    airflow("pools", "set", "gpu_pool", os.environ.get("GPU_POOL_SLOTS", "1"), "GPUs")
    # The connection's file may change (another endpoint, other keys), and it goes first.
    connections = Path("/tmp/connections.json")
    connections.touch(mode=0o600)
    connections.write_text(json.dumps({CONNECTION: json.loads(content)}), encoding="utf-8")
    try:
        airflow("connections", "import", "--overwrite", str(connections))
    finally:
        connections.unlink()
    admin = os.environ.get("ADMIN", "admin")
    names = ("--username", admin, "--firstname", admin, "--lastname", admin, "--email", f"{admin}@localhost")
    airflow("users", "create", *names, "--role", "Admin", "--password", (SECRETS / "admin_password").read_text())


def set_up_buckets(content: str) -> None:
    """The buckets, in a server that refuses a conditional write whose condition does not hold.

    :raises StorageError: it lets both of two writers win.
    """
    connection = json.loads(content)
    access = S3Access(
        endpoint_url=connection["extra"]["endpoint_url"],
        region=connection["extra"]["region_name"],
        access_key_id=connection["login"],
        secret_access_key=connection["password"],
    )
    s3 = boto3.client(
        "s3",
        endpoint_url=access.endpoint_url,
        region_name=access.region,
        aws_access_key_id=access.access_key_id,
        aws_secret_access_key=access.secret_access_key,
        config=Config(retries={"max_attempts": 10, "mode": "standard"}),
    )
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in there:
            s3.create_bucket(Bucket=name)
        require_conditional_writes(open_storage(f"s3://{name}", access=access), "set-up")
    print(f"buckets: {', '.join(BUCKETS)}")


if __name__ == "__main__":
    described = (SECRETS / "models_connection.json").read_text(encoding="utf-8")
    set_up_buckets(described)
    set_up_airflow(described)
