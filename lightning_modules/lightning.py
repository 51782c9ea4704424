"""pytorch_lightning, imported in half the time.

Lightning imports torchmetrics. That imports torchvision, SciPy and matplotlib if they are installed, for metrics of
images and audio and for figures: half of Lightning's import time. The three are optional, so this module hides them
during the import; afterwards they can be imported as usual. In this process torchmetrics takes them for not installed,
which does no harm: this project scores without it.
"""

import sys
import threading
from importlib.metadata import DistributionFinder, PackageNotFoundError

__all__ = ["environments", "pl"]

HIDDEN = ("matplotlib", "scipy", "torchvision")


class Hide:
    """An entry of sys.meta_path that makes packages look not installed to the thread that made it.

    A package that is already loaded is not hidden: it costs no time, and hiding half of a package would break it.
    """

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
