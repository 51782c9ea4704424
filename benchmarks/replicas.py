"""Seconds of five networks of one recipe: ours together, against ours one after another and the usual script five
times. All log to MLflow."""

from itertools import count

from benchmarks import data
from benchmarks.measure import RUNS, compared, in_turn
from benchmarks.sides import Sides
from benchmarks.training import MLP

# Number of images, if an epoch of all of them would take most of the benchmark's time.
SHORT = 12_000


def measure() -> list[dict]:
    mnist = data.get("mnist")
    half, short = mnist.head(30_000, 10_000), mnist.head(SHORT, 2000)
    name = "networks of MNIST MLP 512×3, batch 100"
    return [
        # Two epochs of half the images, as many steps as one of all: five replicas on two cores take turns of an epoch.
        *together(f"{name}, 30,000 images", half, MLP, 100, ("ours",), goal=5.0, epochs=2),
        *together(f"{name}, {SHORT:,} images", short, MLP, 100, ("ours",), parallel="stacked"),
        *together(f"{name}, {SHORT:,} images", short, MLP, 100, ("usual_script",)),
    ]


def together(
    what: str, images: data.Data, recipe: dict, batch_size: int, rivals: tuple[str, ...], goal: float | None = None,
    *, parallel: str = "processes", replicas: int = 5, epochs: int = 1, runs: int = RUNS, threads: int | None = None,
) -> list[dict]:  # fmt: skip
    """Rows of `replicas` networks trained together, against each of the rivals, in the precision that ours chooses.

    Args:
        rivals: modules of benchmarks.rivals, or "ours" for this project's own way of one after another.
        goal: seconds that ours may take.
        parallel: how ours trains them together, as training.parallel in params.yaml.
    """
    rows = []
    with Sides(images, recipe, {"batch_size": batch_size, "epochs": epochs}, threads) as sides:
        ours = sides.ours(together=True)
        precision = ours.about["precision"]
        for name in rivals:
            rival = sides.ours() if name == "ours" else sides.rival(name)
            seeds, other_seeds = count(), count()

            def one_after_another(rival=rival, seeds=other_seeds) -> float:
                first = next(seeds) * replicas
                return sum(rival(seed=first + number, precision=precision) for number in range(replicas)) / replicas

            times = in_turn(
                lambda: ours(seed=next(seeds), precision=precision, replicas=replicas, parallel=parallel),  # noqa: B023
                one_after_another,
                runs,
            )
            title = "one after another" if name == "ours" else f"{rival.about}, {replicas} times"
            time = "an epoch" if epochs == 1 else f"{epochs} epochs"
            how = f"{time} in {precision}, together ({parallel}), against {title}"
            rows.append(compared(f"{replicas} {what}: {how}{images.remark}", times, goal, images.chance))
    return rows
