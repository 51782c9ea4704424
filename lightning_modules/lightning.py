"""pytorch_lightning, without the libraries that only metrics of other fields need.

It imports torchmetrics, which imports torchvision, SciPy and matplotlib where they are installed, for metrics of images
and of audio and for figures: half of the time that Lightning would take to load. They are optional to it, so they are
not to be found while it is imported, and can be imported as ever afterwards. In this process torchmetrics takes them
for not installed; what is scored here is scored without it.
"""

import sys
import threading
from importlib.metadata import DistributionFinder, PackageNotFoundError

__all__ = ["environments", "pl"]

HIDDEN = ("matplotlib", "scipy", "torchvision")


class Hide:
    """An entry of sys.meta_path by which packages seem not to be installed, to the thread that made it. Those that
    are loaded already take no time, and half of one cannot be hidden."""

    def __init__(self) -> None:
        self.packages, self.thread = {*HIDDEN} - {*sys.modules}, threading.get_ident()

    def hides(self, name: str) -> bool:
        return name.partition(".")[0] in self.packages and threading.get_ident() == self.thread

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Answers `import name`; None leaves it to the next finder."""
        if self.hides(name):
            raise ModuleNotFoundError(f"No module named {name!r}: {__name__} hides it", name=name)

    def find_distributions(self, context: DistributionFinder.Context) -> tuple:
        """Answers `importlib.metadata.version(name)`."""
        if context.name and self.hides(context.name):
            raise PackageNotFoundError(context.name)
        return ()


hide = Hide()
sys.meta_path.insert(0, hide)
try:
    import pytorch_lightning as pl
    from lightning_fabric.plugins import environments
finally:
    sys.meta_path.remove(hide)
