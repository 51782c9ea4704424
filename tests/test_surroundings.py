"""Pipelines among settings of others, at the end of terminals and of Prefect's servers: real ones, on a small project.

Each takes the ten seconds of a server: few tests run one, and look at several things at once.
"""

import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import LIMIT, ROOT, dvc_init, environment, refused, soon

from flows import pipeline, retrain
from flows.machine import environment_variables, ports
from flows.project.errors import UnavailableError
from flows.servers import prefect_server, temporary_server, watch_server

DEAD = "http://127.0.0.1:9"  # nothing listens there
PROXIES = dict.fromkeys(("http_proxy", "HTTPS_PROXY", "all_proxy"), DEAD)
# Of another project, whose database is not there, whose server wants a password, and whose Prefect knows other words.
OTHERS = {
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://a:b@127.0.0.1:9/theirs",
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://a:b@127.0.0.1:9/theirs",
    "PREFECT_SERVER_API_AUTH_STRING": "admin:secret",
    "PREFECT_SERVER_API_PORT": "no number",
}
# Goes on when a file `go` is there.
STAGE = """
import os, sys, time
name, *sources = sys.argv[1:]
print(f"hello from {name}", flush=True)
while name.startswith("slow") and not os.path.exists("go"):
    time.sleep(0.1)
print(f"{name} is done", flush=True)
assert name != "broken"
open(f"{name}.txt", "w").write(name)
"""


def make(folder: Path, stages: dict[str, list[str]]) -> Path:
    """A project with these stages, by what they need."""
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "stage.py").write_text(STAGE)
    described = {}
    for name, needs in stages.items():
        files = [f"{other}.txt" for other in needs]
        cmd = " ".join(["python stage.py", name, *files])
        described[name] = {"cmd": cmd, "deps": files, "outs": [f"{name}.txt"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": described}, sort_keys=False))
    dvc_init(folder)
    return folder


def start(folder: Path, *arguments: str, program: tuple[str, ...] = ("-m", "flows.pipeline"), **env: str):
    """A pipeline, with the file of its output."""
    output = folder / f"output-{'-'.join(arguments)}"
    with output.open("w") as file:
        command = [sys.executable, *program, *arguments]
        return subprocess.Popen(command, cwd=folder, env=environment(**env), stdout=file, stderr=file), output


@contextmanager
def ended(*processes: subprocess.Popen):
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def locked(folder: Path) -> list[str]:
    return sorted(yaml.safe_load((folder / "dvc.lock").read_text())["stages"])


def logged(folder: Path) -> set[str]:
    """What Prefect's log has."""
    with closing(sqlite3.connect(folder / ".trainyard" / "prefect" / "prefect.db")) as database:
        return {message for (message,) in database.execute("select message from log")}


@pytest.mark.long
def test_two_at_once_in_a_new_project_among_proxies_and_settings_of_others(tmp_path):
    """One prepares Prefect's database; one has the cores, all of them, since its stage runs alone. The other waits."""
    folder = make(tmp_path / "a project", {"slow1": [], "slow2": []})
    both = [start(folder, name, **PROXIES, **OTHERS) for name in ("slow1", "slow2")]

    def said() -> str:
        return "".join(output.read_text() for _, output in both)

    with ended(*(process for process, _ in both)):
        assert soon(lambda: "waits for CPU cores: other flows on this machine use them" in said()), said()
        assert said().count("hello from slow") == 1
        (folder / "go").touch()
        for process, output in both:
            assert process.wait(LIMIT) == 0, output.read_text()
    assert locked(folder) == ["slow1", "slow2"]
    assert said().count("another command makes Prefect's database here") == 1
    assert {"hello from slow1", "hello from slow2"} <= logged(folder)  # one database, which both have used


@pytest.mark.long
def test_without_a_reader_the_work_goes_on_and_the_exit_code_is_true(tmp_path):
    folder = make(tmp_path / "a project", {"slow": [], "after": ["slow"], "broken": ["after"]})
    command = [sys.executable, "-m", "flows.pipeline"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with ended(process):
        while "hello from slow" not in process.stdout.readline():
            assert process.poll() is None
        process.stdout.close()
        (folder / "go").touch()
        assert process.wait(LIMIT) == 1
    assert locked(folder) == ["after", "slow"]
    assert {"slow is done", "hello from after", "hello from broken"} <= logged(folder)


@pytest.mark.long
def test_the_terminal_is_closed(tmp_path):
    folder = make(tmp_path / "a project", {"slow": [], "after": ["slow"]})
    env = environment()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "-m", "flows.pipeline"], env)
    try:
        said = b""
        while b"hello from slow" not in said:
            said += os.read(terminal, 1000)
        os.close(terminal)  # the kernel sends SIGHUP
        (folder / "go").touch()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert locked(folder) == ["after", "slow"]
    assert {"slow is done", "hello from after", "after is done"} <= logged(folder)


# The same in less time than a minute.
HURRIED = """
from flows import pipeline
from flows.machine.console import run
from flows.servers import watch_server
watch_server.GONE_AFTER, watch_server.GRACE, watch_server.INTERVAL = 4, 4, 0.5
run(pipeline.command)
"""


@pytest.mark.long
@pytest.mark.parametrize("own", [False, True])
def test_prefects_server_goes_away_for_good(tmp_path, own):
    folder = make(tmp_path / "a project", {"early": [], "slow": ["early"], "late": ["slow"]})
    server, env = None, {}
    if own:
        port = ports.free_port()
        env = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_HOME": str(tmp_path / "home")}
        env |= {"PREFECT_API_AUTH_STRING": "me:secret", "PREFECT_SERVER_API_AUTH_STRING": "me:secret"}
        server = subprocess.Popen(prefect_server.command(port), cwd=tmp_path, env=environment(**env))
    flow = None
    try:
        assert not own or soon(lambda: ports.answers(f"{env['PREFECT_API_URL']}/health"))
        flow, output = start(folder, program=("-c", HURRIED), **env)
        assert soon(lambda: "hello from slow" in output.read_text() or flow.poll() is not None)
        children = psutil.Process(flow.pid).children(recursive=True)
        stage = next(child for child in children if "stage.py" in child.cmdline())
        [found] = [server] if own else [child for child in children if "uvicorn" in child.cmdline()]
        found.kill()
        assert flow.wait(LIMIT) == 1
        said = output.read_text()
        assert "does not answer: stages go on, and all ends if it is not back within 4 seconds" in said
        assert "does not answer any more. What has finished is kept" in said
        assert "Traceback" not in said
        assert soon(lambda: not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE)
        assert locked(folder) == ["early"]
    finally:
        for process in (flow, server):
            if process:
                process.kill()
                process.wait()


def test_a_server_that_is_gone_is_given_up_within_a_minute_and_a_half():
    silence = 10  # seconds until the last look has its answer
    assert watch_server.GONE_AFTER + watch_server.INTERVAL + silence + watch_server.GRACE < 90


@pytest.mark.parametrize(
    ("answers", "patience", "lost"),
    [
        ([True, True, False, False, True], 60, False),  # it comes back
        ([False, False, False], 0, False),  # only Prefect's own client gets there
        ([True, True, False, False], 0, True),
    ],
)
def test_who_is_given_up(monkeypatch, capsys, answers, patience, lost):
    def answer(*_, **__) -> bool:
        if len(left) == 1:
            watch.stopped.set()
        return left.pop(0)

    def leave(code: int) -> None:
        raise SystemExit(code)

    left, sent = list(answers), []
    monkeypatch.setenv("PREFECT_API_URL", f"{DEAD}/api")
    monkeypatch.setattr(watch_server, "INTERVAL", 0.0)
    monkeypatch.setattr(watch_server, "GRACE", 0.0)
    monkeypatch.setattr(watch_server, "away", threading.Event())
    monkeypatch.setattr(watch_server.ports, "answers", answer)
    monkeypatch.setattr(watch_server.os, "kill", lambda pid, number: sent.append(number))
    monkeypatch.setattr(watch_server.os, "_exit", leave)
    watch = watch_server.Watch(patience, lambda: print("last words"))
    if lost:
        with pytest.raises(SystemExit, match="1"):
            watch.look()
    else:
        watch.look()
    assert watch.lost == lost
    assert sent == ([signal.SIGTERM] if lost else [])
    assert ("last words" in capsys.readouterr().out) == lost


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        (f"{DEAD}/api", 1, f"Prefect's server at {DEAD}/api does not answer ([Errno 111] Connection refused). "),
        ("http://me:secret@127.0.0.1:9/api", 1, "http://***@127.0.0.1:9/api does not answer"),
        ("127.0.0.1:4200", 2, "PREFECT_API_URL is '127.0.0.1:4200', but has to be the address of a server's API"),
        ("http://[::1/api", 2, "has to be the address of a server's API"),
    ],
)
@pytest.mark.parametrize(("command", "given"), [(pipeline.command, ()), (retrain.command, ("--fresh-seed",))])
def test_a_server_that_is_down_is_named_with_what_to_do(
    tmp_path, monkeypatch, capfd, command, given, address, code, said
):
    folder = make(tmp_path / "a project", {"one": []})
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PREFECT_API_URL", address)
    sentence = refused(capfd, command, *given, code=code)
    assert said in sentence
    assert "temporary server is used" in sentence


def test_why_a_temporary_server_ended_is_told(tmp_path, monkeypatch):
    (tmp_path / "prefect.db").mkdir()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # as the flow's own process has it
    monkeypatch.setenv("PREFECT_API_URL", "")  # which starting it changes
    server = temporary_server.TemporaryServer()
    server.start()
    with pytest.raises(
        UnavailableError, match=r"ended with exit code 3\. Its last lines:\n(.*\n)*.*unable to open data"
    ):
        server.wait()


def test_a_database_is_prepared_by_one_server_at_a_time_and_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    first, second = temporary_server.Database(), temporary_server.Database()
    assert first.may_start()
    assert not second.may_start()
    first.release()  # its server did not come up
    assert second.may_start()
    (tmp_path / "prefect.db").touch()
    second.prepared()
    assert first.may_start()
    assert second.may_start()
    monkeypatch.setattr(temporary_server.Database, "version", lambda self: "a newer one")
    assert first.may_start()
    assert not second.may_start()
    first.release()


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"http_proxy": DEAD}, "localhost,127.0.0.1,::1"),
        ({"ALL_PROXY": DEAD, "NO_PROXY": "example.org, 127.0.0.1"}, "example.org,127.0.0.1,localhost,::1"),
        ({"https_proxy": DEAD, "no_proxy": "*"}, "*"),
        ({"http_proxy": ""}, None),
        ({}, None),
    ],
)
def test_loopback_is_added_to_what_goes_through_no_proxy(monkeypatch, given, made):
    for name in (*environment_variables.PROXIES, "no_proxy"):
        for spelt in (name, name.upper()):
            monkeypatch.setenv(spelt, "")  # so that what is set is taken back
            monkeypatch.delenv(spelt)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment_variables.set_variables()
    assert os.environ.get("no_proxy") == made
    assert os.environ.get("NO_PROXY") == made


CLIENTS = """
import json, os, sys
from flows.machine import environment_variables
environment_variables.set_variables()
address = sys.argv[1]
os.environ["MLFLOW_TRACKING_URI"] = address
import httpx, requests
from flows.machine import ports
from flows.tracking import mlflow_store
assert ports.answers(f"{address}/health")
assert requests.get(f"{address}/health").status_code == httpx.get(f"{address}/health").status_code == 200
assert mlflow_store.connect().search_experiments() == []
try:
    requests.get("http://example.invalid")
except requests.exceptions.ProxyError:
    print("others go through it")
"""


def test_no_client_asks_a_proxy_for_this_machine(project):
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET

        def log_message(self, *_) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [sys.executable, "-c", CLIENTS, f"http://localhost:{server.server_port}"]
        done = subprocess.run(command, cwd=project, env=environment(**PROXIES), capture_output=True, text=True)
        server.shutdown()
    assert done.stdout == "others go through it\n", done.stderr
