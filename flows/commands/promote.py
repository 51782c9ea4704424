"""`trainyard promote`: lets the gate judge the challenger and, if it passes, makes it the champion.
Reads   data/<dataset>/, params.yaml's section `gate`, both models from MLflow's registry
Writes  the aliases champion and previous_champion, tags of the challenger's version, gate/*.json of its run
Run     python -m flows.commands.promote
"""

import click

from flows.machine.console import run
from flows.params.params_file import read
from flows.project.errors import InputError

REFUSED = 3  # the exit code


def forced(dataset: str, because: str) -> dict:
    """A decision that promotes the challenger in any case. If the gate can decide, its verdict is recorded with it."""
    from flows.promotion import gate

    try:
        decision = gate.decide(dataset, read())
    except InputError as error:  # the data or a model is missing, for example
        decision = gate.undecided(dataset, read(), str(error))
    return decision | {"forced": because}


def show(decision: dict) -> None:
    """Prints the numbers and the reasons of a decision."""
    numbers, challenger = decision["numbers"], f"version {decision['challenger']}"
    against = f" against champion version {decision['champion']}" if decision["champion"] else ""
    if decision["verdict"] == "nothing":
        click.echo(f"{decision['dataset']}: {decision['reasons'][0]}")
        return
    images = f", on {numbers['test_images']:,} test images" if numbers else ""
    click.echo(f"{decision['dataset']}: {challenger}{against}{images}")
    for name, text in (("accuracy", "{:.2%}"), ("nll", "{:.4f}"), ("ece", "{:.4f}"), ("latency_ms", "{:.3g} ms/image")):
        if name in numbers:
            sides = [text.format(numbers[name][side]) for side in ("challenger", "champion") if side in numbers[name]]
            click.echo(f"  {name.removesuffix('_ms'):<9}{' against '.join(sides)}")
    for reason in decision["reasons"]:
        click.echo(f"  {'passes' if decision['promote'] else 'refused'}: {reason}")


@click.command()
@click.option("--dataset", help="Whose challenger; by default that of params.yaml.")
@click.option("--force", metavar="REASON", help="Promote whatever the gate says; the reason is recorded with it.")
def command(dataset: str | None, force: str | None) -> int:
    """Judge the challenger, and make it the champion if it is truly better.

    Both classify the same pinned test images. The challenger passes if it is right more often than chance would explain
    (McNemar's exact test, at a level that falls with each decision on the same images) and exceeds none of the limits
    under `gate` in params.yaml. The decision is recorded with the version, and the old champion is kept for `trainyard
    rollback`.

    Exit codes: 0 promoted, or nothing to do; 3 the gate refused; 1 MLflow cannot be used; 2 bad input.
    """
    from flows.ensembles import late_registration
    from flows.promotion import gate, promoting

    if force is not None and not force.strip():
        raise InputError('--force needs a reason, as in --force "the old one is too slow"')
    params = read()
    dataset = dataset or params.dataset
    decision = forced(dataset, force.strip()) if force else gate.decide(dataset, params)
    show(decision)
    if dataset == params.dataset and (why := late_registration.not_registered(params)):
        click.echo(f"trainyard: it was not judged: {why}", err=True)
    aliases = promoting.promote(dataset, decision)
    if decision["verdict"] == "nothing":
        return 0
    if not (decision["promote"] or force):
        return REFUSED
    kept = f"; version {aliases['previous_champion']} is kept" if "previous_champion" in aliases else ""
    why = f", forced: {force.strip()}" if force and not decision["promote"] else ""
    click.echo(f"version {aliases['champion']} is champion{why}{kept}")
    return 0


if __name__ == "__main__":
    run(command)
