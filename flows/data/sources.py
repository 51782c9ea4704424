"""Reads any dataset by its name, as arrays with the test split apart.

`sources/<dataset>/source.yaml` has the URLs and SHA-256 of published files; `sources/folder` holds the user's own
images.
"""

from collections.abc import Callable

from flows.data import built_in, class_folders, digit_strings, published, source_images
from flows.params.sections import DEFAULT_LIMITS, Limits
from flows.project.errors import unknown


def read(dataset: str, test: str | float, limits: Limits = DEFAULT_LIMITS) -> source_images.Images:
    """Fetches, verifies and decodes a dataset.

    Args:
        test: "official", or the fraction of every class that becomes the test split.
        limits: for the user's own images.

    Raises:
        InputError: a file is missing or wrong, or no classifier can be trained on the images.
    """
    if dataset not in READERS:
        raise unknown("dataset", dataset, READERS)
    return class_folders.folder(test, limits) if dataset == "folder" else READERS[dataset](test)


READERS: dict[str, Callable[..., source_images.Images]] = {
    "digits": built_in.digits,
    "blobs": built_in.blobs,
    "diabetes": built_in.diabetes,
    "digit_strings": digit_strings.digit_strings,
    "mnist": published.mnist,
    "fashion_mnist": published.fashion_mnist,
    "cifar10": published.cifar10,
    "folder": class_folders.folder,
}
