"""`trainyard serve` with real servers: what it brings up, what the scheduler does by itself, and bad days.

Bringing it up takes some fifteen seconds: tests share one, which those of bad days bring up again.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import yaml
from attack_prefect import Api, second_user, strangers_are_refused
from conftest import LIMIT, ROOT, dvc_init, make_project, soon
from conftest import environment as environment_of_sources

from flows.machine import ports

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
# One that hangs for as long as a file NAME.hold is there, and says in NAME.ran how it ran.
STAGE = """
import json, os, sys, time
name, *sources = sys.argv[1:]
about = {"pid": os.getpid(), "started": time.time(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
def note():
    json.dump(about, open(f"{name}.ran.new", "w"))
    os.replace(f"{name}.ran.new", f"{name}.ran")
print(f"hello from {name}", flush=True)
note()
while os.path.exists(f"{name}.hold"):
    time.sleep(0.1)
about["ended"] = time.time()
note()
open(f"{name}.txt", "w").write(name + "".join(open(source).read() for source in sources))
"""


def deployments() -> list[dict]:
    """Those of prefect.yaml."""
    return yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


def prepare(folder: Path, ticks: float | None = 20) -> Path:
    """A project with its packages, as after `git clone`, whose deployments are those of prefect.yaml with stand-ins for
    their flows, and more: one that ticks every twenty seconds, or when asked, one that is only asked, and the flow
    `retrain` itself."""
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
    given["deployments"].append({**tick, "name": "nap"})
    given["deployments"].append({**tick, "name": "real", "entrypoint": "flows.retrain_flow.retrain"})
    (folder / "prefect.yaml").write_text(yaml.safe_dump(given))
    return folder


def environment(**more: str) -> dict[str, str]:
    """Flows are found in the project or not at all: a worker that looks elsewhere would not find them at a user's."""
    return environment_of_sources(**{"PYTHONPATH": "", **more})


class Served:
    """A running `trainyard serve`."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.env = env
        self.log = folder / "serve.log"
        self.prefect = f"http://127.0.0.1:{ports.free_port()}"
        self.mlflow = f"http://127.0.0.1:{ports.free_port()}"
        self.start()

    def start(self) -> "Served":
        """Also again, at the same addresses, when it has ended."""
        options = ["--prefect-port", self.prefect.rpartition(":")[2], "--mlflow-port", self.mlflow.rpartition(":")[2]]
        command = [sys.executable, "-m", "flows.operations.serve", *options]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment(**self.env), stdout=file, stderr=file
            )
        return self

    def ready(self) -> "Served":
        assert soon(lambda: "Ready after" in self.said() or self.process.poll() is not None), self.everything()
        assert self.process.poll() is None, self.everything()
        return self

    def said(self) -> str:
        return self.log.read_text()

    def everything(self) -> str:
        logs = [self.log, *(self.folder / ".trainyard" / "serve").glob("*.log")]
        return "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs)

    def logs(self, part: str) -> str:
        return (self.folder / ".trainyard" / "serve" / f"{part}.log").read_text()

    @property
    def secret(self) -> str:
        return f"trainyard:{(self.folder / '.trainyard' / 'login' / 'password').read_text().strip()}"

    @property
    def client(self) -> dict[str, str]:
        """The variables with which commands of Prefect's own find it, and get in."""
        return {"PREFECT_API_URL": f"{self.prefect}/api", "PREFECT_API_AUTH_STRING": self.secret}

    def api(self) -> Api:
        return Api(f"{self.prefect}/api", self.secret)

    def ask(self, path: str, **body) -> object:
        """Prefect's API."""
        return self.api().ask(path, **body)

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
        code = self.process.wait(LIMIT)
        assert soon(lambda: not any(map(running, children))), [c.cmdline() for c in children if running(c)]
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
def served(tmp_path_factory) -> Iterator[Served]:
    # A database's old runs are looked for every hour.
    often = {"PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "5"}
    # Behind a proxy that is not there: nothing of this machine may be asked for through it.
    often |= dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    served = Served(prepare(tmp_path_factory.mktemp("served") / "a project"), **often)
    try:
        yield served
    finally:
        served.end()


@pytest.fixture
def serving(served) -> Served:
    """The one that tests share; up, whatever the one before has done to it."""
    if served.process.poll() is not None:
        served.start()
    return served.ready()


def trainyard(served: Served, *arguments: str) -> subprocess.CompletedProcess:
    """A command of this project in another terminal."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=served.folder, env=environment(), capture_output=True,
        text=True, timeout=LIMIT,
    )  # fmt: skip


def write_stages(folder: Path, stages: dict) -> None:
    """Name: what it needs."""
    described = {
        name: {
            "cmd": " ".join(["python stage.py", name, *(f"{need}.txt" for need in needs)]),
            "deps": [f"{need}.txt" for need in needs],
            "outs": [f"{name}.txt"],
        }
        for name, needs in stages.items()
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": described}, sort_keys=False))
    if not (folder / ".dvc").is_dir():
        dvc_init(folder)


def ran(folder: Path, stage: str) -> dict:
    """How it ran: pid, gpus (its CUDA_VISIBLE_DEVICES), and when it started and ended."""
    return json.loads((folder / f"{stage}.ran").read_text())


def test_every_address_answers_and_is_printed(serving):
    said = serving.said()
    assert re.search(rf"^Prefect +{serving.prefect}/enter#\S+$", said, re.MULTILINE)
    link = re.search(rf"^MLflow +({serving.mlflow}/enter)#(\w+)$", said, re.MULTILINE)
    with urllib.request.urlopen(link[1]) as page:  # what it opens are the runs, not MLflow's pages for chat models
        assert b"workflowType=machine_learning&viewStateShareKey=trainyard" in page.read()
    with urllib.request.urlopen(link[1], link[2].encode()) as answer:
        assert json.loads(answer.read())["user"] == "trainyard"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(link[1], link[2].encode())
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(serving.mlflow)
    assert "deployment   nightly-digits     0 2 * * * UTC" in said
    with urllib.request.urlopen(serving.prefect) as page:
        assert b"<title>Prefect" in page.read()
    assert ports.answers(f"{serving.mlflow}/health")
    assert (serving.folder / ".trainyard" / "prefect" / "prefect.db").is_file()


def test_the_scheduler_makes_a_run_by_itself_and_it_executes(serving):
    """With SQLAlchemy 2.1 all looks ready, and no run is ever made."""

    def finished() -> list[dict]:
        return [run for run in serving.runs("tick") if run["auto_scheduled"] and run["state"]["type"] == "COMPLETED"]

    assert soon(finished), serving.everything()
    assert (serving.folder / "ticks").read_text()
    # Further ticks would only take the other tests' time.
    [tick] = [one for one in serving.ask("/deployments/filter") if one["name"] == "tick"]
    serving.ask(f"/deployments/{tick['id']}/pause_deployment")


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
    assert soon(lambda: serving.state(run) == "Completed"), serving.everything()
    assert json.loads((serving.folder / "retrained").read_text()) == {"dataset": "mnist", "promote": True}


def test_a_run_that_comes_up_while_another_of_its_deployment_is_at_work_is_cancelled(serving):
    """And one of another deployment is not."""
    wait = serving.folder / "wait"
    wait.touch()
    try:
        first = serving.press_run("monthly-cifar10")
        assert soon(lambda: serving.state(first) == "Running"), serving.everything()
        second = serving.press_run("monthly-cifar10")
        assert soon(lambda: serving.state(second) == "Cancelled"), serving.run(second)["state"]
        other = serving.press_run("incoming")
        assert soon(lambda: serving.state(other) == "Completed"), serving.run(other)["state"]
        assert serving.state(first) == "Running"
    finally:
        wait.unlink()
    assert soon(lambda: serving.state(first) == "Completed"), serving.run(first)["state"]
    third = serving.press_run("monthly-cifar10")
    assert soon(lambda: serving.state(third) == "Completed"), serving.run(third)["state"]


def test_a_second_one_says_where_the_first_is(serving):
    second = trainyard(serving, "serve")
    assert second.returncode == 1
    assert second.stderr.splitlines() == [
        f"trainyard: this project is served already: Prefect at {serving.prefect}, MLflow at {serving.mlflow}"
    ]


def test_nobody_else_gets_in(serving, tmp_path_factory):
    """Neither another user of this machine nor a page in the owner's browser; a worker would run what they ask for."""
    strangers_are_refused(f"{serving.prefect}/api", serving.secret)
    before = serving.ask("/flow_runs/filter")
    target = Path("/tmp") / f"trainyard-attack-{os.getpid()}"
    said = second_user(f"{serving.prefect}/api", str(target))
    assert set(said["codes"]) <= {401, 403}
    password = serving.secret.partition(":")[2]
    assert any("flows.access.door" in line for line in said["lines"])  # it does see the processes of others
    assert not any(password in line for line in said["lines"])
    for private in (".trainyard/login/password", ".trainyard/serve/env"):
        assert (serving.folder / private).stat().st_mode & 0o777 == 0o600
    assert password not in serving.everything()
    attacks = [flow for flow in serving.ask("/flows/filter") if flow["name"] == "attack"]
    assert attacks == []
    assert len(serving.ask("/flow_runs/filter")) >= len(before)
    assert not target.exists()


def test_a_worker_runs_the_flows_of_prefect_yaml_alone_whatever_a_deployment_asks_for(serving, tmp_path):
    """Even one who knows the secret, or writes to the server's database, does not choose what runs on this machine."""
    evil = {name: tmp_path / name for name in ("command", "run", "pull", "hook", "entrypoint", "import")}
    (tmp_path / "evil.py").write_text(f"open({str(evil['entrypoint'])!r}, 'w')")
    (tmp_path / "sitecustomize.py").write_text(f"open({str(evil['import'])!r}, 'w')")
    flow = serving.ask("/flows/", name="tick")["id"]

    def steps(name: str) -> list[dict]:
        return [{"prefect.deployments.steps.run_shell_script": {"script": f"touch '{evil[name]}'"}}]

    # A pool that asks for it, too, as one of an earlier version of this project.
    pool = serving.api().send("GET", "/work_pools/trainyard")["base_job_template"]
    template = {
        "job_configuration": {"command": "{{ command }}", "env": "{{ env }}", "working_dir": "{{ working_dir }}"},
        "variables": {"type": "object", "properties": {"command": {}, "env": {}, "working_dir": {}}},
    }
    serving.api().send("PATCH", "/work_pools/trainyard", {"base_job_template": template})
    asked = {"command": f"touch '{evil['command']}'", "env": {"PYTHONPATH": str(tmp_path)}, "working_dir": "/"}
    wanted = {
        "command": {"entrypoint": "standin.py:tick", "job_variables": asked},
        "pull": {"entrypoint": "standin.py:tick", "pull_steps": steps("pull")},
        "hook": {"entrypoint": "standin.py:tick", "pull_steps": steps("hook")},
        "entrypoint": {"entrypoint": f"{tmp_path / 'evil.py'}:evil"},
        "module": {"entrypoint": "os.system"},
    }
    try:
        made = {
            name: serving.ask("/deployments/", name=name, flow_id=flow, work_pool_name="trainyard", **more)["id"]
            for name, more in wanted.items()
        }
        runs = {
            name: serving.ask(
                f"/deployments/{deployment}/create_flow_run",
                parameters={"file": f"ran {name}", "seconds": 600 if name == "hook" else 0},
                job_variables={"command": f"touch '{evil['run']}'"} if name == "command" else {},
            )["id"]
            for name, deployment in made.items()
        }
        # A run that crashes has its worker look for hooks in its flow.
        crashes = serving.folder / "ran hook"
        assert soon(lambda: crashes.exists() and crashes.read_text()), serving.everything()
        os.kill(int(crashes.read_text()), signal.SIGKILL)
        states = {"command": "Completed", "pull": "Completed", "hook": "Crashed"}
        states |= {"entrypoint": "Failed", "module": "Failed"}
        for name, run in runs.items():
            assert soon(lambda name=name, run=run: serving.state(run) == states[name]), (
                name,
                serving.run(run)["state"],
            )
        said = serving.run(runs["module"])["state"]["message"]
        assert said == "os.system is no entrypoint of prefect.yaml on this machine, so it is not run here"
        assert [name for name, file in evil.items() if file.exists()] == []
        assert (serving.folder / "ran command").exists()
    finally:
        serving.api().send("PATCH", "/work_pools/trainyard", {"base_job_template": pool})
        for deployment in made.values():
            serving.api().send("DELETE", f"/deployments/{deployment}")


def test_its_owner_gets_in_by_a_link_and_in_another_terminal(serving):
    links = trainyard(serving, "serve", "--links").stdout
    token = re.search(rf"^Prefect +{serving.prefect}/enter#(\S+)$", links, re.MULTILINE)[1]
    request = urllib.request.Request(f"{serving.prefect}/enter", token.encode())
    with urllib.request.urlopen(request) as answer:  # what the page does, which then shows Prefect's own
        kept = json.loads(answer.read())["prefect-password"]
    asked = urllib.request.Request(f"{serving.prefect}/api/version", headers={"Authorization": f"Basic {kept}"})
    with urllib.request.urlopen(asked) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    # As it says for other terminals, in any folder.
    file = re.search(r"^In other terminals, before commands of Prefect's own: \. (.+)$", serving.said(), re.MULTILINE)[
        1
    ]
    shell = f"set -e\n. {file}\n{shlex.quote(sys.executable)} -m prefect --no-prompt deployment run tick/nap"
    home = {"PREFECT_HOME": str(serving.folder.parent / "home of another terminal")}
    done = subprocess.run(
        ["sh", "-c", shell], cwd="/", env=environment(**home), capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert soon(lambda: serving.runs("nap") and serving.runs("nap")[0]["state"]["name"] == "Completed")


def test_a_port_that_is_taken_is_said_at_once(tmp_path):
    folder = prepare(tmp_path / "a project")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "flows.operations.serve", "--prefect-port", port]
        done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=LIMIT)
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
    env = environment(**serving.client)
    subprocess.run([sys.executable, "-c", block], cwd=serving.folder, env=env, check=True, timeout=LIMIT)
    write_stages(serving.folder, {"first": [], "bad": [], "other": ["first"], "last": ["bad"]})
    (serving.folder / "bad.hold").touch()
    try:
        done = trainyard(serving, "pipeline", "--workers", "2", "--time-limit", "60")
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

    assert soon(lambda: tasks() == {"first": "Completed", "other": "Completed", "bad": "Failed"}), tasks()
    shown = {artifact["key"]: artifact for artifact in serving.ask("/artifacts/filter", **chosen)}
    assert float(shown["digits-progress"]["data"]) == 75
    assert "| bad | **failed** | never run |" in shown["digits-results"]["data"]
    assert "| last | **not run**, since what it needs failed | never run |" in shown["digits-results"]["data"]
    assert "**bad failed**: ended after its time limit of 60 s" in shown["digits-results"]["data"]
    assert "hello from bad" in shown["digits-results"]["data"]

    task = next(task for task in serving.ask("/task_runs/filter", **chosen) if task["name"] == "first")

    def logged() -> set[str]:
        logs = serving.ask("/logs/filter", logs={"task_run_id": {"any_": [task["id"]]}})
        return {log["message"] for log in logs}

    assert soon(lambda: logged() >= {"why it runs: never run", "hello from first"}), logged()
    assert received == [{"text": f"Trainyard: {run['name']} failed: {message}"}]

    (serving.folder / "bad.hold").unlink()
    done = trainyard(serving, "pipeline")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"^(\w+) +\|", done.stdout, re.MULTILINE)) == {"bad", "last"}


# A machine that is said to have two GPUs, of which the user lets this project see the fourth and the sixth.
GPUS = "from flows.machine import hardware; hardware.gpus = lambda: 2"
SEEN = {"CUDA_VISIBLE_DEVICES": "3,5"}
LIMITS = {gpu: f"gpu-{socket.gethostname()}-{gpu}" for gpu in ("3", "5")}


def test_a_gpu_has_one_stage_at_a_time_over_all_flows_and_a_stage_sees_its_own_alone(serving):
    """What is held are real limits on the server, as `serve` makes them."""
    folder = serving.folder
    # The deployments are there already.
    without = "import runpy; runpy.run_module = lambda *_, **__: 0"
    deploy = f"{GPUS}; {without}; from flows.operations import deploy; deploy.main()"
    env = environment(**serving.client, **SEEN)
    subprocess.run([sys.executable, "-c", deploy], cwd=folder, env=env, check=True, capture_output=True)

    def slots() -> dict[str, tuple[int, int]]:
        found = serving.ask("/v2/concurrency_limits/filter", limit=100)
        return {one["name"]: (one["limit"], one["active_slots"]) for one in found if one["name"] in LIMITS.values()}

    def on_gpus() -> dict[str, str]:
        """Of the stages that have started."""
        return {name: ran(folder, name)["gpus"] for name in ("train", "evaluate") if (folder / f"{name}.ran").exists()}

    def said(*lines: str) -> bool:
        return all(re.search(line, output.read_text(), re.MULTILINE) for line in lines)

    assert slots() == dict.fromkeys(LIMITS.values(), (1, 0))
    serving.ask("/v2/concurrency_limits/increment", names=list(LIMITS.values()), slots=1, mode="concurrency")
    needs = {"train": [], "evaluate": [], "one": [], "two": ["one"], "three": ["two"]}
    write_stages(folder, needs)
    for name in ("train", "evaluate", "two"):
        (folder / f"{name}.hold").touch()
    output = folder / "pipeline.log"
    code = f"{GPUS}\nfrom flows.pipeline import command\ncommand(['--workers', '3'])"
    with output.open("w") as file:
        flow = subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=env, stdout=file, stderr=file)
    try:
        # Other flows have both GPUs. Stages of the CPU go on, one after another: time enough for `train` to start.
        waits = (r"^train +\| waits for a GPU", r"^evaluate +\| waits for a GPU")
        assert soon(lambda: said(*waits, r"^two +\| hello")), output.read_text()
        assert on_gpus() == {}
        assert ran(folder, "two")["gpus"] == SEEN["CUDA_VISIBLE_DEVICES"]

        # One GPU becomes free: one stage has it, and the other waits while that is at work.
        serving.ask("/v2/concurrency_limits/decrement", names=[LIMITS["5"]], slots=1)
        assert soon(on_gpus), output.read_text()
        (folder / "two.hold").unlink()
        assert soon(lambda: said(r"^three +\| done")), output.read_text()
        assert list(on_gpus().values()) == ["5"]

        serving.ask("/v2/concurrency_limits/decrement", names=[LIMITS["3"]], slots=1)
        assert soon(lambda: len(on_gpus()) == 2), output.read_text()
        assert set(on_gpus().values()) == {"3", "5"}
        assert slots() == dict.fromkeys(LIMITS.values(), (1, 1))
    finally:
        for hold in folder.glob("*.hold"):
            hold.unlink()
        code = flow.wait(LIMIT)
    assert code == 0, output.read_text()
    assert slots() == dict.fromkeys(LIMITS.values(), (1, 0))


HOLDS = f"""
import contextlib, queue, socket, threading
{GPUS}
from flows.orchestration import gpu_slots
from prefect.client.orchestration import get_client

with get_client(sync_client=True) as client:
    gpu_slots.create(client)

said, closed = queue.Queue(), threading.Event()

def both():
    with gpu_slots.hold(2, closed, said.put) as gpus:
        print("both", *gpus, flush=True)

other = threading.Thread(target=both)
with gpu_slots.hold(1, closed, print) as first:
    other.start()
    said.get(timeout={LIMIT})
    print(gpu_slots.take(contextlib.ExitStack(), ["3", "5"]), flush=True)
    with gpu_slots.hold(1, closed, print) as second:
        print("one each", *first, *second, flush=True)
other.join()
with gpu_slots.hold(2, closed, print):
    threading.Timer(0.1, closed.set).start()
    with gpu_slots.hold(1, closed, said.put) as none:
        print("ended while it waited", *none, flush=True)
socket.gethostname = lambda: "elsewhere"
with gpu_slots.hold(1, threading.Event(), print):
    print("held")
"""


def test_gpus_are_taken_together_or_not_at_all_and_a_limit_that_does_not_exist_is_no_licence(serving):
    """Who waits for two does not keep the one that is free from others, nor does who was too late for one of two."""
    env = environment(**serving.client, **SEEN)
    done = subprocess.run(
        [sys.executable, "-c", HOLDS], cwd=serving.folder, env=env, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.stdout.splitlines() == ["False", "one each 3 5", "both 3 5", "ended while it waited"], done.stderr
    assert "UnavailableError: Prefect's server has no concurrency limit gpu-elsewhere-3" in done.stderr


def test_flow_runs_that_ended_90_days_ago_are_deleted(serving):
    """Else the database would grow for ever: a deployment that watches a folder makes 144 a day."""
    flow = serving.ask("/flows/filter")[0]["id"]
    runs = {days: serving.ask("/flow_runs/", flow_id=flow, state={"type": "COMPLETED"})["id"] for days in (80, 100)}
    with sqlite3.connect(serving.folder / ".trainyard" / "prefect" / "prefect.db", timeout=LIMIT) as database:
        for days, run in runs.items():
            ended = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
            changed = database.execute("UPDATE flow_run SET end_time = ? WHERE id = ?", (str(ended), run))
            assert changed.rowcount == 1

    def kept() -> list[str]:
        return [run["id"] for run in serving.ask("/flow_runs/filter", flow_runs={"id": {"any_": [*runs.values()]}})]

    assert soon(lambda: kept() == [runs[80]]), kept()


def test_cancel_ends_the_stages(serving):
    """As on Prefect's page, of a run of a deployment."""
    folder = serving.folder
    write_stages(folder, {"sleeper": []})
    (folder / "sleeper.hold").touch()
    try:
        run = serving.press_run("real")
        assert soon(lambda: (folder / "sleeper.ran").exists()), serving.everything()
        stage = psutil.Process(ran(folder, "sleeper")["pid"])
        # The stage, its shell, DVC and the flow, below the worker.
        family = [stage, *(one for one in stage.parents() if {"dvc", "flows.flow_run"} & set(one.cmdline()))]
        assert len(family) == 3
        serving.ask(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"})
        assert soon(lambda: not any(map(running, family))), [one.cmdline() for one in family if running(one)]
        assert soon(lambda: serving.state(run) == "Cancelled"), serving.run(run)["state"]
        assert not (folder / "sleeper.txt").exists()
    finally:
        (folder / "sleeper.hold").unlink()


def test_the_users_own_servers_are_used(serving, tmp_path):
    folder = prepare(tmp_path / "another", ticks=None)
    env = {**serving.client, "MLFLOW_TRACKING_URI": serving.mlflow}
    served = Served(folder, **env)
    try:
        served.ready()
        assert f"Prefect      {serving.prefect} (yours)" in served.said()
        assert f"MLflow       {serving.mlflow} (yours)" in served.said()
        commands = [" ".join(child.cmdline()) for child in psutil.Process(served.process.pid).children(recursive=True)]
        assert any("flows.operations.flow_worker" in command for command in commands)
        assert not any("uvicorn" in command for command in commands)
        assert served.stop(signal.SIGINT) == 0  # Ctrl-C
        assert "Traceback" not in served.said()
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
    env = environment(**serving.client, PREFECT_HOME=str(tmp_path / "home"))
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    for words in (["work-pool", "create", "cluster", "--type", "process"], ["deploy", "--all"]):
        done = subprocess.run([*prefect, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, done.stdout + done.stderr
    run = serving.press_run("tock")
    command = [sys.executable, "-m", "flows.operations.flow_worker", "--pool", "cluster"]
    worker = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert soon(lambda: serving.state(run) == "Completed" or worker.poll() is not None), serving.run(run)["state"]
        assert worker.poll() is None, worker.communicate()[0]
        assert (folder / "ticks").is_file()
    finally:
        worker.terminate()
        said = worker.communicate(timeout=LIMIT)[0]
    assert worker.returncode == 0, said


def test_the_server_dies_in_the_middle_of_a_flow_and_comes_back(serving):
    folder = serving.folder
    write_stages(folder, {"a": [], "slow": ["a"], "end": ["slow"]})
    (folder / "slow.hold").touch()
    output = folder / "pipeline.log"
    with output.open("w") as file:
        command = [sys.executable, "-m", "flows.pipeline"]
        env = environment(**serving.client)
        flow = subprocess.Popen(command, cwd=folder, env=env, stdout=file, stderr=file)
    try:
        assert soon(lambda: "hello from slow" in output.read_text()), output.read_text()
        serving.part("uvicorn", "flows.access.door").kill()
        # What is served ends with it, and says why.
        assert serving.process.wait(LIMIT) == 1
        assert "Prefect's server was ended by SIGKILL" in serving.said()
        assert "Traceback" not in serving.said()
        before = serving.logs("worker")

        serving.start().ready()
        assert flow.poll() is None, output.read_text()
        (folder / "slow.hold").unlink()
        assert flow.wait(LIMIT) == 0, output.read_text()
        done = serving.ask("/flow_runs/filter", flows={"name": {"any_": ["pipeline"]}}, sort="START_TIME_DESC")[0]
        assert done["state"]["name"] == "Completed"
        assert trainyard(serving, "pipeline").stdout == "everything is up to date\n"
        # Schedules are kept, and so is what the parts said before.
        active = {one["name"]: [s["active"] for s in one["schedules"]] for one in serving.ask("/deployments/filter")}
        assert [active[one["name"]] for one in deployments()] == [[True]] * len(deployments())
        assert serving.logs("worker").startswith(before)
        assert serving.logs("worker").count("--- started at ") == before.count("--- started at ") + 1
    finally:
        flow.kill()
        flow.wait()


def test_a_worker_or_all_killed_in_the_middle_of_a_run(serving):
    folder = serving.folder
    run = serving.press_run("nap", seconds=120, file="first nap")
    assert soon(lambda: (folder / "first nap").exists() and serving.state(run) == "Running"), serving.everything()
    flow = psutil.Process(int((folder / "first nap").read_text()))
    serving.part("flows.operations.flow_worker").kill()
    assert serving.process.wait(LIMIT) == 1
    assert "the worker was ended by SIGKILL" in serving.said()
    assert soon(lambda: not running(flow))

    serving.start().ready()
    assert soon(lambda: serving.state(run) == "Crashed"), serving.run(run)["state"]
    run = serving.press_run("nap", seconds=120, file="second nap")
    assert soon(lambda: (folder / "second nap").exists()), serving.everything()
    children = psutil.Process(serving.process.pid).children(recursive=True)
    serving.process.kill()
    serving.process.wait()
    assert soon(lambda: not any(map(running, children))), [c.cmdline() for c in children if running(c)]

    serving.start().ready()
    assert soon(lambda: serving.state(run) == "Crashed"), serving.run(run)["state"]
    # SIGTERM, as systemd sends it, while a run is at work.
    serving.press_run("nap", seconds=120, file="last nap")
    assert soon(lambda: (folder / "last nap").exists()), serving.everything()
    assert serving.stop(signal.SIGTERM) == 0
    assert "schedules are kept" in serving.said()
    assert "Traceback" not in serving.said()
    assert not (folder / ".trainyard" / "serve" / "addresses.json").exists()


def test_a_server_that_does_not_answer_is_named(tmp_path, monkeypatch):
    from flows.project.errors import UnavailableError
    from flows.servers import children, local

    monkeypatch.setattr(children, "PATIENCE", 1)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    folder = prepare(tmp_path / "a project")
    monkeypatch.chdir(folder)
    with pytest.raises(UnavailableError, match=r"Prefect's server at http://127\.0\.0\.1:9/api does not answer"):
        local.serve(folder, None, None)


def test_why_prefects_server_did_not_come_up_is_told(tmp_path):
    theirs = "postgresql+asyncpg://a:b@127.0.0.1:9/theirs"
    served = Served(prepare(tmp_path / "a project"), PREFECT_SERVER_DATABASE_CONNECTION_URL=theirs)
    try:
        assert served.process.wait(LIMIT) == 1
        assert "trainyard: Prefect's server ended with exit code 3. Its last lines, of " in served.said()
        assert "Connect call failed ('127.0.0.1', 9)" in served.said()
    finally:
        served.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_ends_it(tmp_path, number):
    """The last one is a terminal that is closed, unless nohup has it ignored."""
    from flows.servers import children

    before = signal.getsignal(number)
    with children.Parts(tmp_path) as parts:
        os.kill(os.getpid(), number)
        with pytest.raises(children.Stop):
            parts.next(60)
    assert signal.getsignal(number) is before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
        with children.Parts(tmp_path) as parts:
            assert signal.SIGHUP not in parts.before


@pytest.mark.parametrize("started_here", [True, False])
def test_servers_that_it_has_started_itself_are_not_called_the_users(tmp_path, monkeypatch, capsys, started_here):
    """And flow runs that are lost are ended on them alone: on others somebody else's may run."""
    from flows.servers import children, local

    class Parts:
        def __init__(self) -> None:
            self.commands = []

        def start(self, name: str, command: list[str], env: dict, sign: str | None = None) -> children.Part:
            self.commands.append(command)
            return children.Part(name, tmp_path)

        def wait(self, condition, what: str, ends: children.Part | None = None, advice: str | None = None) -> None:
            pass

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(local, "environment", lambda: dict(os.environ))
    folder = make_project(tmp_path / "a project")
    shutil.copy(ROOT / "prefect.yaml", folder)
    monkeypatch.chdir(folder)
    parts = Parts()
    local.bring_up(folder, parts, None, None, started_here=started_here)
    assert capsys.readouterr().out.count("(yours)") == (0 if started_here else 2)
    [deploy] = [command for command in parts.commands if "flows.operations.deploy" in command]
    assert ("--own-server" in deploy) == started_here


def test_a_log_is_kept_and_a_large_one_put_aside(tmp_path, monkeypatch):
    """Else a restart by systemd would wipe out why it had to."""
    from flows.servers import children

    log = tmp_path / "worker.log"
    log.write_text("why it ended\n")
    children.open_log(log).close()
    assert re.fullmatch(r"why it ended\n--- started at \d{4}-\d\d-\d\d [\d:]{8} [+-]\d{4}\n", log.read_text())
    monkeypatch.setattr(children, "LOG_SIZE", 10)
    children.open_log(log).close()
    assert (tmp_path / "worker.log.1").read_text().startswith("why it ended\n")
    assert log.read_text().startswith("--- started at ")


@pytest.mark.parametrize("deployment", deployments(), ids=lambda deployment: deployment["name"])
def test_a_deployment_gives_its_flow_what_that_takes(deployment):
    import importlib
    import inspect

    module, _, name = deployment["entrypoint"].rpartition(".")
    pytest.importorskip(module, reason=f"{module} is not there")
    taken = inspect.signature(getattr(importlib.import_module(module), name).fn).parameters
    assert set(deployment["parameters"]) <= set(taken)


def test_the_pool_is_the_one_of_prefect_yaml():
    from flows.operations.deploy import JOB, POOL

    assert {deployment["work_pool"]["name"] for deployment in deployments()} == {POOL}
    # What a deployment asks for beside its flow is not what a worker does.
    assert not any("job_variables" in deployment["work_pool"] for deployment in deployments())
    command = JOB["job_configuration"]["command"].split()
    assert command[:2] == ["python", "-m"]
    assert ROOT.joinpath(*command[2].split(".")).with_suffix(".py").is_file()
