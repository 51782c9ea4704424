"""Whoever can write to MLflow puts models into the champion's place: nothing of them is run."""

import contextlib
import io
import json
import os
import re
import shutil
import stat
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import refused
from PIL import Image

from flows.commands import drift, predict, promote, trust
from flows.models import served_ensemble
from flows.models.export import export
from flows.params.params_file import read
from flows.project.errors import InputError
from flows.tracking import experiments, loading, mlflow_runs, mlflow_store, registration, trusted_models
from lightning_modules.ensembles import Combiner

MARK = "ran"  # a file that code of the attacker makes


class Runs:
    """A pickle of it makes a folder where it is loaded."""

    def __reduce__(self):
        return os.mkdir, (MARK,)


@pytest.fixture
def project(finished_with_store) -> Path:
    """A finished project with its champion."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("image.png")
    return finished_with_store


@pytest.fixture
def model_files(project) -> Path:
    """Where the champion's files lie: data/... and code/..."""
    (card,) = (project / "mlartifacts").rglob("ensemble.json")
    return next(parent for parent in card.parents if (parent / "MLmodel").is_file())


def answered() -> str:
    return predict.command.main(["image.png"], standalone_mode=False) or ""


def everyone_refuses(capfd, said: str) -> None:
    """All commands that would load a version do not, and say so in a sentence."""
    for command, given in ((predict.command, ["image.png"]), (drift.command, ["images"]), (promote.command, [])):
        assert said in refused(capfd, command, *given), command.name
    assert not Path(MARK).exists()


@pytest.fixture
def incoming(project) -> None:
    """Enough images for drift to be looked at."""
    (project / "images").mkdir()
    numbers = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(numbers.integers(0, 17, (8, 8), np.uint8) * 15).save(project / "images" / f"{number}.png")


def test_code_that_a_model_brings_is_never_run(project, model_files):
    (code,) = (model_files / "code").rglob("*.py")
    code.write_text(f"import os; os.mkdir({MARK!r})\n" + code.read_text())
    assert answered() == ""
    assert not Path(MARK).exists()


def change(file: Path, part: str, content: bytes) -> None:
    """Another content of one part of an exported program."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    of_archive = next(iter(parts)).split("/")[0]
    name = next((name for name in parts if name.endswith(part) and part[0] != "/"), of_archive + part)
    parts[name] = content
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def evil() -> bytes:
    buffer = io.BytesIO()
    torch.save(((Runs(),), {}), buffer)
    return buffer.getvalue()


def test_a_champion_whose_files_were_changed_is_refused_by_all(project, incoming, model_files, capfd):
    (vote,) = model_files.rglob("vote.pt2")
    change(vote, "sample_inputs/model.pt", evil())
    client = mlflow_store.connect()
    run = client.get_model_version("digits", "1").run_id
    client.create_model_version("digits", client.get_model_version("digits", "1").source, run_id=run)
    client.set_model_version_tag(
        "digits", "2", mlflow_runs.TEST, client.get_model_version("digits", "1").tags[mlflow_runs.TEST]
    )
    client.set_registered_model_alias("digits", "challenger", "2")
    everyone_refuses(capfd, "is not loaded: its files are none that this project registered")


class Attack(mlflow.pyfunc.PythonModel):
    """Answers like a model of digits; loading it runs its pickle."""

    def predict(self, context, model_input, params=None):
        import pandas as pd

        found = pd.DataFrame(np.full((len(model_input), 10), 0.1), columns=[str(name) for name in range(10)])
        found.insert(0, "label", "0")
        return found

    def __setstate__(self, state):
        os.makedirs(MARK, exist_ok=True)


@pytest.fixture
def another(project) -> str:
    """A version that somebody else has registered and made champion."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    client = mlflow_store.connect()
    before = client.get_model_version("digits", "1")
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, 8, 8, 1))]), outputs=Schema([ColSpec("string", "label")])
    )
    attack = Attack()
    attack.kept = 1  # else pickle leaves __setstate__ out
    with mlflow.start_run(experiment_id=experiments.experiment(client, "digits")) as started:
        logged = mlflow.pyfunc.log_model(
            name="model", python_model=attack, signature=signature, pip_requirements=["numpy"]
        )
    shutil.rmtree(MARK, ignore_errors=True)
    tags = {mlflow_runs.TEST: before.tags[mlflow_runs.TEST]}
    made = client.create_model_version("digits", logged.model_uri, run_id=started.info.run_id, tags=tags)
    for name in registration.SCORES:
        client.log_metric(started.info.run_id, name, 0.5)
    client.set_registered_model_alias("digits", "champion", str(made.version))
    client.set_registered_model_alias("digits", "challenger", "1")
    return str(made.version)


def trust_it(*arguments: str) -> str:
    done = CliRunner().invoke(trust.command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_version_of_somebody_else_is_loaded_only_where_it_is_trusted_by_name(project, incoming, another, capfd):
    everyone_refuses(capfd, f"`trainyard trust {another}`")
    assert "code of its own" in trust_it("champion")
    capfd.readouterr()
    answered()
    assert Path(MARK).exists()
    capfd.readouterr()
    assert "was not made by this project" in refused(capfd, drift.command, "images")
    shutil.rmtree(MARK)
    # What was trusted were the files as they were.
    (pickled,) = (project / "mlartifacts").rglob("python_model.pkl")
    kept = pickled.read_bytes()
    pickled.write_bytes(kept + b".")
    everyone_refuses(capfd, f"`trainyard trust {another}`")
    pickled.write_bytes(kept)
    trust_it(another, "--withdraw")
    everyone_refuses(capfd, f"`trainyard trust {another}`")
    assert "nothing to take back" in refused(capfd, trust.command, another, "--withdraw")
    assert "no number of a version" in refused(capfd, trust.command, "champion", "--withdraw")


def test_a_lost_record_is_made_again_by_track_alone(project, capfd):
    from flows.ensembles import late_registration

    file = trusted_models.record_file("digits")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.unlink()
    said = refused(capfd, predict.command, "image.png")
    assert "`trainyard track` notes it" in said
    with contextlib.redirect_stdout(io.StringIO()):
        assert late_registration.track(read())
    answered()


@pytest.fixture
def exported(tmp_path, finished) -> Path:
    """The files of a small ensemble."""
    from flows.models import trained_members

    _, predictors = trained_members.load("digits", "small")
    card = json.loads((finished / "data/digits/dataset.json").read_text())
    folder = tmp_path / "ensemble"
    folder.mkdir()
    export(predictors, Combiner("soft_vote"), card["shape"], card["class_names"], folder)
    return folder


HIDDEN = b'{"config": {"a": {"path_name": "opaque_obj_/tensor_0", "use_pickle": false}}}'
PICKLED = b'{"config": {"a": {"path_name": "weight_0", "use_pickle": true}}}'


@pytest.mark.parametrize("file", ["vote.pt2", "network-0.pt2"])
@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("sample_inputs/model.pt", None),
        ("sample_inputs/model.pt", b""),
        ("sample_inputs/model.pt", b"\x80\x04cposix\nmkdir\n(X\x03\x00\x00\x00rantR."),
        ("/data/constants/opaque_object_0", None),
        ("/data/constants/opaque_obj_/tensor_0", None),
        ("data/constants/model_constants_config.json", HIDDEN),
        ("data/weights/model_weights_config.json", PICKLED),
        ("/data/weights/weight_a.pt", None),
        ("/models/weight_a.json", b"{}"),
        ("/data/aotinductor/model/weight_0.so", b""),
        ("/version", b"3"),
    ],
)
def test_a_program_with_a_pickle_of_more_than_tensors_is_refused(exported, tmp_path, monkeypatch, file, part, content):
    monkeypatch.chdir(tmp_path)
    served_ensemble.load_program(exported / file)
    change(exported / file, part, evil() if content is None else content)
    with pytest.raises(ValueError, match=r"holds .*(pickle|no part of a program)"):
        served_ensemble.load_program(exported / file)
    assert not Path(MARK).exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "torch.os.mkdir"),
        ("target", "torch.ops.load_library"),
        ("target", "_operator.methodcaller"),
        ("target", "math.__loader__.load_module"),
        ("target", "#mine:op"),
        ("expr_str", f"__import__('os').mkdir('{MARK}')"),
        ("expr_str", "Symbol('s8', positive=True).func"),
    ],
)
def test_a_graph_of_other_operators_or_expressions_is_refused(exported, tmp_path, monkeypatch, key, value):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(exported / "vote.pt2") as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("models/model.json"))
        graph, count = re.subn(
            rf'("{key}": ?)"[^"]*"', lambda found: found[1] + json.dumps(value), archive.read(name).decode()
        )
    assert count
    change(exported / "vote.pt2", "models/model.json", graph.encode())
    with pytest.raises(ValueError, match=f"which is no {key} of a network"):
        served_ensemble.load_program(exported / "vote.pt2")
    assert not Path(MARK).exists()


def test_torch_reads_the_archive_that_was_looked_at(exported, tmp_path, monkeypatch):
    """Of two in one file, readers may take either."""
    monkeypatch.chdir(tmp_path)
    file = exported / "vote.pt2"
    clean = file.read_bytes()
    change(file, "sample_inputs/model.pt", evil())
    other = file.read_bytes()
    for both in (other + clean, clean + other):
        file.write_bytes(both)
        with contextlib.suppress(ValueError):
            served_ensemble.load_program(file)
        assert not Path(MARK).exists()


def test_two_parts_of_one_name_are_refused(exported):
    """One reader would take the first of them, another the last."""
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(exported / "vote.pt2", "a") as archive:
        archive.writestr(archive.namelist()[-1], b"another")
    with pytest.raises(ValueError, match="two parts of one name"):
        served_ensemble.load_program(exported / "vote.pt2")


@pytest.mark.parametrize("name", ["ensemble.json", "network-0.pt2", "vote.pt2", "weights-0.npz"])
def test_a_file_that_is_not_as_it_was_written_is_refused_by_whoever_serves_it(exported, name):
    file = exported / name
    content = file.read_bytes()
    for position in {0, len(content) // 2, len(content) - 1}:
        damaged = bytearray(content)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name} is (not what was written|damaged)"):
            served_ensemble.ServedEnsemble(exported)
    file.write_bytes(content)
    assert len(served_ensemble.ServedEnsemble(exported).predict(np.zeros((2, 8, 8, 1), np.uint8))) == 2


def test_the_programs_carry_no_code(exported):
    """So that the whole of them is looked at before torch reads it."""
    programs = sorted(exported.glob("*.pt2"))
    assert [file.name for file in programs] == ["network-0.pt2", "vote.pt2"]  # of two alike
    for file in programs:
        with zipfile.ZipFile(file) as archive:
            assert not [name for name in archive.namelist() if name.endswith((".py", ".so", ".cpp"))]


@pytest.mark.parametrize(
    ("address", "store", "refused"),
    [
        ("http://evil.example/api/2.0/mlflow-artifacts/artifacts/x", "http://127.0.0.1:5000", True),
        ("mlflow-artifacts://evil.example/x", "http://127.0.0.1:5000", True),
        ("http://127.0.0.1:5001/x", "http://127.0.0.1:5000", True),
        ("https://evil.example/x", "sqlite:///mlflow.db", True),
        ("mlflow-artifacts:/x", "http://127.0.0.1:5000", False),
        ("http://127.0.0.1:5000/x", "http://127.0.0.1:5000", False),
        ("file:///project/mlartifacts/x", "sqlite:///mlflow.db", False),
        ("s3://mlflow/x", "http://127.0.0.1:5000", False),
    ],
)
def test_files_on_another_server_are_not_fetched(monkeypatch, address, store, refused):
    """MLflow's client would send the store's password there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with pytest.raises(InputError, match="is not the server of") if refused else contextlib.nullcontext():
        loading.refuse_other_server(address, "digits version 2")
