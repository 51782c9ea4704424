"""The flow behind the deployment `incoming`: retrains as soon as there are labelled images in data/incoming/.

Reads   data/incoming/, and the note of an unfinished retrain of the dataset in params.yaml
Writes  what `flows.retrain` writes; nothing if there is nothing to do

It is a flow on a short schedule, not a process that watches the folder: it finds what arrived while everything was
down, needs no other process beside the worker, and Prefect's page shows when it last ran. With an empty folder it takes
a second or two.
"""

from prefect import flow
from prefect.states import Completed, State

from flows.orchestration import flow_report
from flows.project import paths
from flows.project.errors import counted
from flows.retraining import incoming
from flows.retraining.place import Place


def name() -> str:
    return f"incoming {flow_report.run_name()}"


@flow(name="watch", flow_run_name=name, persist_result=False)
def watch(
    workers: int | None = None,
    promote: bool = True,
    push: bool = True,
    commit: bool = False,
    time_limit: float | None = None,
) -> State:
    """Retrains if images wait in data/incoming/, or if the last retrain has not finished, since it was killed or MLflow
    was down for example. Else it ends at once, as Skipped."""
    if not (incoming.is_something_to_do() or Place(paths.root(), None, fresh_seed=False).left):
        files = len(incoming.waiting())
        said = f"{counted(files, 'file')} in data/incoming/ may still be copied" if files else "data/incoming/ is empty"
        return Completed(name="Skipped", message=said)
    from flows.retrain_flow import retrain

    ended = retrain(
        workers=workers, fresh_seed=False, promote=promote, push=push, commit=commit, time_limit=time_limit,
        return_state=True,
    )  # fmt: skip
    # A copy: from the state of another run Prefect would make its own, "All states completed", and drop the message.
    return State(type=ended.type, name=ended.name, message=ended.message)
