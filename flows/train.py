"""Stage train@<member>: trains the replicas of one member, side by side, one process each.

Reads   data/<dataset>/ and the member's recipe in params.yaml
Writes  models/<dataset>/<member>/: weights.safetensors, member.json, history.csv
Run     python -m flows.train MEMBER

With `training.strategy` ddp the replicas train one after another, and several processes divide each mini-batch.
torchrun and srun may start this command once for each of these processes.

A replica's result depends on its seed, the recipe and the data, not on how many replicas train at once. Its rounding
also depends on the number of replicas in a stack, and on the number of processes that divide its mini-batches. An
interrupted training is kept in .trainyard/unfinished, and the next run resumes from its last checkpoint.
"""

import shutil

import click

from flows.machine import processes
from flows.machine.console import run
from flows.params.params_file import Params, read
from flows.project import file_io, paths
from flows.project.errors import InputError, counted
from flows.reporting import by_task
from flows.statistics.replicates import score_text
from flows.training import interrupted, member_files, resolving
from flows.training.launch import launch, launcher
from lightning_modules import names


def train(params: Params, member: str) -> dict:
    """Trains the member's replicas and writes them.

    Returns:
        The content of member.json: member, dataset, seed, recipe, settings, shape, class_names, mean, std, task, dtype,
        features, target, parameters, history_sha256 (of history.csv), and a list of replicas, each with seed, epochs,
        best_epoch, weights_sha256 and the validation scores of the best epoch, such as validation_nll. If another
        command leads the training (see `launch`), nothing is written, and replicas and history_sha256 are missing.

    Raises:
        InputError: the data or the recipe cannot be used, or another process trains this member.
        DivergedError: a loss became NaN or infinite.
        WorkerError: a process that trained a replica was killed.
    """
    from flows.data import dataset

    # Mistakes are found before torch and Lightning are loaded, which takes seconds.
    params.member(member)
    paths.refuse_links(f"models/{params.dataset}/{member}")
    part = launch(params.training)
    data = dataset.load(params.dataset)
    if len(data.validation_indices) < params.training.processes:
        raise InputError(
            f"{counted(len(data.validation_indices), 'validation image')} cannot be divided among "
            f"{params.training.processes} processes (training.devices × training.num_nodes in params.yaml)"
        )

    import torch

    from flows.tracking.member_runs import Tracker
    from flows.training.data_parallel import train_divided
    from flows.training.replicas import train_replicas

    # With a thread pool in this process, the first parallel operation in a forked process would hang.
    torch.set_num_threads(1)
    resolved = resolving.resolve(params, member, data.card, divided=part is not None)
    card, seeds = resolved.card, resolved.seeds
    unfinished = paths.unfinished_folder(params.dataset) / member
    work = unfinished / interrupted.fingerprint(resolved.replica_inputs, data.card["files"])
    if part and not part.leads:
        train_divided(card, seeds, work, launch=part)
        return card
    with interrupted.training_lock(unfinished):
        work.mkdir(parents=True, exist_ok=True)
        clock = interrupted.Clock(work / "seconds.json")
        tracker = Tracker(card, seeds, work)
        target = paths.model_folder(params.dataset, member)
        try:
            if part:
                fitted = train_divided(card, seeds, work, launch=part, tracker=tracker, clock=clock)
            else:
                fitted = train_replicas(
                    card, seeds, work,
                    jobs=resolved.jobs, devices=params.training.devices, tracker=tracker, clock=clock,
                )  # fmt: skip
            trained = member_files.write(target, card, seeds, fitted)
            file_io.write_json(
                paths.seconds_file(params.dataset, member),
                {
                    "weights_sha256": [replica["weights_sha256"] for replica in trained["replicas"]],
                    "seconds": round(clock.seconds(), 2),
                },
            )
        except BaseException as error:  # an interrupt as well; raised again
            tracker.fail(error)
            raise
        tracker.finish(target, clock.seconds())
        shutil.rmtree(work)
        interrupted.delete_old(unfinished)
    return trained


@click.command()
@click.argument("member")
def command(member: str) -> None:
    """Train the replicas of MEMBER, a name under `members` in params.yaml."""
    if launcher():  # a launcher that is killed leaves the commands that it has started running
        from flows.machine.orphans import die_with_parent

        die_with_parent()
    with processes.exit_on_sigterm():  # Python's default would leave the replicas running
        card = train(read(), member)
    if "replicas" not in card:
        return
    score = by_task.FIRST[names.task_of(card)]
    best = [score_text(score, replica[f"validation_{score}"]) for replica in card["replicas"]]
    replicas = counted(len(best), "replica")
    print(f"{member}: {replicas} of {card['parameters']:,} parameters, validation {score} {', '.join(best)}")


if __name__ == "__main__":
    run(command, libraries=True)
