"""`make audit` tells new holes of the pinned packages from known ones, and from not having looked."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

KNOWN = {"CVE-1": "it is not reached"}


@pytest.fixture
def audit(tmp_path):
    """Audits with a pip-audit that answers what it is given: packages, and its exit code."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(packages: list[dict] | None, code: int = 0, known: dict = KNOWN) -> int:
        program = tmp_path / "pip-audit"
        answer = json.dumps({"dependencies": packages, "fixes": []}) if packages is not None else ""
        program.write_text(
            f"#!{sys.executable}\n"
            "import os, pathlib, sys\n"
            f"if {answer!r}: pathlib.Path(sys.argv[sys.argv.index('--output') + 1]).write_text({answer!r})\n"
            "print('ERROR: ' + os.environ.get('SAID', 'Connection refused, nobody there'), file=sys.stderr)\n"
            f"sys.exit({code})\n"
        )
        program.chmod(0o755)
        return module.audit(str(program), ROOT / "constraints.txt", known)

    run.module = module
    return run


def package(name: str, *ids: str, fixed: tuple[str, ...] = ()) -> dict:
    holes = [{"id": ids[0], "aliases": list(ids[1:]), "fix_versions": list(fixed), "description": ""}] if ids else []
    return {"name": name, "version": "1.0", "vulns": holes}


def test_a_new_hole_fails(audit, capsys):
    assert audit([package("sound"), package("holed", "GHSA-2", "CVE-2", fixed=("1.1",))], 1, {}) == 1
    said = capsys.readouterr().out
    assert "holed 1.0 has GHSA-2, CVE-2; fixed in 1.1" in said
    assert "1 new: raise the pins" in said


def test_a_known_one_does_not_under_any_of_its_names(audit, capsys):
    assert audit([package("holed", "GHSA-1", "CVE-1")], 1) == 0
    assert "1 known holes that do not reach us, 0 new" in capsys.readouterr().out


def test_a_known_one_that_is_gone_is_said(audit, capsys):
    assert audit([package("sound")]) == 0
    assert "CVE-1 is not among" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("packages", "why"),
    [
        (None, "ERROR: Connection refused, nobody there"),
        # What pip-audit says, with success, where a registry's mirror answers that it knows nothing.
        ([{"name": "sound", "skip_reason": "Dependency not found"}], "it knows none of our packages"),
    ],
)
def test_data_that_cannot_be_reached_is_said_and_no_success(audit, capsys, packages, why):
    assert audit(packages, 1) == 0
    said = capsys.readouterr().out
    assert "nothing was looked up" in said
    assert why in said
    assert said.count("\n") == 1


def test_a_failure_of_another_kind_is_one(audit, capsys, monkeypatch):
    monkeypatch.setenv("SAID", "no such option: --requirement")
    assert audit(None, 2) == 1
    assert "pip-audit failed with exit code 2: ERROR: no such option" in capsys.readouterr().out


def test_without_pip_audit(audit, capsys):
    assert audit.module.audit("/nowhere/pip-audit", ROOT / "constraints.txt", KNOWN) == 0
    assert "nothing was looked up" in capsys.readouterr().out


def test_what_is_known_has_a_reason_which_the_page_tells(audit, tmp_path):
    known = audit.module.read_known(ROOT / ".ci" / "known-holes.txt")
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert known
    assert all(name in page for name in known)
    (tmp_path / "known").write_text("CVE-3\n")
    with pytest.raises(ValueError, match="CVE-3 has no reason"):
        audit.module.read_known(tmp_path / "known")


def test_the_version_is_exact_and_no_registry_is_named():
    made = Path(ROOT, "Makefile").read_text(encoding="utf-8")
    assert re.search(r"pip-audit==\d+\.\d+\.\d+\b", made)
    assert "://" not in made
