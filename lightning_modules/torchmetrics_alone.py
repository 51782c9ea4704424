"""torchmetrics, which Lightning imports, without the libraries that only its metrics of other fields need.

It imports torchvision, SciPy and matplotlib where they are installed, for metrics of images and of audio and for
figures: half of the time that Lightning would take to load. They are optional to it, so they are not to be found while
it is imported, and can be imported as ever afterwards. In this process torchmetrics takes them for not installed.
Should it ever fail without them, it is imported as usual, and merely later. What is scored here is scored without it.
"""

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from types import ModuleType

HIDDEN = ("matplotlib", "scipy", "torchvision")


class Hide:
    """An entry of sys.meta_path by which packages seem not to be installed, to the thread that made it."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages, self.thread = packages, threading.get_ident()

    def hides(self, name: str) -> bool:
        return name.partition(".")[0] in self.packages and threading.get_ident() == self.thread

    def find_spec(self, name: str, path=None, target=None) -> None:
        """Answers `import name`; None leaves it to the next finder."""
        if self.hides(name):
            raise ModuleNotFoundError(f"No module named {name!r}: {__name__} hides it", name=name)

    def find_distributions(self, context) -> tuple:
        """Answers `importlib.metadata.version(name)`."""
        if context.name and self.hides(context.name):
            raise PackageNotFoundError(context.name)
        return ()


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    hide = Hide(packages)
    sys.meta_path.insert(0, hide)
    try:
        yield
    finally:
        sys.meta_path.remove(hide)


def load(name: str) -> ModuleType:
    """The module `name`, of torchmetrics or within."""
    try:
        with hidden(*HIDDEN):
            return importlib.import_module(name)
    except ImportError:
        for half in [module for module in sys.modules if module.partition(".")[0] == "torchmetrics"]:
            del sys.modules[half]
        return importlib.import_module(name)


torchmetrics = load("torchmetrics")
