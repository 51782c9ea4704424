"""What every test may ask for."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A fresh project to work in, and the working folder: params.yaml, dvc.yaml and sources/, no data."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for description in (ROOT / "sources").glob("*/source.yaml"):
        target = folder / "sources" / description.parent.name
        target.mkdir(parents=True)
        shutil.copy(description, target)
    (folder / "sources" / "folder").mkdir()
    monkeypatch.delenv("TRAINYARD_MIRROR", raising=False)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def real_mirror():
    """A folder with the published archives, where whoever runs the tests has named one."""
    mirror = os.environ.get("TRAINYARD_MIRROR", "")
    if not (Path(mirror) / "MNIST" / "raw").is_dir():
        pytest.skip("needs the published archives: set TRAINYARD_MIRROR to a folder that has them")
    return Path(mirror).resolve()
