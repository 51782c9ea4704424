"""Networks by name: they fit every shape, start as they should, and are the same for the same seed."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules import names, networks
from lightning_modules.activations import ACTIVATIONS
from lightning_modules.errors import InputError
from lightning_modules.initializers import INITIALIZERS
from lightning_modules.networks import NETWORKS
from lightning_modules.networks.stacking import stack
from lightning_modules.regularization.dropout import Dropout

# Height, width and channels: blobs, digits, MNIST, CIFAR-10, an upright photograph, and two odd ones.
SHAPES = [(1, 2, 1), (8, 8, 1), (28, 28, 1), (32, 32, 3), (64, 48, 3), (5, 40, 2), (1, 1, 1)]

SMALL = {
    "mlp": {"hidden": [8, 8]},
    "shallow": {"hidden": 8},
    "lenet": {"channels": [4, 4], "hidden": [8, 8]},
    "cnn": {"channels": [4, 4, 4, 4, 4], "hidden": 8},
    "resnet": {"width": 4, "blocks": [1, 1, 1]},
    "split_merge": {"widths": [4, 4, 4]},
    "rnn": {"hidden": 8},
    "lstm": {"hidden": 8},
    "gru": {"hidden": 8},
    "airbench": {"widths": [4, 4, 4], "depth": 3},
}

# Each network as it is by default, and with each of its switches turned.
SWITCHES = [(name, {}) for name in NETWORKS] + [
    (name, {key: not default})
    for name, own in names.NETWORKS.items()
    for key, default in own.items()
    if isinstance(default, bool)
]


def each(switches: list[tuple[str, dict]]) -> pytest.MarkDecorator:
    ids = [f"{name} {' '.join(map(str, switch.items()))}" for name, switch in switches]
    return pytest.mark.parametrize(("name", "switch"), switches, ids=ids)


switched = each(SWITCHES)
stackable = each([(name, switch) for name, switch in SWITCHES if name != "airbench"])  # which has no stacked whitening


def recipe(name: str, **changes) -> dict:
    settings = {"name": name, **changes.pop("settings", SMALL[name])}
    return {"network": settings, "activation": "relu", "initializer": "he_normal", "dropout": 0.0, **changes}


def built(name: str, shape=(8, 8, 1), classes: int = 10, seed: int = 0, **changes) -> nn.Module:
    torch.manual_seed(seed)
    return networks.build(recipe(name, **changes), shape, classes)


def images(shape, count: int = 3) -> torch.Tensor:
    height, width, channels = shape
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_known_names_are_those_of_the_code():
    assert set(names.NETWORKS) == set(NETWORKS)
    assert set(names.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(names.INITIALIZERS) == {*INITIALIZERS, "rbm"}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@switched
def test_every_network_fits_every_shape(name, switch, shape):
    network = built(name, shape, classes=7, settings=SMALL[name] | switch)
    logits = network(images(shape, count=4))
    assert logits.shape == (4, 7)
    assert logits.isfinite().all()


single = pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 1)], ids=["one pixel", "many"])


@single
@switched
def test_a_mini_batch_may_be_a_single_image(name, switch, shape):
    network = built(name, shape, settings=SMALL[name] | switch).train()
    assert network(images(shape, count=1)).isfinite().all()


@single
@stackable
def test_a_mini_batch_of_a_stack_may_be_a_single_image_each(name, switch, shape):
    given = images(shape, count=1)
    alone = [built(name, shape, seed=seed, settings=SMALL[name] | switch).train() for seed in range(2)]
    together = stack(alone)
    torch.testing.assert_close(
        together(torch.stack([given] * 2)), torch.stack([one(given) for one in alone]), atol=1e-5, rtol=1e-4
    )
    for number, one in enumerate(alone):
        for key, tensor in one.state_dict().items():
            torch.testing.assert_close(together.state_dict()[key][number], tensor)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_default_settings_build(name):
    network = built(name, (16, 16, 3), settings=names.NETWORKS[name])
    assert network(images((16, 16, 3))).shape == (3, 10)


def test_the_cnn_is_the_five_convolution_network():
    network = built("cnn", (32, 32, 3), settings=names.NETWORKS["cnn"])
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.kernel_size, layer.out_channels) for layer in convolutions] == [
        ((5, 5), 64), ((5, 5), 64), ((3, 3), 128), ((3, 3), 128), ((3, 3), 128),
    ]  # fmt: skip
    kinds = [type(layer).__name__ for layer in network if not isinstance(layer, nn.ReLU)]
    assert kinds == [
        "Conv2d", "MaxPool2d", "Conv2d", "MaxPool2d", "Conv2d", "Conv2d", "Conv2d",
        "Flatten", "Linear", "Dropout", "Linear",
    ]  # fmt: skip
    expected = (
        (5 * 5 * 3 + 1) * 64 + (5 * 5 * 64 + 1) * 64
        + (3 * 3 * 64 + 1) * 128 + 2 * (3 * 3 * 128 + 1) * 128
        + (8 * 8 * 128 + 1) * 384 + (384 + 1) * 10
    )  # fmt: skip
    assert parameters(network) == expected == 3_626_314


def test_the_parameters_of_the_other_networks():
    mlp = built("mlp", (28, 28, 1), settings=names.NETWORKS["mlp"])
    assert parameters(mlp) == 785 * 512 + 2 * 513 * 512 + 513 * 10
    assert parameters(built("resnet", (32, 32, 3), settings=names.NETWORKS["resnet"])) == 696_234
    shallow = built("shallow", (1, 2, 1), settings=names.NETWORKS["shallow"])
    assert parameters(shallow) == 3 * 128 + 129 * 10
    lenet = names.NETWORKS[
        "lenet"
    ]  # as published, but for the second convolution, which sees all channels, and poolings
    for size in (28, 32):
        expected = 26 * 6 + (25 * 6 + 1) * 16 + 401 * 120 + 121 * 84 + 85 * 10
        assert parameters(built("lenet", (size, size, 1), settings=lenet)) == expected == 61_706
    for name, gates in (("rnn", 1), ("gru", 3), ("lstm", 4)):
        recurrent = built(name, (28, 28, 1), settings=names.NETWORKS[name])
        assert parameters(recurrent) == gates * 128 * (28 + 1 + 128) + 129 * 10


def test_the_residual_network_without_skips_has_the_same_layers_but_those_of_its_connections():
    plain, residual = (built("resnet", settings=SMALL["resnet"] | {"skips": skips}) for skips in (False, True))
    assert not any(".skip." in key for key in plain.state_dict())
    connections = [key for key in residual.state_dict() if ".skip." in key]
    assert len(connections) == 2
    assert plain.state_dict().keys() == residual.state_dict().keys() - set(connections)
    block = plain[1].eval()
    with torch.no_grad():
        block.residual[3].weight.zero_()
    assert not block(images((8, 8, 4))).any()
    with torch.no_grad():
        residual[1].residual[3].weight.zero_()
    assert torch.equal(residual[1](images((8, 8, 4))), images((8, 8, 4)))


@switched
def test_there_is_batch_normalisation_where_it_is_asked_for(name, switch):
    settings = names.NETWORKS[name] | SMALL[name] | switch
    layers = list(built(name, settings=settings).modules())
    count = sum(isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) for layer in layers)
    if "batch_norm" not in settings:
        assert (count > 0) == (name == "airbench")
        return
    hidden = [layer for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d))][:-1]  # the last gives the logits
    if name != "resnet":
        assert count == settings["batch_norm"] * len(hidden)
        assert all((layer.bias is None) == settings["batch_norm"] for layer in hidden)
    else:
        assert (count > 0) == settings["batch_norm"]


@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_with_dropout_may_have_a_rate_of_its_own(name):
    count = names.dropouts({"name": name, **SMALL[name]})
    rates = [0.1 * (number + 1) for number in range(count)]
    found = [layer.p for layer in built(name, dropout=rates).modules() if isinstance(layer, Dropout)]
    assert found == rates
    same = [layer.p for layer in built(name, dropout=0.3).modules() if isinstance(layer, Dropout)]
    assert same == [0.3] * count
    with pytest.raises(InputError, match=f"dropout has {count + 1} rates"):
        built(name, dropout=[*rates, 0.5])


def rows(name: str, given: torch.Tensor, network: nn.Module) -> torch.Tensor:
    """The logits by torch's own recurrent layers with the network's weights."""
    order = {"rnn": [0], "lstm": [0, 1, 3, 2], "gru": [0, 1, 2]}[name]  # torch's order of our gates

    def gates(weight: torch.Tensor) -> torch.Tensor:
        parts = weight.chunk(len(order))
        return torch.cat([parts[number] for number in order])

    _, channels, _, width = given.shape
    layer = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[name](width * channels, 8, batch_first=True)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(gates(network.inputs.weight))
        layer.weight_hh_l0.copy_(gates(network.states.weight))
        layer.bias_ih_l0.copy_(gates(network.inputs.bias))
        layer.bias_hh_l0.zero_()
        if name == "lstm":
            layer.bias_hh_l0[8:16] = 1.0  # of the forget gate
        steps = torch.stack([given[:, :, row].transpose(1, 2).flatten(1) for row in range(given.shape[2])], 1)
        return network.head(layer(steps)[0][:, -1])


@pytest.mark.parametrize("name", names.RECURRENT)
def test_a_recurrent_network_is_torchs_over_the_rows(name):
    network = built(name, (5, 7, 2), activation="tanh")
    with torch.no_grad():
        network.inputs.bias.normal_()
    given = images((5, 7, 2))
    torch.testing.assert_close(network(given), rows(name, given, network), atol=1e-5, rtol=1e-4)


def test_the_branches_are_concatenated():
    network = built("split_merge", settings={"widths": [3, 4, 5]})
    blocks = [layer for layer in network if hasattr(layer, "merge")]
    given = images((8, 8, 3))
    together = blocks[0](given)
    assert together.shape == (3, 12, 8, 8)
    for number, branch in enumerate((blocks[0].single, blocks[0].three, blocks[0].five, blocks[0].pooled)):
        assert torch.equal(together[:, 3 * number : 3 * number + 3], branch(given))
    assert len(blocks) == 3
    assert network[-1].in_features == 4 * 5


def test_maxout_is_the_largest_of_its_pieces():
    maxout = {"name": "maxout", "pieces": 3}
    network = built("mlp", activation=maxout, settings={"hidden": [8]})
    given = images((8, 8, 1))
    wide, last = network[1], network[-1]
    assert wide.out_features == 24
    pieces = [given.flatten(1) @ part.T for part in wide.weight.chunk(3)]
    torch.testing.assert_close(network(given), torch.stack(pieces).amax(0) @ last.weight.T + last.bias)
    convolved = built("cnn", activation=maxout)
    assert (convolved[0].out_channels, convolved[3].in_channels) == (12, 4)
    values = convolved[0](given)
    assert torch.equal(convolved[2](values), torch.stack(values.chunk(3, 1)).amax(0))


@pytest.mark.parametrize("initializer", ["xavier_normal", "orthogonal"])
def test_layers_that_are_several_in_one_are_initialised_one_by_one(initializer):
    """Maxout's pieces and a cell's gates: a fan-out of all of them would make Glorot's values too small."""
    maxout = built("shallow", (20, 20, 1), settings={"hidden": 400}, activation="maxout", initializer=initializer)
    lstm = built("lstm", settings={"hidden": 400}, initializer=initializer)
    for weight, parts in ((maxout[1].weight, 2), (lstm.states.weight, 4)):
        for part in weight.chunk(parts):
            assert part.shape == (400, 400)
            if initializer == "orthogonal":
                torch.testing.assert_close(part @ part.T, 2 * torch.eye(400), atol=1e-4, rtol=0)
            else:
                assert part.std().item() == pytest.approx(math.sqrt(2 / 800), rel=0.02)


def test_prelu_learns_one_slope_a_layer():
    network = built("mlp", activation={"name": "prelu", "init": 0.1})
    slopes = [layer.weight for layer in network if isinstance(layer, nn.PReLU)]
    assert [slope.tolist() for slope in slopes] == [[pytest.approx(0.1)]] * 2
    network(images((8, 8, 1))).sum().backward()
    assert all(slope.grad.any() for slope in slopes)


def test_a_photograph_does_not_give_the_cnn_a_hundred_million_weights():
    assert parameters(built("cnn", (512, 512, 3), settings=names.NETWORKS["cnn"])) == 3_626_314


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_acts_in_training_only(name):
    network = built(name, dropout=0.5)
    given = images((8, 8, 1))
    network.eval()
    assert torch.equal(network(given), network(given))
    network.train()
    assert not torch.equal(network(given), network(given))
    without = built(name, dropout=0.0).train()
    assert torch.equal(without(given), without(given))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_builds_and_passes_gradients(name, activation):
    if names.misfit("activation", activation, name):
        with pytest.raises(InputError, match=f"activation {activation} does not fit network {name}"):
            built(name, activation=activation)
        return
    network = built(name, activation=activation)
    assert any(isinstance(layer, ACTIVATIONS[activation]) for layer in network.modules())
    network(images((8, 8, 1))).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_every_initializer_sets_every_weight_and_leaves_biases_at_zero(name, initializer):
    network = built(name, initializer=initializer)
    again = built(name, initializer=initializer, seed=1)
    for layer, other in zip(network.modules(), again.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            drawn = initializer not in ("constant", "zeros", "ones")
            if initializer == "dirac":
                drawn = layer.weight.ndim == 2 or layer.out_channels > layer.in_channels
            assert torch.equal(layer.weight, other.weight) != drawn
            assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_zeros_are_zero_and_say_nothing(name):
    network = built(name, initializer="zeros")
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            assert not layer.weight.any()
    assert not network(images((8, 8, 1))).any()


@pytest.mark.parametrize(
    ("initializer", "deviation"),
    [
        ("he_normal", math.sqrt(2 / 600)),
        ("he_uniform", math.sqrt(2 / 600)),
        ("lecun_normal", math.sqrt(1 / 600)),
        ("lecun_uniform", math.sqrt(1 / 600)),
        ("xavier_normal", math.sqrt(2 / 1000)),
        ("xavier_uniform", math.sqrt(2 / 1000)),
        ("normal", 0.05),
        ("truncated_normal", 0.05),
        ("uniform", 0.1 / math.sqrt(12)),
        ("orthogonal", math.sqrt(2 / 600)),
    ],
)
def test_the_spread_of_initial_weights_is_the_published_one(initializer, deviation):
    torch.manual_seed(0)
    weight = torch.empty(400, 600)  # out × in
    INITIALIZERS[initializer](weight)
    assert weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert weight.mean().abs() < deviation / 50
    if initializer == "truncated_normal":
        assert weight.abs().max() <= 2 * 0.05 / 0.8796


def test_constants_are_what_they_are_set_to():
    for given, value in (("constant", 0.0), ({"name": "constant", "value": -0.25}, -0.25)):
        network = built("mlp", initializer=given)
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                assert (layer.weight == value).all()
                assert not layer.bias.any()


def test_dirac_hands_inputs_on_and_draws_the_other_outputs():
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    INITIALIZERS["dirac"](convolution.weight)
    given = images((8, 8, 3))
    assert torch.equal(convolution(given)[:, :3], given)
    others = convolution.weight[3:]
    assert others.std().item() == pytest.approx(math.sqrt(1 / (3 * 27)), rel=0.1)
    fewer = nn.Conv2d(5, 2, 3, padding=1, bias=False)
    INITIALIZERS["dirac"](fewer.weight)
    given = images((8, 8, 5))
    assert torch.equal(fewer(given), given[:, :2])


def test_all_parameters_are_in_one_group_but_those_that_are_trained_for_a_share():
    for name in NETWORKS:
        network = built(name)
        groups = networks.groups(network)
        grouped = [parameter for group in groups for parameter in group["params"]]
        assert sorted(map(id, grouped)) == sorted(map(id, network.parameters()))
        assert "until" not in groups[0]
        assert all(0 < group["until"] < 1 for group in groups[1:])
        assert len(groups) == (2 if name == "airbench" else 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_seed_gives_the_same_weights(name):
    first, same, other = (built(name, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def sized(name: str, width: int) -> dict:
    """Settings of a network whose layers are that wide."""
    return {
        "mlp": {"hidden": [width, width]},
        "shallow": {"hidden": width},
        "lenet": {"channels": [width, width], "hidden": [width, width]},
        "cnn": {"channels": [width] * 5, "hidden": width},
        "resnet": {"width": width, "blocks": [1, 1, 1]},
        "split_merge": {"widths": [width] * 3},
        "rnn": {"hidden": width},
        "lstm": {"hidden": width},
        "gru": {"hidden": width},
        "airbench": {"widths": [width] * 3, "depth": 3},
    }[name]


def gradients(network: nn.Module, given: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    # Weighted, so that no gradient is zero by symmetry, as those before a batch normalisation otherwise are.
    logits = network(given)
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def assert_right(network: nn.Module, given: torch.Tensor) -> None:
    """Gradients in channels_last and single precision are those of plain double precision."""
    exact = gradients(copy.deepcopy(network).double(), given.double())
    last = given.movedim(-3, -1).contiguous().movedim(-1, -3)  # also of a stack, as its images lie in memory
    # Weights of a stack have five dimensions, to which that memory format says nothing.
    found = gradients(network if given.dim() == 5 else network.to(memory_format=torch.channels_last), last)
    largest = max(gradient.abs().max() for gradient in exact.values())
    for name, gradient in exact.items():
        assert torch.allclose(found[name].double(), gradient, rtol=1e-2, atol=1e-4 * largest), name


# oneDNN is wrong for a kind of convolution where AVX-512 is missing: `make test-avx2` looks there too.
@pytest.mark.parametrize("shape", [(12, 12, 1), (11, 9, 3)], ids=["even", "odd"])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 8])
@switched
def test_gradients_are_those_of_double_precision(name, switch, width, shape):
    smooth = {
        "activation": "softplus",
        "settings": sized(name, width) | switch,
    }  # a ReLU's kink may fall on either side
    assert_right(built(name, shape, **smooth), images(shape, count=16))
    if name != "airbench":  # whose whitening has no stacked version
        together = stack([built(name, shape, seed=seed, **smooth) for seed in range(3)])
        assert_right(together, torch.stack([images(shape, count=16)] * 3))


class Convolutions(TorchDispatchMode):
    """Notes kernel and stride of every convolution that torch computes, whichever layer asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function is torch.ops.aten.convolution.default:
            self.seen.add((tuple(arguments[1].shape[2:]), tuple(arguments[3])))
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@switched
def test_no_convolution_of_single_pixels_has_a_stride(name, switch, shape):
    settings = SMALL[name] | switch
    with Convolutions() as convolutions:
        built(name, shape, settings=settings)(images(shape))
        if name != "airbench":
            stack([built(name, shape, settings=settings) for _ in range(2)])(torch.stack([images(shape)] * 2))
    convolutional, _ = names.ONLY_IN["initializer"]["dirac"]
    assert bool(convolutions.seen) == (name in convolutional)
    assert all(max(kernel) > 1 or max(stride) == 1 for kernel, stride in convolutions.seen)
