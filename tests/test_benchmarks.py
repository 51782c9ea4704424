"""Benchmarks at a tiny size: every one gives whole rows, and every side of a comparison learns."""

import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from benchmarks import __main__ as table
from benchmarks import (
    aside,
    data,
    data_path,
    growth,
    logged_run,
    measure,
    memory,
    replicas,
    share,
    sides,
    stacks,
    start,
    step,
    studies,
    training,
)
from benchmarks.growing import made, store
from flows.data import dataset, sources
from flows.params import params_file
from flows.params.recipes import Member
from flows.project.errors import InputError
from flows.studies import specification
from flows.studies.variants import variants
from flows.tracking import experiments, mlflow_runs, mlflow_store
from lightning_modules.fit import fit

SMALL = training.MLP | {"network": {"name": "mlp", "hidden": [32]}}
NARROW = SMALL | {"network": {"name": "cnn", "channels": [8] * 5, "hidden": 32}, "dropout": 0.0}
BURN = "import time\nwhile time.process_time() < 0.4: pass"


@pytest.fixture(scope="module")
def digits() -> data.Data:
    return data.get("digits").head(600, 200)


def assert_whole(rows: list[dict]) -> None:
    assert rows
    for row in rows:
        assert set(row) <= {*table.COLUMNS, "measured"}
        assert row["what"]
        assert row["ours"]
        assert 0 <= row["load"] <= 1
        assert ("goal" in row) == ("reached" in row)
        assert "\n" not in " ".join(table.cells(row))
    json.dumps(rows)


def test_a_child_that_has_ended_is_no_foreign_load():
    before = measure.own_seconds()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert measure.own_seconds() - before > 0.3  # the clock ticks every 10 ms


def test_a_process_of_others_is_foreign_load(tmp_path):
    # The shell ends at once, so that what it has started is nobody's child.
    done = tmp_path / "done"
    orphan = [f"({sys.executable} -c '{BURN}'; touch {done.name}) &"]
    with measure.ForeignLoad() as load:
        start = time.perf_counter()
        subprocess.run(orphan, shell=True, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
        while not done.exists():
            time.sleep(0.01)
        wall = time.perf_counter() - start
    assert load.share * wall * psutil.cpu_count() > 0.3


def test_two_ways_are_run_in_turn_and_compared_pair_by_pair(monkeypatch):
    calls = []
    seconds = iter([1.0, 2.0, 10.0, 30.0, 2.0, 2.0])
    monkeypatch.setattr(measure, "timed", lambda action: (next(seconds), action()))
    times = measure.in_turn(lambda: calls.append("A"), lambda: calls.append("B"), runs=3)
    assert calls == ["A", "B"] * 4
    assert (times["ratio_min"], times["ratio"], times["ratio_max"]) == (1, 2, 3)
    assert (times["ours"], times["other"]) == (2, 2)


@pytest.mark.parametrize(("ratio", "noise"), [(0.95, True), (1.05, True), (1.2, False), (0.8, False)])
def test_less_than_a_tenth_is_said_to_be_noise(ratio, noise):
    assert measure.ratio({"ratio": ratio, "ratio_min": ratio, "ratio_max": ratio}).endswith("noise") == noise


def row_of(ours: list[float], other: list[float], chance: float | None = 0.1) -> dict:
    times = {key: 1.0 for side in ("ours", "other", "ratio") for key in (side, f"{side}_min", f"{side}_max")}
    times |= {"load": 0.0, "ours_returned": ours, "other_returned": other}
    return measure.compared("x", times, goal=2.0, chance=chance)


def test_a_fast_wrong_answer_reaches_no_goal():
    assert row_of([0.95, 0.96], [0.96, 0.95])["reached"]
    assert row_of([0.99, 0.98], [0.95, 0.94])["reached"]
    assert not row_of([0.90, 0.91], [0.95, 0.94])["reached"]
    assert not row_of([0.1, 0.1], [0.1, 0.1])["reached"]
    guessed = row_of([0.1, 0.1], [0.1, 0.1], chance=None)
    assert guessed["reached"]
    assert "accuracy" not in guessed


def test_the_table_leaves_empty_what_a_row_has_not(project, monkeypatch):
    rows = [{"what": "a", "ours": "1 s"}, {"what": "b", "ours": "2 s", "load": 0.034, "goal": "g", "reached": False}]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(data_path, "measure", lambda: rows)
    result = CliRunner().invoke(table.main, ["data_path"], catch_exceptions=False)
    assert "| a | 1 s |  |  |  |  |  |  |\n| b | 2 s |  |  |  | 3% | g | no |" in result.stdout
    assert "MLFLOW_TRACKING_URI" not in os.environ
    kept = json.loads((project / ".trainyard" / "benchmarks.json").read_text())
    assert kept["rows"] == rows
    assert {"device", "features", "cores", "threads", "torch", "commit"} <= set(kept["conditions"])


INTEL = "processor\t: 0\nmodel name\t: Fast 9\nflags\t\t: fpu avx2 avx512f amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"
OTHER = "processor\t: 0\nFeatures\t: fp asimd\n"


@pytest.mark.parametrize(
    ("said", "limits", "expected"),
    [
        (INTEL, {}, "avx2 avx512 amx"),
        (INTEL, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avx2 avx512 amx (with ONEDNN_MAX_CPU_ISA=AVX2)"),
        (OTHER, {}, "none of avx2 avx512 avx512_bf16 amx"),
        (None, {}, "none of avx2 avx512 avx512_bf16 amx"),
    ],
    ids=["amx", "held to avx2", "no x86", "no Linux"],
)
def test_the_table_names_what_the_processor_can(monkeypatch, tmp_path, said, limits, expected):
    if said:
        (tmp_path / "cpuinfo").write_text(said)
    monkeypatch.setattr(table, "Path", lambda name: tmp_path / Path(name).name)
    for name in table.LIMITS:
        monkeypatch.delenv(name, raising=False)
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    assert table.features() == expected
    assert table.processor() == ("Fast 9" if said is INTEL else platform.processor() or platform.machine())


def test_random_images_stand_in_and_claim_no_accuracy(project, monkeypatch):
    def absent(*arguments):
        raise InputError("cannot be reached")

    monkeypatch.setattr(sources, "read", absent)
    images = data.get("mnist")
    assert images.training[0].shape == (60_000, 28, 28, 1)
    assert not images.real
    assert images.chance is None
    assert "random" in images.remark


def test_what_is_held_out_is_what_ours_validates_on(digits):
    laid, validation = data.held_out_as_validation(digits)
    np.testing.assert_array_equal(laid.training[0][validation], digits.held_out[0])
    rest = np.delete(np.arange(len(laid.training[1])), validation)
    np.testing.assert_array_equal(laid.training[1][rest], digits.training[1])


@pytest.fixture
def told(digits, tmp_path) -> dict:
    return {
        **data.for_rivals(digits, tmp_path), "batch_size": 20, "epochs": 6, "recipe": SMALL, "threads": 1,
        "accelerator": "cpu", "tracking_uri": "",
    }  # fmt: skip


def test_the_bare_loop_learns(told):
    from benchmarks.rivals import bare_loop

    train = bare_loop.prepare(told)
    assert train(seed=0, precision="float32") > 0.8
    assert train(seed=0, precision="bfloat16") > 0.8


@pytest.mark.parametrize("recipe", [training.MLP, training.CNN], ids=["mlp", "cnn"])
def test_the_bare_loops_networks_are_ours(recipe):
    from benchmarks.rivals import bare_loop
    from lightning_modules import networks

    whole = Member.model_validate(recipe).model_dump()
    ours = networks.build(whole, (32, 32, 3), 10)
    build, sizes = bare_loop.network(whole)
    theirs = build((32, 32, 3), 10, **sizes, dropout=whole["dropout"])
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in theirs.parameters()]


@pytest.mark.parametrize("recipe", [SMALL, NARROW], ids=["mlp", "cnn"])
def test_keras_learns(told, recipe):
    pytest.importorskip("tensorflow", reason="needs the extra `bench`")
    from benchmarks.rivals import keras_fit

    train = keras_fit.prepare(told | {"recipe": recipe, "epochs": 10})
    first = train(seed=0, precision="float32")
    assert first > 0.5
    assert train(seed=0, precision="float32") == pytest.approx(first, abs=0.05), "it went on from where it had been"
    assert train(seed=0, precision="bfloat16") > 0.5


def test_keras_is_left_out_with_a_sentence_where_it_is_missing(digits, capsys, monkeypatch):
    monkeypatch.delenv(sides.KERAS, raising=False)
    monkeypatch.setattr(sides.importlib.util, "find_spec", lambda name: None)
    with sides.Sides(digits, SMALL, {"batch_size": 50, "epochs": 1}) as both:
        assert both.rival("keras_fit") is None
    assert sides.KERAS in capsys.readouterr().err


def test_a_side_that_fails_says_why(digits):
    with sides.Sides(digits, SMALL, {"batch_size": 50, "epochs": 1}) as both:
        bare = both.rival("bare_loop")
        for _ in range(2):
            with pytest.raises(RuntimeError, match="TypeError"):
                bare(no_such_argument=1)


@pytest.mark.long
def test_one_network_against_the_rivals(digits):
    rivals = {"usual_script": ("float32", "same"), "bare_loop": ("float32", "same")}
    rows = training.against("digits", digits, SMALL, 20, rivals, epochs=6, runs=1, threads=1)
    assert_whole(rows)
    for row in rows:
        assert min(row["measured"]["ours_returned"] + row["measured"]["other_returned"]) > 0.7


@pytest.mark.long
def test_networks_together(digits):
    rows = replicas.together("digits", digits, SMALL, 20, ("ours",), replicas=2, epochs=6, runs=1, threads=1)
    assert_whole(rows)
    assert min(rows[0]["measured"]["ours_returned"] + rows[0]["measured"]["other_returned"]) > 0.7


# Rates at which five epochs are too short: what a network has learned by then depends on all that it is trained with.
RATES = {"sgd": 0.03, "rmsprop": 0.002, "adam": 0.004}
SEEDS = range(3)
FEED = {"epochs": 5, "batch_size": 20}


@pytest.fixture(scope="module")
def learned(digits, tmp_path_factory) -> tuple[dict, dict]:
    """A study's settings for rivals, and the mean accuracy that ours reaches with each optimizer."""
    told = data.for_rivals(digits, tmp_path_factory.mktemp("rivals"))
    stored = {key: told[key] for key in ("mean", "std")} | {"class_names": digits.class_names, "threads": 1}
    reached = {}
    for name, rate in RATES.items():
        given = {"network": SMALL["network"], "optimizer": {"name": name, "lr": rate}}
        recipe = Member.model_validate(given).recipe
        fitted = [fit(recipe, digits.training, digits.held_out, seed=seed, **FEED, **stored) for seed in SEEDS]
        reached[name] = np.mean([one.history[-1]["validation_accuracy"] for one in fitted])
    return told | FEED | {"hidden": SMALL["network"]["hidden"], "rates": RATES, "threads": 1}, reached


@pytest.mark.parametrize("module", ["study_loop", "study_script", "study_keras"])
def test_a_rival_of_studies_trains_what_ours_trains(learned, module):
    if module == "study_keras":
        pytest.importorskip("tensorflow", reason="needs the extra `bench`")
    told, reached = learned
    train = importlib.import_module(f"benchmarks.rivals.{module}").prepare(told)
    for name in studies.OPTIMIZERS:
        accuracy = np.mean([train(seed=seed, optimizer=name) for seed in SEEDS])
        assert accuracy == pytest.approx(reached[name], abs=0.04), name


def test_what_stacking_gains_is_measured_for_each_size():
    [row] = stacks.measure(["64-32-10"], sizes=(1, 2, 3), rounds=1)
    assert re.fullmatch(r"2: [\d.]+, 3: [\d.]+", row["ratio"])
    assert row["measured"]["weights"] == 64 * 32 + 32 + 32 * 10 + 10
    assert row["goal"] == f"the rule is {row['measured']['rule']}"
    assert all(milliseconds > 0 for milliseconds in row["measured"]["milliseconds"].values())


def whole(trainings: int, seconds: float, accuracy: float = 0.9) -> studies.Whole:
    rows = [
        {"variant": studies.OPTIMIZERS[number % 3], "setting": "default", "validation_accuracy": str(accuracy)}
        for number in range(trainings)
    ]
    return studies.Whole(seconds, 10**9, rows)


def part(pace: float, accuracy: float = 0.9) -> studies.Part:
    return studies.Part(pace, 3, 3 / pace, {name: [accuracy, accuracy] for name in studies.OPTIMIZERS})


def test_a_part_of_a_rivals_work_is_reckoned_up_to_as_many_trainings_as_ours():
    rival = studies.Rival("x", 2.0, parts=[part(0.5), part(0.25)])
    row = studies.against(whole(60, 30.0), rival, 0.0)
    assert_whole([row])
    assert (row["measured"]["ratio_min"], row["measured"]["ratio"], row["measured"]["ratio_max"]) == (4, 6, 8)
    assert row["reached"]
    assert not studies.against(whole(60, 100.0), rival, 0.0)["reached"]
    worse = studies.against(whole(60, 30.0, accuracy=0.8), rival, 0.0)
    assert "NOT EQUAL" in worse["accuracy"]
    assert not worse["reached"]


def test_a_training_in_one_step_an_epoch_is_no_work_for_a_rival():
    given = whole(6, 1.0)
    given.trainings.append(given.trainings[0] | {"variant": "gradient_descent"})
    assert given.in_batches == 6


def test_a_smaller_study_has_to_be_as_much_faster():
    assert studies.ours("x", whole(340, 179.0), 0.0)[0]["reached"]
    assert not studies.ours("x", whole(170, 179.0), 0.0)[0]["reached"]
    assert studies.ours("x", whole(170, 89.0), 0.0)[0]["reached"]
    assert not studies.ours("x", whole(680, 181.0), 0.0)[0]["reached"]


def test_a_training_that_is_reported_twice_counts_once(tmp_path):
    file = tmp_path / studies.RESULTS / "trainings.csv"
    file.parent.mkdir(parents=True)
    file.write_text("variant,setting,value,seed\nadam,tuning,0.1,7\nadam,default,0.1,8\nadam,tuned,0.1,8\n")
    assert [one["setting"] for one in studies.trainings(tmp_path)] == ["default", "tuning"]


def test_the_memory_of_all_processes_counts_but_what_they_share_once(tmp_path):
    own = "import time, numpy; kept = numpy.ones(60_000_000, numpy.uint8); time.sleep(1.5)"
    (tmp_path / "alone.py").write_text(own)
    (tmp_path / "forks.py").write_text(own.replace("time.sleep", "import os; os.fork(); time.sleep"))
    (tmp_path / "two.py").write_text(
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {own!r}])\n{own}; child.wait()"
    )
    alone, forks, two = (studies.watched(name, cwd=tmp_path)[1] for name in ("alone", "forks", "two"))
    assert 60e6 < alone < 120e6
    assert alone - 10e6 < forks < alone + 30e6
    assert two > alone + 50e6
    (tmp_path / "fails.py").write_text("raise SystemExit('no such thing')")
    with pytest.raises(RuntimeError, match="no such thing"):
        studies.watched("fails", cwd=tmp_path)


@pytest.mark.long
def test_a_study_against_its_rivals():
    member = {"network": {"name": "mlp", "hidden": [16]}, "optimizer": {"name": "sgd"}, "epochs": 4, "batch_size": 64}
    tiny = {
        "about": "A test?", "dataset": "digits", "member": member, "seeds": 2, "baseline": "sgd",
        "vary": {"optimizer.name": list(studies.OPTIMIZERS)},
    }  # fmt: skip
    rows = studies.measure(tiny, part=0.1, runs=1)
    assert_whole(rows)
    assert rows[0]["measured"]["trainings"] == 6
    assert rows[1]["measured"]["bytes"] > 1e8
    for row in rows[2:-1]:
        assert min(min(found) for found in row["measured"]["ours"].values()) > 0.15
        assert all(min(found) > 0.15 for one in row["measured"]["parts"] for found in one["accuracies"].values())


@pytest.mark.parametrize(
    ("changes", "optimizers", "said"),
    [
        ({"dropout": 0.5}, studies.OPTIMIZERS, "with dropout 0.0, but the study with 0.5"),
        ({"network": {"name": "mlp", "hidden": [8], "batch_norm": True}}, studies.OPTIMIZERS, "with network"),
        ({"optimizer": {"name": "sgd", "weight_decay": 0.1}}, studies.OPTIMIZERS, "with weight_decay 0.0"),
        ({}, ["sgd", "nag"], "no variant rmsprop"),
    ],
    ids=["recipe", "network", "optimizer", "variant"],
)
def test_a_study_that_the_rivals_do_not_train_is_refused(tmp_path, changes, optimizers, said):
    member = {"network": "mlp", "optimizer": {"name": "sgd"}, "epochs": 4, "batch_size": 64} | changes
    study = specification.Study.model_validate({
        "about": "A test?", "dataset": "digits", "member": member, "baseline": "sgd",
        "vary": {"optimizer.name": list(optimizers)},
    })  # fmt: skip
    with pytest.raises(ValueError, match=said):
        studies.for_rivals(study, variants(study), tmp_path)


@pytest.mark.long
def test_what_lightning_costs(digits):
    rows = step.measure(digits, batch_size=10, epochs=1, runs=2)
    assert_whole(rows)
    assert min(rows[0]["measured"]["ours_ms"]) > 0


@pytest.mark.long
def test_a_logged_run(digits):
    feed = {"epochs": 10, "batch_size": 20, "augment": "none"}
    row = logged_run.logged_run("digits", digits, SMALL, feed, reach=0.7, goal=1000.0, seeds=1)
    assert_whole([row])
    assert row["reached"]


def test_the_data_path():
    assert_whole(data_path.measure(count=400))


def account(command: str, spent: dict, pid: int = 1, **more) -> dict:
    started, ended = more.pop("from_to", (0.0, sum(spent.values())))
    return {"command": ["-m", *command.split()], "when": "end", "pid": pid, "parent": 0, "started": started,
            "ended": ended, "spent": spent, "calls": [], **more}  # fmt: skip


def test_what_a_repro_takes_is_itemised_without_a_rest():
    stage = account(
        "flows.train mlp", {"own": 6.0, "import torch": 1.0, "MLflow": 2.0}, 7, calls=[["MLflow", 3.0, 4.0]]
    )
    fit = {"when": "fit", "parent": 7, "from_to": (2.0, 7.0)}
    workers = [account("flows.train mlp", {"training": seconds, "Lightning": 0.5, "own": 1.0}, pid, **fit)
               for pid, seconds in ((8, 3.0), (9, 4.0))]  # fmt: skip
    dvc = account("dvc repro", {"own": 1.0, "waiting": 9.5})
    items = share.of_repro(11.0, [dvc, stage, *workers], epochs=1)
    assert items["training steps"] == 4.0, "the worker that takes longest"
    assert items["Lightning"] == 0.5
    assert items["MLflow"] == 2.0
    assert items["DVC"] == pytest.approx(1.5), "what is neither a stage nor waiting for one"
    assert items["processes that start and end"] == pytest.approx(0.5)
    assert sum(items.values()) == pytest.approx(11.0 + 1.0), "one second told MLflow something while others trained"
    ten = share.of_repro(11.0, [dvc, stage, *workers], epochs=10)
    assert ten["training steps"] == 40.0
    assert ten["DVC"] == items["DVC"]
    assert_whole(share.rows("x", items | {"Prefect": 3.0}, 0.0))


def test_what_dvc_does_not_take_of_a_pipeline_is_prefects():
    stages = [account("dvc --wait-for-lock repro --single-item check", {"own": 1.0}, pid) for pid in (1, 2)]
    assert share.of_pipeline(10.0, [account("flows.pipeline", {"own": 9.9}), *stages]) == 8.0


def test_a_repro_is_measured_with_one_epoch_and_told_for_all(tmp_path):
    epochs = share.prepare(tmp_path, "digits")
    shortened, whole = (params_file.read(root / "params.yaml") for root in (tmp_path, aside.PROJECT))
    assert shortened.feed.epochs == 1
    assert whole.data["digits"].epochs == epochs
    assert shortened.members == whole.members


@pytest.mark.long
def test_a_stages_time_is_charged_to_what_it_was_in(tiny):
    seconds, accounts = share.run(tiny, "flows.train", "small")
    (stage,) = (found for found in accounts if found["when"] == "end" and share.module(found) == "flows.train")
    fits = [found for found in accounts if found["when"] == "fit"]
    assert sum(stage["spent"].values()) == pytest.approx(stage["ended"] - stage["started"], rel=0.1)
    assert stage["ended"] - stage["started"] <= seconds
    assert {"import torch", "import mlflow", "MLflow", "MLflow epochs"} <= set(stage["spent"])
    assert fits
    assert all({"training", "Lightning"} <= set(found["spent"]) for found in fits)


HOLD = """
import sys
import numpy as np
mapped = np.load("inside/file.npy", mmap_mode="r")
seen, own = mapped.sum(), np.ones(20_000_000, np.uint8)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_processs_memory_is_its_own_and_what_it_has_mapped_of_a_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    np.save(tmp_path / "inside" / "file.npy", np.zeros(10_000_000, np.uint8))
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        own, mapped = memory.share(process.pid, tmp_path / "inside")
        assert memory.share(process.pid, tmp_path / "elsewhere") == (own, 0)
        process.stdin.close()
    assert 20e6 < own < 60e6
    assert mapped == pytest.approx(10e6, rel=0.01)


def test_what_images_take_is_set_against_their_decoded_size():
    added = memory.more(memory.Peak(own=30, mapped=20), memory.Peak(own=10, mapped=5))
    assert added.all == 35
    assert memory.row("x", added, 20)["reached"]
    assert not memory.row("x", added, 17)["reached"]


def test_random_images_make_a_dataset_that_stages_take(tmp_path, monkeypatch):
    monkeypatch.setitem(memory.COUNTS, "mnist", (50, 20))
    folder = memory.project(tmp_path / "copy", "mnist", "mlp")
    memory.write(folder, "mnist", memory.random_images("mnist"), 10)
    monkeypatch.chdir(folder)
    found = dataset.load("mnist")
    assert {name: len(found.labels(name)) for name in ("train", "validation", "test")} == found.card["counts"]
    assert found.card["counts"] == {"train": 40, "validation": 10, "test": 20}


def test_the_first_training_step_of_several_workers_counts(tmp_path):
    code = "import time; now = time.time(); print('first step', now + 9e3); print('x'); print('first step', now + 5e3)"
    assert 5000 < start.first_step(code, cwd=tmp_path) < 9000


def test_ways_to_start_are_taken_in_turn():
    calls = []
    found = start.in_rounds({name: lambda name=name: calls.append(name) or float(len(calls)) for name in "AB"})
    assert calls == ["A", "B"] * (measure.RUNS + 1)
    assert found["A"]["returned"] == [3.0, 5.0, 7.0, 9.0, 11.0]
    assert (found["A"]["min"], found["A"]["median"], found["A"]["max"]) == (3, 7, 11)


def points(exponent: float, **more) -> list[dict]:
    return [
        {"size": size, "seconds": 0.01 * size**exponent, "megabytes": 100.0, "load": 0.1, **more}
        for size in (10, 100, 1000)
    ]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_growths_exponent_is_that_of_the_size(exponent):
    row = growth.row("x", points(exponent))
    assert growth.slope(points(exponent), "seconds") == pytest.approx(exponent)
    assert growth.slope(points(exponent), "megabytes") == pytest.approx(0)
    assert f"e = {exponent:.2f} (last {exponent:.2f})" in row["ours"]
    assert row["reached"] == (exponent <= growth.LINEAR)
    assert growth.row("x", points(exponent, goal=11.0))["reached"] == (exponent <= 1)


def test_growth_is_told_by_the_largest_sizes():
    late = [point | {"seconds": seconds} for point, seconds in zip(points(1), (1.0, 1.0, 50.0))]
    assert growth.slope(late, "seconds") < growth.LINEAR
    assert not growth.row("x", late)["reached"]


@pytest.mark.long
@pytest.mark.parametrize(("kind", "sizes"), [("images", (40, 80)), ("parameters", (1_000, 2_000))])
def test_growth_at_tiny_sizes(kind, sizes):
    assert_whole(growth.measure({kind: sizes}, most_runs=1))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["replicas", "members", "runs"])
def test_growths_other_steps_can_be_taken(kind, tmp_path):
    with aside.Aside(f"benchmarks.growing.{kind}", {}, tmp_path) as grow:
        steps = grow(sizes=[2], most_runs=1)
    assert steps
    for (point,) in steps.values():
        assert point["size"] == 2
        assert point["seconds"] > 0
        assert point["megabytes"] > 0


def test_growths_copies_of_runs_are_found_as_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = made.make(tmp_path / "a project", made.tiny(1))
    (card,) = made.draw(settings)
    ids = store.log(card, tmp_path / "a project" / "models" / "digits" / card["member"])
    digests = made.other_digests(3)
    store.multiply(tmp_path / "a project" / "mlflow.db", ids, digests)
    client = mlflow_store.connect()
    place = experiments.experiment(client, "digits")
    runs = client.search_runs([place])
    assert len(runs) == len({run.info.run_id for run in runs}) == 2 * (1 + len(digests))
    original = client.get_run(ids["0"])
    for digest in digests:
        found = mlflow_runs.find_replicas(client, place, {"replicas": [{"weights_sha256": digest}]})
        parent, replica = (run.info.run_id for run in found)
        run = client.get_run(replica)
        assert {parent, replica}.isdisjoint(ids.values())
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.data.params == original.data.params
        assert run.data.metrics == original.data.metrics
        assert len(run.outputs.model_outputs) == len(original.outputs.model_outputs) == 1
        assert run.outputs.model_outputs[0].model_id != original.outputs.model_outputs[0].model_id
