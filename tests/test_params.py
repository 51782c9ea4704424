"""params.yaml: what is shipped is right, and whatever is wrong is said in a sentence that tells what would be right."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import LIMIT, MISSING, put

from flows.params import fields, params_file
from flows.params.params_file import parse
from flows.project.errors import DivergedError, InputError
from lightning_modules import names

MEMBER = {"network": {"name": "mlp"}, "optimizer": {"name": "sgd", "lr": 1}}
SHIPPED = Path(__file__).resolve().with_name("params.yaml")


@pytest.fixture
def content() -> dict:
    return yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))


def refusal(content: dict, key: str, value: object) -> str:
    with pytest.raises(InputError) as error:
        parse(put(content, key, value))
    return str(error.value)


def test_what_is_shipped_is_valid(content):
    shipped = parse(content)
    assert shipped.dataset == "digits"
    assert set(shipped.data) == set(fields.DATASETS)
    assert shipped.feed == shipped.data["digits"]
    assert list(shipped.members) == list(content["members"])
    assert shipped == params_file.read(SHIPPED)
    assert params_file.read(SHIPPED.parents[1] / "params.yaml").members


@pytest.mark.parametrize("dataset", fields.DATASETS)
def test_moving_to_another_dataset_is_one_word(content, dataset):
    if dataset == "digit_strings":  # the shipped members give no answer at each step
        content = put(
            content, "members", {"lstm": content["members"]["mlp"] | {"network": "lstm", "activation": "tanh"}}
        )
    assert parse(put(content, "dataset", dataset)).feed.epochs == content["data"][dataset]["epochs"]


def test_the_comments_name_what_is_known():
    text = SHIPPED.read_text(encoding="utf-8")
    for known in (fields.DATASETS, names.AUGMENTATIONS, names.SCHEDULES):
        line = next(line for line in text.splitlines() if all(name in line for name in known))
        assert "|" in line


# The key as it is said, and words that have to be in the sentence: what is wrong and what would be right.
NAMES = [
    (
        "dataset",
        "minst",
        ["dataset", '"minst"', 'Did you mean "mnist"?', "Known: blobs, cifar10, diabetes, digit_strings, digits"],
    ),
    (
        "members.mlp.network.name",
        "mpl",
        ["members.mlp.network.name", '"mpl"', '"mlp"?', "Known: airbench, cnn, gru, lenet, lstm, mlp, resnet"],
    ),
    ("members.mlp.optimizer.name", "adamm", ["members.mlp.optimizer.name", '"adamm"', '"adam"?', "Known: adadelta,"]),
    ("members.mlp.initializer", "xavier", ["members.mlp.initializer", '"xavier_', "Known: constant, dirac,"]),
    ("members.mlp.activation", "rleu", ["members.mlp.activation", '"rleu"', '"relu"?', "Known: celu,"]),
    (
        "members.mlp.schedule",
        "cosin",
        ["members.mlp.schedule", '"cosine"?', "Known: constant, cosine, cosine_restarts, linear"],
    ),
    ("data.digits.augment", "shfit", ["data.digits.augment", '"shift"?', "Known: altflip, flip, none, nudge_altflip,"]),
    ("members.mlp.augment", "shfit", ["members.mlp.augment", '"shift"?', "Known: altflip, flip, none,"]),
    ("members.mlp.test_time_views", "mirorr", ["test_time_views", '"mirror"?', "Known: mirror, mirror_shift, none"]),
    ("members.mlp.loss", "crossentropy", ["members.mlp.loss", '"cross_entropy"?', "Known: binary_cross_entropy,"]),
    ("members.mlp.regularization", {"decay": "biases"}, ["regularization.decay is 'biases'", "'all' or 'weights'"]),
    ("ensemble.methods", ["softvote"], ["ensemble.methods", '"softvote"', '"soft_vote"?', "Known: borda_count,"]),
    ("ensemble.select_by", "nl", ["ensemble.select_by", "'nl'", "'nll' or 'accuracy'"]),
    ("training.monitor", "acc", ["training.monitor", "'acc'", "'nll' or 'accuracy'"]),
    ("training.precision", "fp16", ["training.precision", "'fp16'", "'auto', 'float32' or 'bfloat16'"]),
    ("training.accelerator", "cuda", ["training.accelerator", "'cuda'", "'auto', 'cpu' or 'gpu'"]),
]

KEYS = [
    (
        "sed",
        1,
        [
            'unknown key "sed"',
            'Did you mean "seed"?',
            "Known: data, dataset, drift, ensemble, gate, limits, members, seed",
        ],
    ),
    ("data.digits.epoch", 3, ['"data.digits.epoch"', 'Did you mean "data.digits.epochs"?', "data.digits.batch_size"]),
    ("data.cifar100", {}, ["data.cifar100", 'Did you mean "cifar10"?']),
    ("training.thread", 2, ['"training.thread"', '"training.threads"?', "training.precision"]),
    ("ensemble.method", "x", ['"ensemble.method"', '"ensemble.methods"?', "ensemble.select_by"]),
    ("members.mlp.dropuot", 0.1, ['"members.mlp.dropuot"', '"members.mlp.dropout"?', "members.mlp.label_smoothing"]),
    ("members.mlp.network.hiden", [3], ["members.mlp.network", '"hiden"', '"hidden"?', "Known: batch_norm, hidden"]),
    (
        "members.mlp.optimizer.beta",
        1,
        ["members.mlp.optimizer", '"beta"', '"betas"?', "Known: amsgrad, betas, eps, lr"],
    ),
    (
        "members.mlp.regularization",
        {"clip_norms": 1},
        [
            '"members.mlp.regularization.clip_norms"',
            '"members.mlp.regularization.clip_norm"?',
            "Known: members.mlp.regularization.clip_norm, members.mlp.regularization.clip_value",
        ],
    ),
    ("members.mlp.loss", {"name": "focal", "beta": 1}, ["members.mlp.loss", '"beta"', "Known: gamma"]),
    ("members.mlp.loss", {"name": "hinge", "gamma": 1}, ["members.mlp.loss", '"gamma"']),
    (1, 1, ['unknown key "1"', "Known: data, dataset"]),
]

NUMBERS = [
    ("members.mlp.dropout", 1.5, ["members.mlp.dropout is 1.5", "less than 1"]),
    ("members.mlp.dropout", -0.1, ["members.mlp.dropout is -0.1", "greater than or equal to 0"]),
    ("members.mlp.dropout", float("nan"), ["members.mlp.dropout is nan"]),
    ("members.mlp.dropout", "much", ["members.mlp.dropout is 'much'", "a number"]),
    ("members.mlp.dropout", True, ["members.mlp.dropout is True", "a number"]),
    ("members.mlp.dropout", [0.1, 1.5, 0], ["members.mlp.dropout is 1.5", "less than 1"]),
    ("members.mlp.dropout", [0.1, "much", 0], ["members.mlp.dropout is 'much'", "a number"]),
    (
        "members.mlp.dropout",
        [0.1, 0.2],
        ["members.mlp", "2 rates", "network mlp has 3 layers with dropout", "that many, or one number for all"],
    ),
    ("members.cnn.dropout", [], ["members.cnn", "0 rates", "network cnn has 1 layer with dropout"]),
    ("members.mlp.network.batch_norm", 1, ["members.mlp.network", "batch_norm is 1", "true or false"]),
    ("members.mlp.activation", {"name": "maxout", "pieces": 1}, ["pieces is 1", "has to be at least 2"]),
    ("members.mlp.activation", {"name": "maxout", "pieces": 2.5}, ["pieces is 2.5", "a whole number"]),
    ("members.mlp.activation", {"name": "prelu", "init": "x"}, ["init is 'x'", "a number"]),
    ("members.mlp.label_smoothing", 1, ["members.mlp.label_smoothing is 1", "less than 1"]),
    ("members.mlp.regularization", {"l1": -1}, ["regularization.l1 is -1", "greater than or equal to 0"]),
    ("members.mlp.regularization", {"l2": float("inf")}, ["regularization.l2 is inf", "finite"]),
    ("members.mlp.regularization", {"max_norm": 0}, ["regularization.max_norm is 0", "greater than 0"]),
    ("members.mlp.regularization", {"clip_norm": 0}, ["regularization.clip_norm is 0", "greater than 0"]),
    ("members.mlp.regularization", {"clip_value": True}, ["regularization.clip_value is True", "a number"]),
    ("members.mlp.regularization", {"mixup": -0.1}, ["regularization.mixup is -0.1", "greater than or equal to 0"]),
    ("members.mlp.regularization", {"cutout": 1}, ["regularization.cutout is 1", "less than 1"]),
    ("members.mlp.loss", {"name": "focal", "gamma": -1}, ["members.mlp.loss", "gamma is -1", "at least 0"]),
    ("members.mlp.initializer", {"name": "rbm", "epochs": 0}, ["mlp.initializer", "epochs is 0", "at least 1"]),
    ("members.mlp.initializer", {"name": "rbm", "epochs": 2.5}, ["epochs is 2.5", "a whole number"]),
    ("members.mlp.initializer", {"name": "rbm", "batch_size": 0}, ["batch_size is 0", "at least 1"]),
    ("members.mlp.initializer", {"name": "rbm", "lr": 0}, ["lr is 0", "greater than 0"]),
    ("members.mlp.optimizer.lr", 0, ["members.mlp.optimizer.lr is 0", "greater than 0"]),
    ("members.mlp.optimizer.lr", "fast", ["members.mlp.optimizer.lr is 'fast'", "a number"]),
    ("members.mlp.optimizer.lr", float("inf"), ["members.mlp.optimizer.lr is inf", "finite"]),
    ("members.mlp.optimizer.lr", True, ["members.mlp.optimizer.lr is True", "a number"]),
    ("members.mlp.optimizer.weight_decay", -1, ["members.mlp.optimizer.weight_decay is -1", "equal to 0"]),
    (
        "members.mlp.optimizer.betas",
        [0.9, "x"],
        ["members.mlp.optimizer", "betas is [0.9, 'x']", "a list of 2 numbers"],
    ),
    ("members.mlp.optimizer.betas", 0.9, ["members.mlp.optimizer", "betas is 0.9", "a list of 2 numbers"]),
    ("members.mlp.optimizer.betas", [0.9, None], ["members.mlp.optimizer", "betas", "a list of 2 numbers"]),
    ("members.mlp.optimizer.eps", "tiny", ["members.mlp.optimizer", "eps is 'tiny'", "a number"]),
    ("members.mlp.optimizer.eps", [1], ["members.mlp.optimizer", "eps is [1]", "a number"]),
    ("members.mlp.optimizer.eps", float("nan"), ["members.mlp.optimizer", "eps is nan", "a number"]),
    ("members.mlp.optimizer.amsgrad", 3, ["members.mlp.optimizer", "amsgrad is 3", "true or false"]),
    (
        "members.mlp.optimizer",
        {"name": "adagrad_da", "lr": 0.1, "anchor": "start"},
        ["members.mlp.optimizer", "anchor is 'start'", "has to be init or zero"],
    ),
    (
        "members.mlp.schedule",
        {"name": "step", "every": "often"},
        ["members.mlp.schedule", "every is 'often'", "number"],
    ),
    ("members.mlp.schedule", {"name": "cosine", "warmup": 1.5}, ["warmup is 1.5", "less than 1"]),
    ("members.mlp.schedule", {"name": "cosine", "warm": 0.1}, ["members.mlp.schedule", '"warm"', '"warmup"?']),
    ("members.mlp.network.hidden", [8, 0], ["members.mlp.network", "hidden is [8, 0]", "a list of positive integers"]),
    ("members.mlp.network.hidden", [], ["members.mlp.network", "hidden is []", "or null for none"]),
    ("members.cnn.network.hidden", None, ["members.cnn.network", "hidden is None", "a positive integer"]),
    ("members.cnn.network.channels", [], ["members.cnn.network", "channels is []", "a list of positive integers"]),
    ("members.mlp.network.hidden", 8, ["members.mlp.network", "hidden is 8", "a list of positive integers"]),
    ("members.cnn.network.channels", [8], ["members.cnn.network", "channels is [8]", "5 sizes"]),
    ("members.cnn.network.hidden", 0.5, ["members.cnn.network", "hidden is 0.5", "a positive integer"]),
    ("members.mlp.replicas", 0, ["members.mlp.replicas is 0", "greater than or equal to 1"]),
    ("members.mlp.replicas", 1.5, ["members.mlp.replicas is 1.5", "a whole number"]),
    ("members.mlp.replicas", True, ["members.mlp.replicas is True", "a number"]),
    ("seed", True, ["seed is True", "a number"]),
    ("seed", -1, ["seed is -1", "greater than or equal to 0"]),
    ("seed", "x", ["seed is 'x'", "a whole number"]),
    ("data.digits.test", 2, ["data.digits.test is 2", "official or a fraction between 0 and 1"]),
    ("data.digits.test", 0, ["data.digits.test is 0", "official or a fraction between 0 and 1"]),
    ("data.digits.test", "offical", ["data.digits.test is 'offical'", "official or a fraction between 0 and 1"]),
    ("data.digits.test", True, ["data.digits.test is True", "official or a fraction between 0 and 1"]),
    ("data.digits.validation", 0, ["data.digits.validation is 0", "greater than 0"]),
    ("data.digits.validation", 1, ["data.digits.validation is 1", "less than 1"]),
    ("data.digits.epochs", 0, ["data.digits.epochs is 0", "equal to 1"]),
    ("data.digits.batch_size", 0.5, ["data.digits.batch_size is 0.5", "a whole number"]),
    ("members.mlp.epochs", 0, ["members.mlp.epochs is 0", "equal to 1"]),
    ("members.mlp.batch_size", 0.5, ["members.mlp.batch_size is 0.5", "a whole number"]),
    ("members.mlp.threads", True, ["members.mlp.threads is True", "a number"]),
    (
        "members.cnn.network",
        {"name": "airbench", "depth": 0},
        ["members.cnn.network", "depth is 0", "positive integer"],
    ),
    ("training.threads", 0, ["training.threads is 0", "equal to 1"]),
    ("training.deterministic", 3, ["training.deterministic is 3", "true or false"]),
]

SHAPES = [
    ("members", {}, ["members is empty", "name at least one"]),
    ("members", None, ["members is empty", "a mapping of keys to values"]),
    ("members", ["mlp"], ["members is ['mlp']", "a mapping of keys to values"]),
    ("members.mlp", None, ["members.mlp is empty", "a mapping of keys to values"]),
    ("members.mlp.network", 3, ["members.mlp.network is 3", "a mapping of keys to values"]),
    ("members.mlp.network", "mpl", ["members.mlp.network.name", 'unknown network "mpl"']),
    ("members.mlp.network", {}, ["members.mlp.network.name is missing"]),
    ("members.mlp.optimizer", {"name": "adam"}, ["members.mlp.optimizer.lr is missing"]),
    ("members.mlp.network", MISSING, ["members.mlp.network is missing"]),
    ("seed", MISSING, ["seed is missing"]),
    ("dataset", None, ["dataset is empty", "a name"]),
    ("data.digits", None, ["data.digits is empty", "a mapping of keys to values"]),
    ("data.digits.test", MISSING, ["data.digits.test is missing"]),
    ("training", 3, ["training is 3", "a mapping of keys to values"]),
    ("ensemble.methods", [], ["ensemble.methods is empty", "name at least one"]),
    ("ensemble.methods", "soft_vote", ["ensemble.methods is 'soft_vote'", "a list"]),
]

ACROSS = [
    ("data.digits", MISSING, ["data.digits is missing", "dataset is digits"]),
    (
        "members.ensemble",
        {"network": {"name": "mlp"}, "optimizer": {"name": "sgd", "lr": 1}},
        ["members.ensemble", "taken"],
    ),
    ("ensemble.methods", ["soft_vote", "soft_vote"], ["ensemble.methods", "twice"]),
    (
        "members.mlp.initializer",
        "dirac",
        ["members.mlp: initializer dirac does not fit network mlp", "It fits airbench, cnn"],
    ),
    (
        "members.mlp",
        MEMBER | {"loss": "hinge", "label_smoothing": 0.1},
        ["members.mlp: label_smoothing is 0.1", "loss hinge has no target distribution", "take one of binary_cross"],
    ),
    (
        "members.mlp",
        MEMBER | {"loss": {"name": "focal", "gamma": 1}, "label_smoothing": 0.1},
        ["members.mlp: label_smoothing is 0.1", "loss focal has no target distribution", "set it to 0"],
    ),
    ("members.cnn.initializer", "rbm", ["members.cnn: initializer rbm does not fit", "It fits mlp, shallow"]),
    (
        "members.mlp",
        MEMBER | {"network": {"name": "mlp", "hidden": None}, "initializer": {"name": "rbm", "lr": 0.1}},
        ["members.mlp: initializer rbm trains hidden layers", "the network has none"],
    ),
    (
        "members.mlp",
        MEMBER | {"network": {"name": "mlp", "batch_norm": True}, "initializer": "rbm"},
        ["members.mlp: initializer rbm does not fit batch normalisation", "batch_norm to false"],
    ),
    (
        "members.mlp",
        MEMBER | {"activation": "maxout", "initializer": "rbm"},
        ["members.mlp: initializer rbm needs an activation", "maxout has fewer: sigmoid"],
    ),
    ("data.digits.test", "official", ["data.digits.test is official", "no official test split", "0.2"]),
    ("data.mnist.test", 0.2, ["data.mnist.test has to be official"]),
]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [pytest.param(*case, id=f"{case[0]}={case[1]}"[:60]) for case in NAMES + KEYS + NUMBERS + SHAPES + ACROSS],
)
def test_bad_input_is_one_sentence_that_says_what_would_be_right(content, key, value, words):
    if isinstance(key, int):
        with pytest.raises(InputError) as error:
            parse(content | {key: value})
        said = str(error.value)
    else:
        said = refusal(content, key, value)
    for word in words:
        assert word in said
    # One sentence, in the words of the file and not of Python's libraries.
    assert said.startswith("params.yaml: ")
    assert said.count("params.yaml") == 1
    assert "\n" not in said
    for jargon in ("Dictionary", "instance", "Input", "pydantic", "validation,", "literal", "constrained", "pattern"):
        assert jargon not in said


@pytest.mark.parametrize(
    "name", ["Mlp", "7", "-mlp", "my member", "../mlp", "mlp.v2", "mlp/a", "", "mlp\n", "é", 7, None]
)
def test_a_member_name_that_is_no_file_name_is_told_which_characters_are_right(content, name):
    content["members"][name] = content["members"]["mlp"]
    with pytest.raises(InputError, match="lower-case letters, digits") as error:
        parse(content)
    shown = str(name).replace("\n", "\\n")  # on one line
    assert f"members.{shown}" in str(error.value)


@pytest.mark.parametrize("name", ["a", "mlp-2", "wide_mlp", "network", "data", "float", "literal"])
def test_any_other_member_name_will_do_and_its_keys_are_told_as_they_are(content, name):
    content["members"][name] = copy.deepcopy(content["members"]["mlp"])
    assert name in parse(content).members
    said = refusal(content, f"members.{name}.dropuot", 0)
    assert f'Did you mean "members.{name}.dropout"?' in said
    assert f"members.{name}.replicas" in said


def test_two_mistakes_are_told_at_once(content):
    said = refusal(put(content, "members.mlp.dropout", 2), "sed", 1)
    assert "members.mlp.dropout is 2" in said
    assert '"sed"' in said


@pytest.mark.parametrize("name", names.OPTIMIZERS)
def test_every_optimizer_takes_its_defaults_and_no_others(content, name):
    settings = {"name": name, "lr": 0.1, **names.OPTIMIZERS[name]}
    optimizer = parse(put(content, "members.mlp.optimizer", settings)).member("mlp").optimizer
    assert optimizer.model_dump() == settings | {"weight_decay": 0.0}
    assert "unknown setting" in refusal(content, "members.mlp.optimizer", settings | {"speed": 1})
    for key, value in names.OPTIMIZERS[name].items():
        wrong = "x" if not isinstance(value, list) else ["x"] * len(value)
        assert f"{key} is " in refusal(content, "members.mlp.optimizer", settings | {key: wrong})


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("activation", names.ACTIVATIONS),
        ("initializer", names.INITIALIZERS),
        ("loss", {name: names.LOSSES[name] for name in names.TASKS["classification"]}),
    ],
)
def test_a_name_is_completed_with_its_own_hyper_parameters(content, kind, table):
    for name, own in table.items():
        whose = "cnn" if name == "dirac" else "mlp"  # which is for convolutions
        for given in (name, {"name": name}, {"name": name, **own}):
            member = parse(put(content, f"members.{whose}.{kind}", given)).member(whose)
            assert member.recipe[kind] == ({"name": name, **own} if own else name)


def test_regularization_is_completed_with_none(content):
    plain = parse(content).member("mlp").recipe
    assert plain["regularization"] == names.REGULARIZATION
    content["members"]["mlp"]["regularization"] = {"l2": "1e-4", "clip_norm": 1, "decay": "weights"}
    assert parse(content).member("mlp").recipe["regularization"] == names.REGULARIZATION | {
        "l2": 1e-4, "clip_norm": 1.0, "decay": "weights",
    }  # fmt: skip


@pytest.mark.parametrize("loss", names.SMOOTHED)
def test_what_has_a_target_distribution_may_be_smoothed(content, loss):
    content["members"]["mlp"] |= {"loss": loss, "label_smoothing": 0.1}
    assert parse(content).member("mlp").label_smoothing == 0.1


def test_a_network_may_have_no_hidden_layer(content):
    content["members"]["mlp"]["network"]["hidden"] = None
    assert parse(content).members["mlp"].network.hidden == []


def test_what_yaml_reads_as_a_string_becomes_a_float(content):
    assert yaml.safe_load("1e-3") == "1e-3"
    settings = {"name": "adamw", "lr": "1e-3", "weight_decay": "1e-2", "eps": "1e-8", "betas": ["9e-1", 0.99]}
    content = put(put(content, "members.mlp.optimizer", settings), "members.mlp.dropout", "1e-1")
    member = parse(put(content, "data.digits.test", "2e-1")).member("mlp")
    assert member.optimizer.model_dump() == {
        "name": "adamw", "lr": 0.001, "weight_decay": 0.01, "eps": 1e-8, "betas": [0.9, 0.99],
    }  # fmt: skip
    assert member.dropout == 0.1
    assert parse(put(content, "data.digits.test", "2e-1")).feed.test == 0.2


def test_dropout_is_one_rate_or_one_for_each_layer_that_has_it(content):
    for given, expected in ((0, 0.0), (["1e-1", 0.2, 0], [0.1, 0.2, 0.0])):
        recipe = parse(put(content, "members.mlp.dropout", given)).member("mlp").recipe
        assert recipe["dropout"] == expected
        assert json.loads(json.dumps(recipe)) == recipe
    without = put(put(content, "members.mlp.network.hidden", None), "members.mlp.dropout", [0.5])
    with pytest.raises(InputError, match=r"has 1 rate, but network mlp has 0 layers with dropout: give one number"):
        parse(without)


@pytest.mark.parametrize("kind", names.ONLY_IN)
@pytest.mark.parametrize("network", names.NETWORKS)
def test_what_fits_some_networks_only_is_told_which(content, kind, network):
    content = put(content, "members.mlp.network", network)
    for name, (fitting, _) in names.ONLY_IN[kind].items():
        for given in (name, {"name": name}):
            changed = put(content, f"members.mlp.{kind}", given)
            if network in fitting:
                parse(changed)
                continue
            with pytest.raises(InputError, match=f"{kind} {name} does not fit network {network}: .*It fits") as error:
                parse(changed)
            assert all(other in str(error.value) for other in fitting)


@pytest.mark.parametrize("network", names.NETWORKS)
def test_the_cells_of_recurrent_networks_have_tanh_unless_another_activation_is_given(content, network):
    content = put(put(content, "members.mlp.activation", MISSING), "members.mlp.network", network)
    expected = "tanh" if network in names.RECURRENT else "relu"
    assert parse(content).member("mlp").activation == expected
    assert parse(put(content, "members.mlp.activation", "elu")).member("mlp").activation == "elu"


@pytest.mark.parametrize("name", names.NETWORKS)
def test_a_networks_name_stands_for_its_defaults(content, name):
    content = put(content, "members.mlp.dropout", 0)
    short = parse(put(content, "members.mlp.network", name)).member("mlp")
    assert short.recipe == parse(put(content, "members.mlp.network", {"name": name})).member("mlp").recipe


@pytest.mark.parametrize("name", names.NETWORKS)
def test_a_networks_settings_are_completed_with_their_defaults(content, name):
    network = parse(put(content, "members.mlp.network", {"name": name})).member("mlp").network
    assert network.model_dump() == {"name": name, **names.NETWORKS[name]}


def test_an_unknown_member_is_told_the_known_ones(content):
    with pytest.raises(InputError, match=r'unknown member "mpl"\. Did you mean "mlp"\? Known: cnn, mlp'):
        parse(content).member("mpl")


def test_a_member_is_fed_as_its_dataset_says_unless_it_says_otherwise(content):
    plain = parse(content)
    assert plain.settings("mlp") == plain.settings("cnn")
    assert plain.settings("mlp") == {
        "epochs": 30, "batch_size": 64, "augment": "none",
        **{key: value for key, value in content["training"].items() if key not in ("devices", "num_nodes", "strategy")},
    }  # fmt: skip
    own = {"epochs": 8, "batch_size": 1000, "augment": "altflip", "threads": 2}
    content["members"]["mlp"] |= own
    given = parse(content)
    assert given.settings("mlp") == plain.settings("mlp") | own
    assert given.settings("cnn") == plain.settings("cnn")
    # How it is fed is no part of what makes its networks.
    assert given.member("mlp").recipe == plain.member("mlp").recipe
    assert not own.keys() & given.member("mlp").recipe.keys()


def test_params_cannot_be_changed(content):
    with pytest.raises(ValueError, match="frozen"):
        parse(content).seed = 1


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "empty"), ("- a\n- b\n", "no mapping"), ("a: [1\n", "no valid YAML"), ("a: b: c\n", "no valid YAML")],
)
def test_a_file_that_is_no_mapping_is_told_in_one_line(tmp_path, text, word):
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=word) as error:
        params_file.read(file)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_or_not_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        params_file.read(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no valid YAML"):
        params_file.read(tmp_path / "params.yaml")


def check(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flows.check"], cwd=folder, capture_output=True, text=True, timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SHIPPED.parents[1]), *sys.path])},
    )  # fmt: skip


def test_the_command_says_what_it_read(project):
    done = check(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert "dataset digits, members mlp, cnn" in done.stdout


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("dataset: digits ", "dataset: digit ", ['unknown dataset "digit"', '"digits"?']),
        ("dropout: 0.3", "dropout: 1.5", ["members.mlp.dropout is 1.5"]),
        ("lr: 0.001", "lr: fast", ["members.mlp.optimizer.lr is 'fast'"]),
        ("seed: 0 ", "sed: 0 ", ['unknown key "sed"', "seed is missing"]),
        ("members: ", "members: {} #", ["params.yaml is no valid YAML"]),
    ],
)
def test_the_command_ends_with_2_and_one_line(project, before, after, words):
    file = project / "params.yaml"
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")
    done = check(project)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("trainyard: ")
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


def test_the_command_outside_of_a_project(tmp_path):
    done = check(tmp_path)
    assert done.returncode == 2
    assert "inside a Trainyard project" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("error", "code"), [(InputError("no"), 2), (DivergedError("nan"), 1)])
def test_every_command_ends_bad_input_with_2_and_a_failed_training_with_1(error, code, capsys, monkeypatch):
    import click

    from flows.machine.console import run

    @click.command()
    def command():
        raise error

    monkeypatch.setattr(sys, "argv", ["trainyard"])
    with pytest.raises(SystemExit) as end:
        run(command)
    assert end.value.code == code
    assert capsys.readouterr().err == f"trainyard: {error}\n"


def test_a_change_is_checked_and_not_made(project):
    from flows.check import changed

    before = (project / "params.yaml").read_bytes()
    assert changed(("dataset=blobs", "members.mlp.optimizer.lr=1e-3")).member("mlp").optimizer.lr == 0.001
    assert list(changed(("~members.mlp",)).members) == ["cnn"]
    for change, said in (
        ("~members.mpl", "params.yaml has no members.mpl"),
        ("~members.mlp=1", "is no change"),
        ("members.mlp.dropout=1.5", "members.mlp.dropout is 1.5"),
        ("dataset=cifar100", 'Did you mean "cifar10"'),
        ("members.mlp.dropuot=0.1", 'Did you mean "members.mlp.dropout"'),
        ("dropout", "dropout is no change: say key=value"),
        ("seed.mlp=1", "seed in params.yaml is 0, which has no keys of its own"),
        ("seed=[1", "the value in seed=[1 is no valid YAML"),
    ):
        with pytest.raises(InputError) as refused:
            changed((change,))
        assert said in str(refused.value)
    assert (project / "params.yaml").read_bytes() == before
