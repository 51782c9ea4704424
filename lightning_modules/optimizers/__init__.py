"""The optimizers and learning-rate schedules, by name. A name means what it means in torch.optim."""

from lightning_modules.optimizers.building import OPTIMIZERS, build
from lightning_modules.optimizers.schedules import SCHEDULES, freeze_ended, last_rates, schedule
from lightning_modules.optimizers.stacking import StackedOptimizer, build_stacked

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "StackedOptimizer",
    "build",
    "build_stacked",
    "freeze_ended",
    "last_rates",
    "schedule",
]
