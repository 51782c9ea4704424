"""`trainyard`: all commands are listed at once, each explains itself, and every name means the same everywhere."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from conftest import LIMIT

from flows.cli import COMMANDS, trainyard

ROOT = Path(__file__).resolve().parents[1]
SLOW = ["altair", "pandas", "torch", "pytorch_lightning", "torchvision", "prefect", "mlflow", "dvc"]


def loaded_after(code: str, folder: Path) -> tuple[list[str], str]:
    """Which of the packages that take seconds to import are loaded, and what was printed."""
    code = f"import json, sys\n{code}\nprint(json.dumps([name for name in {SLOW} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )  # fmt: skip
    *printed, last = done.stdout.splitlines()
    return json.loads(last), "\n".join(printed)


def stages() -> dict:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def test_help_lists_every_command_and_loads_nothing_that_is_slow(tmp_path):
    code = """
from flows.cli import main
sys.argv = ["trainyard", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""
    loaded, printed = loaded_after(code, tmp_path)
    assert loaded == []
    for name, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text.split()[0])}", printed, re.MULTILINE), name


def test_no_commands_module_loads_what_is_slow_before_it_is_called(tmp_path):
    modules = [module for module, _ in COMMANDS.values()]
    loaded, _ = loaded_after(f"import importlib\nfor name in {modules}: importlib.import_module(name)", tmp_path)
    assert loaded == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    done = CliRunner().invoke(trainyard, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert f"trainyard {name}" in done.output
    help_text = importlib.import_module(COMMANDS[name][0]).command.help
    assert help_text
    assert help_text.split()[0] in done.output


def test_an_unknown_command_is_refused_with_2():
    done = CliRunner().invoke(trainyard, ["trian"])
    assert done.exit_code == 2
    assert "trian" in done.output


def test_every_stage_of_dvc_is_a_command_that_runs_the_same_module():
    marked = {name for name, (_, text) in COMMANDS.items() if "(a DVC stage)" in text}
    assert set(stages()) == marked
    for name, stage in stages().items():
        command = stage.get("do", stage)["cmd"]
        assert command.split()[:3] == ["python", "-m", COMMANDS[name][0]], name


def test_a_commands_name_is_its_modules_name():
    """Stages and flows lie at the top of flows/, servers and workers in operations/, all others in commands/."""
    places = dict.fromkeys((*stages(), "pipeline", "retrain"), "flows")
    places |= dict.fromkeys(("serve", "serve-postgres", "ui", "worker"), "flows.operations")
    for name, (module, _) in COMMANDS.items():
        assert module == f"{places.get(name, 'flows.commands')}.{name.replace('-', '_')}"
        assert importlib.util.find_spec(module), name


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", "Makefile", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))],
)
def test_documents_name_commands_that_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|[`$(;&|]) *trainyard ([a-z]+(?:-[a-z]+)*)", text, re.MULTILINE))
    assert named <= set(COMMANDS)
    modules = {module for module, _ in COMMANDS.values()}
    run = set(re.findall(r"python -m (flows\.[a-z_.]*[a-z_])", text))
    for module in run - modules:  # they say so themselves
        file = ROOT / f"{module.replace('.', '/')}.py"
        told = file.read_text(encoding="utf-8")
        assert re.search(rf"^Run     python -m {re.escape(module)}(?: [A-Z]+)?$", told, re.MULTILINE), module
    targets = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z0-9-]+)", text)) <= targets


def test_the_installed_script_is_this_one():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module, function = project["project"]["scripts"]["trainyard"].split(":")
    assert callable(getattr(importlib.import_module(module), function))
