"""`trainyard serve` with real servers: what it brings up, what the scheduler does by itself, and bad days.

Bringing it up takes some fifteen seconds: most tests share one.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import ROOT, make_project, soon
from conftest import environment as environment_of_sources

from flows import ports

# A tick is run by the scheduler every twenty seconds; what retrains only notes what it was given.
STAND_IN = """
import json, os, time
from pathlib import Path
from prefect import flow

@flow
def tick(file: str = "ticks", seconds: float = 0):
    with open(file, "a") as ticks:
        ticks.write(f"{os.getpid()}\\n")
    time.sleep(seconds)

@flow
def retrain(dataset: str | None = None, workers: int | None = None, fresh_seed: bool = False, promote: bool = True,
            push: bool = True, commit: bool = False, time_limit: float | None = None):
    Path("retrained").write_text(json.dumps({"dataset": dataset, "promote": promote}))
    while Path("wait").exists():
        time.sleep(0.1)

@flow
def watch(workers: int | None = None, promote: bool = True, push: bool = True, commit: bool = False,
          time_limit: float | None = None):
    pass
"""
# One that hangs for as long as a file NAME.hold is there.
STAGE = """
import os, sys, time
name, seconds, *sources = sys.argv[1:]
print(f"hello from {name}", flush=True)
time.sleep(float(seconds))
while os.path.exists(f"{name}.hold"):
    time.sleep(0.1)
open(f"{name}.txt", "w").write(name + "".join(open(source).read() for source in sources))
"""


def deployments() -> list[dict]:
    """Those of prefect.yaml."""
    return yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


def prepare(folder: Path, ticks: float | None = 20) -> Path:
    """A project with its packages, as after `git clone`, whose deployments are those of prefect.yaml with stand-ins for
    their flows, and one that ticks every twenty seconds, or when asked."""
    make_project(folder)
    for package in ("flows", "lightning_modules"):
        (folder / package).symlink_to(ROOT / package)
    (folder / "standin.py").write_text(STAND_IN)
    (folder / "stage.py").write_text(STAGE)
    given = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in given["deployments"]:
        deployment["entrypoint"] = f"standin.py:{deployment['entrypoint'].rpartition('.')[2]}"
    like = {key: given["deployments"][0][key] for key in ("work_pool", "concurrency_limit")}
    tick = {"name": "tick", "entrypoint": "standin.py:tick", **like}
    schedules = {"schedules": [{"interval": ticks}]} if ticks else {}
    given["deployments"].append({**tick, **schedules})
    (folder / "prefect.yaml").write_text(yaml.safe_dump(given))
    return folder


def environment(**more: str) -> dict[str, str]:
    """Flows are found in the project or not at all: a worker that looks elsewhere would not find them at a user's."""
    return environment_of_sources(**{"PYTHONPATH": "", **more})


class Served:
    """A running `trainyard serve`."""

    def __init__(self, folder: Path, prefect_port: int = 0, **env: str) -> None:
        self.folder = folder
        self.log = folder / "serve.log"
        self.prefect = f"http://127.0.0.1:{prefect_port or ports.free_port()}"
        self.mlflow = f"http://127.0.0.1:{ports.free_port()}"
        options = ["--prefect-port", self.prefect.rpartition(":")[2], "--mlflow-port", self.mlflow.rpartition(":")[2]]
        command = [sys.executable, "-m", "flows.serve", *options]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=folder, env=environment(**env), stdout=file, stderr=file)

    def ready(self) -> "Served":
        assert soon(lambda: "Ready after" in self.said() or self.process.poll() is not None, 300), self.everything()
        assert self.process.poll() is None, self.everything()
        return self

    def said(self) -> str:
        return self.log.read_text()

    def everything(self) -> str:
        logs = [self.log, *(self.folder / ".trainyard" / "serve").glob("*.log")]
        return "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs)

    def ask(self, path: str, **body) -> object:
        """Prefect's API."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.prefect}/api{path}", json.dumps(body).encode(), headers)
        for more in range(5, -1, -1):
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                # Two writers at once in SQLite: Prefect's own client tries again, too.
                if error.code != 503 or not more:
                    raise
                time.sleep(1)

    def runs(self, deployment: str) -> list[dict]:
        chosen = {"deployments": {"name": {"any_": [deployment]}}}
        return self.ask("/flow_runs/filter", **chosen, sort="START_TIME_DESC")

    def press_run(self, deployment: str, **parameters) -> str:
        """What the button on Prefect's page does. Returns the id of the run."""
        found = self.ask("/deployments/filter", deployments={"name": {"any_": [deployment]}})
        run = self.ask(f"/deployments/{found[0]['id']}/create_flow_run", parameters=parameters)
        return run["id"]

    def run(self, run_id: str) -> dict:
        return self.ask("/flow_runs/filter", flow_runs={"id": {"any_": [run_id]}})[0]

    def state(self, run_id: str) -> str:
        return self.run(run_id)["state"]["name"]

    def part(self, *words: str) -> psutil.Process:
        """The process of a part, by words of its command line."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if all(word in " ".join(child.cmdline()) for word in words))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code. Nothing that it started may be left."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert soon(lambda: not any(map(running, children)), 10), [c.cmdline() for c in children if running(c)]
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.stop()


def running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def serving(tmp_path_factory) -> Iterator[Served]:
    served = Served(prepare(tmp_path_factory.mktemp("served") / "a project"))
    try:
        yield served.ready()
    finally:
        served.end()


def trainyard(served: Served, command: str, *arguments: str, code: str = "", **env: str) -> subprocess.CompletedProcess:
    """A command of this project in another terminal."""
    start = ["-c", f"{code}\nfrom flows.{command} import command\nfrom flows.console import run\nrun(command)"]
    return subprocess.run(
        [sys.executable, *start, *arguments], cwd=served.folder, env=environment(**env), capture_output=True, text=True,
        timeout=180,
    )  # fmt: skip


def write_stages(folder: Path, stages: dict) -> None:
    """Name: (seconds, what it needs)."""
    described = {
        name: {
            "cmd": " ".join(["python stage.py", name, str(seconds), *(f"{need}.txt" for need in needs)]),
            "deps": [f"{need}.txt" for need in needs],
            "outs": [f"{name}.txt"],
        }
        for name, (seconds, needs) in stages.items()
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": described}, sort_keys=False))
    if not (folder / ".dvc").is_dir():
        subprocess.run(
            [sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=folder, env=environment(), check=True
        )  # fmt: skip


def test_every_address_answers_and_is_printed(serving):
    said = serving.said()
    assert re.search(rf"^Prefect +{serving.prefect}$", said, re.MULTILINE)
    assert re.search(rf"^MLflow +{serving.mlflow}$", said, re.MULTILINE)
    assert "deployment   nightly-digits     0 2 * * * UTC" in said
    with urllib.request.urlopen(serving.prefect) as page:
        assert b"<title>Prefect" in page.read()
    assert ports.answers(f"{serving.mlflow}/health")
    assert (serving.folder / ".trainyard" / "prefect" / "prefect.db").is_file()


def test_the_scheduler_makes_a_run_by_itself_and_it_executes(serving):
    """With SQLAlchemy 2.1 all looks ready, and no run is ever made."""

    def finished() -> list[dict]:
        return [run for run in serving.runs("tick") if run["auto_scheduled"] and run["state"]["type"] == "COMPLETED"]

    assert soon(finished, 90), serving.everything()
    assert (serving.folder / "ticks").read_text()


def test_what_prefect_yaml_says_is_what_the_server_has(serving):
    found = {deployment["name"]: deployment for deployment in serving.ask("/deployments/filter")}
    for given in deployments():
        deployed = found[given["name"]]
        assert deployed["parameters"] == given["parameters"]
        assert deployed["tags"] == given["tags"]
        assert deployed["description"] == given["description"]
        assert deployed["global_concurrency_limit"]["limit"] == 1
        assert deployed["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
        schedules = [
            {key: schedule["schedule"][key] for key in ("cron", "timezone")} for schedule in deployed["schedules"]
        ]
        assert schedules == given["schedules"]
        assert all(schedule["active"] for schedule in deployed["schedules"])


def test_a_run_that_is_asked_for_gets_its_parameters(serving):
    run = serving.press_run("weekly-mnist")
    assert soon(lambda: serving.state(run) == "Completed", 60), serving.everything()
    assert json.loads((serving.folder / "retrained").read_text()) == {"dataset": "mnist", "promote": True}


def test_a_run_that_comes_up_while_another_of_its_deployment_is_at_work_is_cancelled(serving):
    """And one of another deployment is not."""
    wait = serving.folder / "wait"
    wait.touch()
    try:
        first = serving.press_run("monthly-cifar10")
        assert soon(lambda: serving.state(first) == "Running", 60), serving.everything()
        second = serving.press_run("monthly-cifar10")
        assert soon(lambda: serving.state(second) == "Cancelled", 60), serving.run(second)["state"]
        other = serving.press_run("incoming")
        assert soon(lambda: serving.state(other) == "Completed", 60), serving.run(other)["state"]
        assert serving.state(first) == "Running"
    finally:
        wait.unlink()
    assert soon(lambda: serving.state(first) == "Completed", 60), serving.run(first)["state"]
    third = serving.press_run("monthly-cifar10")
    assert soon(lambda: serving.state(third) == "Completed", 60), serving.run(third)["state"]


def test_a_second_one_says_where_the_first_is(serving):
    second = trainyard(serving, "serve")
    assert second.returncode == 1
    assert second.stderr.splitlines() == [
        f"trainyard: this project is served already: Prefect at {serving.prefect}, MLflow at {serving.mlflow}"
    ]


def test_a_port_that_is_taken_is_said_at_once(tmp_path):
    folder = prepare(tmp_path / "a project")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "flows.serve", "--prefect-port", port]
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"--prefect-port {port} cannot be used (Address already in use)" in done.stderr
    assert not (folder / ".trainyard" / "prefect" / "prefect.db").exists()


def test_a_stage_that_hangs_is_ended_others_finish_and_a_rerun_does_what_is_missing(serving):
    """With what Prefect shows of it: stages, reasons, their lines, artifacts; and the message that is sent."""
    received = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    hook = HTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    block = f"""
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.variables import Variable
CustomWebhookNotificationBlock(
    name="team", url="http://127.0.0.1:{hook.server_port}", json_data={{"text": "{{{{subject}}}}: {{{{body}}}}"}},
).save("team")
Variable.set("trainyard_notify", "custom-webhook/team")
"""
    api = {"PREFECT_API_URL": f"{serving.prefect}/api"}
    subprocess.run([sys.executable, "-c", block], cwd=serving.folder, env=environment(**api), check=True, timeout=60)
    write_stages(serving.folder, {"first": (0, []), "bad": (0, []), "other": (0, ["first"]), "last": (0, ["bad"])})
    (serving.folder / "bad.hold").touch()
    try:
        done = trainyard(serving, "pipeline", "--workers", "2", "--time-limit", "25")
    finally:
        hook.shutdown()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "starting Prefect's temporary server" not in done.stderr

    run = serving.ask("/flow_runs/filter", flows={"name": {"any_": ["pipeline"]}}, sort="START_TIME_DESC")[0]
    assert run["name"].startswith("digits")
    message = "failed: bad; not run because of it: last"
    assert (run["state"]["name"], run["state"]["message"]) == ("Failed", message)
    chosen = {"flow_runs": {"id": {"any_": [run["id"]]}}}

    def tasks() -> dict[str, str]:
        return {task["name"]: task["state"]["name"] for task in serving.ask("/task_runs/filter", **chosen)}

    assert soon(lambda: tasks() == {"first": "Completed", "other": "Completed", "bad": "Failed"}, 20), tasks()
    shown = {artifact["key"]: artifact for artifact in serving.ask("/artifacts/filter", **chosen)}
    assert float(shown["digits-progress"]["data"]) == 75
    assert "| bad | **failed** | never run |" in shown["digits-results"]["data"]
    assert "| last | **not run**, since what it needs failed | never run |" in shown["digits-results"]["data"]
    assert "**bad failed**: ended after its time limit of 25 seconds" in shown["digits-results"]["data"]
    assert "hello from bad" in shown["digits-results"]["data"]

    task = next(task for task in serving.ask("/task_runs/filter", **chosen) if task["name"] == "first")

    def logged() -> set[str]:
        logs = serving.ask("/logs/filter", logs={"task_run_id": {"any_": [task["id"]]}})
        return {log["message"] for log in logs}

    assert soon(lambda: logged() >= {"runs because of never run", "hello from first"}, 20), logged()
    assert received == [{"text": f"Trainyard: {run['name']} failed: {message}"}]

    (serving.folder / "bad.hold").unlink()
    done = trainyard(serving, "pipeline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"^(\w+) +\|", done.stdout, re.MULTILINE)) == {"bad", "last"}


def test_stages_on_one_gpu_take_turns_over_two_pipelines(serving):
    """The machine is said to have a GPU; what is held is a real limit on the server, as `serve` made it."""
    for count in (2, 1):
        deploy = f"from flows import hardware; hardware.gpus = lambda: {count}; from flows import deploy; deploy.main()"
        api = {"PREFECT_API_URL": f"{serving.prefect}/api"}
        subprocess.run([sys.executable, "-c", deploy], cwd=serving.folder, env=environment(**api), check=True)
        limits = serving.ask("/v2/concurrency_limits/filter")
        assert [limit["limit"] for limit in limits if limit["name"].startswith("gpu-")] == [count]
    write_stages(serving.folder, {"train": (1.5, []), "evaluate": (1.5, [])})
    code = "from flows import hardware; hardware.gpus = lambda: 1"
    done = trainyard(serving, "pipeline", "--workers", "2", code=code)
    assert done.returncode == 0, done.stdout + done.stderr
    limits = serving.ask("/v2/concurrency_limits/filter")
    limit = next(limit for limit in limits if limit["name"].startswith("gpu-"))
    assert (limit["limit"], limit["active_slots"]) == (1, 0)

    # Another flow has the slot: a stage that needs it waits.
    (serving.folder / "train.txt").unlink()
    taken = serving.ask("/v2/concurrency_limits/increment", names=[limit["name"]], slots=1, mode="concurrency")
    command = [sys.executable, "-c", f"{code}\nfrom flows.pipeline import command; command(['train'])"]
    waiting = subprocess.Popen(command, cwd=serving.folder, env=environment(), stdout=subprocess.DEVNULL)
    try:
        run = {"flows": {"name": {"any_": ["pipeline"]}}, "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        assert soon(lambda: serving.ask("/flow_runs/filter", **run), 60)
        time.sleep(2)
        assert not (serving.folder / "train.txt").exists()
        serving.ask("/v2/concurrency_limits/decrement", names=[limit["name"]], slots=1)
        assert waiting.wait(90) == 0
    finally:
        waiting.kill()
        waiting.wait()
    assert taken[0]["name"] == limit["name"]
    assert (serving.folder / "train.txt").is_file()


def test_a_limit_that_does_not_exist_is_no_licence(serving):
    code = "from flows import gpu_slots\nwith gpu_slots.hold(1): print('held')"
    api = {"PREFECT_API_URL": f"{serving.prefect}/api"}
    code = "import socket; socket.gethostname = lambda: 'elsewhere'\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=serving.folder, env=environment(**api), capture_output=True, text=True
    )
    assert "ConcurrencySlotAcquisitionError" in done.stderr
    assert "held" not in done.stdout


def test_the_server_dies_in_the_middle_of_a_flow_and_comes_back(tmp_path):
    folder = prepare(tmp_path / "a project", ticks=None)
    write_stages(folder, {"a": (0, []), "slow": (0, ["a"]), "end": (0, ["slow"])})
    (folder / "slow.hold").touch()
    first = Served(folder).ready()
    again = None
    output = folder / "pipeline.log"
    api = {"PREFECT_API_URL": f"{first.prefect}/api"}
    try:
        with output.open("w") as file:
            command = [sys.executable, "-m", "flows.pipeline"]
            flow = subprocess.Popen(command, cwd=folder, env=environment(**api), stdout=file, stderr=file)
        assert soon(lambda: "hello from slow" in output.read_text(), 90), output.read_text()
        first.part("uvicorn", "prefect.server").kill()
        # What is served ends with it, and says why.
        assert first.process.wait(60) == 1
        assert "Prefect's server was ended by SIGKILL" in first.said()
        assert "Traceback" not in first.said()

        again = Served(folder, prefect_port=int(first.prefect.rpartition(":")[2])).ready()
        assert flow.poll() is None, output.read_text()
        (folder / "slow.hold").unlink()
        assert flow.wait(120) == 0, output.read_text()
        runs = again.ask("/flow_runs/filter", flows={"name": {"any_": ["pipeline"]}})
        assert [run["state"]["name"] for run in runs] == ["Completed"]
        done = trainyard(again, "pipeline")
        assert done.stdout == "everything is up to date\n"
        active = [s["active"] for d in again.ask("/deployments/filter") for s in d["schedules"]]
        assert len(active) == len(deployments())
        assert all(active)
        assert again.stop(signal.SIGTERM) == 0
        assert "schedules are kept" in again.said()
    finally:
        first.end()
        if again:
            again.end()
        with contextlib.suppress(ProcessLookupError):
            flow.kill()
        flow.wait()


def test_a_worker_or_all_killed_in_the_middle_of_a_run(tmp_path):
    folder = prepare(tmp_path / "a project", ticks=None)
    served = Served(folder).ready()
    try:
        run = served.press_run("tick", seconds=120)
        assert soon(lambda: (folder / "ticks").exists() and served.state(run) == "Running", 60), served.everything()
        flow = psutil.Process(int((folder / "ticks").read_text()))
        served.part("worker", "start").kill()
        assert served.process.wait(60) == 1
        assert "the worker was ended by SIGKILL" in served.said()
        assert soon(lambda: not running(flow), 20)

        served = Served(folder).ready()
        assert soon(lambda: served.state(run) == "Crashed", 20), served.run(run)["state"]
        run = served.press_run("tick", seconds=120, file="more")
        assert soon(lambda: (folder / "more").exists(), 60), served.everything()
        children = psutil.Process(served.process.pid).children(recursive=True)
        served.process.kill()
        served.process.wait()
        assert soon(lambda: not any(map(running, children)), 30), [c.cmdline() for c in children if running(c)]

        served = Served(folder).ready()
        assert soon(lambda: served.state(run) == "Crashed", 20), served.run(run)["state"]
        # Ctrl-C on a terminal reaches everybody.
        run = served.press_run("tick", seconds=120, file="last")
        assert soon(lambda: (folder / "last").exists(), 60), served.everything()
        assert served.stop(signal.SIGINT) == 0
        assert "Traceback" not in served.said()
        assert not (folder / ".trainyard" / "serve" / "addresses.json").exists()
    finally:
        served.end()


def test_the_users_own_servers_are_used(serving, tmp_path):
    folder = prepare(tmp_path / "another", ticks=None)
    env = {"PREFECT_API_URL": f"{serving.prefect}/api", "MLFLOW_TRACKING_URI": serving.mlflow}
    served = Served(folder, **env)
    try:
        served.ready()
        assert f"Prefect      {serving.prefect} (yours)" in served.said()
        assert f"MLflow       {serving.mlflow} (yours)" in served.said()
        commands = [" ".join(child.cmdline()) for child in psutil.Process(served.process.pid).children(recursive=True)]
        assert any("worker" in command for command in commands)
        assert not any("uvicorn" in command for command in commands)
    finally:
        served.end()
    assert not (folder / "mlflow.db").exists()


def test_prefect_deploy_against_a_work_pool_of_processes(serving, tmp_path):
    """As docs/operations.md says it, for a server that is somebody else's."""
    folder = prepare(tmp_path / "a project", ticks=None)
    [tick] = [
        one for one in yaml.safe_load((folder / "prefect.yaml").read_text())["deployments"] if one["name"] == "tick"
    ]
    tick |= {"name": "tock", "work_pool": {**tick["work_pool"], "name": "cluster"}}
    (folder / "prefect.yaml").write_text(yaml.safe_dump({"deployments": [tick]}))
    env = environment(PREFECT_API_URL=f"{serving.prefect}/api", PREFECT_HOME=str(tmp_path / "home"))
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    for words in (["work-pool", "create", "cluster", "--type", "process"], ["deploy", "--all"]):
        done = subprocess.run([*prefect, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    run = serving.press_run("tock")
    worker = [*prefect, "worker", "start", "--pool", "cluster", "--run-once"]
    done = subprocess.run(worker, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert serving.state(run) == "Completed", (serving.run(run)["state"], done.stdout + done.stderr)
    assert (folder / "ticks").is_file()


def test_a_server_that_does_not_answer_is_named(tmp_path, monkeypatch):
    from flows import serve

    monkeypatch.setattr(serve, "PATIENCE", 1)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    folder = prepare(tmp_path / "a project")
    monkeypatch.chdir(folder)
    with pytest.raises(serve.UnavailableError, match=r"Prefect's server at http://127\.0\.0\.1:9/api does not answer"):
        serve.serve(folder, None, None)


@pytest.mark.parametrize("deployment", deployments(), ids=lambda deployment: deployment["name"])
def test_a_deployment_gives_its_flow_what_that_takes(deployment):
    import importlib
    import inspect

    module, _, name = deployment["entrypoint"].rpartition(".")
    pytest.importorskip(module, reason=f"{module} is not there")
    taken = inspect.signature(getattr(importlib.import_module(module), name).fn).parameters
    assert set(deployment["parameters"]) <= set(taken)


def test_the_pool_is_the_one_of_prefect_yaml():
    from flows.deploy import POOL

    assert {deployment["work_pool"]["name"] for deployment in deployments()} == {POOL}
    command = deployments()[0]["work_pool"]["job_variables"]["command"].split()
    assert command[:2] == ["python", "-m"]
    assert ROOT.joinpath(*command[2].split(".")).with_suffix(".py").is_file()
    assert os.path.isfile(ROOT / "flows" / "flow_run.py")
