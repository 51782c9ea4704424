"""How replicas are handed out to workers, and what a worker does with one."""

import contextlib
import os
import signal
from collections import deque
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest

from flows import hardware, replicas
from lightning_modules.errors import InputError

SETTINGS = {"epochs": 4, "parallel": "processes", "accelerator": "cpu"}
CARD = {"member": "small", "dataset": "digits", "recipe": {}, "settings": SETTINGS}
CARD |= {"class_names": ["a", "b"], "mean": [0.5], "std": [0.2]}


class Worker:
    """Reports at once what a worker reports in time: the epochs of a turn."""

    def __init__(self, turn: int, done: dict[int, int]) -> None:
        self.turn, self.done, self.said = turn, done, deque()

    def send(self, numbers: list[int]) -> None:
        [number] = numbers
        for _ in range(self.turn):
            if self.done.setdefault(number, 0) < SETTINGS["epochs"]:
                self.done[number] += 1
                row = {"epoch": self.done[number], "validation_nll": 1.0, "validation_accuracy": 0.5}
                self.said.append({"replica": number, "epoch": row["epoch"], "done": 1.0, "row": row, "best_epoch": 1})
        self.said.append({"free": True, "finished": self.done[number] == SETTINGS["epochs"]})

    def recv(self) -> dict:
        return self.said.popleft()


class Notes:
    """A tracker and a clock that note what they are told."""

    def __init__(self) -> None:
        self.told = []

    def start(self) -> None:
        pass

    keep = start

    def epoch(self, number: int, row: dict) -> None:
        self.told.append((number, row["epoch"]))


@pytest.mark.parametrize(
    ("count", "order"),
    [
        (3, [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2, 4)]),
        (2, [(number, epoch) for number in range(2) for epoch in range(1, 5)]),
    ],
)
def test_replicas_take_turns_where_a_worker_would_be_idle_at_the_end(tmp_path, monkeypatch, count, order):
    done, notes = {}, Notes()

    @contextlib.contextmanager
    def workers(count, life, card, seeds, work, devices, turn):
        yield SimpleNamespace(connections=[Worker(turn, done) for _ in range(count)])

    monkeypatch.setattr(replicas, "workers", workers)
    monkeypatch.setattr(replicas, "wait", lambda running: running[:1])  # the one that has been at work for longest
    monkeypatch.setattr(replicas, "read_result", lambda work, number: number)
    monkeypatch.setattr(replicas, "is_finished", lambda work, number: False)
    given = {"jobs": 2, "devices": 1, "tracker": notes, "clock": notes}
    assert replicas.train_replicas(CARD, list(range(count)), tmp_path, **given) == list(range(count))
    assert notes.told == order


@pytest.mark.parametrize(("accelerator", "visible"), [("cpu", ""), ("gpu", "1,0")])
def test_a_worker_trains_a_turn_and_sees_gpus_where_it_trains_on_one(tiny, monkeypatch, accelerator, visible):
    seen = {}

    def train_portion(recipe, seeds, given):
        seen.update(given, seeds=seeds, visible=os.environ["CUDA_VISIBLE_DEVICES"])
        raise InputError("enough")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    monkeypatch.setattr(replicas, "train_portion", train_portion)
    monkeypatch.setattr(replicas, "die_with_parent", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    here, there = Pipe()
    here.send([1])
    card = CARD | {"settings": SETTINGS | {"accelerator": accelerator}}
    replicas.serve(there, 0, card, [7, 8], tiny, 1, 3)
    assert here.recv()["failed"] is InputError
    assert (seen["seeds"], seen["turn"], seen["visible"]) == ([8], 3, visible)
    assert seen["checkpoint"] == replicas.checkpoint_file(tiny, [1])


@pytest.mark.parametrize(("before", "said"), [(0, "the system was out of memory and killed for it; "), (3, "")])
def test_what_the_system_says_of_memory_is_told(monkeypatch, before, said):
    kills = iter([before, 3])
    monkeypatch.setattr(hardware, "memory_kills", lambda: next(kills))
    monkeypatch.setattr(hardware, "memory", lambda: "little is free")
    monkeypatch.setattr(replicas, "MOMENT", 0)
    with replicas.workers(1, killed, {"settings": {"accelerator": "cpu"}}) as crew:
        [connection] = crew.connections
        with pytest.raises((EOFError, OSError)):
            connection.recv()
        end = crew.buried(connection)
    assert end.killed
    assert end.how == f"was ended by SIGKILL ({said}little is free)"


def killed(connection, place: int, card: dict) -> None:
    """A worker that is killed at once."""
    os.kill(os.getpid(), signal.SIGKILL)
