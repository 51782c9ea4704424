"""Real servers, as `make serve-postgres` has them: PostgreSQL below MLflow and Prefect, an S3 store for MLflow and DVC.

All tests share one, which takes half a minute to come up. Where PostgreSQL or the extra `servers` is not installed
they are skipped.
"""

import configparser
import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import yaml
from attack_prefect import Api, second_user, strangers_are_refused
from conftest import LIMIT, edit, environment, make_project, shrink, soon

from flows.machine import ports
from flows.params.params_file import read
from flows.project import paths
from flows.project.errors import InputError, UnavailableError
from flows.servers import postgres, team
from flows.tracking import experiments, loading, mlflow_runs, mlflow_store

MEMBERS = [f"m{number}" for number in range(8)]
TICK = """
from pathlib import Path
from prefect import flow

@flow
def tick():
    Path("ticked").touch()
"""


def require_servers() -> None:
    try:
        team.check_installed()
        postgres.owner()
    except InputError as error:
        pytest.skip(f"needs real servers: {error}")


class Servers:
    """A running `trainyard serve-postgres` in a project with eight members."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.port = {name: ports.free_port() for name in ("postgres", "s3", "mlflow", "prefect")}
        options = [word for name, port in self.port.items() for word in (f"--{name}-port", str(port))]
        command = [sys.executable, "-m", "flows.operations.serve_postgres", *options]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=file, stderr=file)

    def ready(self) -> "Servers":
        up = soon(lambda: "In other terminals" in self.log.read_text() or self.process.poll() is not None)
        assert up, self.everything()
        assert self.process.poll() is None, self.everything()
        return self

    def everything(self) -> str:
        logs = [self.log, *(self.folder / ".trainyard" / "serve").glob("*.log")]
        return "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs)

    @property
    def env(self) -> dict[str, str]:
        """The variables that it tells other terminals to set."""
        lines = (self.folder / ".trainyard" / "servers" / "env").read_text().splitlines()
        return dict(shlex.split(line)[1].split("=", 1) for line in lines)

    @property
    def keys(self) -> dict[str, str]:
        return json.loads((self.folder / ".trainyard" / "servers" / "keys.json").read_text())

    def query(self, database: str, sql: str) -> list[tuple]:
        connection = postgres.connect(self.keys["postgres_password"], self.port["postgres"], database)
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def s3(self, key: str | None = None, secret: str | None = None):
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port['s3']}",
            aws_access_key_id=key or self.keys["s3_key"],
            aws_secret_access_key=secret or self.keys["s3_secret"],
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}),
        )

    def ask(self, path: str, **body) -> object:
        """Prefect's API."""
        return Api(self.env["PREFECT_API_URL"], self.env["PREFECT_API_AUTH_STRING"]).ask(path, **body)

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, env=environment(**self.env, **env),
            capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
        assert not check or not done.returncode, done.stdout + done.stderr
        return done

    def stop(self) -> list[psutil.Process]:
        """Ends it; returns what it has left running."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        self.process.wait(LIMIT)
        soon(lambda: not any(child.is_running() for child in children))
        return [child for child in children if child.is_running()]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    require_servers()
    # Not pytest's own folder, which is closed to the user that PostgreSQL runs as where the tests are root's.
    place = Path(tempfile.mkdtemp(prefix="trainyard-"))
    place.chmod(0o755)
    folder = make_project(place / "a project")
    edit(folder, many_members)
    (folder / "tick.py").write_text(TICK)
    deployment = {"name": "tick", "entrypoint": "tick.py:tick", "work_pool": {"name": "trainyard"}}
    (folder / "prefect.yaml").write_text(yaml.safe_dump({"name": "tests", "deployments": [deployment]}))
    running = Servers(folder)
    try:
        yield running.ready()
        left = running.stop()
        assert (running.process.returncode, left) == (0, []), running.everything()
    finally:
        running.process.kill()
        running.process.wait()
        shutil.rmtree(place)


def many_members(content: dict) -> None:
    shrink(content)
    one = content["members"]["wide"]
    content["members"] = {name: {**one, "replicas": 1 if number else 2} for number, name in enumerate(MEMBERS)}


@pytest.fixture(scope="module")
def trained(servers) -> Servers:
    """Eight trainings that ran at the same time, as processes of their own."""
    servers.run("flows.download")
    env = environment(**servers.env)
    stages = [
        subprocess.Popen(
            [sys.executable, "-m", "flows.train", member], cwd=servers.folder, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for member in MEMBERS
    ]  # fmt: skip
    said = [stage.communicate(timeout=LIMIT)[0] for stage in stages]
    assert [stage.returncode for stage in stages] == [0] * len(MEMBERS), "\n".join(said)
    assert not any("cannot be used" in lines for lines in said), "\n".join(said)
    return servers


@pytest.fixture
def there(trained, monkeypatch) -> Servers:
    """This process as another terminal of that project."""
    monkeypatch.chdir(trained.folder)
    for name, value in trained.env.items():
        monkeypatch.setenv(name, value)
    return trained


def replicas_of(client, member: str) -> list:
    """The runs of a member's replicas, in their order."""
    place = [experiments.experiment(client, "digits")]
    found = client.search_runs(place, f"tags.`{mlflow_runs.MEMBER}` = '{member}' and tags.`trainyard.kind` = 'replica'")
    return sorted(found, key=lambda run: run.info.run_name)


def test_eight_stages_at_once_lose_no_metric(there):
    client = mlflow_store.connect()
    values = 0
    for member in MEMBERS:
        runs = replicas_of(client, member)
        assert len(runs) == read().members[member].replicas
        with (paths.model_folder("digits", member) / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for number, run in enumerate(runs):
            assert run.info.status == "FINISHED"
            own = [row for row in rows if row["replica"] == str(number)]
            assert len(own) == read().data["digits"].epochs
            for name in set(own[0]) - {"replica", "epoch"}:
                logged = client.get_metric_history(run.info.run_id, name)
                assert [(metric.step, metric.value) for metric in sorted(logged, key=lambda metric: metric.step)] == [
                    (int(row["epoch"]), float(row[name])) for row in own
                ]
                values += len(logged)
    # What the database holds is what was asked for, and nothing twice.
    per_epoch = "SELECT count(*) FROM metrics WHERE key IN (SELECT key FROM metrics WHERE step > 0)"
    assert there.query("mlflow", per_epoch) == [(values,)]


def test_an_artifact_lies_in_the_store_and_comes_back_as_it_was(there):
    import mlflow

    client = mlflow_store.connect()
    history = paths.model_folder("digits", "m3") / "history.csv"
    run = replicas_of(client, "m3")[0].data.tags["mlflow.parentRunId"]
    fetched = Path(mlflow.artifacts.download_artifacts(run_id=run, artifact_path="history.csv"))
    assert digest(fetched.read_bytes()) == digest(history.read_bytes())
    store = there.s3()
    listed = [found["Key"] for found in store.list_objects_v2(Bucket="mlflow")["Contents"]]
    (key,) = [name for name in listed if run in name and name.endswith("/history.csv")]
    assert digest(store.get_object(Bucket="mlflow", Key=key)["Body"].read()) == digest(history.read_bytes())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("wrong", [{"secret": "0" * 40}, {"key": "0" * 20}])
def test_the_store_refuses_a_wrong_key(servers, wrong):
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as refused:
        servers.s3(**wrong).list_objects_v2(Bucket="mlflow")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_postgres_refuses_a_wrong_password(servers, monkeypatch):
    monkeypatch.chdir(servers.folder)
    with pytest.raises(InputError, match="another password"):
        postgres.answers("wrong", servers.port["postgres"])


def test_only_this_user_reads_the_passwords(servers):
    for name in ("keys.json", "env", "credentials"):
        assert (servers.folder / ".trainyard" / "servers" / name).stat().st_mode & 0o077 == 0
    assert (servers.folder / ".trainyard" / "s3").stat().st_mode & 0o077 == 0
    logs = list((servers.folder / ".trainyard" / "serve").glob("*.log"))
    assert logs
    for secret in (*servers.keys.values(), password(servers)):
        assert not [log for log in (servers.log, *logs) if secret in log.read_text(errors="replace")]
        # `ps` shows every user what a command was started with.
        assert not any(secret in " ".join(command) for command in commands(servers))


def test_mlflow_and_its_artifacts_are_closed_to_who_does_not_log_in(there):
    import requests

    address = there.env["MLFLOW_TRACKING_URI"]
    login = (there.env["MLFLOW_TRACKING_USERNAME"], there.env["MLFLOW_TRACKING_PASSWORD"])
    artifacts = f"{address}/api/2.0/mlflow-artifacts/artifacts"
    for ask in (requests.get, requests.put, requests.delete):
        assert ask(f"{artifacts}/planted", timeout=LIMIT).status_code == 401
    assert requests.get(artifacts, auth=(login[0], "wrong"), timeout=LIMIT).status_code == 401
    assert requests.get(artifacts, auth=login, headers={"Host": "evil.example"}, timeout=LIMIT).status_code == 403
    assert requests.get(artifacts, auth=login, timeout=LIMIT).json()["files"]
    # Each of its processes has the links from one place.
    page, _, token = re.search(r"^MLflow +(\S+)", there.log.read_text(), re.MULTILINE)[1].partition("#")
    assert sorted(requests.post(page, token, timeout=LIMIT).status_code for _ in range(6)) == [200] + 5 * [403]


def password(servers: Servers) -> str:
    """Of Prefect."""
    return servers.env["PREFECT_API_AUTH_STRING"].partition(":")[2]


def test_nobody_else_gets_into_prefect(servers):
    api = servers.env["PREFECT_API_URL"]
    strangers_are_refused(api, servers.env["PREFECT_API_AUTH_STRING"])
    said = second_user(api, "/nowhere")
    assert set(said["codes"]) <= {401, 403}
    assert not any(password(servers) in line for line in said["lines"])
    assert [flow for flow in servers.ask("/flows/filter") if flow["name"] == "attack"] == []


def commands(servers: Servers) -> list[list[str]]:
    return [process.cmdline() for process in psutil.Process(servers.process.pid).children(recursive=True)]


def test_the_champion_is_in_the_registry_and_its_model_in_the_store(finished_copy, servers, monkeypatch):
    from flows import ensemble
    from flows.data import dataset

    for name, value in servers.env.items():
        monkeypatch.setenv(name, value)
    assert ensemble.ensemble(read())
    aliases = servers.query("mlflow", "SELECT name, alias FROM registered_model_aliases ORDER BY alias")
    assert aliases == [("digits", "challenger"), ("digits", "champion")]
    model, about = loading.load_champion("digits")
    assert about["version"] == "1"
    images = dataset.load("digits").test_images[:3]
    assert len(model.predict(images)) == 3


def test_prefect_runs_the_pipeline_on_postgresql(servers):
    stages = {"one": {"cmd": "echo 1 > one.txt", "outs": ["one.txt"]}}
    stages["two"] = {"cmd": "cp one.txt two.txt", "deps": ["one.txt"], "outs": ["two.txt"]}
    folder = servers.folder.parent / "another project"
    make_project(folder)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    env = environment(**servers.env)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=folder, env=env, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "flows.pipeline"], cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tasks = "SELECT task_run.name, task_run.state_type FROM task_run JOIN flow_run ON flow_run.id = flow_run_id"
    # Prefect writes what it is told of tasks a moment later.
    ended = [("one", "COMPLETED"), ("two", "COMPLETED")]
    assert soon(lambda: sorted(servers.query("prefect", tasks)) == ended), servers.query("prefect", tasks)


def test_its_worker_executes_what_is_asked_for(servers):
    (found,) = servers.ask("/deployments/filter")
    run = servers.ask(f"/deployments/{found['id']}/create_flow_run")["id"]
    state = f"SELECT state_type FROM flow_run WHERE id = '{run}'"
    assert soon(lambda: servers.query("prefect", state) == [("COMPLETED",)]), servers.everything()
    assert (servers.folder / "ticked").exists()
    assert "(yours)" not in servers.log.read_text()  # it started them itself


@pytest.fixture
def remote(servers, tmp_path) -> Path:
    """A DVC repository with one file and the remote that `serve-postgres --help` describes."""
    folder = tmp_path / "data"
    folder.mkdir()
    credentials = servers.folder / ".trainyard" / "servers" / "credentials"
    endpoint = f"http://127.0.0.1:{servers.port['s3']}"
    for command in (
        ["init", "--no-scm", "-q"],
        ["remote", "add", "--default", "s3", "s3://dvc/trainyard"],
        ["remote", "modify", "s3", "endpointurl", endpoint],
        ["remote", "modify", "--local", "s3", "credentialpath", str(credentials)],
    ):
        assert dvc(folder, *command).returncode == 0
    # More than eight megabytes go in parts.
    (folder / "data.bin").write_bytes(os.urandom(9_000_000))
    assert dvc(folder, "add", "-q", "data.bin").returncode == 0
    return folder


def dvc(folder: Path, *words: str) -> subprocess.CompletedProcess:
    # None of the settings of whoever runs the tests.
    (folder / "empty").touch()
    own = {"AWS_CONFIG_FILE": str(folder / "empty"), "AWS_EC2_METADATA_DISABLED": "true"}
    return subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=folder, env=environment(**own), capture_output=True, text=True,
        timeout=LIMIT,
    )  # fmt: skip


def test_dvc_pushes_to_the_store_and_pulls_from_it(remote):
    before = (remote / "data.bin").read_bytes()
    pushed = dvc(remote, "push")
    assert pushed.returncode == 0, pushed.stderr
    shutil.rmtree(remote / ".dvc" / "cache")
    (remote / "data.bin").unlink()
    pulled = dvc(remote, "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert (remote / "data.bin").read_bytes() == before
    assert "up to date" in dvc(remote, "push").stdout


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"endpointurl": "http://127.0.0.1:9"}, 'Could not connect to the endpoint URL: "http://127.0.0.1:9'),
        ({"credentialpath": "wrong"}, "Forbidden|Access Denied|does not match"),
    ],
    ids=["unreachable", "wrong key"],
)
def test_dvc_says_why_a_remote_cannot_be_used(remote, settings, reason):
    wrong = configparser.ConfigParser()
    wrong["default"] = {"aws_access_key_id": "0" * 20, "aws_secret_access_key": "0" * 40}
    with (remote / "wrong").open("w") as file:
        wrong.write(file)
    for name, value in settings.items():
        assert dvc(remote, "remote", "modify", "--local", "s3", name, value).returncode == 0
    pushed = dvc(remote, "push")
    assert pushed.returncode
    assert re.search(reason, pushed.stderr), pushed.stderr


def test_a_second_one_says_where_the_first_is(servers):
    second = servers.run("flows.operations.serve_postgres", check=False)
    assert second.returncode == 1
    assert f"served already: Prefect at {servers.env['PREFECT_API_URL'].removesuffix('/api')}" in second.stderr


def test_behind_a_proxy_mlflow_is_asked_by_the_proxys_name(project, monkeypatch):
    names = {
        "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost:*,127.0.0.1:*,trainyard.example:*",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "https://trainyard.example",
    }
    keys = {"postgres_password": "p", "s3_key": "k", "s3_secret": "s"}

    def named() -> dict[str, str]:
        variables = team.mlflow_variables(keys, "127.0.0.1:5433", "http://127.0.0.1:9000", 5000)
        return {name: variables[name] for name in names}

    assert named() == dict(zip(names, ("localhost:*,127.0.0.1:*", "http://localhost:5000")))
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert named() == names


def test_without_postgresql_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="apt-get install postgresql"):
        team.check_installed()


def test_without_the_extra_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path)
    initdb = tmp_path / "15" / "bin" / "initdb"
    initdb.parent.mkdir(parents=True)
    initdb.touch()
    monkeypatch.setattr(team, "MODULES", ("no_such_module",))
    with pytest.raises(InputError, match=r"no_such_module.*make setup-servers"):
        team.check_installed()


def test_a_cluster_is_run_by_the_version_that_made_it(project, monkeypatch, tmp_path):
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for version in ("9.6", "15", "17"):
        server = tmp_path / version / "bin" / "postgres"
        server.parent.mkdir(parents=True)
        server.touch()
    assert postgres.program("postgres") == tmp_path / "17" / "bin" / "postgres"
    assert postgres.program("postgres", "15") == tmp_path / "15" / "bin" / "postgres"
    with pytest.raises(InputError, match="install postgresql-16"):
        postgres.program("postgres", "16")


def test_a_cluster_that_could_not_be_made_leaves_nothing_half_done(project, monkeypatch, tmp_path):
    failing = tmp_path / "initdb"
    failing.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(postgres, "program", lambda name: failing)
    monkeypatch.setattr(postgres, "owner", list)
    with pytest.raises(UnavailableError, match="no space left"):
        postgres.create("password")
    assert not postgres.cluster().exists()
