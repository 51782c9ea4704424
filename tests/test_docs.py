"""What people read is true where that can be looked up: links, files and targets that are named, and numbers."""

import importlib
import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_arrows import FLOORS

from flows.cli import COMMANDS
from lightning_modules import names

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request) -> Path:
    return request.param


def prose(page: Path) -> str:
    """Without what stands in fences."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Those that a heading is reached by."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


PATHS = r"\b(?:flows|lightning_modules|tests|benchmarks|docs|sources|\.ci|\.github)/[\w./-]*"


def test_files_that_are_named_are_there(page):
    if page.name == "CHANGELOG.md":
        return  # it names what is gone
    named = re.findall(f"`({PATHS})`", prose(page))
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_so_are_those_that_the_code_names():
    patterns = (
        "flows/**/*.py",
        "lightning_modules/**/*.py",
        "benchmarks/**/*.py",
        "*.yaml",
        "sources/*/*.yaml",
        ".ci/*",
        "Makefile",
    )
    files = [file for pattern in patterns for file in ROOT.glob(pattern) if file.is_file()]
    assert len(files) > 100
    named = {name for file in files for name in re.findall(PATHS + r"\.py\b", file.read_text(encoding="utf-8"))}
    assert len(named) > 3
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_readme_is_short_and_counts_right():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    networks = ", ".join(f"`{name}`" for name in names.NETWORKS)
    assert f"ten networks ({networks})" in " ".join(text.split())
    assert len(names.NETWORKS) == 10
    counts = (len(names.OPTIMIZERS), len(names.ACTIVATIONS), len(names.INITIALIZERS))
    assert "{} optimizers, {} activations and {} initializers".format(*counts) in " ".join(text.split())


def test_the_readme_leads_to_every_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT).as_posix() for page in PAGES} - {"README.md"}
    assert {name for name in pages if f"]({name})" not in text} == set()


def test_the_architecture_has_the_rooms_in_their_order_with_their_door_plates():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    said = re.findall(r"^\| `flows/(\w+)/` \| (.+) \|$", text, re.MULTILINE)
    rooms = [name for name in reversed(FLOORS) if name]
    assert said == [(name, importlib.import_module(f"flows.{name}").__doc__) for name in rooms]


def test_the_optimizers_of_our_own_have_their_keys_and_defaults():
    text = (ROOT / "docs" / "params.md").read_text(encoding="utf-8").partition("## Optimizers of our own")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text.partition("\n## ")[0], re.MULTILINE)
    assert len(rows) > 5
    for name, keys in rows:
        said = {key: value.strip("`") for key, value in re.findall(r"`(\w+)` (\[.*?\]|[^,]+)", keys)}
        assert {key: number(value) for key, value in said.items()} == names.OPTIMIZERS[name], name


def number(text: str) -> object:
    """YAML takes 1e-10 for text."""
    try:
        return float(text)
    except ValueError:
        return yaml.safe_load(text)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_every_command_is_on_a_page():
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("docs/commands.md", "CONTRIBUTING.md"))
    assert {name for name in targets() if f"make {name}" not in text} == {"help"}
    stages = {name for name, (_, said) in COMMANDS.items() if "(a DVC stage)" in said}
    assert {name for name in COMMANDS if not re.search(f"`(trainyard|make) {name}\\b", text)} <= stages


def test_ci_runs_what_there_is():
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert {"lint", "test"} <= set(re.findall(r"^make ([a-z0-9-]+)", run, re.MULTILINE)) <= targets()


def test_a_fork_runs_it_too():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    [job] = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": "bash .ci/run"}
    for action in [step["uses"] for step in job["steps"] if "uses" in step]:
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", action)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow[True].keys() == {"push", "pull_request", "workflow_dispatch"}  # YAML 1.1 takes `on` for true
