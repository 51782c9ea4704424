"""Cores over all flows: no core is used by two, whoever needs more gets its turn, and nobody waits for the dead."""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest
from conftest import LIMIT, environment, soon

from flows.machine import core_slots, hardware
from flows.machine.core_slots import Cores
from flows.orchestration.capacity import Share, kept_from_other_flows


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Four cores, which nobody uses."""
    monkeypatch.setattr(core_slots, "folder", lambda: tmp_path / "cores")
    monkeypatch.setattr(hardware, "core_numbers", lambda: [1, 2, 5, 7])
    monkeypatch.setattr(core_slots, "INTERVAL", 0.01)
    monkeypatch.setattr(core_slots, "MOMENT", 0.05)


def flow() -> Cores:
    return Cores(threading.Event())


class Stage:
    """One at work, or waiting."""

    def __init__(self, cores: Cores, count: int) -> None:
        self.said: list[str] = []
        self.begun, self.ends = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, args=(cores, count), daemon=True)
        self.thread.start()

    def run(self, cores: Cores, count: int) -> None:
        with cores.hold(count, self.said.append):
            self.begun.set()
            self.ends.wait()

    def waits(self) -> bool:
        return soon(lambda: self.said) and not self.begun.is_set()

    def end(self) -> None:
        self.ends.set()
        self.thread.join()


def test_flows_share_the_cores_and_who_finds_none_free_says_so_and_waits():
    first, second = flow(), flow()
    one, other = Stage(first, 2), Stage(second, 2)
    assert one.begun.wait(LIMIT)
    assert other.begun.wait(LIMIT)
    assert not set(first.held) & set(second.held)
    late = Stage(flow(), 1)
    assert late.waits()
    assert late.said == ["waits for CPU cores: other flows on this machine use them"]
    one.end()
    assert late.begun.wait(LIMIT)
    assert not one.said
    assert not first.held
    late.end()
    other.end()


def test_a_flow_may_use_more_cores_than_there_are():
    own = flow()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(own.hold(3, pytest.fail))
        assert len(own.held) == 4
    assert not own.held


def test_one_that_needs_all_gets_its_turn_before_others_that_need_few():
    busy = flow()
    running = [Stage(busy, 1) for _ in range(4)]
    assert all(stage.begun.wait(LIMIT) for stage in running)
    large = Stage(flow(), 4)
    assert large.waits()
    running.pop().end()
    small = Stage(busy, 1)  # the same flow goes on
    assert small.waits()
    while running:
        running.pop().end()
    assert large.begun.wait(LIMIT)
    assert not small.begun.is_set()
    large.end()
    assert small.begun.wait(LIMIT)
    small.end()


def test_nobody_waits_in_a_flow_that_is_ended():
    first, second = flow(), flow()
    one, large, small = Stage(first, 3), Stage(second, 4), Stage(second, 2)
    assert large.waits() or small.waits()
    second.closed.set()
    for stage in (large, small):
        assert stage.begun.wait(LIMIT)
        stage.end()
    assert not second.held
    assert len(first.held) == 3
    one.end()


HOLD = """
import threading, time
from pathlib import Path
from flows.machine import core_slots, hardware
import sys
core_slots.folder = lambda: Path(sys.argv[1])
hardware.core_numbers = lambda: [1, 2, 5, 7]
with core_slots.Cores(threading.Event()).hold(4, print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_cores_of_a_process_that_is_killed_are_free(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "cores")]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        stage = Stage(flow(), 1)
        assert stage.waits()
    finally:
        process.kill()
        process.communicate()
    assert stage.begun.wait(LIMIT)
    stage.end()


def test_flows_on_cores_of_their_own_do_not_wait_for_each_other(monkeypatch):
    first = flow()
    monkeypatch.setattr(hardware, "core_numbers", lambda: [0, 3])
    with first.hold(4, pytest.fail), flow().hold(2, pytest.fail):
        pass


def test_where_cores_cannot_be_shared_the_work_is_done(tmp_path):
    (tmp_path / "cores").write_text("a file where the folder should be")
    with flow().hold(4, pytest.fail):
        pass
    os.unlink(tmp_path / "cores")


@pytest.mark.parametrize(
    ("stage", "share", "kept"),
    [
        ("train@mlp", Share(cores=2), 2),
        ("evaluate", Share(cores=4), 4),
        ("train@mlp", Share(cores=4, gpus=1), 0),
        ("download", Share(cores=4), 0),
    ],
)
def test_what_a_stage_keeps_from_other_flows(stage, share, kept):
    assert kept_from_other_flows(stage, share) == kept
