"""Files of an interrupted training: checkpoints, and the results of replicas that have finished."""

import json
import os
from pathlib import Path

from flows.project import file_io, messages, paths
from flows.project.errors import DamagedError
from lightning_modules import sealed
from lightning_modules.fit import Fitted


def checkpoint_file(work: Path, numbers: list[int]) -> Path:
    return work / f"replica-{'-'.join(map(str, numbers))}.ckpt"


def result_file(work: Path, number: int) -> Path:
    return work / f"replica-{number}.safetensors"


def write_result(work: Path, number: int, result: Fitted) -> None:
    from safetensors.torch import save_file

    about = {"history": json.dumps(result.history), "best_epoch": str(result.best_epoch)}
    about["sha256"] = digest_of(about, result.state)
    with file_io.whole(result_file(work, number)) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in result.state.items()}, temporary, about)


def digest_of(about: dict[str, str], state: dict) -> str:
    from lightning_modules import weights

    kinds = {name: str(kind) for name, kind in weights.kinds(state).items()}
    return sealed.digest({"about": about, "kinds": kinds, "state": weights.digest(state)})


def read_result(work: Path, number: int) -> Fitted:
    """Reads a replica's result. Raises DamagedError if the file is not what was written."""
    from safetensors import SafetensorError, safe_open

    path = result_file(work, number)
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError(path, f"cannot be read (damaged: {error})") from None
    if about.pop("sha256", None) != digest_of(about, state):
        raise DamagedError(path, "is not what was written to it (changed or damaged)")
    return Fitted(state, json.loads(about["history"]), int(about["best_epoch"]))


def is_finished(work: Path, number: int) -> bool:
    """Whether a replica's result exists. A damaged one is renamed to <its name>.damaged, with a warning, and does not
    count."""
    try:
        read_result(work, number)
    except FileNotFoundError:
        return False
    except DamagedError as error:
        os.replace(error.file, error.file.with_name(f"{error.file.name}.damaged"))
        messages.warn(f"{paths.shown(error.file)} {error.reason}: put aside, and the replica is trained again")
        return False
    return True
