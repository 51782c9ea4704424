"""Arrows point one way: tests, benchmarks → flows → lightning_modules → torch. DVC knows the code of every stage."""

import ast
import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "lightning_modules")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

LEARNING = {
    "lightning_fabric",
    "lightning_modules",
    "numpy",
    "pytorch_lightning",
    "safetensors",
    "torch",
}
# Who alone may import what.
KEEPERS = {
    "mlflow": {"flows/tracking/mlflow_server.py", "flows/tracking/"},
    "prefect": {
        "flows/orchestration/artifacts.py",
        "flows/orchestration/cluster.py",
        "flows/deploy.py",
        "flows/access/door.py",
        "flows/orchestration/drift_event.py",
        "flows/flow_run.py",
        "flows/flow_worker.py",
        "flows/orchestration/gpu_slots.py",
        "flows/orchestration/notifications.py",
        "flows/pipeline.py",
        "flows/retrain_flow.py",
        "flows/watch.py",
    },
    "prefect_dask": {"flows/orchestration/cluster.py"},
    "dvc": {"flows/graph/dvc_graph.py"},
    "psycopg2": {"flows/servers/postgres.py"},
    "lightning": set(),  # a second namespace of pytorch_lightning's: isinstance fails across the two
    "lightning_fabric": {"lightning_modules/lightning.py"},
    "pytorch_lightning": {"lightning_modules/lightning.py"},
    "torchmetrics": set(),
}

# What a stage may import without naming it in its `deps`, since it cannot change the stage's result.
NO_RESULT = {
    "flows/__init__.py": "holds a docstring",
    "flows/graph/healing.py": "says what heals a damaged file",
    "flows/commands/console.py": "how a command ends",
    "flows/machine/hardware.py": "what there is to compute with is the machine's, not the code's",
    "flows/machine/orphans.py": "ends a stage whose DVC is gone",
    "flows/params/": "reads params.yaml; what it read is among the stage's `params`",
    "flows/training/progress.py": "shows",
    "flows/project/private_files.py": "who may read a file",
    "flows/project/": "where things lie; DVC names the same places in `outs`",
    "flows/graph/site_cache.py": "where DVC keeps its notes",
    "flows/untrusted/special_files.py": "what DVC cannot read",
    "flows/tracking/": "tells MLflow what was measured",
    "lightning_modules/__init__.py": "holds a docstring",
    "lightning_modules/errors.py": "how a stage fails",
    "lightning_modules/lightning.py": "how Lightning is loaded",
}
# Of a trained network: when one of these changes, so do the weights, which evaluate and ensemble depend on.
IN_THE_WEIGHTS = {
    "lightning_modules/activations.py",
    "lightning_modules/airbench.py",
    "lightning_modules/dropout.py",
    "lightning_modules/images.py",
    "lightning_modules/initializers.py",
    "lightning_modules/networks.py",
}


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@functools.cache
def imported(file: Path) -> set[str]:
    """Dotted names that a file imports anywhere, inside of functions too; "from a import b" gives a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(file)}: imports are absolute"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def tops(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(file)}


def files_of(names: set[str]) -> set[Path]:
    """The files of this project among dotted names, with the packages they lie in."""
    found = set()
    for name in names:
        path = ROOT.joinpath(*name.split("."))
        if name.partition(".")[0] in PACKAGES:
            found |= {file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()}
    return found


def reached(file: Path, but: Iterable[str] = ()) -> set[Path]:
    """All files of this project that a file imports, directly or not, and not only through those named in `but`."""
    found, new = set(), {file}
    while new:
        found |= new
        new = {other for one in new if name_of(one) not in but for other in files_of(imported(one))} - found
    return found


def test_there_is_something_to_walk():
    assert {"flows/train.py", "flows/tracking/", "lightning_modules/fit.py"} <= {name_of(file) for file in FILES}
    # A lazy import inside of a function is seen.
    assert "lightning_modules/weights.py" in {name_of(file) for file in reached(ROOT / "flows/train.py")}


def importing(files: Iterable[Path], wrong: Callable[[set[str]], set[str]]) -> dict[str, set[str]]:
    """The files that import what they may not, and what that is."""
    return {name_of(file): found for file in files if (found := wrong(tops(file)))}


def test_what_is_learned_knows_no_workflow():
    learned = [file for file in FILES if file.is_relative_to(ROOT / "lightning_modules")]
    assert importing(learned, lambda names: names - set(sys.stdlib_module_names) - LEARNING) == {}


def test_nothing_imports_tests_or_benchmarks():
    assert importing(FILES, lambda names: names & {"tests", "benchmarks", "conftest"}) == {}


def test_who_alone_may_import():
    """And who does: a table with more than those would let in who has no reason any more."""
    importers = {package: {name_of(file) for file in FILES if package in tops(file)} for package in KEEPERS}
    assert importers == KEEPERS


def test_what_reads_params_yaml_does_not_wait_for_torch():
    for name in ("flows/params/", "flows/check.py", "flows/cli.py"):
        reachable = set().union(*(tops(file) for file in reached(ROOT / name)))
        assert not reachable & {"torch", "numpy", "pytorch_lightning", "mlflow", "prefect", "dvc"}, name


def stages() -> dict[str, dict]:
    given = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in given.items()}


def module_of(stage: dict) -> Path:
    python, m, module, *_ = stage["cmd"].split()
    assert (python, m) == ("python", "-m")
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def code_deps(stage: dict) -> set[str]:
    return {dep for dep in stage["deps"] if dep.endswith(".py")}


def all_code_deps(stage: dict) -> set[str]:
    """With those that are noted in the one file that all trainings depend on."""
    settings = stages()["settings"]
    return code_deps(stage) | (code_deps(settings) if set(settings["outs"]) & set(stage["deps"]) else set())


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_all_code_that_can_change_its_result(name):
    stage = stages()[name]
    needed = {name_of(file) for file in reached(module_of(stage), NO_RESULT)} - set(NO_RESULT)
    if name in ("evaluate", "ensemble"):
        assert any(dep.startswith("models/") for dep in stage["deps"])
        needed -= IN_THE_WEIGHTS
    missing = needed - all_code_deps(stage)
    if name == "check":  # it has no other result than what params.py says
        missing -= {"flows/check.py"}
    assert not missing, f"dvc.yaml: {name} lacks the deps {', '.join(sorted(missing))}"


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_no_code_that_it_does_not_use(name):
    stage = stages()[name]
    for dep in code_deps(stage):
        assert (ROOT / dep).is_file(), dep
    used = reached(module_of(stage))
    if name == "settings":  # it notes what trainings use
        used |= reached(module_of(stages()["train"]))
    assert code_deps(stage) <= {name_of(file) for file in used}


def test_the_weights_change_when_the_network_does():
    assert all_code_deps(stages()["train"]) >= IN_THE_WEIGHTS


def test_no_reason_is_given_for_a_file_that_is_gone():
    assert all((ROOT / name).is_file() for name in NO_RESULT)
