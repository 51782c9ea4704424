"""What a flow shows at its end: results with links, and why each stage ran or did not."""

import json

from flows.access import running_servers
from flows.graph.repro import Outcome
from flows.orchestration import artifacts
from flows.orchestration.artifacts import Artifacts, account
from flows.params.params_file import read
from flows.tracking import mlflow_store, page_links

TRAINING = "?workflowType=machine_learning"  # of MLflow's two sets of pages
PAGES = {
    "experiment": "http://mlflow/#/experiments/1",
    "runs": {"small": "http://mlflow/#/experiments/1/runs/a", "ensemble": "http://mlflow/#/experiments/1/runs/b"},
    "model": "http://mlflow/#/models/digits/versions/3",
}


def test_results_link_to_the_runs_that_made_them(finished):
    params = read()
    text = account("digits abc", params, {"train@small": "never run"}, ["check"], {}, PAGES)
    assert "| [small](http://mlflow/#/experiments/1/runs/a) | 2 |" in text
    assert "\n| wide | 1 |" in text  # no run of it is known
    assert "*](http://mlflow/#/experiments/1/runs/b)" in text
    assert "[the model](http://mlflow/#/models/digits/versions/3)" in text


def test_every_stage_says_why_it_ran_or_did_not(project):
    outcomes = {"a": Outcome("a", 1.25), "b": Outcome("b", 2.0, "its command exited with 1", last_lines=("no room",))}
    why = {"a": "x|y: modified", "b": "after a", "c": "after b"}
    text = account("digits", read(), why, ["check"], outcomes, {})
    assert "| a | done | x\\|y: modified | 1.2 |" in text
    assert "| b | **failed** | after a | 2.0 |" in text
    assert "| c | **not run**, since what it needs failed | after b |  |" in text
    assert "| check | not run | up to date |  |" in text
    assert "**b failed**: its command exited with 1\n\n```\nno room\n```" in text
    assert "## Results" not in text  # nothing is measured


def test_a_thousand_stages_are_counted(project):
    text = account("digits", read(), {}, [f"train@m{number}" for number in range(1000)], {}, {})
    assert "| and 900 more |" in text
    assert text.count("up to date") == artifacts.MOST_ROWS


def test_an_artifact_that_is_not_taken_is_said_and_costs_nothing_more(project, monkeypatch):
    import prefect.artifacts

    tries = []

    def refuse(*arguments):
        tries.append(arguments)
        raise ConnectionError("the server is away")

    for name in ("create_progress_artifact", "create_markdown_artifact", "create_link_artifact"):
        monkeypatch.setattr(prefect.artifacts, name, refuse)
    said = []
    shown = Artifacts("fashion_mnist", said.append)
    for done in range(5):
        shown.progress(done, 5)
    assert len(tries) == 1
    assert tries[0][1] == "fashion-mnist-progress"  # Prefect takes no underscore in a key
    shown.results("text")
    assert said == ["Prefect did not take an artifact: the server is away"] * 2


def test_links_lead_to_the_newest_runs_and_model_where_mlflow_is_served(finished, monkeypatch):
    links = page_links.pages()
    assert links["experiment"].startswith("http://127.0.0.1:5000/#/experiments/")
    assert set(links["runs"]) == {"small", "wide", "ensemble"}
    client = mlflow_store.connect()
    for name, link in links["runs"].items():
        place, _, run_id = link.removesuffix(TRAINING).rpartition("/")
        assert links["experiment"].startswith(f"{place}{TRAINING}&viewStateShareKey=")  # with its columns
        tags = client.get_run(run_id).data.tags
        assert tags["trainyard.kind"] == ("ensemble" if name == "ensemble" else "member")
        assert tags.get("trainyard.member", "ensemble") == name
    assert links["model"] == f"http://127.0.0.1:5000/#/models/digits/versions/1{TRAINING}"

    monkeypatch.setattr(running_servers, "addresses", lambda: {"mlflow": "http://127.0.0.1:5055"})
    assert page_links.pages()["model"] == f"http://127.0.0.1:5055/#/models/digits/versions/1{TRAINING}"


def test_a_note_of_a_process_that_is_gone_does_not_count(project):
    assert running_servers.addresses() is None
    running_servers.note("http://127.0.0.1:1/api", "http://127.0.0.1:2")
    noted = running_servers.addresses()
    assert noted["prefect"] == "http://127.0.0.1:1/api"
    # Its number belongs to another process now.
    file = running_servers.folder() / "addresses.json"
    file.write_text(json.dumps({**noted, "process_started": float(noted["process_started"]) - 10}))
    assert running_servers.addresses() is None
    running_servers.forget()
    assert running_servers.addresses() is None
