"""Links into MLflow's pages."""

from flows.access import running_servers
from flows.project.errors import InputError
from flows.tracking import descriptions, experiments, mlflow_runs, mlflow_store
from flows.untrusted import masking

# Of MLflow's two sets of pages: the other one opens, by default, on traces of chat models.
TRAINING = "workflowType=machine_learning"


def pages_address() -> str:
    """Where MLflow's pages are: the server that is the store, what `trainyard serve` has brought up, or else what
    `trainyard ui` opens when it is asked for no other port."""
    uri = mlflow_store.store()
    if uri.startswith(("http://", "https://")):
        return masking.address(uri).rstrip("/")
    there = running_servers.addresses()
    return there["mlflow"] if there else "http://127.0.0.1:5000"


def pages() -> dict:
    """Links into MLflow's pages for the dataset in params.yaml: `experiment`, `runs` (by member, and "ensemble"; the
    newest of each) and, where one is registered, `model`, its newest version.

    Raises:
        ConnectionError: the store's server does not answer.
    """
    from flows.params.params_file import read

    params = read()
    address, client = pages_address(), mlflow_store.connect()
    own = experiments.shown_experiment(client, params.dataset)
    place = f"{address}/#/experiments/{own}/runs"
    runs = {}
    for name in (*params.members, "ensemble"):
        kind = "ensemble" if name == "ensemble" else "member"
        which = f"tags.`trainyard.kind` = '{kind}'" + (
            f" and tags.`{mlflow_runs.MEMBER}` = '{name}'" if kind == "member" else ""
        )
        for found in client.search_runs([own], which, max_results=1):
            runs[name] = f"{place}/{found.info.run_id}?{TRAINING}"
    links = {"experiment": f"{address}/#{runs_page(own)}", "runs": runs}
    versions = client.search_model_versions(f"name = '{params.dataset}'", max_results=1)
    if versions:
        links["model"] = f"{address}/#/models/{params.dataset}/versions/{versions[0].version}?{TRAINING}"
    return links


def runs_page(experiment: str) -> str:
    """The list of an experiment's runs, with this project's columns: what follows # in its address."""
    return f"/experiments/{experiment}/runs?{TRAINING}&viewStateShareKey={descriptions.VIEW}"


def start_page(client) -> str:
    """Where a visitor of the pages begins: at the runs on the dataset in params.yaml, which may be wrong just now."""
    from flows.params.params_file import read

    try:
        return runs_page(experiments.shown_experiment(client, read().dataset))
    except InputError:
        return f"/experiments?{TRAINING}"
