"""Fixtures and helpers for all tests."""

import atexit
import contextlib
import copy
import enum
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent

# A shell starts background processes with SIGINT ignored, nohup with SIGHUP ignored. All processes of the tests would
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The threads of torch's pools wait passively, not in a busy loop. As many processes run tests as there are cores, and a
# busy thread would keep the thread that it waits for from its core: with small networks that takes twenty times as long
# as the work. torch reads this when it is first imported, here and in processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Flows on one machine share its cores, by files in this folder: the tests have their own. All users may enter it, since
# PostgreSQL runs as another user.
tempfile.gettempdir()  # makes tempfile remember the folder of this process
os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="trainyard-")
os.chmod(os.environ["TMPDIR"], 0o755)
atexit.register(shutil.rmtree, os.environ["TMPDIR"], ignore_errors=True)

# Fixtures that start real servers, some of them for minutes.
REAL_SERVERS = {"served", "servers", "prefect", "scheduler", "deployed"}

# Params that train in seconds, on images from which something can be learned, for tests that need a trained network.
TINY = {
    "data": {"digits": {"test": 0.2, "validation": 0.15, "batch_size": 64, "epochs": 4, "augment": "none"}},
    "training": {"early_stopping": 1000, "accelerator": "cpu", "precision": "float32"},
    "members": {
        "small": {"network": {"name": "mlp", "hidden": [16]}, "optimizer": {"name": "adam", "lr": 0.01}, "replicas": 2},
        "wide": {"network": {"name": "mlp", "hidden": [32]}, "optimizer": {"name": "adam", "lr": 0.02}, "replicas": 1},
    },
}


@pytest.hookimpl(optionalhook=True)  # so that the tests run without pytest-xdist as well
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The number of processes that run tests: the cores that this process may use, at most 8."""
    from flows.machine.hardware import cores

    return min(cores(), 8)  # each takes a gigabyte or two, with the processes that its tests start


@pytest.hookimpl(tryfirst=True)  # before pytest deselects tests by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests of lightning_modules, which are in files that import nothing of flows, and tests that take long
    because they start real servers."""
    for item in items:
        if REAL_SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("long")
        text = item.path.read_text(encoding="utf-8")
        packages = set(re.findall(r"^\s*(?:from|import) (flows|lightning_modules|benchmarks)\b", text, re.MULTILINE))
        if packages and "flows" not in packages:
            item.add_marker("numerics")


def forget_stores(patch: pytest.MonkeyPatch) -> None:
    """Makes MLflow forget its stores.

    MLflow keeps the last store in the environment, where a person who runs the tests may have their own. It also caches
    the address of each run's artifacts by the run's id, and the copies of one store have the same ids.
    """
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        patch.delenv(name, raising=False)
    if service := sys.modules.get("mlflow.tracking._tracking_service.utils"):
        service._artifact_repos_cache.clear()


@pytest.fixture(autouse=True)
def no_store_of_others(monkeypatch):
    forget_stores(monkeypatch)


@pytest.fixture(autouse=True)
def signals_as_they_were():
    """A test that leaves a signal handled differently fails, instead of one that comes after it in its process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    after = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, before[number])
    assert after == before


@pytest.fixture(scope="session", autouse=True)
def clean_workers():
    """Starts workers from a fork server instead of this process, in which tests compute gradients: after that it cannot
    fork a worker that does.

    The server imports what any test needs of it before its first fork: later it ignores what it is told to import.
    """
    import multiprocessing

    mlflow = ["mlflow", "mlflow.store.tracking.sqlalchemy_store"]
    ours = ["flows.training.replicas", "flows.promotion.promoting", "flows.tracking.registration"]
    multiprocessing.set_forkserver_preload([*ours, *mlflow])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.training.worker_pool.start_method", lambda accelerator: "forkserver")
        yield


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A new project as the current folder: params.yaml, dvc.yaml and sources/, no data."""
    folder = make_project(tmp_path / "a project")
    monkeypatch.delenv("TRAINYARD_MIRROR", raising=False)
    monkeypatch.chdir(folder)
    return folder


def make_project(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(ROOT / "tests" / "params.yaml", folder)
    shutil.copy(ROOT / "dvc.yaml", folder)
    for description in (ROOT / "sources").glob("*/source.yaml"):
        target = folder / "sources" / description.parent.name
        target.mkdir(parents=True)
        shutil.copy(description, target)
    (folder / "sources" / "folder").mkdir()
    return folder


def edit(folder: Path, change: Callable[[dict], object]):
    """Lets `change` edit the content of params.yaml. Returns the params as stages read them."""
    from flows.params.params_file import parse

    file = folder / "params.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return parse(content)


MISSING = enum.Enum("Missing", "MISSING").MISSING  # for `put`; its name is that of the test


def put(content: dict, key: str, value: object) -> dict:
    """The content with another value at a dotted key, or without the key."""
    content = copy.deepcopy(content)
    section = content
    *path, last = key.split(".")
    for part in path:
        section = section[part]
    if value is MISSING:
        section.pop(last, None)
    else:
        section[last] = value
    return content


def shrink(content: dict) -> None:
    """Makes the params of a project TINY."""
    tiny = copy.deepcopy(TINY)  # tests edit the copy further
    content["data"] = tiny["data"]
    content["training"] |= tiny["training"]
    content["members"] = tiny["members"]


# Seconds after which a test gives up waiting. They are no limit on speed: on a busy machine everything takes long, and
# a test says what happens, not how fast.
LIMIT = 600.0


def soon(condition: Callable[[], object], seconds: float = LIMIT) -> bool:
    """Waits until the condition is true, at most `seconds`, and returns whether it is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def environment(**more: str) -> dict[str, str]:
    """The environment of a command that a test starts: this Python and source tree, without the user's settings."""
    foreign = ("DVC_", "GIT_", "MLFLOW_", "PREFECT_", "PYTEST_", "TRAINYARD_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), env.get("PATH", os.defpath)])
    return {**env, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "true", "DO_NOT_TRACK": "1", **more}


def peak(code: str, *arguments: str) -> int:
    """The peak memory, in bytes, of a new Python process that runs the code in the current folder."""
    # Not resource.getrusage: its maximum includes the process that was forked before it became Python.
    told = "\nimport re; print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    command = [sys.executable, "-c", code + told, *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) * 1024


def dvc(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True)


@functools.cache
def initialised() -> Path:
    """A folder after `dvc init --no-scm`."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["TMPDIR"]))
    dvc(folder, "init", "--no-scm", "--quiet")
    return folder


def dvc_init(folder: Path) -> None:
    """Leaves the folder as `dvc init --no-scm` would, which takes a second."""
    shutil.copytree(initialised() / ".dvc", folder / ".dvc")
    if not (folder / ".dvcignore").exists():
        shutil.copy(initialised() / ".dvcignore", folder)


def make_dvc_project(folder: Path, stages: str, **files: str) -> Path:
    """A small project with a dvc.yaml of its own, after a run of its stages."""
    folder.mkdir()
    for name, content in {"params.yaml": "seed: 0\n", "dvc.yaml": stages, **files}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    dvc_init(folder)
    shutil.copy(ROOT / ".dvcignore", folder)
    dvc(folder, "repro", "--quiet")
    return folder


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A copy of a folder that takes long to make: `make` fills it once for all processes that run tests."""
    place = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # the folder of the whole run
    first, whole = place / "made once" / name, place / "made once" / f"{name} is whole"
    first.parent.mkdir(exist_ok=True)
    with FileLock(f"{first}.lock"):
        if not whole.exists():
            shutil.rmtree(first, ignore_errors=True)  # left behind by a process that died
            first.mkdir()
            with contextlib.chdir(first), pytest.MonkeyPatch.context() as patch:
                forget_stores(patch)
                make(first)
            whole.touch()
    return shutil.copytree(first, factory.mktemp(name) / "copy", symlinks=True)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow store without a run, to copy: making one takes seconds."""
    from flows.tracking import mlflow_store

    def make(place: Path) -> None:
        os.chdir(make_project(place / "empty"))
        mlflow_store.connect()

    return made_once(tmp_path_factory, "store", make) / "empty" / "mlflow.db"


@pytest.fixture
def store(project, empty_store) -> Path:
    """The project's own MLflow store."""
    return Path(shutil.copy(empty_store, project))


@pytest.fixture
def no_store(monkeypatch) -> str:
    """An MLflow server that does not answer: the port is closed."""
    uri = "http://127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def tiny(project) -> Path:
    """The project with TINY params and its dataset, nothing trained."""
    from flows.download import download

    download(edit(project, shrink))
    return project


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory, empty_store) -> Path:
    from flows import download, ensemble, evaluate, train

    def make(place: Path) -> None:
        (place / "made by").write_text(str(os.getpid()))
        folder = make_project(place / "a project")
        shutil.copy(empty_store, folder)
        params = edit(folder, shrink)
        os.chdir(folder)
        download.download(params)
        for member in params.members:
            train.train(params, member)
        evaluate.evaluate(params)
        ensemble.ensemble(params)

    return at_home(made_once(tmp_path_factory, "finished", make) / "a project")


def at_home(folder: Path) -> Path:
    """Makes the store of a copied project find the copy's files. Returns the folder."""
    from flows.tracking import mlflow_store

    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        forget_stores(patch)
        mlflow_store.connect()
    return folder


@pytest.fixture
def finished(finished_once, monkeypatch) -> Path:
    """A project with TINY params after all stages, as the current folder: to read, not to change."""
    monkeypatch.chdir(finished_once)
    return finished_once


@pytest.fixture
def finished_copy(finished_once, empty_store, tmp_path, monkeypatch) -> Path:
    """A copy of the finished project, to change, with an empty MLflow store."""
    folder = tmp_path / "a project"
    shutil.copytree(finished_once, folder, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts"))
    shutil.copy(empty_store, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def finished_with_store(finished_once, tmp_path, monkeypatch) -> Path:
    """A copy of the finished project, to change, with its MLflow store and all of its files, as the current folder."""
    folder = tmp_path / "a project"
    shutil.copytree(finished_once, folder)
    monkeypatch.chdir(folder)
    forget_stores(monkeypatch)
    return folder


@pytest.fixture(scope="session")
def real_mirror():
    """The folder with the published archives that TRAINYARD_MIRROR names; skips the test if there is none."""
    mirror = os.environ.get("TRAINYARD_MIRROR", "")
    if not (Path(mirror) / "MNIST" / "raw").is_dir():
        pytest.skip("needs the published archives: set TRAINYARD_MIRROR to a folder that has them")
    return Path(mirror).resolve()


def refused(capfd, command, *arguments: str, code: int = 2) -> str:
    """Runs a command that has to exit with `code`, and returns the one line that it prints."""
    from flows.machine.console import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [command.name, *arguments])
        with pytest.raises(SystemExit) as left:
            run(command)
    assert left.value.code == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("trainyard: ")
    assert err.count("\n") == 1
    return err
