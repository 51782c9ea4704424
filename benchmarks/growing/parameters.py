"""Growth with the parameters of a network: two hidden layers on grey images of 28×28."""

from pathlib import Path

from benchmarks.growing import made
from benchmarks.growing.images import NAMES, SHAPE, random_images
from benchmarks.growing.steps import Steps, grow
from flows.models.export import export
from flows.params import recipes

IMAGES, BATCH = 2_560, 128


def width(parameters: int) -> int:
    """The width w of the hidden layers of a network with about this number of parameters: 784 w + w² + 10 w."""
    inputs = SHAPE[0] * SHAPE[1] * SHAPE[2] + len(NAMES)
    return max(1, round(((inputs**2 + 4 * parameters) ** 0.5 - inputs) / 2))


def at(steps: Steps, size: int) -> None:
    from lightning_modules import networks, weights
    from lightning_modules.ensembles import Combiner
    from lightning_modules.fit import fit

    training, validation = random_images(IMAGES), random_images(1_000)
    about = {"class_names": NAMES, "mean": [0.5], "std": [0.3]}
    recipe = recipes.Member.model_validate(
        made.MEMBER | {"network": {"name": "mlp", "hidden": [width(size)] * 2}}
    ).recipe
    network = networks.build(recipe, SHAPE, len(NAMES))
    state = network.state_dict()
    count = sum(parameter.numel() for parameter in network.parameters())
    card = {"recipe": recipe, "shape": list(SHAPE), "replicas": [{}], **about}
    folder = Path.cwd()
    predictor = weights.Predictor(network, about["mean"], about["std"]).eval()
    vote = Combiner("soft_vote")

    def train() -> None:
        fit(recipe, training, validation, seed=0, epochs=1, batch_size=BATCH, threads=1, **about)

    def save_and_load() -> None:
        weights.save(folder, card, [state])
        weights.load(folder)

    steps.take(f"{IMAGES // BATCH} training steps, batches of {BATCH}", count, train)
    steps.take("weights saved and loaded", count, save_and_load)
    steps.take("digest of the weights", count, lambda: weights.digest(state))
    steps.take("1,000 images predicted", count, lambda: weights.predict(predictor, validation[0]))
    steps.take("exported as an ensemble", count, lambda: export([predictor], vote, list(SHAPE), NAMES, folder))


if __name__ == "__main__":
    grow(at)
