"""What keeps a network from overfitting: dropout, penalties, limits on weights and gradients, mixtures of images."""

from lightning_modules.regularization.building import build, completed

__all__ = ["build", "completed"]
