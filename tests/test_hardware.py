"""What there is to compute with, and what is refused."""

import pytest
import torch

from flows.machine import hardware
from flows.project.errors import InputError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_a_stage_uses_all_cores_or_those_it_is_allotted(monkeypatch):
    monkeypatch.delenv("TRAINYARD_JOBS", raising=False)
    assert hardware.allotted_cores() == hardware.cores() >= 1
    monkeypatch.setenv("TRAINYARD_JOBS", "7")
    assert hardware.allotted_cores() == 7


@pytest.mark.parametrize("jobs", ["0", "-1", "many", "1.5"])
def test_jobs_that_are_no_number_of_processes_are_refused(monkeypatch, jobs):
    monkeypatch.setenv("TRAINYARD_JOBS", jobs)
    with pytest.raises(InputError, match=f"TRAINYARD_JOBS is '{jobs}', but has to be a positive whole number"):
        hardware.allotted_cores()


def test_a_gpu_is_used_where_there_is_one_and_it_is_wanted(two_gpus):
    assert hardware.accelerator("auto", 1) == hardware.accelerator("gpu", 2) == "gpu"
    assert hardware.accelerator("cpu", 1) == "cpu"


@pytest.mark.parametrize(
    ("given", "seen"), [(None, ["0", "1"]), ("2,3", ["2", "3"]), ("GPU-1f, GPU-2e,-1,0", ["GPU-1f", "GPU-2e"])]
)
def test_gpus_are_named_as_the_user_did(monkeypatch, given, seen):
    monkeypatch.setattr(hardware, "gpus", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert hardware.visible_gpus() == seen


def test_more_gpus_than_there_are_are_refused(two_gpus):
    with pytest.raises(InputError, match=r"training.devices is 4, but this machine has 2 GPUs"):
        hardware.accelerator("auto", 4)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware.accelerator("auto", 1) == "cpu"
    with pytest.raises(InputError, match=r"training\.accelerator is gpu, but torch finds none here: use auto or cpu"):
        hardware.accelerator("gpu", 1)
