"""A role imports what it serves, and nothing that others need."""

import subprocess
import sys

import pytest

from broker.run.roles import ROLES

pytestmark = pytest.mark.outside

PARTS = {
    "alembic", "flask", "gunicorn", "hdfs_native", "httpx", "lxml", "pydicom", "pynetdicom", "redis", "spyne", "typer", "zeep"}
NEEDED = {
    "web": {"flask", "gunicorn", "httpx", "lxml", "pydicom", "pynetdicom", "spyne"},
    "receiver": {"lxml", "pydicom", "pynetdicom"},
    "mllp": {"lxml"},
    "fetch": {"lxml", "pydicom", "pynetdicom"},
    "worker": {"httpx", "lxml", "pydicom", "pynetdicom"},
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_imports_what_it_serves_and_starts_no_thread_by_that(role: str) -> None:
    program = (
        "import os, sys\nfrom broker.run import roles\nroles.load([sys.argv[1]])\n"
        f"print(*sorted({PARTS} & sys.modules.keys()), len(os.listdir('/proc/self/task')))")
    done = subprocess.run([sys.executable, "-c", program, role], capture_output=True, text=True, check=True)
    *parts, threads = done.stdout.split()
    assert set(parts) == NEEDED[role]
    assert threads == "1", "it may be forked"
