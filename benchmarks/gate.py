"""`python -m benchmarks.gate`: what the gate's guarantee costs, by simulation.

Prints false promotions over the life of a test set, and how often real gains are found, for three rules: the levels of
`flows.statistics.paired.share_of_alpha`, one level for all decisions, and e-values.

An e-value is the wealth of a gambler who bets, on each image on which two models differ, that the challenger is right;
here the mean over all sizes of the bet (a uniform prior on the challenger's share of these images above a half). The
chance that it ever exceeds 1 / alpha is at most alpha (Ville's inequality; Grünwald, de Heide and Koolen, Safe Testing,
2024).
"""

import functools
import math
from collections.abc import Callable

import click
import numpy as np
from scipy.special import betainc, betaln

from flows.statistics.paired import mcnemar, share_of_alpha

ALPHA, RETRAINS, LIVES, TRIES = 0.05, 60, 400, 2000
# Test images, gain in accuracy, and the share of the images on which the two models differ.
GAINS = ((10_000, 0.02, 0.04), (10_000, 0.02, 0.31), (10_000, 0.01, 0.04), (10_000, 0.005, 0.02), (2000, 0.02, 0.05))
exact = functools.cache(mcnemar)


@functools.cache
def e_value(wins: int, losses: int) -> float:
    above_half = 1 - betainc(wins + 1, losses + 1, 0.5)
    return 2 * above_half * math.exp(betaln(wins + 1, losses + 1) + (wins + losses) * math.log(2))


RULES: dict[str, Callable[[int, int, int], bool]] = {
    "each at alpha": lambda wins, losses, number: exact(wins, losses) < ALPHA,
    "alpha · 6 / (π² k²)": lambda wins, losses, number: exact(wins, losses) < share_of_alpha(ALPHA, number),
    "e-values": lambda wins, losses, number: e_value(wins, losses) > 1 / share_of_alpha(ALPHA, number),
}


def live(rule: Callable, images: int, hard: float, retrains: int, generator: np.random.Generator) -> tuple[int, float]:
    """Simulates the life of a test set with challengers that are all as good as the first champion.

    Args:
        hard: the share of images that some of the models classify wrongly.

    Returns:
        The number of promotions, and by how much the last champion's measured accuracy exceeds its true one.
    """
    chance = np.where(generator.random(images) < hard, generator.random(images), 1.0)
    champion, promoted = generator.random(images) < chance, 0
    for number in range(1, retrains + 1):
        challenger = generator.random(images) < chance
        wins, losses = int((challenger & ~champion).sum()), int((champion & ~challenger).sum())
        if wins > losses and rule(wins, losses, number):
            champion, promoted = challenger, promoted + 1
    return promoted, champion.mean() - chance.mean()


def found(rule: Callable, images: int, gain: float, differing: float, number: int, generator) -> float:
    """How often a real gain in accuracy passes the gate.

    Args:
        differing: the share of images on which the two models differ.
        number: of the decision on this test set.
    """
    shares = [(differing + gain) / 2, (differing - gain) / 2, 1 - differing]
    drawn = generator.multinomial(images, shares, size=TRIES).tolist()
    return sum(wins > losses and rule(wins, losses, number) for wins, losses, _ in drawn) / TRIES


@click.command()
def main() -> None:
    """Simulate, and print a markdown table."""
    click.echo(f"| | {' | '.join(RULES)} |\n|---|{'---:|' * len(RULES)}")
    for hard in (0.02, 0.1, 0.4):
        cells = []
        for rule in RULES.values():
            generator = np.random.default_rng(0)
            lives = [live(rule, 2000, hard, RETRAINS, generator) for _ in range(LIVES)]
            share, rise = (sum(promoted > 0 for promoted, _ in lives) / LIVES, np.mean([rise for _, rise in lives]))
            cells.append(f"{share:.1%}, {rise * 100:+.2f}")
        click.echo(f"| promoted without a difference, {hard:.0%} of images hard | {' | '.join(cells)} |")
    for images, gain, differing in GAINS:
        cells = []
        for rule in RULES.values():
            generator = np.random.default_rng(0)
            shares = [found(rule, images, gain, differing, number, generator) for number in (1, 5, 30)]
            cells.append(", ".join(f"{share:.2f}" for share in shares))
        what = f"gain of {gain * 100:g} points on {images:,} ({differing:.0%} differ) found at k = 1, 5, 30"
        click.echo(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
