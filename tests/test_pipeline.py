"""The Prefect pipeline, on small real DVC projects whose stages sleep, fail or refuse their input.

A flow with Prefect's temporary server takes some ten seconds: few tests run one, and look at all of it.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import yaml
import zc.lockfile
from click.testing import CliRunner
from conftest import LIMIT, dvc_init, soon

from flows import pipeline
from flows.graph import repro
from flows.graph.planning import Plan, plan
from flows.graph.repro import Repro, explain
from flows.machine import hardware
from flows.machine.orphans import still_runs
from flows.machine.processes import Processes
from flows.orchestration import plan_run

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "TRAINYARD_"))},
    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
}

# Writes when it started and ended; in between it sleeps for some seconds, or waits until another stage has started.
STAGE = f"""
import os, sys, time
name, until, *sources = sys.argv[1:]
started = time.time()
open(f"{{name}}.started", "w").close()
texts = [open(source).read() for source in sources]
print(f"hello from {{name}} with {{os.environ.get('TRAINYARD_JOBS')}} jobs", flush=True)
if until.isalpha():
    while not os.path.exists(f"{{until}}.started") and time.time() < started + {LIMIT}:
        time.sleep(0.01)
else:
    time.sleep(float(until))
open(f"{{name}}.txt", "w").write(name + "".join(texts))
open(f"{{name}}.times", "w").write(f"{{started}} {{time.time()}}")
"""
DIAMOND = {
    "a": ("python stage.py a 0", [], "a.txt"),
    "b": ("python stage.py b 0 a.txt", ["a.txt"], "b.txt"),
    "c": ("python stage.py c 0 a.txt", ["a.txt"], "c.txt"),
    "d": ("python stage.py d 0 a.txt", ["a.txt"], "d.txt"),
    "e": ("python stage.py e 0 b.txt c.txt d.txt", ["b.txt", "c.txt", "d.txt"], "e.txt"),
}


def write_stages(root: Path, stages: dict) -> None:
    described = {name: {"cmd": cmd, "deps": deps, "outs": [out]} for name, (cmd, deps, out) in stages.items()}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": described}, sort_keys=False))


def dvc(root: Path, *arguments: str) -> str:
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    root = tmp_path / "a project"
    root.mkdir()
    shutil.copy(ROOT / "params.yaml", root)
    (root / "stage.py").write_text(STAGE)
    write_stages(root, DIAMOND)
    dvc_init(root)
    monkeypatch.chdir(root)
    return root


def run_pipeline(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flows.pipeline", *arguments]
    return subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)


def times(root: Path, stage: str) -> tuple[float, float]:
    started, ended = (root / f"{stage}.times").read_text().split()
    return float(started), float(ended)


def said() -> tuple[list[str], object]:
    lines: list[str] = []
    return lines, lambda stage, line: lines.append(f"{stage}: {line}")


@pytest.mark.long
def test_two_workers_keep_the_order_overlap_and_leave_what_dvc_repro_leaves(toy, tmp_path):
    described = dict(DIAMOND)
    # Two that wait for each other end where they run at the same time, and nowhere else.
    for stage, other in ("bc", "cb"):
        described[stage] = (f"python stage.py {stage} {other} a.txt", ["a.txt"], f"{stage}.txt")
    write_stages(toy, described)
    serial = shutil.copytree(toy, tmp_path / "serial")
    done = run_pipeline(toy, "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    for stage, (_, deps, _) in DIAMOND.items():
        assert done.stdout.count(f"hello from {stage} ") == 1
        for dep in deps:
            assert times(toy, Path(dep).stem)[1] <= times(toy, stage)[0]
    assert max(times(toy, "b")[0], times(toy, "c")[0]) <= min(times(toy, "b")[1], times(toy, "c")[1])
    assert "e | hello from e" in done.stdout
    # b, c and d can run side by side, two at a time; e runs alone.
    assert f"hello from b with {max(1, hardware.cores() // 2)} jobs" in done.stdout
    assert f"hello from e with {hardware.cores()} jobs" in done.stdout

    assert dvc(toy, "status", "--json").strip() == "{}"
    (serial / "c.started").touch()
    dvc(serial, "repro")
    locks = [yaml.safe_load((root / "dvc.lock").read_text()) for root in (toy, serial)]
    assert locks[0] == locks[1]
    assert (toy / ".trainyard" / "prefect").is_dir()

    again = run_pipeline(toy)
    assert again.returncode == 0
    assert again.stdout == "everything is up to date\n"


def arguments(process: psutil.Process) -> list[str]:
    """Of its command; none of one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.long
def test_a_failed_stage_is_named_once_tried_and_leaves_the_independent_ones_to_finish(toy):
    refuse = "echo x >> tries && echo 'the mirror is no folder' && exit 2"
    stages = {
        "download": (refuse, [], "data.txt"),
        "train": ("python stage.py train 0 data.txt", ["data.txt"], "train.txt"),
        "other": ("python stage.py other 1", [], "other.txt"),
        "after": ("python stage.py after 0 other.txt", ["other.txt"], "after.txt"),
    }
    write_stages(toy, stages)
    done = run_pipeline(toy, "--workers", "2")
    assert done.returncode == 1
    assert "download failed: bad input (exit code 2)" in done.stderr
    assert "the mirror is no folder" in done.stderr
    assert "not run because of it: train" in done.stderr
    assert (toy / "tries").read_text() == "x\n"
    assert (toy / "after.txt").is_file()
    assert sorted(yaml.safe_load((toy / "dvc.lock").read_text())["stages"]) == ["after", "other"]


@pytest.mark.parametrize(("number", "whole_group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_ends_every_child(toy, number, whole_group):
    write_stages(toy, {**DIAMOND, "b": ("python stage.py b never a.txt", ["a.txt"], "b.txt")})
    command = [sys.executable, "-m", "flows.pipeline", "--workers", "2"]
    output = toy / "output"
    with output.open("w") as file:
        running = subprocess.Popen(
            command, cwd=toy, env=ENVIRONMENT, stdout=file, stderr=file, start_new_session=True
        )  # fmt: skip
    try:
        assert soon(lambda: "hello from b" in output.read_text() or running.poll() is not None), output.read_text()
        assert running.poll() is None, output.read_text()
        children = psutil.Process(running.pid).children(recursive=True)
        assert any("stage.py" in arguments(child) for child in children)
        # Ctrl-C on a terminal reaches the whole group at once.
        (os.killpg if whole_group else os.kill)(running.pid, number)
        assert running.wait(LIMIT) == 128 + number, output.read_text()
        assert [child for child in children if still_runs(child)] == []
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
    assert not (toy / "b.txt").exists()
    assert "b" not in yaml.safe_load((toy / "dvc.lock").read_text())["stages"]


def test_what_runs_is_what_is_stale_and_what_comes_after(toy):
    dvc(toy, "repro", "--quiet")
    (toy / "study").mkdir()
    (toy / "study" / "dvc.yaml").write_text("stages:\n  sweep:\n    cmd: echo > out\n    outs: [out]\n")
    assert plan(toy) == Plan()  # a study runs when it is named
    assert plan(toy, ["study/dvc.yaml"]).stages == ["study/dvc.yaml:sweep"]
    (toy / "c.txt").unlink()
    planned = plan(toy)
    assert planned.stages == ["c", "e"]
    assert planned.reason("c") == "c.txt: deleted (`dvc checkout` brings it back)"
    assert plan(toy, ["b"]).stages == []
    assert plan(toy, ["c"]).stages == ["c"]
    assert plan(toy, ["d"], force=True).stages == ["a", "d"]
    dry = CliRunner().invoke(pipeline.command, ["--dry"], standalone_mode=False)
    why = "c.txt: deleted (`dvc checkout` brings it back)"
    assert dry.output.splitlines() == [f"would run c: {why}", "would run e: c.txt: deleted"]


def test_a_stage_that_runs_alone_may_use_every_core():
    needs = {"a": [], "b": ["a"], "c": ["a"], "e": ["b", "c"]}
    assert Plan(needs, list(needs), {stage: [] for stage in needs}).widths() == {"a": 1, "b": 2, "c": 2, "e": 1}
    assert Plan(needs, ["c", "e"], {"c": [], "e": []}).widths() == {"c": 1, "e": 1}


def test_stages_side_by_side_are_told_their_share_of_threads(tmp_path, monkeypatch):
    """Else numpy and torch would start a thread per core in each of them."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("TRAINYARD_JOBS", raising=False)
    monkeypatch.setattr(hardware, "cores", lambda: 8)
    shared = Repro(tmp_path, Processes(), print, jobs={"b": 4, "e": 8})
    beside, alone = shared.environment("b"), shared.environment("e")
    assert (beside["TRAINYARD_JOBS"], beside["OMP_NUM_THREADS"]) == ("4", "4")
    assert alone["TRAINYARD_JOBS"] == "8"
    assert "OMP_NUM_THREADS" not in alone
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert shared.environment("b")["OMP_NUM_THREADS"] == "3"  # the user's wish


def test_a_run_without_work_does_without_prefect(toy):
    dvc(toy, "repro", "--quiet")
    code = (
        "import sys; from flows.pipeline import command\n"
        "command([], standalone_mode=False); print(sorted({'prefect', 'torch', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=toy, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["everything is up to date", "[]"]


def test_a_stage_waits_for_another_dvc_that_writes_its_files(toy, monkeypatch):
    monkeypatch.setattr(repro, "BUSY_DELAYS", (0.2,))
    busy = toy / ".dvc" / "tmp" / "rwlock"
    busy.parent.mkdir(exist_ok=True)
    busy.write_text(f'{{"write": {{"{toy}/a.txt": {{"pid": {os.getpid()}, "cmd": "dvc repro"}}}}}}')
    lines, say = said()

    def tell(stage: str, line: str) -> None:
        say(stage, line)
        if "another DVC is at work" in line:
            busy.unlink(missing_ok=True)

    outcome = Repro(toy, Processes(), tell)("a", lambda line: None)
    assert outcome.problem is None
    assert any("another DVC is at work" in line for line in lines)
    assert (toy / "a.txt").is_file()


def test_a_finished_stage_is_kept_though_another_dvc_holds_the_lock_for_long(toy):
    write_stages(toy, {"a": ("python stage.py a locked", [], "a.txt")})
    lock = []
    lines, say = said()

    def tell(stage: str, line: str) -> None:
        say(stage, line)
        if "hello from a" in line:
            lock.append(zc.lockfile.LockFile(str(toy / ".dvc" / "tmp" / "lock")))
            (toy / "locked.started").touch()  # for which the stage waits
            threading.Timer(4.5, lock[0].close).start()  # by itself DVC gives up after 3 s

    outcome = Repro(toy, Processes(), tell)("a", lambda line: None)
    assert outcome.problem is None, lines
    assert dvc(toy, "status", "a", "--json").strip() == "{}"


def test_only_what_may_go_well_next_time_is_tried_again(toy):
    write_stages(toy, {"refuses": ("exit 2", [], "x"), "breaks": ("exit 1", [], "y"), "slow": ("sleep 60", [], "z")})
    _, say = said()
    refused, broken = (Repro(toy, Processes(), say)(stage, print) for stage in ("refuses", "breaks"))
    assert (refused.can_retry, broken.can_retry) == (False, True)
    assert broken.problem == "its command exited with 1"
    assert set(plan_run.RETRIES) == {"download"}
    slow = Repro(toy, Processes(), say, time_limit=2)("slow", print)
    assert slow.problem == "ended after its time limit of 2 s"


def test_what_dvc_says_of_an_end_is_explained():
    last = "ERROR: failed to reproduce 'train@mlp': failed to run: python -m flows.train mlp, exited with "
    assert explain(255, [last + "1"]) == ("its command exited with 1", 1)
    assert explain(255, [last + "2"]) == ("bad input (exit code 2)", 2)
    assert explain(255, [last + "-9"]) == ("its command was ended by SIGKILL", -9)
    assert explain(255, [last + "143"]) == ("its command was ended by SIGTERM", 143)
    assert explain(1, ["ERROR: disk full"]) == ("dvc exited with 1", None)
