"""Arrows point one way: tests, benchmarks → flows → lightning_modules → torch; in flows from the top down, by room."""

import ast
import functools
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

from flows.graph import code_digest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "lightning_modules")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# The rooms of flows/, from the lowest floor up: each may import those before it. Last the top itself, which people run.
FLOORS = (
    "project", "statistics", "figures", "untrusted", "machine", "params", "access", "graph", "data", "models",
    "reporting", "tracking", "training", "ensembles", "race", "findings", "studies", "promotion", "drift", "servers",
    "orchestration", "retraining", "operations", "commands", "",
)  # fmt: skip
MOST_LINES = 400  # of a file
MOST_FILES = 14  # of a room

# What lightning_modules may import, beside Python's own.
LEARNING = {"lightning_fabric", "lightning_modules", "numpy", "pytorch_lightning", "safetensors", "torch"}
# The rooms that alone may import a package, "" for the top of flows/.
KEEPERS = {
    "altair": {"figures"},
    "vl_convert": {"figures"},
    "mlflow": {"tracking"},
    "prefect": {"access", "operations", "orchestration", ""},
    "prefect_dask": {"orchestration"},
    "dvc": {"graph"},
    "psycopg2": {"servers"},
    "lightning": set(),  # a second namespace of pytorch_lightning's: isinstance fails across the two
    "lightning_fabric": {"lightning_modules/lightning.py"},
    "pytorch_lightning": {"lightning_modules/lightning.py"},
    "torchmetrics": set(),
}
# What one file of flows/ alone knows how to do: by what the others would have to write.
ONE_PLACE = {
    '"git"': "flows/project/git.py",
    "--wait-for-lock": "flows/graph/dvc_command.py",
    ".create_time()": "flows/machine/identity.py",
    "from PIL import": "flows/data/image_file.py",
    "lightning_modules.errors import": "flows/project/errors.py",
}
FORBIDDEN_NAMES = {"base", "common", "core", "helpers", "misc", "tools", "util", "utils"}


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def room(file: Path) -> str:
    """The room of a file of flows/; of another file its name."""
    package, *folders, _ = file.relative_to(ROOT).parts
    return (folders[0] if folders else "") if package == "flows" else name_of(file)


@functools.cache
def imported(file: Path) -> frozenset[str]:
    """Dotted names that a file imports anywhere, inside of functions too; "from a import b" gives a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(file)}: imports are absolute"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def tops(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(file)}


def arrows(file: Path) -> set[Path]:
    """The files of this project that a file imports; no packages, whose files hold a docstring."""
    places = (ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in imported(file))
    return {place for place in places if place.is_file() and place.is_relative_to(ROOT)} - {file}


def reached(file: Path) -> set[Path]:
    found: set[Path] = set()
    new = {file}
    while new:
        found |= new
        new = {other for one in new for other in arrows(one)} - found
    return found


def wrong_ways() -> Iterator[str]:
    """Imports that point upwards, to tests, or out of what is learned."""
    floors = {name: number for number, name in enumerate(FLOORS)}
    for file in FILES:
        if file.is_relative_to(ROOT / "lightning_modules"):
            for name in tops(file) - set(sys.stdlib_module_names) - LEARNING:
                yield f"{name_of(file)} imports {name}"
            continue
        for name in tops(file) & {"tests", "benchmarks", "conftest"}:
            yield f"{name_of(file)} imports {name}"
        for other in arrows(file):
            if other.is_relative_to(ROOT / "flows") and floors[room(other)] > floors[room(file)]:
                yield f"{name_of(file)} imports {name_of(other)}, which is on a higher floor"


def test_arrows_point_one_way():
    rooms = {room(file) for file in FILES if file.is_relative_to(ROOT / "flows")}
    assert rooms == set(FLOORS)
    assert any(arrows(file) for file in FILES)  # a lazy import inside of a function is seen, too:
    assert ROOT / "lightning_modules" / "weights.py" in reached(ROOT / "flows" / "train.py")
    assert list(wrong_ways()) == []
    try:
        TopologicalSorter({file: arrows(file) for file in FILES}).prepare()
    except CycleError as error:
        pytest.fail(f"files that import each other: {' → '.join(name_of(file) for file in error.args[1])}")


def test_who_alone_imports_a_library():
    """And who does: a table with more rooms than those would let in who has no reason any more."""
    importers = {package: {room(file) for file in FILES if package in tops(file)} for package in KEEPERS}
    assert importers == KEEPERS
    for name in ("flows/params/params_file.py", "flows/check.py", "flows/cli.py"):  # does not wait for these
        reachable = set().union(*(tops(file) for file in reached(ROOT / name)))
        assert not reachable & {"altair", "torch", "numpy", "pytorch_lightning", "mlflow", "prefect", "dvc"}, name


@pytest.mark.parametrize(("words", "place"), ONE_PLACE.items())
def test_one_thing_is_done_in_one_place(words, place):
    files = [file for file in FILES if file.is_relative_to(ROOT / "flows")]
    assert [name_of(file) for file in files if words in file.read_text(encoding="utf-8")] == [place]


def test_a_room_can_be_taken_in():
    """Files that one holds in the head, not too many of them in a room, and a plate on its door."""
    assert [name_of(file) for file in FILES if len(file.read_text(encoding="utf-8").splitlines()) > MOST_LINES] == []
    assert [name_of(file) for file in FILES if file.stem in FORBIDDEN_NAMES] == []
    rooms = {file.parent for file in FILES}
    for room in rooms:
        assert len(list(room.glob("[!_]*.py"))) <= MOST_FILES, room
    for floor in FLOORS[:-1]:
        plate = ast.get_docstring(ast.parse((ROOT / "flows" / floor / "__init__.py").read_text(encoding="utf-8")))
        assert plate, floor
        assert "\n" not in plate, floor


def stages() -> dict[str, dict]:
    given = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in given.items()}


def code_of(stage: dict) -> set[str]:
    """The files of code that a stage depends on, by itself or by the digest that `settings` writes."""
    found = set()
    for dep in stage["deps"]:
        place = ROOT / dep
        found |= {place} if dep.endswith(".py") else set(place.rglob("*.py")) if dep.startswith(PACKAGES) else set()
    return {name_of(file) for file in found}


# What check and download reach whose change cannot change what they write: how a stage is run and what it says; and
# what reads params.yaml, whose values are among the params of download.
NO_RESULT = {"access", "commands", "graph", "machine", "project", "untrusted"}


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_all_code_that_can_change_its_result(name):
    stage = stages()[name]
    digest = {"train": "settings/${dataset}.json"}.get(name, f"settings/{name}.code")
    if digest in stage["deps"]:
        assert digest in stages()["settings"]["outs"]
        assert f"flows/{name}.py" in code_digest.by_file(name)
        return
    silent = NO_RESULT | ({"params", "lightning_modules/names.py"} if name == "download" else set())
    reach = {file for file in reached(ROOT / "flows" / f"{name}.py") if room(file) not in silent}
    missing = {name_of(file) for file in reach} - set(code_digest.NO_RESULT) - code_of(stage)
    if name == "check":  # it has no other result than what params/ says
        missing -= {"flows/check.py"}
    assert missing == set()


def test_what_is_reached_by_a_stage_counts_for_it():
    """The digest's own rooms are those whose code makes results, by what stages import of them."""
    for name in ("train", "evaluate", "ensemble"):
        counted = set(code_digest.by_file(name))
        for file in reached(ROOT / "flows" / f"{name}.py"):
            if room(file) in code_digest.ROOMS and name_of(file) not in code_digest.NO_RESULT:
                direct = any(file in arrows(ROOT / other) for other in counted)
                assert (name_of(file) in counted) == direct, (name, file)
    assert {"lightning_modules/networks/building.py", "lightning_modules/names.py", "lightning_modules/fit.py"} <= set(
        code_digest.by_file("train")
    )
