"""A disk that is full while a stage writes: a small one in memory, mounted where nobody else sees it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, dvc_init, environment

STAGE = """
import sys
with open(sys.argv[1], "wb") as file:
    for _ in range(int(sys.argv[2])):
        file.write(bytes(2**20))
"""
# What fits once, but not a second time into DVC's cache; and what does not fit.
STAGES = {
    "twice": {"cmd": "python stage.py twice.bin 6", "deps": ["stage.py"], "outs": ["twice.bin"]},
    "large": {"cmd": "python stage.py large.bin 20", "deps": ["stage.py"], "outs": ["large.bin"]},
}
RUN = """
import json, subprocess, sys
from pathlib import Path
from flows.graph import dvc_graph
from flows.graph.repro import Repro
from flows.machine.processes import Processes

root = Path.cwd()

def run(stages):
    with Processes() as processes:
        repro = Repro(root, processes, lambda stage, line: None)
        outcomes = {stage: repro(stage, lambda line: None) for stage in stages}
    problems = {stage: [outcome.problem, list(outcome.last_lines)] for stage, outcome in outcomes.items()}
    lock = root / "dvc.lock"
    return {"problems": problems, "lock": list(dvc_graph.described(lock)), "stale": sorted(dvc_graph.stale(root))}

full = run(["twice", "large"])
subprocess.run(["mount", "-o", "remount,size=200m", sys.argv[1]], check=True)
print(json.dumps([full, run(["twice", "large"]), {path.name: path.stat().st_size for path in root.glob("*.bin")}]))
"""


def mounted(place: Path, size: str, *command: str) -> subprocess.CompletedProcess:
    """The command with a disk of that size at `place`, which goes when it ends. Skips where that is not allowed."""
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0"'
    if not shutil.which("unshare"):
        pytest.skip("needs unshare, of util-linux, to mount a small disk")
    if subprocess.run([*alone, mount, place], capture_output=True).returncode:
        pytest.skip("needs to be allowed to mount a small disk (unshare --map-root-user --mount)")
    script = f'{mount} && cp -r "$0.files/." "$0" && cd "$0" && exec "$@"'
    # DVC's own notes are on another disk: on a full one it cannot even say what is stale.
    notes = place.with_name("site-cache")
    notes.mkdir(mode=0o700)
    # MLflow does not answer.
    env = environment(DVC_SITE_CACHE_DIR=str(notes), MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    return subprocess.run([*alone, script, place, *command], env=env, capture_output=True, text=True)


def test_nothing_half_written_counts_and_with_room_it_goes_on(tmp_path):
    files, place = tmp_path / "disk.files", tmp_path / "disk"
    for folder in (files, place):
        folder.mkdir()
    (files / "stage.py").write_text(STAGE)
    (files / "params.yaml").write_text("seed: 0\n")
    (files / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    shutil.copy(ROOT / ".dvcignore", files)
    dvc_init(files)
    done = mounted(place, "11m", sys.executable, "-c", RUN, str(place))
    assert done.returncode == 0, done.stderr
    full, again, sizes = json.loads(done.stdout.splitlines()[-1])

    for problem, lines in full["problems"].values():
        assert problem is not None
        assert any("No space left on device" in line for line in lines), lines
    assert full["problems"]["large"][0] == "its command exited with 1"
    assert (full["lock"], full["stale"]) == ([], ["large", "twice"])

    assert [problem for problem, _ in again["problems"].values()] == [None, None]
    assert (again["lock"], again["stale"]) == (["twice", "large"], [])
    assert sizes == {"twice.bin": 6 * 2**20, "large.bin": 20 * 2**20}


# Fills the disk to the last byte, and then runs each command in a fork of this process, which has the libraries loaded.
STAGES_RUN = """
import contextlib, json, os, sys
from pathlib import Path
from flows import download, ensemble, evaluate, train
from flows.machine.console import run
import lightning_modules.fit, flows.tracking.loading, flows.training.replicas, flows.models.export
import lightning_modules.ensembles

def files():
    return sorted(path.as_posix() for path in Path().rglob("*") if ".trainyard" not in path.parts and path.is_file())

with contextlib.suppress(OSError), open(".filler", "wb", buffering=0) as filler:
    while True:
        filler.write(bytes(4096))
found = {}
for name in sys.argv[2:]:
    module = sys.modules[f"flows.{name}"]
    before, (reads, writes) = files(), os.pipe()
    if not (fork := os.fork()):
        os.dup2(writes, 2)
        os.close(reads)
        os.close(writes)
        sys.argv[1:] = ["small"] if name == "train" else []
        run(module.command)
    os.close(writes)
    said = os.fdopen(reads).read()
    code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    left = [path.as_posix() for path in Path(".trainyard").rglob("*") if path.name.startswith(".")]
    found[name] = [code, said, sorted({*files()} ^ {*before}), left]
print(json.dumps(found))
"""


def test_each_stage_says_which_disk_is_full_and_leaves_nothing_half_written(finished_once, tmp_path):
    files, place = tmp_path / "disk.files", tmp_path / "disk"
    place.mkdir()
    shutil.copytree(finished_once, files, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts"))
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in files.rglob("*") if path.is_file())
    stages = ["download", "train", "evaluate", "ensemble"]
    done = mounted(place, f"{size // 1024 + 256}k", sys.executable, "-c", STAGES_RUN, str(place), *stages)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == stages
    for stage, (code, said, changed, left) in found.items():
        *before, last = said.splitlines()
        assert code == 1, (stage, said)
        assert last.startswith("trainyard: "), (stage, said)
        assert f"the disk at {place} is full (0 MiB are free)" in last
        assert not any(line.startswith(("Traceback", " ")) for line in before), said
        assert changed == [], stage
        assert left == [], stage
