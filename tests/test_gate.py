"""Who passes the gate, on real registered models; and every way not to."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, at_home, edit, made_once, make_project, shrink

from flows.commands import champion, promote, rollback, status
from flows.data import dataset, plain_arrays
from flows.machine.console import run
from flows.models.export import export
from flows.params.params_file import parse, read
from flows.params.sections import Gate
from flows.project.errors import InputError, UnavailableError
from flows.promotion import gate
from flows.promotion.promoting import standing
from flows.tracking import mlflow_store, registration
from lightning_modules import scores, sealed
from lightning_modules.ensembles import Combiner

NAMES = ["a", "b", "c"]


# What the gate makes of answers


def answers(correct: np.ndarray, labels: np.ndarray, confidence: float = 0.9) -> np.ndarray:
    """Probabilities of a model that has the images right that `correct` says."""
    chosen = np.where(correct, labels, (labels + 1) % len(NAMES))
    given = np.full((len(labels), len(NAMES)), (1 - confidence) / (len(NAMES) - 1))
    given[np.arange(len(labels)), chosen] = confidence
    return given


LABELS = np.arange(900) % len(NAMES)


def judged(
    wrong: int, wrong_of_champion: int, limits: Gate | None = None, latency: float = 1.0
) -> tuple[dict, list[str]]:
    """Where the first so many images of 900 are wrong."""
    of = {
        "challenger": answers(np.arange(900) >= wrong, LABELS),
        "champion": answers(np.arange(900) >= wrong_of_champion, LABELS),
    }
    return gate.judge(of, LABELS, NAMES, {"challenger": latency, "champion": 1.0}, limits or Gate())


def test_one_that_is_truly_better_passes():
    numbers, problems = judged(10, 50)
    assert problems == []
    assert (numbers["wins"], numbers["losses"]) == (40, 0)
    assert numbers["accuracy"] == pytest.approx({"challenger": 890 / 900, "champion": 850 / 900})
    assert 0 < numbers["interval"][0] < numbers["difference"] < numbers["interval"][1]
    json.dumps(numbers, allow_nan=False)


@pytest.mark.parametrize(
    ("wrong", "wrong_of_champion", "said"),
    [(50, 50, "a tie: 0 won, 0 lost"), (50, 10, "it is worse by 4.44 points"), (10, 13, "chance would do that")],
)
def test_one_that_is_not_does_not_pass(wrong, wrong_of_champion, said):
    _, [problem, *_] = judged(wrong, wrong_of_champion)
    assert said in problem


def test_a_tie_never_passes_whatever_alpha_is():
    for alpha in (0.001, 0.5, 0.999):
        assert judged(50, 50, Gate(alpha=alpha))[1]
    swapped = {"challenger": answers(LABELS != 0, LABELS), "champion": answers(LABELS != 1, LABELS)}
    numbers, problems = gate.judge(swapped, LABELS, NAMES, {"challenger": 1.0, "champion": 1.0}, Gate(alpha=0.999))
    assert numbers["wins"] == numbers["losses"] == 300
    assert problems == ["a tie: 300 won, 300 lost of 900 images"]


def test_alpha_decides_where_chance_ends():
    assert judged(10, 18, Gate(alpha=0.05))[1] == []
    assert "chance would do that" in judged(10, 18, Gate(alpha=0.001))[1][0]


def test_a_class_may_not_lose_more_than_its_limit():
    right = {"challenger": (LABELS != 2) | (np.arange(900) > 60), "champion": LABELS == 2}
    of = {side: answers(correct, LABELS) for side, correct in right.items()}
    drop = 2000 / 300  # points: 20 of the 300 images of class c
    for limit, passes in ((None, True), (drop + 0.1, True), (drop - 0.1, False)):
        numbers, problems = gate.judge(of, LABELS, NAMES, dict.fromkeys(of, 1.0), Gate(class_drop=limit))
        assert numbers["worst_class"] == "c"
        assert (problems == []) == passes
    assert "class c loses 6.67 points, and gate.class_drop allows 6.56667" in problems[0]


def test_the_calibration_error_may_not_grow_by_more_than_its_limit():
    of = {
        "challenger": answers(np.arange(900) >= 10, LABELS, confidence=0.6),
        "champion": answers(np.arange(900) >= 50, LABELS, confidence=0.95),
    }
    growth = gate.judge(of, LABELS, NAMES, dict.fromkeys(of, 1.0), Gate())[0]["ece_increase"]
    assert growth > 0.3
    for limit, passes in ((growth + 0.01, True), (growth - 0.01, False), (0, False)):
        problems = gate.judge(of, LABELS, NAMES, dict.fromkeys(of, 1.0), Gate(ece_increase=limit))[1]
        assert (problems == []) == passes
    assert "its calibration error grows by" in problems[0]


def test_an_image_may_not_take_longer_than_its_limit():
    assert judged(10, 50, Gate(latency_ms=2), latency=1.9)[1] == []
    assert judged(10, 50, Gate(latency_ms=2), latency=2.1)[1] == [
        "it takes 2.1 ms per image, and gate.latency_ms allows 2"
    ]


def test_all_that_is_against_it_is_said():
    _, problems = judged(50, 50, Gate(latency_ms=2), latency=2.1)
    assert len(problems) == 2


@pytest.mark.parametrize("side", ["challenger", "champion"])
def test_what_is_no_number_does_not_pass(side):
    of = {"challenger": answers(np.arange(900) >= 10, LABELS), "champion": answers(np.arange(900) >= 50, LABELS)}
    latency = {"challenger": 1.0, "champion": 1.0}
    numbers, problems = gate.judge(of, LABELS, NAMES, latency | {side: float("nan")}, Gate())
    assert "latency_ms" in problems[0]
    of[side][7] = float("nan")
    numbers, problems = gate.judge(of, LABELS, NAMES, latency, Gate())
    assert "is no number" in problems[0]
    json.dumps(numbers, allow_nan=False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("nan", "on 1 of 900 images its probabilities are none"),
        ("negative", "on 1 of 900 images its probabilities are none"),
        ("sum", "on 1 of 900 images its probabilities are none"),
        ("rows", "899 answers for 900 images"),
        ("classes", "its classes are z, b, c, those of the data a, b, c"),
        ("error", "no such shape"),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(wrong, said):
    import pandas as pd

    given = answers(LABELS == LABELS, LABELS)
    frame = pd.DataFrame(given, columns=NAMES)
    frame.insert(0, "label", "a")
    if wrong == "nan":
        frame.loc[3, "a"] = float("nan")
    elif wrong == "negative":
        frame.loc[3, NAMES] = [-0.1, 0.6, 0.5]
    elif wrong == "sum":
        frame.loc[3, NAMES] = [0.1, 0.1, 0.1]
    elif wrong == "rows":
        frame = frame[:-1]
    elif wrong == "classes":
        frame = frame.rename(columns={"a": "z"})

    class Model:
        def predict(self, images):
            if wrong == "error":
                raise RuntimeError("no such shape")
            return frame

    with pytest.raises(ValueError, match=said):
        gate.probabilities(Model(), np.zeros(900), NAMES)


def test_an_answer_a_rounding_above_one_is_used_as_one():
    import pandas as pd

    frame = pd.DataFrame([[1.0000001, 0.0, 0.0], [0.0, 1.0000002, 0.0]], columns=NAMES)

    class Model:
        def predict(self, images):
            return frame.assign(label="a")

    assert gate.probabilities(Model(), np.zeros(2), NAMES).max() == 1


# Real models


class Nearest(torch.nn.Module):
    """The nearer an image is to a class's mean image, the more probable the class."""

    def __init__(self, means: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.register_buffer("means", means)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1).float()
        distance = ((flat[:, None] - self.means) ** 2).mean(2)
        return torch.log_softmax(-distance / self.scale, 1)


def nearest(share: int, scale: float = 500.0) -> Nearest:
    """With means of every `share`-th training image of a class."""
    images, labels = dataset.load("digits").split("train")
    means = [images[labels == label][::share].mean(0).ravel() for label in range(10)]
    return Nearest(torch.tensor(np.stack(means)).float(), scale)


def register(name: str, model: Nearest, folder: Path, **changed) -> None:
    """As the ensemble stage does it."""
    data = dataset.load("digits")
    images, labels = data.split("test")
    with torch.inference_mode():
        measured = scores.score(model(torch.from_numpy(images)), torch.from_numpy(labels))
    card = {
        "method": "soft_vote", "members": name, "networks": 1, "shape": data.card["shape"],
        "class_names": data.card["class_names"], "test_sha256": data.card["test_sha256"],
        "metrics": {f"test_{score}": value for score, value in measured.items()},
    }  # fmt: skip
    card["metrics"] |= changed.pop("metrics", {})
    card |= changed
    for number in changed.get("leave_out", []):
        del card["metrics"][number]
    folder.mkdir()
    export([model], Combiner("soft_vote"), card["shape"], card["class_names"], folder)
    registrar = registration.Registrar("digits")
    assert registrar.register(name, card, folder), registrar.lost


WEAK, GOOD, TIE, BROKEN, OTHER_TEST, NAN_METRIC, NO_METRIC, WRONG_METRIC = map(str, range(1, 9))


@pytest.fixture(scope="session")
def judged_once(tmp_path_factory, empty_store) -> Path:
    """A project with digits and eight versions of its model, of which the first is champion."""
    from flows.download import download

    def make(place: Path) -> None:
        folder = make_project(place / "a project")
        shutil.copy(empty_store, folder)
        os.chdir(folder)
        download(edit(folder, shrink))
        register("weak", nearest(100), place / "1")
        register("good", nearest(1), place / "2")
        register("tie", nearest(100, scale=600.0), place / "3")
        broken = nearest(1)
        broken.means[0] = float("nan")
        register("broken", broken, place / "4", metrics=dict.fromkeys(registration.SCORES, 0.9))
        register("other test data", nearest(1), place / "5", test_sha256="0" * 64)
        register("nan", nearest(1), place / "6", metrics={"test_nll": float("nan")})
        register("missing", nearest(1), place / "7", leave_out=["test_ece"])
        register("wrong", nearest(1), place / "8", metrics={"test_accuracy": 0.99})

    return at_home(made_once(tmp_path_factory, "gate", make) / "a project")


@pytest.fixture
def project_of(judged_once, tmp_path, monkeypatch):
    """Enters a copy in which a version is the challenger."""

    def enter(challenger: str) -> Path:
        folder = tmp_path / "a project"
        shutil.copytree(judged_once, folder)
        monkeypatch.chdir(folder)
        mlflow_store.connect().set_registered_model_alias("digits", "challenger", challenger)
        return folder

    return enter


def test_a_better_one_passes_by_what_it_answers_when_it_is_served(project_of):
    project_of(GOOD)
    decision = gate.decide("digits", read())
    assert (decision["verdict"], decision["promote"]) == ("promote", True)
    assert (decision["challenger"], decision["champion"]) == (GOOD, WEAK)
    images, labels = dataset.load("digits").split("test")
    with torch.inference_mode():
        right = {
            side: (model(torch.from_numpy(images)).argmax(1).numpy() == labels)
            for side, model in (("challenger", nearest(1)), ("champion", nearest(100)))
        }
    numbers = decision["numbers"]
    assert numbers["accuracy"] == pytest.approx({side: correct.mean() for side, correct in right.items()})
    assert numbers["wins"] == (right["challenger"] & ~right["champion"]).sum()
    assert numbers["losses"] == (right["champion"] & ~right["challenger"]).sum()
    assert all(milliseconds > 0 for milliseconds in numbers["latency_ms"].values())
    assert len(numbers["classes"]) == 10
    assert "better by" in decision["reasons"][0]
    json.dumps(decision, allow_nan=False)
    # It changed nothing, and says the same again.
    assert standing("digits")["waiting"]
    again = gate.decide("digits", read())["numbers"]
    assert again | {"latency_ms": 0} == numbers | {"latency_ms": 0}


@pytest.mark.parametrize(
    ("challenger", "said"),
    [
        (TIE, "a tie: 0 won, 0 lost of 359"),
        (BROKEN, "version 4 gives no answer that can be used: on 359 of 359 images"),
        (OTHER_TEST, "version 5 was made with other test data than that in data/digits (000000000000, not "),
        (NAN_METRIC, "the run of version 6 has no number for test_nll"),
        (NO_METRIC, "the run of version 7 has no number for test_ece"),
        (WRONG_METRIC, "but its run says 99.00%: it is not the model that was measured"),
    ],
)
def test_what_is_refused(project_of, challenger, said):
    project_of(challenger)
    decision = gate.decide("digits", read())
    assert (decision["verdict"], decision["promote"]) == ("refuse", False)
    assert said in decision["reasons"][0]
    json.dumps(decision, allow_nan=False)


def test_a_limit_of_params_yaml_is_kept(project_of):
    params = edit(project_of(GOOD), lambda content: content.update(gate={"latency_ms": 1e-9}))
    decision = gate.decide("digits", params)
    assert not decision["promote"]
    assert "gate.latency_ms allows 1e-09" in decision["reasons"][0]
    assert decision["limits"]["latency_ms"] == 1e-9


def test_the_champion_as_challenger_leaves_nothing_to_decide(project_of):
    project_of(WEAK)
    decision = gate.decide("digits", read())
    assert (decision["verdict"], decision["promote"], decision["numbers"]) == ("nothing", False, {})


def test_the_first_becomes_champion_unless_it_gives_no_numbers(project_of):
    project_of(GOOD)
    client = mlflow_store.connect()
    client.delete_registered_model_alias("digits", "champion")
    decision = gate.decide("digits", read())
    assert (decision["verdict"], decision["champion"]) == ("promote", None)
    assert "there is no champion yet" in decision["reasons"][0]
    client.set_registered_model_alias("digits", "challenger", BROKEN)
    assert gate.decide("digits", read())["verdict"] == "refuse"


def test_other_test_images_are_other_test_data_even_where_the_card_says_the_same(project_of):
    """Of which the version's tag is a copy."""
    folder = project_of(GOOD)
    file = folder / "data" / "digits" / "test_images.npy"
    images = np.load(file)
    images[0] = 255 - images[0]
    np.save(file, images)
    with pytest.raises(InputError, match=r"test_images.npy is not what dataset.json says"):
        gate.decide("digits", read())
    card = json.loads((folder / "data/digits/dataset.json").read_text())
    card["files"]["test_images.npy"] = plain_arrays.file_sha256(file)
    (folder / "data/digits/dataset.json").write_text(json.dumps(sealed.sealed(card)))
    reasons = gate.decide("digits", read())["reasons"]
    assert len(reasons) == 2
    assert all("was made with other test data" in reason for reason in reasons)


def test_without_a_challenger_or_a_registry_it_is_said(store, monkeypatch):
    with pytest.raises(InputError, match="there is no challenger for digits"):
        gate.decide("digits", read())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1:9"):
        gate.decide("digits", read())


def test_turning_the_gate_makes_no_stage_stale():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        listed = stage.get("do", stage).get("params", [])
        assert not [key for key in listed if key.split(".")[0] == "gate"], name
        assert name == "check" or "params.yaml" not in stage.get("do", stage)["deps"]


def test_a_params_yaml_without_the_section_has_its_defaults():
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert parse(content).gate == Gate()
    del content["gate"]
    assert parse(content).gate == Gate()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("alpa", 0.1, 'Did you mean "gate.alpha"'),
        ("alpha", 1.5, "gate.alpha is 1.5"),
        ("alpha", 0, "gate.alpha is 0"),
        ("class_drop", -1, "gate.class_drop is -1"),
        ("ece_increase", float("nan"), "gate.ece_increase is nan"),
        ("latency_ms", 0, "gate.latency_ms is 0"),
        ("latency_ms", True, "gate.latency_ms is True"),
    ],
)
def test_a_gate_that_cannot_be_is_refused(key, value, said):
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content["gate"][key] = value
    with pytest.raises(InputError, match=said):
        parse(content)


# Commands


def call(capfd, command, *arguments: str) -> tuple[int, str, str]:
    """Exit code and what was said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["trainyard", *arguments])
        with pytest.raises(SystemExit) as left:
            run(command)
    return left.value.code, *capfd.readouterr()


def test_promote_then_champion_then_rollback(project_of, capfd):
    project_of(GOOD)
    capfd.readouterr()
    code, out, _ = call(capfd, promote.command)
    assert code == 0
    assert "passes: better by" in out
    assert "version 2 is champion; version 1 is kept" in out
    code, out, _ = call(capfd, champion.command)
    assert "digits: version 2 is champion since 20" in out
    assert "passed the gate: better by" in out
    assert "previous    1" in out
    code, out, _ = call(capfd, champion.command, "--json")
    assert json.loads(out)["decision"]["numbers"]["wins"] > 0
    code, out, _ = call(capfd, promote.command)
    assert (code, out) == (0, "digits: version 2 is the champion already: there is nothing to decide\n")
    code, out, _ = call(capfd, rollback.command)
    assert (code, out) == (0, "digits: version 1 is champion again; version 2 is kept\n")
    # It does not come back by itself.
    code, out, _ = call(capfd, promote.command)
    assert code == promote.REFUSED
    assert "somebody took version 2 back for version 1" in out
    assert standing("digits")["champion"] == WEAK
    code, out, _ = call(capfd, champion.command)
    assert "challenger  2, taken back" in out
    assert status.describe(status.challenger("digits")) == "version 2, taken back"
    code, out, _ = call(capfd, promote.command, "--force", "the reason is gone")
    assert code == 0
    assert "version 2 is champion, forced: the reason is gone; version 1 is kept" in out
    code, out, _ = call(capfd, champion.command)
    assert "was forced: the reason is gone" in out


def test_promote_refuses_with_3_and_says_why_once_recorded_in_status(project_of, capfd):
    project_of(TIE)
    assert status.describe(status.challenger("digits")) == "version 3, not judged yet: trainyard promote"
    code, out, _ = call(capfd, promote.command)
    assert code == promote.REFUSED == 3
    assert "refused: a tie" in out
    assert status.describe(status.challenger("digits")) == "version 3, judged, and not promoted"


def test_force_needs_a_reason(project_of, capfd):
    project_of(TIE)
    code, _, err = call(capfd, promote.command, "--force", " ")
    assert code == 2
    assert "--force needs a reason" in err
    assert standing("digits")["champion"] == WEAK
    code, out, _ = call(capfd, promote.command, "--force", "smaller")
    assert code == 0
    assert "refused: a tie" in out
    assert standing("digits")["champion"] == TIE


def test_force_needs_no_data(project_of, capfd):
    folder = project_of(GOOD)
    shutil.rmtree(folder / "data")
    assert call(capfd, promote.command)[0] == 2
    assert call(capfd, promote.command, "--force", "the data is elsewhere")[0] == 0
    assert standing("digits")["champion"] == GOOD


@pytest.mark.parametrize("command", [promote.command, rollback.command, champion.command])
def test_without_mlflow_a_command_exits_with_1_and_says_so(project, no_store, capfd, command):
    code, out, err = call(capfd, command)
    assert (code, out) == (1, "")
    assert err.startswith(f"trainyard: MLflow at {no_store} cannot be used")
