"""The champion moves whole or not at all: killed at every write, without a registry, with a full disk, two at once."""

import collections
import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from conftest import LIMIT, environment, forget_stores, make_project, soon

from flows.project.errors import InputError, UnavailableError
from flows.promotion import alias_moves, decisions, promoting
from flows.promotion.promoting import promote, rollback, standing
from flows.tracking import experiments, mlflow_store
from flows.tracking.registry import Registry

WRITES = ("log_json", "set_version_tag", "set_tag", "set_alias")  # the methods of Registry that write
PROMOTED = {"champion": "2", "previous_champion": "1", "challenger": "2"}
BACK = {"champion": "1", "previous_champion": "2", "challenger": "2"}


def decision(challenger: str = "2", champion: str | None = "1", **more) -> dict:
    numbers = {
        "test_images": 360, "accuracy": {"challenger": 0.9, "champion": 0.8}, "p_exact": 0.001, "wins": 50,
        "losses": 14, "number": int(challenger),
    }  # fmt: skip
    return {
        "dataset": "digits", "verdict": "promote", "promote": True, "reasons": ["better by 10 points"],
        "challenger": challenger, "champion": champion, "test_sha256": "abc", "limits": {},
        "decided_at": "2026-01-02T03:04:05+00:00", "numbers": numbers, **more,
    }  # fmt: skip


def refusal(**more) -> dict:
    return decision(verdict="refuse", promote=False, reasons=["a tie"], **more)


def moves(tags: dict[str, str]) -> set[str]:
    """The model's tags but those that count decisions, which stay."""
    return {name for name in tags if not name.startswith(decisions.NOTE)}


def aliases() -> dict[str, str]:
    return Registry("digits").aliases()


def point(alias: str, version: str) -> None:
    """As a person does it in MLflow's pages."""
    mlflow_store.connect().set_registered_model_alias("digits", alias, version)


@pytest.fixture(scope="session")
def registered_once(tmp_path_factory, empty_store) -> Path:
    """A project whose registry holds three versions; the first is champion, the second its challenger."""
    folder = make_project(tmp_path_factory.mktemp("registered") / "a project")
    shutil.copy(empty_store, folder)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        forget_stores(patch)
        client = mlflow_store.connect()
        place = experiments.experiment(client, "digits")
        client.create_registered_model("digits")
        for _ in range(3):
            run = client.create_run(place).info
            client.create_model_version("digits", f"{run.artifact_uri}/model", run_id=run.run_id)
        client.set_registered_model_alias("digits", "champion", "1")
        client.set_registered_model_alias("digits", "challenger", "2")
    return folder


@pytest.fixture
def registered(registered_once, tmp_path, monkeypatch) -> Path:
    """Its copy, to change, and the working folder."""
    return fresh(registered_once, tmp_path / "a project", monkeypatch)


def fresh(source: Path, folder: Path, monkeypatch) -> Path:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("mlartifacts"))
    return enter(folder, monkeypatch)


def enter(folder: Path, monkeypatch) -> Path:
    monkeypatch.chdir(folder)
    forget_stores(monkeypatch)  # MLflow would go on with that of the folder before
    return folder


def consistent() -> None:
    """What has to hold at every moment."""
    now, tags = Registry("digits").describe()
    assert Registry("digits").version(now["champion"])
    assert now["champion"] in ("1", "2", "3")
    if "previous_champion" in now and alias_moves.MOVE not in tags:
        assert now["previous_champion"] != now["champion"]


# What a process does that a test starts: imported by name there.


def alone(folder: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
    os.chdir(folder)


def before_write(number: int, happens) -> None:
    """Lets `happens` be called before the write of that number, counted from 0."""
    done = 0

    def counted(method):
        def call(self, *arguments):
            nonlocal done
            if done == number:
                happens()
            done += 1
            return method(self, *arguments)

        return call

    for name in WRITES:
        setattr(Registry, name, counted(getattr(Registry, name)))


def power_fails() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def disk_fills() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def try_it(folder: Path, what: str, number: int, happens, answers=None) -> None:
    alone(folder)
    before_write(number, happens)
    try:
        promote("digits", decision()) if what == "promote" else rollback("digits")
    except UnavailableError:
        sys.exit(7)
    finally:  # what was printed may have to go to the full disk, and failing at that has an exit code, too
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def contend(folder: Path, given: dict, ready, answers, store: Path | None = None) -> None:
    alone(folder)
    if store:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}"
    mlflow_store.connect()
    ready.wait()
    try:
        answers.put((given["challenger"], promote("digits", given)))
    except InputError as error:
        answers.put((given["challenger"], str(error)))


@pytest.fixture(scope="module")
def processes():
    return multiprocessing.get_context("forkserver")


def told_apart() -> Iterator[int]:
    """The numbers of a promotion's writes, but for those tags of the version that come between the first and the last:
    none of them means anything by itself."""
    alike = range(2, 1 + len(promoting.tags_of(decision())))
    return (number for number in range(100) if number not in alike)


def ended(process) -> int:
    process.start()
    process.join(LIMIT)
    return process.exitcode


def test_a_promotion_keeps_the_champion_so_far_and_says_why(registered):
    assert promote("digits", decision()) == PROMOTED
    found = standing("digits")
    assert (found["champion"], found["previous_champion"], found["waiting"]) == ("2", "1", False)
    assert found["interrupted"] is None
    assert found["record"]["why"] == "gate"
    assert found["record"]["because"] == "better by 10 points"
    assert found["decision"] == decision()
    tags = Registry("digits").version("2")["tags"]
    assert tags["trainyard.gate.verdict"] == "promote"
    assert tags["trainyard.gate.accuracy"] == "0.9"
    assert tags["trainyard.gate.against"] == "1"
    assert json.loads(artifact("2").read_text()) == decision()


def artifact(version: str) -> Path:
    import mlflow

    run = Registry("digits").version(version)["run_id"]
    [found] = mlflow_store.connect().list_artifacts(run, "gate")
    return Path(mlflow.artifacts.download_artifacts(run_id=run, artifact_path=found.path))


def test_the_same_again_changes_nothing(registered):
    promote("digits", decision())
    before = standing("digits")
    assert promote("digits", decision()) == PROMOTED
    assert standing("digits") == before


def test_a_refusal_is_recorded_and_moves_nothing(registered):
    assert standing("digits")["waiting"]
    assert promote("digits", refusal()) == {"champion": "1", "challenger": "2"}
    assert not standing("digits")["waiting"]
    assert Registry("digits").version("2")["tags"]["trainyard.gate.reasons"] == "a tie"
    # Against another champion it is to be judged again.
    point("champion", "3")
    assert standing("digits")["waiting"]


def test_force_promotes_what_was_refused_and_the_reason_stays(registered):
    assert promote("digits", refusal(forced="the old one is too slow")) == PROMOTED
    assert standing("digits")["record"]["why"] == "force"
    assert standing("digits")["record"]["because"] == "the old one is too slow"
    assert Registry("digits").version("2")["tags"]["trainyard.gate.forced"] == "the old one is too slow"


def test_the_first_one_needs_no_champion(registered):
    mlflow_store.connect().delete_registered_model_alias("digits", "champion")
    assert promote("digits", decision(champion=None)) == {"champion": "2", "challenger": "2"}
    with pytest.raises(InputError, match="digits has no previous champion to go back to"):
        rollback("digits")


def test_a_decision_against_another_champion_is_none(registered):
    point("champion", "3")
    with pytest.raises(InputError, match=r"is version 3 by now, and was version 1 when this was decided"):
        promote("digits", decision())
    assert aliases() == {"champion": "3", "challenger": "2"}
    assert decisions.DECISION not in Registry("digits").version("2")["tags"]


def test_a_rollback_changes_places_and_twice_is_none(registered):
    promote("digits", decision())
    assert rollback("digits") == BACK
    found = standing("digits")
    assert found["record"]["why"] == "rollback"
    assert found["record"]["instead_of"] == "2"
    assert not found["waiting"]
    assert rollback("digits") == PROMOTED


def test_a_rollback_without_a_previous_champion_is_refused(registered):
    with pytest.raises(InputError, match="digits has no previous champion to go back to"):
        rollback("digits")
    point("previous_champion", "1")
    with pytest.raises(InputError, match="version 1, the champion itself"):
        rollback("digits")
    assert aliases() == {"champion": "1", "previous_champion": "1", "challenger": "2"}


@pytest.mark.long
def test_the_power_fails_before_each_write_of_a_promotion(registered_once, tmp_path, monkeypatch, processes):
    seen = set()
    for number in told_apart():
        # A new place each time: this process keeps its connections to the old one.
        folder = fresh(registered_once, tmp_path / str(number), monkeypatch)
        code = ended(processes.Process(target=try_it, args=(folder, "promote", number, power_fails)))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        consistent()
        found = standing("digits")
        if not number:  # it failed between training and promotion: nothing is judged, and all see that
            assert found["waiting"]
        seen.add((found["champion"], found["previous_champion"], bool(found["interrupted"])))
        # Either it moves on, or the one before comes back.
        fresh(folder, tmp_path / f"{number} again", monkeypatch)
        if found["interrupted"]:
            assert rollback("digits") == BACK
        else:
            with pytest.raises(InputError, match="no previous champion"):
                rollback("digits")
        assert standing("digits")["interrupted"] is None
        enter(folder, monkeypatch)
        assert promote("digits", decision()) == PROMOTED
        found = standing("digits")
        assert found["interrupted"] is None
        assert found["record"]["version"] == "2"
        assert found["decision"] == decision()
    # Before anything moved, and in between.
    assert seen == {("1", None, False), ("1", None, True), ("1", "1", True), ("2", "1", True)}


def test_the_power_fails_before_each_write_of_a_rollback(registered, tmp_path, monkeypatch, processes):
    promote("digits", decision())
    for number in range(100):
        folder = fresh(registered, tmp_path / str(number), monkeypatch)
        code = ended(processes.Process(target=try_it, args=(folder, "rollback", number, power_fails)))
        if code == 0:
            break
        consistent()
        # Not turned round where it was already at it.
        assert rollback("digits") == BACK
        assert standing("digits")["interrupted"] is None
    assert number == 7


@pytest.mark.parametrize("number", range(1, 8))
def test_an_interrupt_after_each_write_of_a_rollback_takes_it_back(registered, number, monkeypatch):
    """By a person at a prompt, whose process lives on and would hold off all others."""
    promote("digits", decision())
    before, written = standing("digits"), []

    def interrupted(write):
        def call(self, *arguments):
            write(self, *arguments)
            written.append(arguments)
            if len(written) == number:
                raise KeyboardInterrupt

        return call

    with monkeypatch.context() as patch:
        for name in ("set_tag", "set_alias"):
            patch.setattr(Registry, name, interrupted(getattr(Registry, name)))
        with pytest.raises(KeyboardInterrupt):
            rollback("digits")
    after = standing("digits")
    if number < 7:  # the last one takes the announcement away: all is done
        assert after == before
    assert after["interrupted"] is None
    _, tags = Registry("digits").describe()
    assert not any(name.startswith(alias_moves.INTENT) for name in tags)


def test_the_disk_fills_before_each_write(registered_once, tmp_path, monkeypatch, processes):
    codes = []
    for number in told_apart():
        folder = fresh(registered_once, tmp_path / str(number), monkeypatch)
        codes.append(ended(processes.Process(target=try_it, args=(folder, "promote", number, disk_fills))))
        if codes[-1] == 0:
            break
        consistent()
        assert promote("digits", decision()) == PROMOTED
        assert standing("digits")["interrupted"] is None
    assert set(codes[:-1]) == {7}


def test_an_error_in_between_is_undone(registered, monkeypatch):
    promote("digits", decision())
    before = standing("digits")
    for number in range(100):
        with pytest.MonkeyPatch.context() as patch:
            for name in WRITES:
                patch.setattr(Registry, name, getattr(Registry, name))
            fails = iter([True])

            def breaks(fails=fails):
                if next(fails, False):
                    raise UnavailableError("the connection broke")

            before_write(number, breaks)
            try:
                assert rollback("digits") == BACK
                break
            except UnavailableError as error:
                said = str(error)
        assert "the connection broke" in said
        assert standing("digits") == before
        assert alias_moves.MOVE not in Registry("digits").describe()[1]
    assert number == 7


def test_who_moves_the_champion_in_between_wins(registered, monkeypatch):
    original = Registry.set_alias

    def meanwhile(self, alias, version):
        original(self, alias, version)
        if alias == "previous_champion":
            point("champion", "3")

    monkeypatch.setattr(Registry, "set_alias", meanwhile)
    with pytest.raises(InputError, match="somebody else made version 3 the champion of digits meanwhile"):
        promote("digits", decision())
    assert aliases()["champion"] == "3"
    assert standing("digits")["interrupted"] is None


def test_two_at_once_one_wins_and_the_other_is_told(registered, processes):
    ready, answers = processes.Barrier(2), processes.Queue()
    both = [processes.Process(target=contend, args=(registered, decision(one), ready, answers)) for one in ("2", "3")]
    for process in both:
        process.start()
    said = dict(answers.get(timeout=LIMIT) for _ in both)
    for process in both:
        process.join(LIMIT)
    [winner] = [version for version, answer in said.items() if isinstance(answer, dict)]
    [loser] = {"2", "3"} - {winner}
    assert f"is version {winner} by now" in said[loser]
    assert aliases() == {"champion": winner, "previous_champion": "1", "challenger": "2"}


def test_two_working_copies_of_one_registry_at_once_do_not_both_win(registered, tmp_path, processes):
    """Which share no lock: intents and announcements have to do."""
    other = make_project(tmp_path / "another copy")
    ready, answers = processes.Barrier(2), processes.Queue()
    store = registered / "mlflow.db"
    both = [
        processes.Process(target=contend, args=(folder, decision(one), ready, answers, store))
        for one, folder in (("2", registered), ("3", other))
    ]
    for process in both:
        process.start()
    said = dict(answers.get(timeout=LIMIT) for _ in both)
    for process in both:
        process.join(LIMIT)
    winners = [version for version, answer in said.items() if isinstance(answer, dict)]
    assert len(winners) <= 1
    assert aliases()["champion"] in (winners or ["1", "2", "3"])
    # Whoever was told to try again can, and all is as after one promotion.
    champion = aliases()["champion"]
    last = "2" if champion == "3" else "3"
    again = decision(last, champion)
    again["numbers"]["number"] = decisions.number_of(Registry("digits"), again["test_sha256"], last, champion)
    assert promote("digits", again)["previous_champion"] == champion
    assert standing("digits")["interrupted"] is None


class InMemory:
    """A registry that lets another machine have its turn before each read and write."""

    def __init__(self, aliases: dict[str, str], tags: dict[str, str]) -> None:
        self.dataset, self.now, self.tags, self.turn = "digits", aliases, tags, lambda: None

    def describe(self) -> tuple[dict[str, str], dict[str, str]]:
        self.turn()
        return dict(self.now), dict(self.tags)

    def aliases(self) -> dict[str, str]:
        return self.describe()[0]

    def version(self, number: str) -> dict:
        return {"version": number, "run_id": "run", "tags": {}}

    def set_alias(self, alias: str, version: str | None) -> None:
        self.set(self.now, alias, version)

    def set_tag(self, key: str, value: str | None) -> None:
        self.set(self.tags, key, value)

    def set(self, where: dict[str, str], key: str, value: str | None) -> None:
        self.turn()
        if value is None:
            where.pop(key, None)
        else:
            where[key] = value

    def set_version_tag(self, *arguments) -> None:
        pass

    def log_json(self, *arguments) -> None:
        pass


class Machines:
    """Two machines at one registry, each a thread that waits for its turn before it touches the registry: one runs at
    a time, and a seed says which."""

    def __init__(self, registry: InMemory, patch: pytest.MonkeyPatch) -> None:
        self.registry, self.here = registry, threading.local()
        self.go: dict[str, threading.Semaphore] = {}
        self.paused = threading.Semaphore(0)
        self.said: dict[str, object] = {}
        registry.turn = self.wait
        patch.setattr(alias_moves, "Registry", lambda dataset: registry)
        patch.setattr(alias_moves, "FileLock", lambda *arguments, **options: threading.Lock())  # a folder each
        patch.setattr(socket, "gethostname", lambda: self.here.name)

    def wait(self) -> None:
        self.paused.release()
        assert self.go[self.here.name].acquire(timeout=LIMIT)

    def run(self, name: str, what) -> None:
        self.here.name = name
        assert self.go[name].acquire(timeout=LIMIT)
        try:
            self.said[name] = what()
        except InputError as error:
            self.said[name] = error
        self.paused.release()

    def race(self, seed: int, **does) -> dict[str, object]:
        """What each returned or raised."""
        chance, self.said = random.Random(seed), {}
        self.go = {name: threading.Semaphore(0) for name in does}
        threads = [threading.Thread(target=self.run, args=item, daemon=True) for item in does.items()]
        for thread in threads:
            thread.start()
        while left := [name for name in does if name not in self.said]:
            self.go[chance.choice(left)].release()
            assert self.paused.acquire(timeout=LIMIT)
        for thread in threads:
            thread.join()
        return self.said


def test_machines_whose_steps_mix_in_any_order_do_not_both_win(project, monkeypatch):
    by = {"trainyard.host": "dead", "trainyard.pid": "1", "trainyard.process_started": "1.0", "time": 0.0}
    left_behind = {
        "before": {"champion": "0", "previous_champion": None}, "after": {"champion": "1", "previous_champion": "0"},
        "record": None, "since": "2026-01-02T03:04:05+00:00", "why": "gate", "because": "better", "by": by,
    }  # fmt: skip
    starts = [
        ({"champion": "1", "previous_champion": "0"}, {}),
        ({"champion": "0"}, {alias_moves.MOVE: json.dumps(left_behind)}),
        ({"champion": "1", "previous_champion": "0"}, {f"{alias_moves.INTENT}dead-1": json.dumps(by)}),
    ]
    others = {"promote": lambda: promote("digits", decision("3")), "rollback": lambda: rollback("digits")}
    won = collections.Counter()
    for seed in range(600):
        now, tags = map(dict, starts[seed % 3])
        registry = InMemory(now, tags)
        machines = Machines(registry, monkeypatch)
        other = others["rollback" if seed % 2 else "promote"]
        said = machines.race(seed, one=lambda: promote("digits", decision("2")), two=other)
        winners = [said[name] for name in ("one", "two") if isinstance(said[name], dict)]
        won[len(winners)] += 1
        machines.here.name = "three"
        registry.turn = lambda: None
        if not winners:  # at most what was left behind was finished
            with contextlib.suppress(InputError):
                rollback("digits")
            assert registry.now["champion"] in ("0", "1")
        if len(winners) == 2:  # one after the other
            assert winners == [{"champion": "2", "previous_champion": "1"}, {"champion": "1", "previous_champion": "2"}]
            assert other is others["rollback"]
        if winners:
            assert winners[-1] == registry.now
            assert json.loads(registry.tags[alias_moves.RECORD])["version"] == registry.now["champion"]
            assert moves(registry.tags) == {alias_moves.RECORD}
    assert won[1] > won[0] > 0


def test_the_same_twice_at_once_is_once(registered, processes):
    ready, answers = processes.Barrier(2), processes.Queue()
    both = [processes.Process(target=contend, args=(registered, decision(), ready, answers)) for _ in range(2)]
    for process in both:
        process.start()
    assert [answers.get(timeout=LIMIT)[1] for _ in both] == [PROMOTED, PROMOTED]
    for process in both:
        process.join(LIMIT)
    assert aliases() == PROMOTED


def test_another_machine_at_work_is_waited_for_and_a_dead_one_not(registered, monkeypatch):
    move = {
        "before": {"champion": "1", "previous_champion": None}, "after": {"champion": "2", "previous_champion": "1"},
        "record": None, "since": "2026-01-02T03:04:05+00:00", "why": "gate", "because": "better",
    }  # fmt: skip
    by = {"trainyard.host": "another", "trainyard.pid": "1", "trainyard.process_started": "1.0"}
    intent = f"{alias_moves.INTENT}another-1"

    def noted(tag: str, age: float) -> None:
        began = by | {"time": time.time() - age}
        Registry("digits").set_tag(tag, json.dumps(move | {"by": began} if tag == alias_moves.MOVE else began))

    for tag in (intent, alias_moves.MOVE):
        noted(tag, 0)
        with pytest.raises(UnavailableError, match="another promotion of digits is under way on another"):
            promote("digits", decision())
        assert aliases() == {"champion": "1", "challenger": "2"}
        noted(tag, 3600)
    noted(intent, -3600)  # that machine's clock was an hour ahead
    assert promote("digits", decision()) == PROMOTED
    assert moves(Registry("digits").describe()[1]) == {alias_moves.RECORD}


def test_what_somebody_moved_after_an_interruption_stays(registered):
    move = {
        "before": {"champion": "1", "previous_champion": None}, "after": {"champion": "2", "previous_champion": "1"},
        "record": None, "since": "2026-01-02T03:04:05+00:00", "why": "gate", "because": "better",
        "by": {"trainyard.host": socket.gethostname(), "trainyard.pid": str(os.getpid()), "time": 0},
    }  # fmt: skip
    Registry("digits").set_tag(alias_moves.MOVE, json.dumps(move))
    point("champion", "3")
    point("previous_champion", "1")
    assert rollback("digits") == {"champion": "1", "previous_champion": "3", "challenger": "2"}


def test_without_a_registry_nothing_is_promoted_and_later_it_is(registered, no_store, monkeypatch):
    for move in (lambda: promote("digits", decision()), lambda: rollback("digits"), lambda: standing("digits")):
        with pytest.raises(UnavailableError, match=no_store):
            move()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert aliases() == {"champion": "1", "challenger": "2"}
    assert promote("digits", decision()) == PROMOTED


def test_artifacts_that_cannot_be_written_move_nothing(registered):
    uri = mlflow_store.connect().get_run(Registry("digits").version("2")["run_id"]).info.artifact_uri
    artifacts = Path(unquote(urlparse(uri).path))
    shutil.rmtree(artifacts, ignore_errors=True)
    artifacts.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_text("no folder")
    try:
        with pytest.raises(UnavailableError):
            promote("digits", decision())
    finally:
        artifacts.unlink()
    assert aliases() == {"champion": "1", "challenger": "2"}
    assert promote("digits", decision()) == PROMOTED


def served(folder: Path, port: int) -> subprocess.Popen:
    """A real MLflow server on the project's store, which answers."""
    import requests

    command = [
        sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri",
        f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "mlartifacts"),
    ]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log, process_group=0)

    def answers() -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{port}/health", timeout=1).ok
        return False

    assert soon(answers), (folder / "server.log").read_text()
    return server


def stop(server: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.mark.long
def test_mlflows_server_dies_in_the_middle_and_comes_back(registered, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = served(registered, port)
    try:
        original = Registry.set_alias

        def dies(self, alias, version):
            if alias == "champion":
                stop(server)
            original(self, alias, version)

        with monkeypatch.context() as patch:
            patch.setattr(Registry, "set_alias", dies)
            with pytest.raises(UnavailableError, match="was interrupted"):
                promote("digits", decision())
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port}"):
            promote("digits", decision())
        server = served(registered, port)
        found = standing("digits")
        assert (found["champion"], bool(found["interrupted"])) == ("1", True)
        assert promote("digits", decision()) == PROMOTED
        assert standing("digits")["interrupted"] is None
    finally:
        stop(server)
