"""Makes projects with many members. Their weights are random, not trained, which does not change the later stages'
time."""

import hashlib
import os
from pathlib import Path

import yaml

from benchmarks.pipeline import copy
from flows import check, download
from flows.params import params_file
from flows.params.params_file import Params
from flows.project import file_io, paths
from flows.training import member_files, resolving

MEMBER = {"network": {"name": "mlp", "hidden": [4]}, "optimizer": {"name": "adam", "lr": 0.01}}


def make(folder: Path, members: dict[str, dict]) -> Params:
    """Makes a copy of this project with these members and the dataset digits, and changes to its folder."""
    folder.mkdir()
    copy(folder)
    os.chdir(folder)
    # MLflow keeps the store of the last project in the environment.
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
    file = Path("params.yaml")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["dataset"] = "digits"
    content["training"] |= {"accelerator": "cpu", "precision": "float32"}
    content["data"]["digits"] |= {"epochs": 1, "batch_size": 64}
    content["members"] = members
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    settings = params_file.read()
    check.note()
    download.download(settings)
    return settings


def tiny(count: int) -> dict[str, dict]:
    return {f"m{number:05}": MEMBER for number in range(count)}


def draw(settings: Params) -> list[dict]:
    """Writes models/<dataset>/<member>/ of all members, as their trainings would; returns their cards."""
    from lightning_modules import networks, weights

    data = file_io.read_json(paths.data_folder(settings.dataset) / "dataset.json")
    about = {key: data[key] for key in ("shape", "class_names", "mean", "std")}
    cards = []
    for member in settings.members:
        recipe = settings.member(member).recipe
        network = networks.build(recipe, about["shape"], len(about["class_names"]))
        state = network.state_dict()
        row = {"epoch": 1, "training_loss": 2.3, "validation_nll": 2.3, "validation_accuracy": 0.1, "lr": 0.01}
        replica = {
            "seed": resolving.replica_seed(settings.seed, member, 0), "epochs": 1, "best_epoch": 1,
            "validation_nll": 2.3, "validation_accuracy": 0.1, "weights_sha256": weights.digest(state),
        }  # fmt: skip
        card = {
            "member": member, "dataset": settings.dataset, "seed": settings.seed, "recipe": recipe,
            "settings": settings.settings(member), **about,
            "parameters": sum(parameter.numel() for parameter in network.parameters()), "replicas": [replica],
        }  # fmt: skip
        folder = paths.model_folder(settings.dataset, member)
        weights.save(folder, card, [state])
        member_files.write_history(folder / "history.csv", [[row]])
        cards.append(card)
    return cards


def other_digests(count: int) -> list[str]:
    """Digests of weights, different from all others."""
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
