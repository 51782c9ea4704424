"""How replicas are handed out to workers, and what a worker does with one."""

import contextlib
import os
import signal
import threading
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch
from conftest import LIMIT

from flows.machine import hardware
from flows.params.params_file import read
from flows.project.errors import InputError
from flows.training import kept_results, replicas, worker_pool, worker_process

EPOCHS = 4
SETTINGS = {"epochs": EPOCHS, "batch_size": 64, "parallel": "processes", "accelerator": "cpu"}
CARD = {"member": "small", "dataset": "digits", "recipe": {}, "settings": SETTINGS}
CARD |= {"class_names": list("0123456789"), "mean": [0.5], "std": [0.2]}


class Clocked:
    """Workers with a clock of their own: an epoch takes a second of it, however busy the machine is.

    They speak over real pipes, in a thread that takes one step at a time, always the earliest.
    """

    def __init__(self, workers: int, replicas: int, work: Path, turn: int) -> None:
        self.connections, self.ends = map(list, zip(*(Pipe() for _ in range(workers))))
        self.work, self.turn = work, turn
        self.done = dict.fromkeys(range(replicas), 0)  # epochs of each replica
        self.seconds = [0] * workers  # at which each worker has ended its last epoch
        self.thread = threading.Thread(target=self.live, daemon=True)

    def live(self) -> None:
        try:
            hands = {place: self.taken(place) for place in range(len(self.ends))}
            while hands:
                place = min(hands, key=lambda place: (self.seconds[place], place))
                number, left = hands[place]
                if left and self.done[number] < EPOCHS:
                    self.done[number] += 1
                    self.seconds[place] += 1
                    row = {"epoch": self.done[number], "validation_nll": 1.0, "validation_accuracy": 0.5}
                    event = {"replica": number, "epoch": row["epoch"], "done": 1.0, "row": row, "best_epoch": 1}
                    self.ends[place].send(event)
                    hands[place] = number, left - 1
                    continue
                finished = self.done[number] == EPOCHS
                if finished:
                    result = replicas.Fitted({"weight": torch.tensor([float(number)])}, [], 1)
                    kept_results.write_result(self.work, number, result)
                del hands[place]
                self.ends[place].send({"free": True, "finished": finished})
                in_hand = {number for number, _ in hands.values()}
                if any(done < EPOCHS for number, done in self.done.items() if number not in in_hand):
                    hands[place] = self.taken(place)
        finally:
            for end in self.ends:
                end.close()

    def taken(self, place: int) -> tuple[int, int]:
        assert self.ends[place].poll(LIMIT), "a worker is idle while a replica waits"
        [number] = self.ends[place].recv()
        return number, self.turn


class Notes:
    """A tracker and a clock that note what they are told."""

    def __init__(self) -> None:
        self.told = []

    def start(self) -> None:
        pass

    keep = start

    def epoch(self, number: int, row: dict) -> None:
        self.told.append((number, row["epoch"]))


@pytest.mark.parametrize(("count", "jobs", "seconds"), [(2, 2, 4), (3, 2, 6), (5, 2, 10), (4, 3, 6), (3, 1, 12)])
def test_no_worker_is_idle_while_a_replica_has_epochs_left(tmp_path, monkeypatch, count, jobs, seconds):
    """Of three replicas two workers train one and a half each, not one of them two."""
    notes, pools = Notes(), []

    @contextlib.contextmanager
    def workers(size, target, card, seeds, work, devices, turn):
        pools.append(pool := Clocked(size, len(seeds), work, turn))
        pool.thread.start()
        yield pool
        pool.thread.join()

    monkeypatch.setattr(worker_pool, "workers", workers)
    given = {"jobs": jobs, "devices": 1, "tracker": notes, "clock": notes}
    found = replicas.train_replicas(CARD, list(range(count)), tmp_path, **given)
    assert [result.state["weight"].item() for result in found] == list(range(count))
    for number in range(count):
        assert [epoch for told, epoch in notes.told if told == number] == list(range(1, EPOCHS + 1))
    [pool] = pools
    assert len(pool.seconds) == jobs
    assert max(pool.seconds) == seconds


def events(connection) -> list[dict]:
    """What a worker tells until it is free."""
    told = []
    while not told or "free" not in told[-1]:
        assert connection.poll(LIMIT)
        told.append(connection.recv())
    return told


def test_a_worker_trains_for_a_turn_and_goes_on_at_the_next(tiny):
    card = CARD | {"recipe": read().member("small").recipe}
    with worker_pool.workers(1, worker_process.serve, card, [7, 8], tiny, 1, 3) as pool:
        [connection] = pool.connections
        rows, left = [], []
        for _ in range(2):
            connection.send([1])
            *told, end = events(connection)
            rows.append([(event["replica"], event["row"]["epoch"]) for event in told if "row" in event])
            left.append((end["finished"], kept_results.checkpoint_file(tiny, [1]).exists()))
    assert rows == [[(1, 1), (1, 2), (1, 3)], [(1, 4)]]
    assert left == [(False, True), (True, False)]
    [expected] = worker_process.train_portion(
        card["recipe"], [8], worker_process.given_to_fit(card)
    )  # at once, by the second seed
    found = kept_results.read_result(tiny, 1)
    assert found.history == expected.history
    assert all(torch.equal(tensor, expected.state[name]) for name, tensor in found.state.items())


@pytest.mark.parametrize(("accelerator", "visible"), [("cpu", ""), ("gpu", "1,0")])
def test_a_worker_sees_gpus_where_it_trains_on_one(tiny, accelerator, visible):
    card = CARD | {"settings": SETTINGS | {"accelerator": accelerator}}
    with worker_pool.workers(1, tells_what_it_sees, card, [7, 8], tiny, 1, 3) as pool:
        [connection] = pool.connections
        connection.send([1])
        assert connection.poll(LIMIT)
        assert connection.recv()["message"] == visible


def tells_what_it_sees(connection, *given) -> None:
    """A worker that trains nothing: here there may be no GPU."""

    def look(*_):
        raise InputError(os.environ["CUDA_VISIBLE_DEVICES"])

    os.environ["CUDA_VISIBLE_DEVICES"] = "1,0"
    worker_process.train_portion = look
    worker_process.serve(connection, *given)


@pytest.mark.parametrize(("before", "said"), [(0, "the system was out of memory and killed for it; "), (3, "")])
def test_what_the_system_says_of_memory_is_told(monkeypatch, before, said):
    kills = iter([before, 3])
    monkeypatch.setattr(hardware, "out_of_memory_kills", lambda: next(kills))
    monkeypatch.setattr(hardware, "free_memory", lambda: "little is free")
    monkeypatch.setattr(worker_pool, "MOMENT", 0)
    with worker_pool.workers(1, killed, {"settings": {"accelerator": "cpu"}}) as pool:
        [connection] = pool.connections
        with pytest.raises((EOFError, OSError)):
            connection.recv()
        end = pool.reap(connection)
    assert end.killed
    assert end.how == f"was ended by SIGKILL ({said}little is free)"


def killed(connection, place: int, card: dict) -> None:
    """A worker that is killed at once."""
    os.kill(os.getpid(), signal.SIGKILL)
