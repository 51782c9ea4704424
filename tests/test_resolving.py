"""How replicas train is asked for or ruled: in processes, or stacked."""

import math
import subprocess
import sys

import pytest
from conftest import edit, environment, shrink

from flows import train
from flows.params.params_file import Params
from flows.project import paths
from flows.project.errors import InputError
from flows.training import allocation, resolving
from flows.training.allocation import MOST_TURNS, portions, turns
from lightning_modules import weights

AIRBENCH = {"name": "airbench", "widths": [4, 4], "depth": 2}


def card(network: dict | None = None, **settings) -> dict:
    given = {
        "parallel": "auto", "deterministic": True, "accelerator": "cpu", "batch_size": 8, "augment": "none",
        "monitor": "nll", "precision": "float32", "threads": 1, "early_stopping": None, "epochs": 2,
    }  # fmt: skip
    recipe = {
        "network": network or {"name": "mlp", "hidden": [8]}, "activation": "relu", "initializer": "he_normal",
        "dropout": 0.1, "label_smoothing": 0.0, "schedule": "constant",
        "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0.0},
    }  # fmt: skip
    classes = {"class_names": ["a", "b"], "mean": [0.5], "std": [0.2]}
    return {"recipe": recipe, "shape": [8, 8, 1], "settings": given | settings, **classes}


def params(folder, parallel: str, replicas: int = 3) -> Params:
    def change(content: dict) -> None:
        shrink(content)
        content["training"] |= {"parallel": parallel}
        content["members"]["small"]["replicas"] = replicas

    return edit(folder, change)


@pytest.mark.parametrize(
    ("given", "replicas", "way"),
    [
        (card(), 3, "processes"),
        (card(accelerator="gpu"), 3, "stacked"),
        (card({"name": "shallow", "hidden": 8}, accelerator="gpu"), 3, "stacked"),
        (card({"name": "cnn", "channels": [2] * 5, "hidden": 2}, accelerator="gpu"), 3, "processes"),
        (card({"name": "lstm", "hidden": 8}, accelerator="gpu"), 3, "processes"),
        (card({"name": "lstm", "hidden": 8}, parallel="stacked"), 3, "stacked"),
        (card(deterministic=False), 3, "processes"),
        (card(accelerator="gpu"), 1, "processes"),
        (card(AIRBENCH, accelerator="gpu"), 3, "processes"),
        (card(parallel="processes", accelerator="gpu"), 3, "processes"),
        (card(parallel="stacked"), 3, "stacked"),
        (card(AIRBENCH, parallel="stacked"), 1, "processes"),
    ],
)
def test_a_rule_decides_how_replicas_train(given, replicas, way):
    assert resolving.processes_or_stacked(given, replicas, jobs=1) == way


def test_several_gpus_have_a_process_each():
    assert resolving.processes_or_stacked(card(accelerator="gpu"), 3, jobs=2) == "processes"


def test_a_network_that_cannot_be_stacked_is_refused():
    with pytest.raises(
        InputError, match=r"training\.parallel is stacked, but there is no stacked version of the layer"
    ):
        resolving.processes_or_stacked(card(AIRBENCH, parallel="stacked"), 3, jobs=2)


def with_schedule(name: str, own: dict, **settings) -> dict:
    made = card(**settings)
    return made | {"recipe": made["recipe"] | {"schedule": {"name": name, **own}}}


def test_replicas_whose_schedule_goes_by_each_ones_validation_have_a_process_each():
    assert resolving.processes_or_stacked(with_schedule("step", {}, accelerator="gpu"), 3, jobs=1) == "stacked"
    waits = with_schedule("reduce_on_plateau", {}, accelerator="gpu")
    assert resolving.processes_or_stacked(waits, 3, jobs=1) == "processes"
    told = with_schedule("reduce_on_plateau", {}, parallel="stacked")
    with pytest.raises(InputError, match=r"training\.parallel is stacked, but a learning rate that goes by"):
        resolving.processes_or_stacked(told, 3, jobs=1)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9, 33, 100])
def test_portions_are_of_nearly_equal_size_and_hold_each_replica_once(count):
    settings = {"accelerator": "cpu", "parallel": "processes"}
    assert portions(count, settings) == [[number] for number in range(count)]
    for accelerator, largest in (("cpu", 4), ("gpu", 32)):
        parts = portions(count, {"accelerator": accelerator, "parallel": "stacked"})
        assert sorted(number for part in parts for number in part) == list(range(count))
        sizes = [len(part) for part in parts]
        assert max(sizes) <= largest
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("epochs", [1, 3, 20, 200])
@pytest.mark.parametrize("jobs", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("count", [1, 2, 5, 8, 9, 65])
def test_turns_leave_no_worker_idle_where_there_are_enough_of_them(count, jobs, epochs):
    many = turns(count, jobs, epochs)
    assert 1 <= many <= min(MOST_TURNS, epochs)
    assert len(range(0, epochs, math.ceil(epochs / many))) == many  # of whole epochs
    rounds, rounds_of_whole_trainings = -(-count * many // jobs) / many, -(-count // jobs)
    assert rounds <= rounds_of_whole_trainings
    if count % jobs == 0 or count < jobs:
        assert many == 1
    elif jobs <= MOST_TURNS and epochs % jobs == 0:
        assert rounds == count / jobs


def test_stacked_replicas_are_the_replicas_that_processes_train(tiny, store):
    folder = paths.model_folder("digits", "small")
    trained = {}
    for parallel in ("processes", "stacked"):
        told = train.train(params(tiny, parallel), "small")
        assert told["settings"]["parallel"] == parallel
        trained[parallel] = weights.load(folder)[1]
        assert len((folder / "history.csv").read_text().splitlines()) == 1 + 3 * 4
    for alone, stacked in zip(trained["processes"], trained["stacked"]):
        for name, tensor in alone.state_dict().items():
            assert tensor.allclose(stacked.state_dict()[name], atol=1e-4), name


def test_stacks_that_take_turns_are_trained_as_one_after_another(tiny, no_store, monkeypatch):
    monkeypatch.setitem(allocation.LARGEST_STACK, "cpu", 2)
    settings = params(
        tiny, "stacked", replicas=5
    )  # two stacks of two and one replica alone, in two turns with two jobs
    made = []
    for jobs in ("1", "2"):
        monkeypatch.setenv("TRAINYARD_JOBS", jobs)
        train.train(settings, "small")
        made.append((paths.model_folder("digits", "small") / "weights.safetensors").read_bytes())
    assert made[0] == made[1]


DIES = """
import os, sys
from flows import train
from flows.params.params_file import read
from flows.training import kept_results

write_result, written = kept_results.write_result, []

def die(work, number, result):
    if len(written) == int(sys.argv[1]):
        os._exit(1)
    written.append(number)
    write_result(work, number, result)

kept_results.write_result = die
train.train(read(), "small")
"""


@pytest.mark.long
@pytest.mark.parametrize("kept", [0, 1])
def test_a_stack_whose_results_are_not_all_written_ends_as_it_would_have(tiny, store, kept):
    """The process dies between the results of one stack."""
    settings = params(tiny, "stacked", replicas=2)
    died = subprocess.run(
        [sys.executable, "-c", DIES, str(kept)], cwd=tiny, env=environment(), capture_output=True, text=True
    )
    assert "the process that trained small-0, small-1 ended with exit code 1, after an error" in died.stderr
    (work,) = (tiny / ".trainyard" / "unfinished" / "digits" / "small").iterdir()
    assert len(list(work.glob("replica-*.safetensors"))) == kept
    again = train.train(settings, "small")
    assert again["replicas"] == train.train(settings, "small")["replicas"]
