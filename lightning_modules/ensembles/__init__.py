"""Ways to combine networks into one classifier, by name."""

from collections.abc import Callable

from torch import Tensor, nn

from lightning_modules.ensembles.stacking import stacking
from lightning_modules.ensembles.temperature import scaled
from lightning_modules.ensembles.votes import borda_count, geometric_mean, hard_vote, soft_vote

# Log-probabilities, networks × images × classes, and what was fitted, to log-probabilities, images × classes.
Combine = Callable[..., Tensor]
COMBINED: dict[str, Combine] = {
    "borda_count": borda_count,
    "geometric_mean": geometric_mean,
    "greedy": soft_vote,
    "hard_vote": hard_vote,
    "soft_vote": soft_vote,
    "stacking": stacking,
    "super_learner": soft_vote,
    "weighted_vote": soft_vote,
}


class Combiner(nn.Module):
    """An ensemble method as a module: log-probabilities networks × images × classes in, images × classes out.

    Args:
        method: a key of COMBINED.
        fitted: what the method fitted, by name: `weights` of networks, layers of `stacking`; and `temperatures`, by
            which the networks are scaled before.
        combined: the methods of another task.
    """

    def __init__(
        self, method: str, fitted: dict[str, Tensor] | None = None, combined: dict[str, Combine] = COMBINED
    ) -> None:
        super().__init__()
        self.combine = combined[method]
        for name, values in (fitted or {}).items():
            self.register_buffer(name, values)

    def forward(self, log_probabilities: Tensor) -> Tensor:
        fitted = dict(self.named_buffers())
        if "temperatures" in fitted:
            log_probabilities = scaled(log_probabilities, fitted.pop("temperatures"))
        return self.combine(log_probabilities, **fitted)
