"""The hardware of this machine: CPU cores, GPUs and memory."""

import os

from flows.project.errors import InputError, counted


def core_numbers() -> list[int]:
    """The system's numbers of the CPU cores that this process may use, sorted."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(core_numbers())


def allotted_cores() -> int:
    """The number of CPU cores that this stage may use: TRAINYARD_JOBS, set where stages run side by side, or all.

    Raises:
        InputError: TRAINYARD_JOBS is no positive number.
    """
    given = os.environ.get("TRAINYARD_JOBS", "").strip()
    if given and not (given.isdecimal() and int(given)):
        raise InputError(f"TRAINYARD_JOBS is {given!r}, but has to be a positive whole number")
    return int(given) if given else cores()


def free_memory() -> str:
    """The free memory, in words."""
    import psutil

    now = psutil.virtual_memory()
    return f"{now.available / 2**30:.1f} of {now.total / 2**30:.1f} GiB of memory are free"


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for lack of memory since it started, including those that reached the
    limit of their container; 0 where it does not say."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def gpus() -> int:
    """The number of GPUs that torch can use. Without a driver it is 0, and torch is not loaded, which takes seconds."""
    if not any(os.path.exists(node) for node in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return 0
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def visible_gpus() -> list[str]:
    """The name of each GPU for CUDA_VISIBLE_DEVICES: what the user has written there, or its number."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = gpus()
    names = [str(number) for number in range(count)] if given is None else [one.strip() for one in given.split(",")]
    return names[:count]


def accelerator(wanted: str, devices: int) -> str:
    """Resolves "auto" to "gpu" or "cpu", without starting CUDA.

    Raises:
        InputError: "gpu" is asked for and there is none, or fewer than `devices`.
    """
    # Ask NVIDIA's management library, not the driver: a process that has started CUDA cannot be forked.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "gpu" and not found:
        raise InputError("params.yaml: training.accelerator is gpu, but torch finds none here: use auto or cpu")
    if wanted == "cpu" or not found:
        return "cpu"
    if devices > found:
        raise InputError(f"params.yaml: training.devices is {devices}, but this machine has {counted(found, 'GPU')}")
    return "gpu"


def hide_gpus() -> None:
    """Hides all GPUs from this process for good. For processes that only train on the CPU.

    torch's optimizers ask in every step whether there is a GPU, and look for NVIDIA's library each time unless all are
    hidden: a tenth of a small network's step. GPUs cannot be shown again: the first gradient, even on a CPU, may make
    CUDA count the visible ones, which it does once a process.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
