"""pytorch_lightning. It imports torchmetrics, which is loaded before it, in a way that takes less time."""

from lightning_modules import torchmetrics_alone as torchmetrics_alone

# isort: split
import pytorch_lightning as pl
from lightning_fabric.plugins import environments

__all__ = ["environments", "pl"]
