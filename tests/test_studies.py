"""Studies: what varies is put into the member, trials are paired and tuned fairly, and what is interrupted goes on."""

import copy
import datetime
import math

import numpy as np
import pytest
import yaml
from conftest import ROOT

from flows.data import sources
from flows.project.errors import InputError
from flows.studies import data, engine, gradients, specification, stacks, study, trials
from flows.studies import variants as variants_module
from flows.studies.trials import Tuning
from flows.studies.variants import variants
from lightning_modules import names, networks
from lightning_modules.images import Images

MEMBER = {
    "network": {"name": "mlp", "hidden": [8]},
    "optimizer": {"name": "adam", "lr": 0.01},
    "epochs": 2,
    "batch_size": 64,
}
TINY = {
    "about": "A test?",
    "dataset": "digits",
    "member": MEMBER,
    "vary": {"optimizer.name": ["sgd", "adam"]},
    "tune": {"optimizer.lr": "default"},
    "baseline": "sgd",
    "seeds": 2,
}


MANY = ("dropout", "label_smoothing", "regularization.l1", "regularization.l2", "regularization.mixup")


def given(**changes) -> specification.Study:
    return specification.Study.model_validate(copy.deepcopy(TINY) | changes)


@pytest.fixture
def place(project):
    """A project with the data of studies on digits, and one study, `tiny`."""
    (project / "studies").mkdir()
    write(project, TINY)
    data.write("digits", 0.2)
    return project


def rows_of(name: str = "tiny") -> list[dict]:
    """The rows that the study trains; it also writes what it found."""
    rows = []

    def keep(*given):
        rows.extend(run(*given))
        return rows

    run = engine.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "run", keep)
        study.study(name)
    return rows


def write(project, content: dict, repeats: dict | None = None) -> None:
    data = {"digits": {"test": 0.2}, "blobs": {"test": 0.2}}
    whole = {"data": data, "studies": {"tiny": content}, "repeats": repeats or {}}
    (project / "studies" / "studies.yaml").write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")


def without_seconds(rows: list[dict]) -> list[str]:
    """As text, in which NaN equals NaN."""
    return [repr({key: value for key, value in row.items() if "seconds" not in key}) for row in rows]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vary": {"optimizer.nam": ["sgd"]}}, r"unknown setting of optimizer adam \"nam\""),
        ({"vary": {"dropuot": [0.1, 0.2]}, "baseline": "0.1"}, r"unknown key \"dropuot\".*Did you mean \"dropout\""),
        ({"vary": {"optimizer.name": ["sgd", "adamm"]}}, r"variant 'adamm': .*unknown optimizer \"adamm\".*\"adam\""),
        ({"vary": {"optimizer.lr": [0.1, 0.2]}, "baseline": "0.1"}, r"optimizer.lr is both varied and tuned"),
        ({"seeds": 1}, r"1 is too few: the seed is the unit of comparison"),
        ({"baseline": "adamw"}, r"studies.tiny: baseline: unknown variant \"adamw\".*Known: adam, sgd"),
        ({"baseline": ""}, r"baseline is missing: name the variant to compare the others to, of sgd, adam$"),
        ({"member": MEMBER | {"optimizer": "adamm"}, "vary": {"dropout": [0, 0.1]}}, r"unknown optimizer [^;]* sgd$"),
        ({"vary": {"optimizer.name": ["sgd"]}}, r"a comparison needs two or more"),
        ({"vary": {"optimizer.name": ["sgd", "sgd"]}}, r"two variants are called 'sgd'"),
        ({"vary": {}}, r"give either `vary`"),
        ({"vary": {"optimizer.name": []}}, r"vary.optimizer.name is empty"),
        ({"tune": {"dropout": "default"}}, r"only optimizer.lr has a published default"),
        ({"tune": {"dropout": [0.1, 1.5]}}, r"variant 'sgd': dropout is 1.5"),
        ({"tune": {"dropout": [0.1]}}, r"tune.dropout has to list 2 to 100 different values"),
        ({"tune": {"dropout": [0, 0.1], "optimizer.lr": "default"}}, r"one at most can be tuned"),
        ({"tune": {"dropout": [0.1, 0.1, 0.2]}}, r"tune.dropout has to list 2 to 100 different values"),
        ({"tune": {"optimizer.lr": "default"}, "vary": {"optimizer": ["sgd", "adam"]}}, r"both varied and tuned"),
        ({"tune": {"activation": [1, 2]}}, r"activation is 'relu', and only numbers can be tuned"),
        ({"tune": {"batch_size": [32, 0.5]}}, r"batch_size is 0.5, but should be a whole number"),
        ({"member": MEMBER | {"optimizer": None}, "vary": {"dropout": [0, 0.1]}, "baseline": "0"}, r"optimizer"),
        ({"member": MEMBER | {"optimizer": {"name": "adam", "lr": "abc"}}, "tune": {}}, r"optimizer.lr is 'abc'"),
        ({"vary": {"dropout": [0, datetime.date(2020, 1, 1)]}, "baseline": "0"}, r"cannot be varied"),
        ({"variants": {"a\x1b": {}, "b": {}}, "vary": {}, "baseline": "b"}, r"cannot be a variant's name"),
        ({"vary": {key: [0, 0.1, 0.2] for key in MANY}, "tune": {}, "baseline": "x"}, r"243 variants are too many"),
        ({"basline": "sgd"}, r"unknown key \"studies.tiny.basline\". Did you mean \"studies.tiny.baseline\""),
        ({"validation": 0.6, "held_out": 0.5}, r"leave nothing to train on"),
        ({"member": {key: value for key, value in MEMBER.items() if key != "epochs"}}, r"member.epochs is missing"),
    ],
)
def test_bad_input_is_refused_before_training(place, changes, said):
    write(place, copy.deepcopy(TINY) | changes)
    with pytest.raises(InputError, match=said) as caught:
        study.study("tiny")
    assert "\n" not in str(caught.value)
    assert "studies.yaml" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["/tmp/else", "..", "x; touch pwned", "", "a.b", "-x", "A", "a" * 65, "a:b", "a b", "ä"]
)
def test_a_name_that_is_none_of_a_folder_is_refused(place, name):
    whole = {"data": {"digits": {"test": 0.2}}, "studies": {name: TINY}, "repeats": {}}
    (place / "studies" / "studies.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    with pytest.raises(InputError, match="a study's name has at most 64 lower-case letters"):
        study.study(name)


def test_a_number_names_the_variant_that_has_it(place):
    write(place, TINY | {"vary": {"dropout": [0, 0.1]}, "baseline": 0.1, "tune": {}})
    assert variants_module.read("tiny")[0].baseline == "0.1"


def test_a_mistake_in_another_study_is_none_of_its_business(place):
    whole = {"data": {"digits": {"test": 0.2}}, "studies": {"tiny": TINY, "broken": {"about": 5}, 7: None}}
    whole["repeats"] = {"again": {"of": "broken"}, "lost": {"of": "tinny"}}
    (place / "studies" / "studies.yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    assert [one.name for one in variants_module.read("tiny")[1]] == ["sgd", "adam"]
    for name in ("broken", "again"):
        with pytest.raises(InputError, match=r"studies.broken.about is 5"):
            variants_module.read(name)
    with pytest.raises(InputError, match=r"a study's name has at most"):
        variants_module.read("7")
    with pytest.raises(InputError, match=r"Known: 7, again, broken, lost, tiny"):
        variants_module.read("tiyn")


def test_the_studies_that_ship_are_valid():
    found = specification.read(ROOT / "studies" / "studies.yaml")
    assert len(found.studies) >= 11
    for name, one in found.every.items():
        assert len(variants(one)) > 1, name
        assert (one.dataset == "digits") == (name in found.studies), name


def test_a_repeat_has_what_it_does_not_say_from_what_it_repeats(place):
    again = {"of": "tiny", "dataset": "blobs", "seeds": 4}
    write(place, TINY, {"again": again})
    found = specification.study("again")
    assert found.model_dump() == specification.study("tiny").model_dump() | again
    assert specification.read().line("again") == ["tiny", "again"]
    assert specification.read().line("tiny") == ["tiny"]


@pytest.mark.parametrize(
    ("repeats", "said"),
    [
        ({"again": {"dataset": "blobs"}}, r"repeats.again.of is missing"),
        ({"again": {"of": "tinny", "dataset": "blobs"}}, r"repeats.again.of: unknown study \"tinny\". Did you mean"),
        ({"again": {"of": "again", "dataset": "blobs"}}, r"repeats.again.of: unknown study \"again\""),
        ({"again": {"of": "later", "dataset": "blobs"}, "later": {"of": "tiny"}}, r"repeats.again.of: unknown study"),
        ({"tiny": {"of": "tiny", "dataset": "blobs"}}, r"repeats.tiny has the name of a study"),
        ({"again": {"of": "tiny"}}, r"repeats.again.dataset is digits, as in what it repeats"),
        ({"again": {"of": "tiny", "dataset": "mnist"}}, r"repeats.again.dataset is mnist, but data.mnist is missing"),
        ({"again": {"of": "tiny", "dataset": "blobs", "baseline": "adam"}}, r"repeats.again.baseline is 'adam'"),
        ({"again": {"of": "tiny", "dataset": "blobs", "sedes": 3}}, r"unknown key \"repeats.again.sedes\""),
        ({"again": {"of": "tiny", "dataset": "blobs", "vary": {"dropuot": [0]}}}, r"studies.yaml: repeats.again: "),
        ({"again": None}, r"repeats.again is empty"),
        ([], r"repeats is \[\]"),
    ],
)
def test_a_repeat_that_cannot_be_is_refused(place, repeats, said):
    write(place, TINY, repeats)
    if repeats == []:
        file = place / "studies" / "studies.yaml"
        file.write_text(file.read_text().replace("repeats: {}", "repeats: []"))
    with pytest.raises(InputError, match=said) as caught:
        study.study("tiny" if "tiny" in repeats else "again")
    assert "\n" not in str(caught.value)


def test_a_repeat_is_compared_with_what_it_repeats(place):
    """Not before that has run; then in a table and in figures across the datasets."""
    member = MEMBER | {"network": {"name": "mlp", "hidden": [4]}}
    tuned = {"tune": {"optimizer.lr": [0.01, 0.1]}}
    write(place, TINY | tuned, {"again": {"of": "tiny", "dataset": "blobs", "member": member}})
    data.write("blobs", 0.2)
    with pytest.raises(InputError, match="again repeats tiny, which has not run"):
        study.study("again")
    first, second = study.study("tiny"), study.study("again")
    page = (place / "studies" / "results" / "again" / "verdicts.md").read_text(encoding="utf-8")
    differences = [f"{100 * found['adam'].comparison.interval.mean:+.2f}, " for found in (first, second)]
    [line] = [line for line in page.partition("## On digits and blobs")[2].splitlines() if line.startswith("| adam")]
    assert all(difference in line for difference in differences)
    figures = {file.name for file in (place / "studies" / "figures" / "again").iterdir()}
    assert {"heat_map.svg", "performance_profile.svg"} < figures
    assert "heat_map.svg" not in {file.name for file in (place / "studies" / "figures" / "tiny").iterdir()}


def test_an_unknown_study_is_named(place):
    with pytest.raises(InputError, match=r"unknown study \"tinny\". Did you mean \"tiny\""):
        study.study("tinny")


def test_a_varied_optimizer_brings_its_own_hyper_parameters_and_rate():
    member = MEMBER | {"optimizer": {"name": "adam", "lr": 0.5, "betas": [0.8, 0.9], "weight_decay": 0.1}}
    found = {one.name: one for one in variants(given(member=member, tune={}))}
    assert found["sgd"].at(None)[0]["optimizer"] == {
        "name": "sgd",
        "lr": names.LEARNING_RATES["sgd"],
        "weight_decay": 0.1,
    }
    assert found["adam"].at(None)[0]["optimizer"]["betas"] == [0.8, 0.9]


def test_a_grid_has_seven_rates_at_half_decades_around_the_default():
    sgd, _ = variants(given())
    assert sorted(sgd.grid) == pytest.approx([3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1, 3.16e-1])
    assert sgd.grid[0] == sgd.default == 0.01


def test_two_keys_vary_as_all_their_combinations():
    found = variants(given(vary={"dropout": [0, 0.5], "activation": ["relu", "tanh"]}, baseline="0, relu"))
    assert [one.name for one in found] == ["0, relu", "0, tanh", "0.5, relu", "0.5, tanh"]


def test_trials_are_paired_and_tuning_seeds_are_never_reported():
    first, second = (Tuning(given(), one).first() for one in variants(given()))
    assert [trial.seed for trial in first] == [trial.seed for trial in second]
    tuning = {trial.seed for trial in first if trial.setting == trials.TUNING}
    assert tuning.isdisjoint(trial.seed for trial in first if trial.setting != trials.TUNING)
    assert sum(trial.setting == trials.TUNING for trial in first) == 7


def learned(tuning: Tuning, best: float, worst: float | None = None) -> None:
    """Lets a tuning learn scores with an optimum at a value, and a divergence at another."""
    for trials_of in (tuning.first, lambda: tuning.tuning(tuning.wider())):
        round_ = trials_of()
        rows = [
            {
                "validation_accuracy": -abs(math.log(trial.value / best)),
                "validation_nll": 1.0,
                "diverged": trial.value == worst,
            }
            for trial in round_
        ]
        tuning.learn(round_, rows)


def test_torch_sees_each_recipe_once_before_training(monkeypatch):
    """Not once a seed."""
    from flows.training import resolving

    seen = []
    build_once = resolving.build_once

    def build(card: dict) -> int:
        seen.append(repr(card["recipe"]))
        return build_once(card)

    monkeypatch.setattr(resolving, "build_once", build)
    engine.grouped(given(seeds=5), variants(given()), [8, 8, 1], 10, "cpu")
    assert len(seen) == len(set(seen)) == 2 * 7


def test_the_bar_counts_the_epochs_of_votes_too():
    one, two = variants(given(vary={"replicas": [1, 3]}, baseline="1"))
    planned = [Tuning(given(), variant).planned() for variant in (one, two)]
    assert [engine.epochs_of(trials) for trials in planned] == [2 * (7 + 2 + 2), 3 * 2 * (7 + 2 + 2)]


def test_an_optimum_at_the_edge_widens_the_grid():
    sgd, _ = variants(given())
    inside, beyond, below = (Tuning(given(), sgd) for _ in range(3))
    learned(inside, best=0.1)
    assert len(inside.scores) == 7
    assert inside.best() == 0.1
    learned(beyond, best=1.0)
    assert beyond.best() == 1.0
    assert max(beyond.scores) == 3.16
    learned(below, best=1e-9)
    assert below.best() == min(below.scores) == 3.16e-5


def test_a_grid_of_the_users_is_not_widened():
    one, _ = variants(given(tune={"dropout": [0.0, 0.1, 0.2]}))
    tuning = Tuning(given(tune={"dropout": [0.0, 0.1, 0.2]}), one)
    rows = [{"validation_accuracy": trial.value, "validation_nll": 1.0, "diverged": False} for trial in tuning.first()]
    tuning.learn(tuning.first(), rows)
    assert tuning.best() == 0.2
    assert tuning.wider() == []


def test_what_diverges_is_never_chosen_and_the_default_wins_a_draw():
    sgd, _ = variants(given())
    tuning = Tuning(given(), sgd)
    rows = [
        {"validation_accuracy": 0.9, "validation_nll": 0.3, "diverged": trial.value == 0.1} for trial in tuning.first()
    ]
    tuning.learn(tuning.first(), rows)
    assert tuning.best() == 0.01
    assert tuning.scores[0.1] == (-math.inf, -math.inf)


@pytest.mark.parametrize("order", [1, -1])
def test_all_tuning_seeds_of_a_value_count_in_whichever_order_they_come(order):
    twice = given(tuning_seeds=2)
    sgd, _ = variants(twice)
    tuning = Tuning(twice, sgd)
    for trial in [trial for trial in tuning.first() if trial.setting == trials.TUNING][::order]:
        first = trial.seed == trials.seed_of(0, "tuning", 0)
        accuracy = {0.1: 0.99 if first else 0.5, 0.01: 0.8}.get(trial.value, 0.1)
        row = {"validation_accuracy": accuracy, "validation_nll": 1.0, "diverged": trial.value == 1.0 and first}
        tuning.learn([trial], [row])
    assert tuning.best() == 0.01
    assert tuning.scores[0.1][0] == pytest.approx(0.745)


def test_whole_numbers_stay_whole_and_numbers_in_quotes_are_numbers():
    member = MEMBER | {"optimizer": {"name": "adam", "lr": "1e-2"}}
    one, _ = variants(given(member=member, tune={"batch_size": [32, 64]}))
    assert [one.at(value)[1]["batch_size"] for value in one.grid] == [32, 64]
    one, _ = variants(given(member=member, tune={"replicas": [1, 2]}))
    assert [len(trial.seeds) for trial in Tuning(given(member=member, tune={"replicas": [1, 2]}), one).first()[:2]] == [
        1,
        2,
    ]


def test_the_default_of_a_list_is_the_members_own():
    one, _ = variants(given(tune={"label_smoothing": [0.1, 0.2, 0.3]}))
    assert one.default == 0.0


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("most", [1, 4, 32])
def test_stacks_divide_no_trial_and_lose_none(replicas, most):
    member = MEMBER | {"replicas": replicas}
    every = [trial for one in variants(given(member=member)) for trial in Tuning(given(member=member), one).first()]
    found = stacks.stacks(every, most)
    assert [trial for stack in found for trial in stack] == every
    assert max(sum(len(trial.seeds) for trial in stack) for stack in found) <= max(most, replicas) + replicas - 1


@pytest.mark.parametrize(
    ("network", "side", "size"),
    [
        ({"name": "mlp", "hidden": [32]}, 8, 32),
        ({"name": "mlp", "hidden": [128, 128]}, 8, 10),
        ({"name": "mlp", "hidden": [128]}, 28, 1),
        ({"name": "gru", "hidden": 32}, 8, 32),
        ({"name": "lenet"}, 8, 1),
    ],
)
def test_a_stack_is_as_large_as_its_shape_allows(network, side, size):
    recipe, shape = variants_module.checked("one", MEMBER | {"network": network}).recipe, [side, side, 1]
    weights = sum(parameter.numel() for parameter in networks.build(recipe, shape, 10).parameters())
    assert stacks.size(recipe, shape, 10, weights, "cpu") == size


@pytest.fixture
def small_stacks(monkeypatch):
    monkeypatch.setattr(stacks, "MOST", 6)


def test_an_interrupted_study_goes_on_to_the_same_rows(place, small_stacks, monkeypatch):
    whole = rows_of()
    kept = place / ".trainyard" / "studies" / "tiny"
    assert len(list(kept.glob("*.json"))) > 3
    for file in kept.iterdir():
        file.unlink()
    learn = engine.Group.learn

    def interrupt(group, stack, file, rows):
        learn(group, stack, file, rows)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Group, "learn", interrupt)
        with pytest.raises(KeyboardInterrupt):
            study.study("tiny")
    done = {file.name: file.stat().st_mtime_ns for file in kept.glob("*.json")}
    assert done
    assert without_seconds(rows_of()) == without_seconds(whole)
    assert {name: (kept / name).stat().st_mtime_ns for name in done} == done


def test_the_rows_of_one_core_are_those_of_two(place, small_stacks, monkeypatch):
    monkeypatch.setenv("TRAINYARD_JOBS", "2")
    two = rows_of()
    for file in (place / ".trainyard" / "studies" / "tiny").iterdir():
        file.unlink()
    monkeypatch.setenv("TRAINYARD_JOBS", "1")
    assert without_seconds(rows_of()) == without_seconds(two)


def test_a_study_that_ran_trains_nothing_again(place, monkeypatch):
    rows = rows_of()
    monkeypatch.setattr(engine, "train", lambda *_: pytest.fail("trained again"))
    assert repr(rows_of()) == repr(rows)


def test_the_same_seed_starts_all_variants_with_the_same_weights(place):
    """With a learning rate of nearly nothing all variants are the network that they started with."""
    write(place, TINY | {"tune": {}, "variants": {"a": {}, "b": {"optimizer.name": "nag"}}, "vary": {}, "baseline": "a"}
          | {"member": MEMBER | {"optimizer": {"name": "sgd", "lr": 1e-30}}})  # fmt: skip
    rows = rows_of()
    first, second = ([row for row in rows if row["variant"] == name] for name in "ab")
    assert [row["seed"] for row in first] == [row["seed"] for row in second]
    assert len({row["held_out_nll"] for row in first}) == 2


def test_a_diverged_training_is_a_row(place):
    write(place, TINY | {"tune": {}, "vary": {"optimizer.lr": [0.1, 1e30]}, "baseline": "0.1"})
    rows = rows_of()
    assert [row["diverged"] for row in rows] == [False, False, True, True]
    assert all(math.isnan(row["held_out_accuracy"]) == row["diverged"] for row in rows)
    assert all(row["steps_to_target"] == math.inf for row in rows if row["diverged"])


def test_a_vote_of_replicas_is_one_trial(place):
    write(place, TINY | {"tune": {}, "vary": {"replicas": [1, 3]}, "baseline": "1", "member": MEMBER | {"epochs": 4}})
    rows = rows_of()
    assert [row["variant"] for row in rows] == ["1", "1", "3", "3"]
    assert sum(row["held_out_nll"] for row in rows[2:]) < sum(row["held_out_nll"] for row in rows[:2])


def test_a_row_has_the_scores_that_the_best_epoch_had(place):
    """Also where layers behave differently while they train."""
    member = MEMBER | {"network": {"name": "mlp", "hidden": [16], "batch_norm": True}, "dropout": 0.5, "epochs": 3}
    write(place, TINY | {"member": member})
    for row in rows_of():
        best = row["curve"][row["best_epoch"] - 1]
        assert row["validation_accuracy"] == pytest.approx(best["validation_accuracy"])
        assert row["validation_nll"] == pytest.approx(best["validation_nll"], rel=1e-3)


@pytest.mark.parametrize(
    ("special", "general"),
    [
        ({"optimizer.name": "sgd"}, {"optimizer.name": "momentum", "optimizer.momentum": 0.0}),
        ({"optimizer.name": "adagrad"}, {"optimizer.name": "ftrl"}),
        ({"optimizer.name": "sgd"}, {"optimizer.name": "proximal_sgd"}),
    ],
    ids=["momentum", "ftrl", "proximal"],
)
def test_a_general_case_never_loses_to_its_special_case(place, special, general):
    compared = {"special": special, "general": general}
    write(place, TINY | {"vary": {}, "variants": compared, "tune": {"optimizer.lr": [0.01, 0.1]}, "baseline": "special"}
          | {"seeds": 3, "margin": 1.0})  # fmt: skip
    found = study.study("tiny")
    assert found["general"].word != "worse"
    assert found["general"].comparison.interval.mean == pytest.approx(0, abs=0.01)  # rounding


def test_a_killed_worker_ends_the_study_in_a_sentence(place, small_stacks, monkeypatch):
    import os
    import signal

    from flows.project.errors import WorkerError
    from flows.studies import worker

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(worker, "train", die)
    monkeypatch.setattr("flows.training.worker_pool.start_method", lambda accelerator: "fork")
    with pytest.raises(WorkerError, match=r"the process that trained .*sgd.* was ended by SIGKILL"):
        study.study("tiny")


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '[{"a": 1}]'])
def test_a_damaged_kept_file_is_made_anew(place, content):
    whole = rows_of()
    file = next((place / ".trainyard" / "studies" / "tiny").glob("*.json"))
    file.write_text(content)
    assert without_seconds(rows_of()) == without_seconds(whole)


def test_a_second_process_is_refused(place):
    from filelock import FileLock

    (place / ".trainyard" / "studies").mkdir(parents=True)
    with (
        FileLock(place / ".trainyard" / "studies" / "tiny.lock"),
        pytest.raises(InputError, match="another process runs the study tiny"),
    ):
        study.study("tiny")


@pytest.mark.parametrize(("activation", "vanishes"), [("sigmoid", True), ("tanh", False)])
def test_a_gradient_that_vanishes_is_seen(place, activation, vanishes):
    recipe = {
        "network": {"name": "mlp", "hidden": [32] * 9},
        "activation": activation,
        "initializer": "xavier_uniform",
        "dropout": 0.0,
    }
    splits = data.load(given())
    images = Images(splits.images, np.asarray(splits.labels), splits.mean, splits.std, rows=splits.train)
    norms = gradients.norms(recipe, 3, [8, 8, 1], 10, images)
    assert len(norms) == 10
    assert (norms[0] < 1e-3 * norms[-1]) == vanishes


def test_splits_have_no_image_in_common_and_the_test_split_is_not_there(place, monkeypatch):
    whole = sources.read("digits", 0.2)
    monkeypatch.setattr(sources, "read", lambda *_: pytest.fail("a study read the dataset, with its test split"))
    splits = data.load(given())
    assert np.array_equal(splits.images, whole.train_images)
    parts = [set(part.tolist()) for part in (splits.train, splits.validation, splits.held_out)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(splits.labels) == 1438
    assert len(parts[1]) == pytest.approx(0.2 * 1438, abs=1)
    assert len(parts[2]) == pytest.approx(0.2 * 1438, abs=1)
    assert {file.name for file in data.folder("digits").iterdir()} == {
        "dataset.json",
        "train_images.npy",
        "train_labels.npy",
    }


def test_damaged_data_is_named(place):
    file = data.folder("digits") / "train_labels.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"train_labels.npy is not what dataset.json says"):
        study.study("tiny")
