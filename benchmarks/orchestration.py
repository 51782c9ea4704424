"""The cost of orchestration: `trainyard pipeline` against `dvc repro`, what it adds per stage, a retrain with nothing
to do, and `trainyard serve` until it is ready.

Runs in a temporary copy of this project, with the servers that `trainyard serve` has started there.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil
import yaml

from benchmarks.measure import alone, compared, in_turn, seconds, spread
from benchmarks.pipeline import copy, row
from flows.machine.environment_variables import QUIET

RUNS = 3  # of measurements that take a minute each
CHAINS = (4, 16)  # lengths of chains of stages that do nothing, for the cost of one more stage
SWEEP = [round(0.05 * number, 2) for number in range(8)]  # dropout rates to compare, a member each
ONE_AFTER_ANOTHER = """
import sys
from pathlib import Path
from flows.machine.processes import Processes
from flows.graph.repro import Repro
with Processes() as processes:
    repro = Repro(Path.cwd(), processes, lambda stage, line: None, force=True)
    for stage in sys.argv[1:]:
        assert repro(stage, lambda line: None).problem is None
"""
FLOW = """
from flows.servers import prefect_server
prefect_server.configure()
from flows.retrain_flow import retrain
assert retrain(push=False, return_state=True).name == "Skipped"
"""
READY = "Ready after"


def measure() -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "a project")
        root.mkdir()
        copy(root)
        first = row("trainyard serve until it is ready, with new databases, once", serving_once(root), 60)
        with serving(root) as ready:
            rows = [first, row("trainyard serve until it is ready, again, once", ready, 30)]
            rows += [*against_dvc(root), sweep(root), *per_stage(Path(folder), root), *skipped(root)]
    return rows


def python(*arguments: str, cwd: Path, **env: str) -> None:
    """Runs `python ARGUMENTS`. Raises RuntimeError, with the output, if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, **QUIET, **env}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)[:100]}: {done.stdout[-1000:]} {done.stderr[-1000:]}")


@contextlib.contextmanager
def serving(root: Path) -> Iterator[float]:
    """Runs `trainyard serve` while the block runs. Yields the seconds until it was ready."""
    command = [sys.executable, "-m", "flows.operations.serve"]
    process = psutil.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield seconds(partial(wait_until_ready, process))
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(process: psutil.Popen) -> None:
    lines = []
    for line in process.stdout:
        lines.append(line)
        if READY in line:
            return
    raise RuntimeError(f"trainyard serve has ended: {''.join(lines)}")


def serving_once(root: Path) -> float:
    with serving(root) as ready:
        return ready


def against_dvc(root: Path) -> list[dict]:
    """Rows of the default project (digits), every stage from nothing: `--force` uses none of DVC's caches."""
    rows = []
    for how, env in (("", {}), (", replicas one after another too", {"TRAINYARD_JOBS": "1"})):
        what = f"trainyard pipeline of digits, all stages, against dvc repro{how}"
        rows.append(beside_dvc(what, root, 1.6, **env))
    return rows


def beside_dvc(what: str, root: Path, goal: float | None = None, **env: str) -> dict:
    parallel = partial(python, "-m", "flows.pipeline", "--force", cwd=root)
    serial = partial(python, "-m", "dvc", "repro", "--force", cwd=root, **env)
    times = in_turn(parallel, serial, RUNS, warm_up=0)
    return compared(what, times) | (
        {"goal": f"at least {goal}", "reached": times["ratio"] >= goal} if goal is not None else {}
    )


def sweep(root: Path) -> dict:
    """A row of members that differ in one number, as in a comparison of recipes. Restores the project afterwards."""
    params = root / "params.yaml"
    before = params.read_text(encoding="utf-8")
    edited = yaml.safe_load(before)
    recipe = edited["members"]["mlp"] | {"replicas": 1}
    edited["members"] = {f"mlp{number}": recipe | {"dropout": rate} for number, rate in enumerate(SWEEP)}
    params.write_text(yaml.safe_dump(edited), encoding="utf-8")
    try:
        return beside_dvc(f"the same with {len(SWEEP)} members of one replica", root)
    finally:
        params.write_text(before, encoding="utf-8")
        python("-m", "dvc", "repro", cwd=root)


def per_stage(folder: Path, root: Path) -> list[dict]:
    """Rows of chains of stages that do nothing, as Prefect tasks, and by the same DVC commands without Prefect.

    The cost of a stage is the difference of the two chains, divided by the difference of their lengths. The rest is the
    flow's own start and end.
    """
    from flows.access import login, running_servers

    with contextlib.chdir(root):
        prefect = {
            "PREFECT_API_URL": running_servers.addresses()["prefect"],
            "PREFECT_API_AUTH_STRING": login.credentials(),
        }
    added = []
    loads = []
    for length in CHAINS:
        times = chain(folder / f"{length} empty stages", length, root, prefect)
        added.append([ours - other for ours, other in zip(times["ours_seconds"], times["other_seconds"])])
        loads.append(times["load"])
    short, long = CHAINS
    each = [(more - less) / (long - short) for less, more in zip(*added)]
    around = [less - short * one for less, one in zip(added[0], each)]
    row = described("what trainyard pipeline adds to a stage", each, max(loads))
    return [
        row | {"goal": "at most 0.5 s", "reached": statistics.median(each) <= 0.5},
        described("its own start and end, once for all stages", around, max(loads)),
    ]


def described(what: str, times: list[float], load: float) -> dict:
    return {
        "what": what,
        "ours": spread(statistics.median(times), min(times), max(times), " s"),
        "load": load,
        "measured": times,
    }


def chain(folder: Path, length: int, root: Path, prefect: dict[str, str]) -> dict:
    """Runs a chain with Prefect and without, in turn. Returns the result of `in_turn`.

    Args:
        prefect: environment variables for clients of Prefect's server.
    """
    folder.mkdir()
    (folder / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
    names = [f"s{number}" for number in range(length)]
    stages = {name: {"cmd": f"echo {name} > {name}.txt", "outs": [f"{name}.txt"]} for name in names}
    for before, name in pairwise(names):
        stages[name]["deps"] = [f"{before}.txt"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    python("-m", "dvc", "init", "--no-scm", "--quiet", cwd=folder)
    env = {"PYTHONPATH": os.fspath(root), **prefect}
    with_prefect = partial(python, "-m", "flows.pipeline", "--force", cwd=folder, **env)
    without = partial(python, "-c", ONE_AFTER_ANOTHER, *names, cwd=folder, **env)
    return in_turn(with_prefect, without, RUNS)


def skipped(root: Path) -> list[dict]:
    rows = []
    for what, arguments in (
        ("trainyard retrain with nothing to do", ("-m", "flows.retrain")),
        ("the same as a flow run on a running server", ("-c", FLOW)),
    ):
        times = alone(partial(python, *arguments, cwd=root), RUNS)
        rows.append(row(what, times["median"], 15, times))
    return rows
