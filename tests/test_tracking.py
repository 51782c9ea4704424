"""What MLflow's store holds of a run, and that no trouble with it costs a result."""

import functools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import LIMIT, edit, environment
from mlflow.entities import ViewType
from mlflow.store.entities import PagedList
from sqlalchemy.engine import Engine
from sqlalchemy.event import listen, remove

from flows.commands import champion, track
from flows.data import dataset
from flows.ensembles import late_registration
from flows.graph import dvc_graph
from flows.params.params_file import read
from flows.project import file_io, messages, paths
from flows.project import git as project_git
from flows.project.errors import InputError
from flows.retraining import committing
from flows.tracking import experiments, loading, member_runs, mlflow_runs, mlflow_store, page_links, provenance
from flows.tracking.registry import Registry
from flows.training import resolving
from lightning_modules import weights


def runs(kind: str) -> dict:
    """By name."""
    client = mlflow_store.connect()
    found = client.search_runs(
        [experiments.experiment(client, "digits")], f"tags.`trainyard.kind` = '{kind}'", run_view_type=ViewType.ALL
    )
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def test_a_run_per_replica_below_its_members_and_one_for_the_ensemble(finished):
    members, replicas, ensembles = runs("member"), runs("replica"), runs("ensemble")
    assert set(members) == {"small", "wide"}
    assert set(replicas) == {"small-0", "small-1", "wide-0"}
    assert set(ensembles) == {"ensemble"}
    for name, run in replicas.items():
        assert run.data.tags["mlflow.parentRunId"] == members[name.partition("-")[0]].info.run_id
    for run in (*members.values(), *replicas.values(), *ensembles.values()):
        assert run.info.status == "FINISHED"


def test_two_machines_that_begin_at_once_have_one_experiment(store, monkeypatch):
    client = mlflow_store.connect()
    created = client.create_experiment("digits")  # by the other machine, after this one has asked
    ask, first = client.get_experiment_by_name, iter([None])
    monkeypatch.setattr(client, "get_experiment_by_name", lambda name: next(first, ask(name)))
    assert experiments.experiment(client, "digits") == created


def test_params_are_the_recipe_and_the_settings(finished):
    for name, run in runs("replica").items():
        member, number = name.split("-")
        recipe = read().members[member]
        assert run.data.params["optimizer.lr"] == str(recipe.optimizer.lr)
        assert run.data.params["network.hidden"] == str(list(recipe.network.hidden))
        assert run.data.params["batch_size"] == "64"
        assert run.data.params["seed"] == str(resolving.replica_seed(0, member, int(number)))


def test_every_epoch_is_there_once_and_is_that_of_the_history(finished):
    client = mlflow_store.connect()
    for name, run in runs("replica").items():
        member, number = name.split("-")
        lines = (paths.model_folder("digits", member) / "history.csv").read_text().splitlines()
        rows = [dict(zip(lines[0].split(","), line.split(","))) for line in lines[1:]]
        for key in ("training_loss", "validation_nll", "validation_accuracy", "lr"):
            logged = client.get_metric_history(run.info.run_id, key)
            expected = {int(row["epoch"]): float(row[key]) for row in rows if row["replica"] == number}
            assert len(logged) == len(expected)
            assert {metric.step: metric.value for metric in logged} == pytest.approx(expected)


def test_tags_say_what_a_run_was_made_from(finished):
    for run in (*runs("member").values(), *runs("replica").values(), *runs("ensemble").values()):
        tags = run.data.tags
        assert tags["mlflow.source.git.commit"] == "none"  # test_repro.py looks at a repository's
        assert tags["trainyard.dvc_stage"] == "none"
        assert tags["trainyard.dataset"] == "digits"
        assert tags["trainyard.pid"] == (finished.parent / "made by").read_text()
        assert tags["trainyard.torch"] == torch.__version__
        for name in ("git_dirty", "data_hash", "host", "process_started", "python", *provenance.LIBRARIES):
            assert tags[f"trainyard.{name}"], name
    for name, run in runs("replica").items():
        member, number = name.split("-")
        assert run.data.tags["trainyard.device"] in ("cpu", "gpu")
        assert run.data.tags["trainyard.precision"] == "float32"
        assert run.data.tags["trainyard.seed"] == str(resolving.replica_seed(0, member, int(number)))


def test_evaluate_brings_its_scores_to_the_runs_of_the_replicas(finished):
    measured = file_io.read_json(paths.replica_scores_file("digits"))
    for name, run in runs("replica").items():
        member, number = name.split("-")
        for split in paths.SPLITS:
            shown = "best_validation" if split == "validation" else split
            for score, value in measured[member][int(number)][split].items():
                assert run.data.metrics[f"{shown}_{score}"] == pytest.approx(value)
    small = runs("member")["small"].data.metrics
    summary = file_io.read_json(paths.member_metrics_file("digits", "small"))
    assert small["test_accuracy"] == pytest.approx(summary["test"]["accuracy"])
    assert small["test_accuracy_std"] == pytest.approx(summary["test"]["accuracy_std"])
    ensemble = file_io.read_json(paths.ensemble_metrics_file("digits"))
    logged = runs("ensemble")["ensemble"]
    assert logged.data.metrics["test_nll"] == pytest.approx(ensemble["test"]["nll"])
    assert logged.data.metrics["gain_accuracy"] == pytest.approx(ensemble["gain"]["accuracy"])
    assert logged.data.params["method"] == ensemble["method"]


def test_a_replica_loads_from_its_run_and_predicts_the_same(finished):
    import mlflow

    images, _ = dataset.load("digits").split("test")
    _, [predictor] = weights.load(paths.model_folder("digits", "wide"))
    model = mlflow.pyfunc.load_model(f"runs:/{runs('replica')['wide-0'].info.run_id}/model")
    for count in (1, 7):
        expected = weights.predict(predictor, images[:count]).numpy()
        np.testing.assert_allclose(np.asarray(model.predict(images[:count])), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def nothing_stale(monkeypatch):
    """As after `dvc repro`; test_repro.py asks the real DVC."""
    monkeypatch.setattr(dvc_graph, "stale", lambda root: {})


def test_track_logs_what_an_outage_kept_back_once(finished_copy, nothing_stale):
    # The copied project's files are there, and its store is empty, as after an outage.
    assert not runs("replica")
    for _ in range(2):
        said = CliRunner().invoke(track.command, catch_exceptions=False).stdout
        assert "small: in sqlite:///" in said
        test_a_run_per_replica_below_its_members_and_one_for_the_ensemble(finished_copy)
        test_every_epoch_is_there_once_and_is_that_of_the_history(finished_copy)
        test_evaluate_brings_its_scores_to_the_runs_of_the_replicas(finished_copy)
    assert loading.champion("digits")["version"] == "1"


def history_of_scores() -> dict:
    """How often each run has each of the scores that evaluate and ensemble log."""
    client = mlflow_store.connect()
    return {
        (name, score): len(client.get_metric_history(run.info.run_id, score))
        for kind in ("member", "replica", "ensemble")
        for name, run in runs(kind).items()
        for score in ("test_accuracy", "test_nll", "best_validation_nll")
    }


def test_a_number_is_logged_once_however_often_it_is_measured(finished_copy, nothing_stale):
    from flows import evaluate

    for _ in range(2):
        CliRunner().invoke(track.command, catch_exceptions=False)
        evaluate.evaluate(read())
    assert set(history_of_scores().values()) == {1}
    scores = member_runs.Scores("digits")
    card = file_io.read_json(paths.model_folder("digits", "wide") / "member.json")
    scores.log("wide", card, [{"test_nll": 9.0}])  # another number is news
    scores.log("wide", card, [{"test_nll": float("nan")}])
    scores.log("wide", card, [{"test_nll": float("nan")}])
    assert history_of_scores()["wide-0", "test_nll"] == 3


def log_wide_alone() -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # of whoever started the process that forks
        os.environ.pop(name, None)
    log_wide()


def log_wide() -> None:
    card = file_io.read_json(paths.model_folder("digits", "wide") / "member.json")
    member_runs.Scores("digits").log("wide", card, [{"test_nll": 1.0}])


def test_several_at_once_make_one_run_for_a_training(finished_copy):
    context = multiprocessing.get_context("forkserver")
    started = [context.Process(target=log_wide_alone) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0] * 3
    assert set(runs("replica")) == {"wide-0"}  # names are there once, see `runs`
    assert set(runs("member")) == {"wide"}
    assert len(mlflow_store.connect().get_metric_history(runs("replica")["wide-0"].info.run_id, "test_nll")) == 1


def test_a_deleted_experiment_comes_back_with_its_runs_and_says_so(finished_copy, nothing_stale, capfd):
    CliRunner().invoke(track.command, catch_exceptions=False)
    client = mlflow_store.connect()
    client.delete_experiment(experiments.experiment(client, "digits"))
    capfd.readouterr()
    log_wide()
    said = capfd.readouterr().err
    assert "the experiment digits was deleted in MLflow" in said
    assert "cannot be used" not in said
    assert set(runs("replica")) == {"small-0", "small-1", "wide-0"}


def test_what_cannot_start_is_said_once(finished_copy, monkeypatch, capfd):
    def refuse(*_):
        raise ConnectionError("no such place")

    monkeypatch.setattr(member_runs.Tracker, "begin", refuse)
    scores = member_runs.Scores("digits")
    card = file_io.read_json(paths.model_folder("digits", "wide") / "member.json")
    scores.log("wide", card, [{"test_nll": 1.0}])
    assert scores.lost
    said = capfd.readouterr().err
    assert said.count("cannot be used") == 1
    assert "no such place" in said


def test_pages_say_the_result_first(finished):
    client = mlflow_store.connect()
    number = loading.champion("digits")["version"]
    place = client.get_experiment(experiments.experiment(client, "digits"))
    accuracy = file_io.read_json(paths.ensemble_metrics_file("digits"))["test"]["accuracy"]
    for text in (client.get_model_version("digits", number).description, place.tags["mlflow.note.content"]):
        assert f"{accuracy:.2%}" in text.splitlines()[0]
        assert "| wide |" in text
        assert "mlflow models serve" in text
        assert str(finished) not in text  # which may move
    assert [found.name for found in client.search_experiments()] == ["digits"]
    for run in (*runs("member").values(), *runs("replica").values(), *runs("ensemble").values()):
        [seen] = client.get_run(run.info.run_id).inputs.dataset_inputs
        assert seen.dataset.name == "digits"
        assert '"test": 360' in seen.dataset.profile or '"test": 359' in seen.dataset.profile
    links = page_links.pages()
    assert all(page_links.TRAINING in link for link in (links["experiment"], links["model"], *links["runs"].values()))


def test_a_description_that_a_person_wrote_stays(finished_copy, nothing_stale):
    client = mlflow_store.connect()
    place = experiments.experiment(client, "digits")
    client.set_experiment_tag(place, "mlflow.note.content", "mine")
    CliRunner().invoke(track.command, catch_exceptions=False)
    assert client.get_experiment(place).tags["mlflow.note.content"] == "mine"


def test_track_logs_nothing_that_is_stale(finished_copy, monkeypatch):
    monkeypatch.setattr(dvc_graph, "stale", lambda root: {"train@small": ["params.yaml seed: modified"], "check": []})
    monkeypatch.setattr(dvc_graph, "stages", lambda root: {"check": [], "train@small": [], "ensemble": ["train@small"]})
    said = CliRunner().invoke(track.command, catch_exceptions=False).stdout
    assert "stale: train@small." in said
    assert not runs("replica")


@pytest.fixture
def slow_server(monkeypatch) -> Iterator[str]:
    """A server that takes a second to answer."""

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(1)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address
        server.shutdown()


def test_a_server_that_is_busy_is_waited_for(project, slow_server, monkeypatch):
    """Reaching it, which is quick, has less time than answering: where members train a server may take long."""
    reach, answer = mlflow_store.PATIENCE
    assert reach <= 10 < 30 <= answer
    monkeypatch.setattr(mlflow_store, "PATIENCE", (0.5, LIMIT))
    assert mlflow_store.connect().tracking_uri == slow_server


def test_a_server_that_never_answers_is_not_waited_for_without_end(project, slow_server, monkeypatch):
    monkeypatch.setattr(mlflow_store, "PATIENCE", (0.5, 0.1))
    with pytest.raises(ConnectionError, match=slow_server):
        mlflow_store.connect()


def test_track_without_a_store_is_bad_input(finished_copy, no_store):
    with pytest.raises(InputError, match=no_store):
        CliRunner().invoke(track.command, catch_exceptions=False)


def test_track_before_anything_is_measured_says_so(project, store):
    said = CliRunner().invoke(track.command, catch_exceptions=False).stdout
    assert "nothing is measured on digits yet" in said


def test_runs_of_dead_processes_are_ended_and_those_of_live_ones_left(project, store):
    client = mlflow_store.connect()
    place = experiments.experiment(client, "digits")
    own = provenance.provenance("digits")
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    tags = {
        "alive": own,
        "dead": own | {"trainyard.pid": gone.stdout.decode().strip()},
        # The number is taken again, by a process that began later.
        "reused": own | {"trainyard.process_started": str(psutil.Process().create_time() - 100)},
        "elsewhere": own | {"trainyard.host": "another machine", "trainyard.pid": gone.stdout.decode().strip()},
        "not ours": {},
    }
    made = {name: client.create_run(place, run_name=name, tags=own).info.run_id for name, own in tags.items()}
    assert sorted(mlflow_runs.end_stale_runs()) == ["dead", "reused"]
    status = {name: client.get_run(run).info.status for name, run in made.items()}
    assert status == {
        "alive": "RUNNING", "dead": "KILLED", "reused": "KILLED", "elsewhere": "RUNNING", "not ours": "RUNNING",
    }  # fmt: skip
    assert mlflow_runs.end_stale_runs() == []


def test_stale_runs_are_ended_however_many_there_are(project, store, monkeypatch):
    client = mlflow_store.connect()
    place = experiments.experiment(client, "digits")
    gone = provenance.provenance("digits") | {"trainyard.process_started": "0"}
    for number in range(7):
        client.create_run(place, run_name=f"dead-{number}", tags=gone)
    search = type(client).search_runs
    small = functools.partialmethod(search, max_results=3)  # a page of MLflow's holds a thousand
    monkeypatch.setattr(type(client), "search_runs", small)
    assert len(mlflow_runs.end_stale_runs()) == 7
    assert mlflow_runs.end_stale_runs() == []


def test_after_an_empty_page_the_next_one_is_asked_for(monkeypatch):
    """A store may go through some runs at a time, and find none that match among them."""
    pages = {None: PagedList([], "a"), "a": PagedList([], "b"), "b": PagedList([], None)}
    asked = []

    def search_runs(places, filter_string, page_token):
        asked.append(page_token)
        return pages[page_token]

    client = SimpleNamespace(search_experiments=list, search_runs=search_runs)
    monkeypatch.setattr(mlflow_store, "connect", lambda: client)
    assert mlflow_runs.end_stale_runs() == []
    assert asked == [None, "a", "b"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_ends_as_killed_wherever_the_interrupt_meets_the_store(project, store, number):
    settings = {"accelerator": "cpu", "precision": "float32"}
    card = {"member": "small", "dataset": "digits", "seed": 0, "recipe": {}, "settings": settings}
    tracker = member_runs.Tracker(card, [1])
    tracker.start()
    sent = []

    def interrupt(connection, cursor, statement, *others):
        if not sent and statement.startswith("SELECT"):
            sent.append(statement)
            os.kill(os.getpid(), number)

    def terminate(*_):
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, terminate)
    listen(Engine, "after_cursor_execute", interrupt)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
            tracker.epoch(0, {"epoch": 1, "training_loss": 9.0})
        tracker.fail(stopped.value)
    finally:
        remove(Engine, "after_cursor_execute", interrupt)
        signal.signal(signal.SIGTERM, before)
    assert sent
    assert not tracker.lost
    replica = mlflow_store.connect().get_run(tracker.ids["0"])
    assert (replica.info.status, replica.data.tags["trainyard.error"]) == ("KILLED", "interrupted")
    assert replica.data.metrics == {"training_loss": 9.0}


def test_epochs_that_were_kept_back_are_logged_together(project, store):
    """A request for each epoch of each of a thousand replicas would take minutes."""
    settings = {"accelerator": "cpu", "precision": "float32"}
    card = {"member": "small", "dataset": "digits", "seed": 0, "recipe": {}, "settings": settings}
    tracker = member_runs.Tracker(card, [1, 2])
    tracker.start()
    tracker.epoch(0, {"epoch": 1, "training_loss": 9.0, "validation_accuracy": 0.5, "lr": 0.1})
    numbers = [(replica, epoch, epoch / 7, epoch / 900, 0.1) for replica in range(2) for epoch in range(1, 401)]
    lines = ["replica,epoch,training_loss,validation_accuracy,lr", *(",".join(map(str, row)) for row in numbers)]
    (project / "history.csv").write_text("\n".join(lines))
    asked = []
    log_batch = tracker.client.log_batch
    tracker.client.log_batch = lambda run, metrics: (asked.append(len(metrics)), log_batch(run, metrics=metrics))
    tracker.complete(project / "history.csv")
    assert sum(asked) == (399 + 400) * 3
    assert len(asked) == 4
    for number, first in (("0", 9.0), ("1", 1 / 7)):
        logged = {
            one.step: one.value for one in tracker.client.get_metric_history(tracker.ids[number], "training_loss")
        }
        assert logged == pytest.approx({epoch: epoch / 7 for epoch in range(1, 401)} | {1: first})


def test_the_datas_hash_is_that_of_the_lock(project):
    assert provenance.data_hash("digits") == "none"
    outs = [{"path": "data/digits", "hash": "md5", "md5": "abc.dir", "size": 1, "nfiles": 6}]
    download = {"cmd": "python -m flows.download", "params": {"params.yaml": {"seed": 0}}, "outs": outs}
    other = {"cmd": "x\n  download:\n", "outs": [{"path": "data/digits", "md5": "of another stage"}]}
    for stages in ({"download": download}, {"before": other, "download": download, "train@download": other}):
        (project / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
        assert provenance.data_hash("digits") == "abc.dir"
        assert provenance.data_hash("mnist") == "none"
    (project / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"before": other}}))
    assert provenance.data_hash("digits") == "none"


@pytest.mark.parametrize(
    "uri", ["postgresql+psycopg2://me:se%40cret@127.0.0.1:9/mlflow", "http://me:secret@127.0.0.1:9"]
)
def test_a_password_in_the_address_is_not_shown(project, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for command in (champion.command, track.command):
        done = CliRunner().invoke(command, catch_exceptions=True)
        said = f"{done.output} {done.exception}"
        assert "127.0.0.1:9" in said
        assert "cret" not in said


def test_six_processes_open_a_new_store_at_once(project):
    context = multiprocessing.get_context("forkserver")
    started = [context.Process(target=experiments.prepare) for _ in range(6)]
    for process in started:
        process.start()
    for process in started:
        process.join(LIMIT)
    assert [process.exitcode for process in started] == [0] * 6
    assert [found.name for found in mlflow_store.connect().search_experiments()].count("digits") == 1


def test_a_queued_experiment_logs_to_the_project_that_it_was_queued_in(project, monkeypatch):
    copy = project / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(project / name, copy)
    outer = mlflow_store.store()
    assert outer == f"sqlite:///{project / 'mlflow.db'}"
    monkeypatch.chdir(copy)
    assert mlflow_store.store() == outer
    monkeypatch.chdir(Path(copy.anchor))
    with pytest.raises(InputError, match="run this inside a Trainyard project"):
        mlflow_store.store()


def test_an_epoch_that_a_resumed_training_comes_to_again_is_logged_once(project, store):
    settings = {"accelerator": "cpu", "precision": "float32"}
    card = {"member": "small", "dataset": "digits", "seed": 0, "recipe": {}, "settings": settings}
    # In a process that begins again, and where a worker was killed: there one tracker hears of them again.
    for epochs in (range(1, 4), [*range(2, 5), *range(3, 6)]):
        tracker = member_runs.Tracker(card, [1], project)
        tracker.start()
        for epoch in epochs:
            tracker.epoch(0, {"epoch": epoch, "training_loss": epoch / 7, "lr": 0.1})
    for name in ("training_loss", "lr"):
        assert [metric.step for metric in tracker.client.get_metric_history(tracker.ids["0"], name)] == [1, 2, 3, 4, 5]


def test_a_resumed_training_with_one_replica_more_has_a_run_for_it(project, store, empty_store, monkeypatch):
    settings = {"accelerator": "cpu", "precision": "float32"}
    card = {"member": "small", "dataset": "digits", "seed": 0, "recipe": {}, "settings": settings}
    first = member_runs.Tracker(card, [1, 2], project)
    first.start()
    second = member_runs.Tracker(card, [1, 2, 3], project)
    second.start()
    assert not second.lost
    assert first.ids.items() < second.ids.items()
    assert set(second.ids) == {"member", "0", "1", "2"}
    # In another store there is none of them: all are made anew.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, project / 'other.db')}")
    third = member_runs.Tracker(card, [1, 2], project)
    third.start()
    assert not third.lost
    assert set(third.ids.values()).isdisjoint(second.ids.values())


def test_a_mistake_of_ours_is_no_trouble_of_the_registry(project, store, monkeypatch):
    monkeypatch.setattr(mlflow_store, "store_exists", None)
    with pytest.raises(TypeError, match="not callable"):
        Registry("digits").aliases()


def test_dirty_is_what_a_person_changed_and_not_what_stages_write(project):
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=project, env=environment(), check=True, capture_output=True)

    assert project_git.commit(project) is None
    assert project_git.is_dirty(project)
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = project_git.commit(project)
    assert len(commit) == 40
    assert commit.startswith(project_git.commit(project, short=True))
    assert not project_git.is_dirty(project)
    (project / "dvc.lock").write_text("schema: '2.0'\n")
    (project / "metrics").mkdir()
    (project / "metrics" / "new.json").write_text("{}")
    assert not project_git.is_dirty(project)
    edit(project, lambda content: content.update(seed=1))
    assert project_git.is_dirty(project)
    assert project_git.commit(project) == commit


def test_a_machine_without_git_is_said_by_who_needs_it_alone(project, monkeypatch):
    monkeypatch.setenv("PATH", os.fspath(project))
    assert project_git.commit(project) is None
    assert project_git.is_dirty(project)
    assert project_git.differing(project, "params.yaml") == []
    with pytest.raises(InputError, match="git is not installed"):
        committing.refuse_impossible(project)


def test_an_ensemble_that_is_not_registered_is_named_by_all_who_ask(finished_copy, nothing_stale):
    """As after an outage of MLflow, or where the experiment was deleted."""
    from flows.commands import status

    assert "trainyard track" in late_registration.not_registered(read())
    assert "not registered" in status.status(finished_copy)["not_registered"]
    CliRunner().invoke(track.command, catch_exceptions=False)
    assert late_registration.not_registered(read()) is None
    assert status.status(finished_copy)["not_registered"] is None


def test_another_users_repository_is_said_with_gits_own_cure(project, monkeypatch, capfd):
    subprocess.run(["git", "init", "--quiet"], cwd=project, env=environment(), check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    messages.warn_once.cache_clear()
    for _ in range(2):
        assert project_git.commit(project) is None
        assert project_git.is_dirty(project)
    said = capfd.readouterr().err
    assert said.count("safe.directory") == 1
    with pytest.raises(InputError, match=r"safe.directory"):
        committing.refuse_impossible(project)
