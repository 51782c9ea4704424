"""Images added to the training split: sources/<dataset>/added/<class>/<SHA-256 of the pixels>.png.

`flows.retraining.incoming` puts them there, and DVC versions the folder (sources/<dataset>/added.dvc).
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from flows.data import fetch, image_file
from flows.data.dataset import read_card
from flows.data.source_images import ADDED, Images, shown
from flows.params.sections import DEFAULT_LIMITS, Limits
from flows.project import paths
from flows.project.errors import InputError, counted
from lightning_modules import names


def folder(dataset: str) -> Path:
    return paths.root() / "sources" / dataset / ADDED


def dvc_file(dataset: str) -> Path:
    """The folder's .dvc file, which git tracks."""
    return folder(dataset).with_name(f"{ADDED}.dvc")


def class_folders(class_names: list[str]) -> dict[str, str]:
    """The class by the name of its folder, with "-" for "/". A class whose name cannot name a folder is left out."""
    named = {name.replace("/", "-"): name for name in class_names}
    return {place: name for place, name in named.items() if place and not place.startswith(".") and "\0" not in place}


def digest(image: np.ndarray) -> str:
    """SHA-256 of the pixels: an image has the same name whatever file it came in."""
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


def join(dataset: str, images: Images, limits: Limits = DEFAULT_LIMITS) -> Images:
    """The dataset with its added images at the end of the training split. The test split stays as it is.

    An added image that is also a test image, which was put into sources/ later, is left out with a warning.

    Raises:
        InputError: a file does not fit its name or folder, or the versioned folder does not exist.
    """
    place = folder(dataset)
    if not place.is_dir():
        if dvc_file(dataset).is_file():
            raise InputError(
                f"{shown(place)} does not exist, but {shown(dvc_file(dataset))} does: run dvc checkout "
                f"{shown(dvc_file(dataset))}, or dvc pull where the images are in a remote"
            )
        return images
    shape = images.train_images.shape[1:]
    labels_of = {name: label for label, name in enumerate(images.class_names)}
    classes = class_folders(images.class_names)
    tests = {digest(image) for image in images.test_images}
    added, labels, listing, total = [], [], hashlib.sha256(), 0
    for file in sorted(path for path in place.rglob("*") if not path.name.startswith(".") and not path.is_dir()):
        if file.parent.parent != place or file.parent.name not in classes:
            raise InputError(
                f"{shown(file)} is in no folder of a class of {dataset}: move it to data/incoming/<class>/"
            )
        try:
            image = image_file.decode(file, shape, limits)
        except InputError as error:
            raise InputError(f"{shown(file)} {error}") from None
        if file.name != f"{digest(image)}.png":
            raise InputError(
                f"{shown(file)} is not the image that its name says (changed, damaged or put there by hand): "
                "move it to data/incoming/<class>/"
            )
        if file.stem in tests:
            fetch.say(f"warning: {shown(file)} is a test image too and left out of the training images")
            continue
        added.append(image)
        labels.append(labels_of[classes[file.parent.name]])
        listing.update(f"{file.stem}  {file.parent.name}\n".encode())
        total += file.stat().st_size
    if not added:
        return images
    # One entry for all, as for the user's own images, with the SHA-256 of their digests and classes in order.
    entry = {"file": counted(len(added), "image"), "from": shown(place), "bytes": total, "sha256": listing.hexdigest()}
    return replace(
        images,
        train_images=np.concatenate([images.train_images, np.stack(added)]),
        train_labels=np.concatenate([images.train_labels, np.array(labels, np.int64)]),
        provenance=[*images.provenance, entry],
    )


def make_folders(dataset: str) -> None:
    """Makes data/incoming/<class>/ for each class, where the dataset was downloaded, for people to put images into."""
    if (paths.data_folder(dataset) / "dataset.json").is_file():
        card = read_card(dataset)
        if names.task_of(card) != "classification":
            return
        for name in class_folders(card["class_names"]):
            (paths.incoming_folder() / name).mkdir(parents=True, exist_ok=True)
