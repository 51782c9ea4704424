"""The flow behind the deployment `incoming`: retrains as soon as labelled images lie in data/incoming/.

Reads   data/incoming/, and the notes of a retrain that has not ended: of the dataset that params.yaml names
Writes  what `flows.retrain` writes, and nothing where there is nothing to do

It is a flow on a short schedule, not a process that watches the folder: it finds what arrived while everything was
down, needs nothing to be started beside the worker, and its last look can be seen on Prefect's page. A look at
an empty folder takes a second or two.
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
):
    """Retrains where images wait in data/incoming/, or what was taken in has not come to its end, since it was killed
    or MLflow was away for example; else it ends at once, and says so."""
    if not (incoming.is_something_to_do() or Place(paths.root(), None, fresh_seed=False).left):
        files = len(incoming.waiting())
        said = f"{counted(files, 'file')} in data/incoming/ may still be copied" if files else "data/incoming/ is empty"
        return Completed(name="Skipped", message=said)
    from flows.retrain_flow import retrain

    ended = retrain(
        workers=workers, fresh_seed=False, promote=promote, push=push, commit=commit, time_limit=time_limit,
        return_state=True,
    )  # fmt: skip
    # Of the state of another run Prefect would make "All states completed", or failed, and keep no word of it.
    return State(type=ended.type, name=ended.name, message=ended.message)
