"""The event of drift at a real Prefect server: a deployment's trigger answers it by a run."""

import json
import subprocess
import sys

import pytest
import yaml
from attack_prefect import Api
from conftest import LIMIT, ROOT, environment, make_project, soon

# Brings up Prefect's temporary server, in which triggers are at work too, until its input ends.
SERVE = """
import os, sys
from flows.servers.prefect_server import configure
from flows.servers.temporary_server import TemporaryServer
configure()
server = TemporaryServer()
server.start()
server.wait()
print(os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"], flush=True)
sys.stdin.read()
"""
DEPLOY = """
import runpy, sys
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
with get_client(sync_client=True) as client:
    client.create_work_pool(WorkPoolCreate(name="trainyard", type="process"))
sys.argv = ["prefect", "--no-prompt", "deploy", "--all"]
runpy.run_module("prefect", run_name="__main__", alter_sys=True)
"""
EMIT = """
import json, sys
from flows.orchestration.drift_event import emit
from flows.project.errors import InputError
try:
    print(json.dumps(emit(sys.argv[1], {"drifted": ["brightness"]})))
except InputError as error:
    print(error)
"""


def python(folder, code: str, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment(**variables), capture_output=True,
        text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture
def deployed(tmp_path):
    """A project with a deployment, the server, and the environment that names it."""
    folder = make_project(tmp_path / "a project")
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    content["deployments"] = [one for one in content["deployments"] if one["name"] == "nightly-digits"]
    (folder / "prefect.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-c", SERVE]
    server = subprocess.Popen(
        command, cwd=folder, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        api, secret = server.stdout.readline().split()
        variables = {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": secret}
        variables["PREFECT_HOME"] = str(folder / ".trainyard" / "prefect")
        python(folder, DEPLOY, **variables)
        yield folder, variables
    finally:
        server.stdin.close()
        server.wait(LIMIT)


def runs(variables: dict[str, str]) -> list[dict]:
    return Api(variables["PREFECT_API_URL"], variables["PREFECT_API_AUTH_STRING"]).ask("/flow_runs/filter")


def test_the_trigger_of_a_deployment_answers_drift_of_its_dataset_by_a_run(deployed):
    folder, variables = deployed
    assert json.loads(python(folder, EMIT, "mnist", **variables)) == []
    assert json.loads(python(folder, EMIT, "digits", **variables)) == ["retrain-digits-on-drift"]
    assert soon(lambda: runs(variables))
    [run] = runs(variables)  # and the event of mnist, which came first, has made none
    assert run["parameters"]["dataset"] == "digits"
    assert run["created_by"]["type"] == "AUTOMATION"


def test_a_server_that_does_not_answer_is_named(tmp_path):
    folder = make_project(tmp_path / "a project")
    said = python(folder, EMIT, "digits", PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_HOME=str(tmp_path / "home"))
    assert said.startswith("Prefect's server at http://127.0.0.1:9/api does not take the event trainyard.drift: ")
