"""Stages on the workers of a real Dask scheduler: in working copies of their own, and in a folder that they share."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from conftest import LIMIT, environment, soon
from test_elsewhere import copy_of, describe, with_remote

from flows import pipeline
from flows.graph import dvc_graph
from flows.machine import ports
from flows.orchestration import dask_options
from flows.project.errors import InputError, UnavailableError
from flows.servers import prefect_server

pytest.importorskip("prefect_dask", reason="needs the extra `dask`")

# On its first try it waits until it is killed, where it is asked to.
STAGE = """
import os, pathlib, sys, time
name, *sources = sys.argv[1:]
pathlib.Path(f"{name}.txt").write_text(name + "".join(pathlib.Path(source).read_text() for source in sources))
mark = pathlib.Path(__file__).parent.parent / f"{name}.tried"
if name == os.environ.get("SLOW") and not mark.exists():
    mark.write_text(f"{os.getcwd()}\\n{os.getpid()}")
    time.sleep(600)
"""
STAGES = {
    "a": {"cmd": "python stage.py a", "deps": ["stage.py"], "outs": ["a.txt"]},
    "b": {"cmd": "python stage.py b a.txt", "deps": ["a.txt"], "outs": ["b.txt"]},
    "c": {
        "cmd": "python stage.py c a.txt && mkdir -p metrics && cp c.txt metrics/c.txt",
        "deps": ["a.txt"],
        "outs": ["c.txt"],
        "metrics": [{"metrics": {"cache": False}}],
    },
    "d": {"cmd": "python stage.py d b.txt metrics/c.txt", "deps": ["b.txt", "metrics"], "outs": ["d.txt"]},
}


@pytest.fixture(scope="module")
def prefect(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The variables of a Prefect server's clients."""
    port = ports.free_port()
    with contextlib.ExitStack() as stack:
        env = environment(
            PREFECT_HOME=str(tmp_path_factory.mktemp("prefect")), PREFECT__SERVER_FINAL="1", PREFECT_UI_ENABLED="0",
            **prefect_server.protected("me:secret", port),
        )  # fmt: skip
        start(stack, prefect_server.command(port), env=env)
        api = f"http://127.0.0.1:{port}/api"
        assert soon(lambda: ports.answers(f"{api}/health"))
        yield {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": "me:secret"}


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a Dask scheduler."""
    port = ports.free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show"]
    with contextlib.ExitStack() as stack:
        start(stack, [sys.executable, "-m", "distributed.cli.dask_scheduler", *options], env=environment())
        assert soon(lambda: ports.why_not_free("127.0.0.1", port))
        yield f"tcp://127.0.0.1:{port}"


def start(stack: contextlib.ExitStack, command: list[str], **options) -> psutil.Popen:
    """A process that is ended, with its children, when the stack is left."""
    process = psutil.Popen(command, **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options)
    stack.callback(end, process)
    return process


def end(process: psutil.Popen, recursive: bool = True) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in [process, *process.children(recursive=recursive)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()


@pytest.fixture
def project(tmp_path) -> Path:
    """A project with four stages, whose DVC remote is a folder."""
    return with_remote(tmp_path / "here", STAGES, STAGE)


@pytest.fixture
def run(project, prefect, scheduler, monkeypatch):
    """Runs the project's pipeline on workers in the given folders."""
    monkeypatch.chdir(project)
    with contextlib.ExitStack() as stack:

        def run(*folders: Path, options: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess:
            env = environment(**prefect, **env)
            command = [sys.executable, "-m", "flows.operations.worker", scheduler]
            run.workers = {folder: start(stack, command, cwd=folder, env=env) for folder in folders}
            command = [sys.executable, "-m", "flows.pipeline", "--dask", scheduler, *options]
            env |= {"MLFLOW_TRACKING_URI": f"sqlite:///{project.parent}/mlflow.db"}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            return start(stack, command, cwd=project, env=env, **pipes)

        yield run


def test_with_a_remote_between_the_working_copies(project, run):
    copies = [copy_of(project, "one"), copy_of(project, "two")]
    pipeline = run(*copies, options=("--remote",))
    output, _ = pipeline.communicate(timeout=LIMIT)
    assert pipeline.returncode == 0, output
    assert (project / "d.txt").read_text() == "dbaca"
    assert (project / "metrics" / "c.txt").read_text() == "ca"
    assert dvc_graph.stale(project) == {}
    for stage in STAGES:
        assert f"{stage} | runs on " in output
    assert f"in {project} because" not in output


def test_a_worker_that_dies_leaves_its_stage_to_another(project, run):
    copies = [copy_of(project, "one"), copy_of(project, "two")]
    pipeline = run(*copies, options=("--remote",), SLOW="b")
    tried = project.parent / "b.tried"
    assert soon(lambda: tried.is_file() and "\n" in tried.read_text())
    folder, number = tried.read_text().splitlines()
    stage = psutil.Process(int(number))
    # Dask's two processes; the stage's own would go on, to write into what the next one is given.
    end(run.workers[Path(folder)], recursive=False)
    assert soon(lambda: not stage.is_running())
    output, _ = pipeline.communicate(timeout=LIMIT)
    assert pipeline.returncode == 0, output
    assert dvc_graph.stale(project) == {}


def test_what_ran_with_other_folders_is_not_taken_for_done(project, run):
    describe(project, {"a": {"cmd": "cat given/*.txt > a.txt", "deps": ["given"], "outs": ["a.txt"]}})
    (project / "given").mkdir()
    (project / "given" / "1.txt").write_text("1")
    there = copy_of(project, "one")
    (there / "given").mkdir(exist_ok=True)
    (there / "given" / "2.txt").write_text("2")
    pipeline = run(there, options=("--remote",))
    output, _ = pipeline.communicate(timeout=LIMIT)
    assert pipeline.returncode == 1
    assert "other files than lie here: given: modified" in output


def test_workers_that_share_the_folder(project, run):
    elsewhere = copy_of(project, "elsewhere")
    pipeline = run(project)
    output, _ = pipeline.communicate(timeout=LIMIT)
    assert pipeline.returncode == 0, output
    assert (project / "d.txt").read_text() == "dbaca"
    assert dvc_graph.stale(project) == {}
    assert not (elsewhere / "a.txt").exists()


def test_a_worker_in_another_folder_is_told_apart(project, run):
    pipeline = run(copy_of(project, "elsewhere"))
    output, _ = pipeline.communicate(timeout=LIMIT)
    assert pipeline.returncode == 1
    assert "does not share the project's folder" in output
    assert not (project / "dvc.lock").exists()


@pytest.mark.parametrize("address", ["8786", "http://127.0.0.1:8786", "tcp://127.0.0.1", "tcp://127.0.0.1:port"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="tcp://HOST:8786"):
        dask_options.check(address)


def test_no_scheduler_is_said():
    with pytest.raises(UnavailableError, match="dask scheduler"):
        dask_options.check(f"tcp://127.0.0.1:{ports.free_port()}")


def test_workers_on_other_machines_need_servers_that_they_reach(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(InputError, match="PREFECT_API_URL"):
        dask_options.check_servers("tcp://10.0.0.1:8786", remote=False)
    monkeypatch.setenv("PREFECT_API_URL", "http://10.0.0.2:4200/api")
    dask_options.check_servers("tcp://10.0.0.1:8786", remote=False)
    for uri in ("", "sqlite:////srv/mlflow.db", "http://127.0.0.1:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"):
            dask_options.check_servers("tcp://10.0.0.1:8786", remote=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://10.0.0.2:5000")
    dask_options.check_servers("tcp://10.0.0.1:8786", remote=True)


def test_remote_without_dask_is_refused(project, monkeypatch):
    monkeypatch.chdir(project)
    done = CliRunner().invoke(pipeline.command, ["--remote"])
    assert isinstance(done.exception, InputError)
