"""`trainyard champion`: who is champion, since when and why.

Reads   aliases and tags in MLflow's registry
Writes  nothing
Run     python -m flows.commands.champion
"""

import json
from collections.abc import Iterator

import click

from flows.machine.console import run
from flows.params.params_file import read
from flows.statistics import paired

WHY = {"gate": "passed the gate", "force": "was forced", "rollback": "was brought back by a rollback"}


def show(dataset: str, found: dict) -> None:
    if found["champion"] is None:
        click.echo(f"{dataset}: no champion yet")
    else:
        record = found["record"]
        since = f" since {record['since']}" if record else ""
        click.echo(f"{dataset}: version {found['champion']} is champion{since}")
        why = f"{WHY[record['why']]}: {record['because']}" if record else "the first one, or named by hand"
        click.echo(f"why         {why}")
        for name, value in numbers(found["decision"]).items():
            click.echo(f"{name:<12}{value}")
    click.echo(f"previous    {'none' if found['previous_champion'] is None else found['previous_champion']}")
    if found["challenger"] not in (None, found["champion"]):
        click.echo(f"challenger  {found['challenger']}, {challenger_state(found)}")
    if found["interrupted"]:
        click.echo(interruption(found["interrupted"]))
    if found["champion"] is not None and found["test"]:
        for line in test_image_lines(found["test"]):
            click.echo(f"test images {line}")


def test_image_lines(test: dict) -> Iterator[str]:
    """Lines that say how often the test images were used, and what the next challenger needs: `decisions.outlook`."""
    count = test["decisions"]
    times = "no decision" if not count else "1 decision" if count == 1 else f"{count:,} decisions"
    yield (
        f"have served {times} of the gate; decision {test['number']} needs McNemar's exact p below {test['alpha']:.2g}"
    )
    if count:
        wins, differing, images = test["wins"], test["differing"], test["images"]
        if wins is None:
            gain = test["fewest"] / images * 100
            yield (
                f"the last two models differed on {differing:,} of {images:,}: too few, even if all are won; "
                f"{test['fewest']} won and none lost would do, a gain of {gain:.2f} points"
            )
        else:
            gain = (2 * wins - differing) / images * 100
            yield (
                f"where two models differ on {differing:,} of {images:,}, as the last two did, that is {wins:,} won, "
                f"a gain of {gain:.2f} points"
            )
    if test["worn"]:
        yield "are worn out: a gain has to be twice as large to be found as at the first decision. Take new ones"


def challenger_state(found: dict) -> str:
    """The state of a challenger that is not champion, from `waiting` and `taken_back` of `promoting.standing`."""
    if found["taken_back"]:
        return "taken back"
    return "not judged yet: trainyard promote" if found["waiting"] else "judged, and not promoted"


def interruption(move: dict) -> str:
    """A sentence about an interrupted move of the champion."""
    return (
        f"interrupted {move['why']} of version {move['after']['champion']}: the next `trainyard promote` or "
        "`trainyard rollback` finishes it"
    )


def numbers(decision: dict | None) -> dict[str, str]:
    """The numbers of the decision on the champion, as text; empty if it was not compared with another model."""
    if not decision or not decision["numbers"]:
        return {}
    measured, sides = decision["numbers"], decision["numbers"]["accuracy"]
    found = {
        "accuracy": " against ".join(f"{sides[side]:.2%}" for side in ("challenger", "champion") if side in sides)
        + f" on {measured['test_images']:,} test images"
    }
    if "champion" in sides:
        low, high = measured["interval"]
        found["difference"] = (
            f"{measured['difference'] * 100:+.2f} points, {paired.confidence_text(measured['alpha'])} interval "
            f"{low * 100:+.2f} to {high * 100:+.2f}, McNemar's exact p = {measured['p_exact']:.2g}"
        )
        worst = measured["classes"][measured["worst_class"]] if "classes" in measured else None
        if worst:
            found["worst class"] = f"{measured['worst_class']}: {worst['difference'] * 100:+.2f} points"
        found["ece"] = f"{measured['ece']['challenger']:.4f} against {measured['ece']['champion']:.4f}"
    found["latency"] = f"{measured['latency_ms']['challenger']:.3g} ms per image"
    return found


@click.command()
@click.option("--dataset", help="Whose champion; by default that of params.yaml.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def command(dataset: str | None, as_json: bool) -> None:
    """Say who is champion, since when, why, by which numbers, and who was before."""
    from flows.promotion import promoting

    params = read()
    dataset = dataset or params.dataset
    found = promoting.standing(dataset)
    champion = found["champion"]
    judged = champion and params.task_of(dataset) == "classification"
    found["test"] = promoting.outlook(dataset, champion, params.gate.alpha) if judged else None
    if as_json:
        click.echo(json.dumps({"dataset": dataset} | found, indent=2, ensure_ascii=False))
    else:
        show(dataset, found)


if __name__ == "__main__":
    run(command)
