"""`trainyard race`: by the very optimizers that train, tuned alike, and drawn as a figure and an animation."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from flows.commands import race as command
from flows.figures import animation
from flows.figures import race as drawn
from flows.project.errors import InputError
from flows.race import racing
from flows.race.surfaces import SURFACES

VALLEY = SURFACES["valley"]


@pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)
def test_minima_are_flat_lowest_and_in_the_picture(surface):
    for place in surface.minima:
        x, y = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in place)
        height = surface.height(x, y)
        height.backward()
        assert height.item() == pytest.approx(surface.least, abs=1e-6)
        assert max(abs(x.grad), abs(y.grad)) < 1e-3
    across, up = torch.meshgrid(*(torch.linspace(*ends, 101) for ends in (surface.x, surface.y)), indexing="ij")
    assert surface.height(across, up).min() >= surface.least - 1e-6
    for x, y in (surface.start, *surface.minima):
        assert surface.x[0] < x < surface.x[1]
        assert surface.y[0] < y < surface.y[1]


def test_the_command_offers_all_surfaces():
    assert set(command.SURFACES) == set(SURFACES)


def test_a_path_is_that_of_torchs_optimizer():
    """Side by side with those of other rates, and yet as alone."""
    for name, kind in (("adam", torch.optim.Adam), ("adagrad", torch.optim.Adagrad)):
        place = torch.nn.Parameter(torch.tensor(VALLEY.start, dtype=torch.float64))
        optimizer, way = kind([place], lr=0.1), [VALLEY.start]
        for _ in range(5):
            optimizer.zero_grad()
            VALLEY.height(place[0], place[1]).backward()
            optimizer.step()
            way.append(tuple(place.tolist()))
        [found] = [one for one in racing.paths(VALLEY, name, 5) if one.rate == pytest.approx(0.1)]
        assert torch.allclose(torch.tensor(found.places), torch.tensor(way), atol=1e-12)


def test_the_best_rate_counts_and_the_first_to_arrive_comes_first():
    found = racing.race(VALLEY, ["sgd", "momentum"], 100)
    assert [one.optimizer for one in found] == ["momentum", "sgd"]
    for one in found:
        tried = racing.paths(VALLEY, one.optimizer, 100)
        assert len(tried) == len(racing.RATES)
        assert racing.merit(one) == min(map(racing.merit, tried))


def test_to_pass_by_is_not_to_arrive():
    passes = racing.path("a", 1.0, [[0, 0]] * 5, [1.0, 0.0, 1.0, 0.0, 0.0])
    assert passes.arrived == 3
    assert racing.path("a", 1.0, [[0, 0]] * 3, [1.0, 0.0, 1.0]).arrived == math.inf


def test_a_path_ends_where_it_becomes_infinite():
    diverged = racing.paths(SURFACES["rosenbrock"], "sgd", 50)[-1]
    assert len(diverged.places) < 51
    assert (diverged.arrived, diverged.height) == (math.inf, math.inf)
    assert all(math.isfinite(value) for place in diverged.places for value in place)


def test_a_few_steps_from_command_to_figures(tmp_path):
    folder = tmp_path / "figures"
    given = ["--surface", "beale", "--optimizers", "sgd, adam", "--steps", "5", "--output", str(folder)]
    done = CliRunner().invoke(command.command, given)
    assert done.exit_code == 0, done.output
    assert "None is down on Beale's surface within 5 steps" in done.output
    assert {file.name for file in folder.iterdir()} == {"beale.svg", "beale.png", "beale-animated.svg"}
    still, moving = ((folder / name).read_text() for name in ("beale.svg", "beale-animated.svg"))
    assert "<animate" not in still
    assert "Each at its best of 11 learning rates" in still
    circles = ElementTree.fromstring(moving).findall(f".//{{{animation.SPACE}}}circle")
    assert len(circles) == 2
    for move in (move for circle in circles for move in circle):
        assert len(move.get("values").split(";")) == len(move.get("keyTimes").split(";")) == 5 + 2
    assert max(file.stat().st_size for file in folder.iterdir()) < 1_000_000


def test_paths_have_marks_at_even_distances():
    way = np.linspace(0, 1, 50)
    found = drawn.marked_places({"places": [(x, 0.5) for x in way]}, 8.0, way, way)
    steps = np.diff([x for x, _ in found]) * drawn.WIDTH
    assert len(found) == int((drawn.WIDTH - 8 - drawn.APART / 2) // drawn.APART) + 1
    assert steps == pytest.approx(drawn.APART, abs=7)  # pixels
    assert len(drawn.marked_places({"places": [(0, 0), (1, 1)] * 50}, 0.0, way, way)) == drawn.MOST_MARKS
    assert drawn.marked_places({"places": [(0.5, 0.5)]}, 0.0, way, way) == []


def test_each_that_can_race_has_a_shape_of_its_own():
    assert len(set(drawn.SHAPES)) == len(drawn.SHAPES) == racing.MOST


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["adm"], 'Did you mean "adam"'),
        (["muon"], "muon cannot race"),
        ([], "0 optimizers cannot race: 1 to 8 can"),
        (["sgd", "momentum", "nag", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "adamax"], "9 optimizers"),
    ],
)
def test_who_cannot_race_is_told_why(names, said):
    with pytest.raises(InputError, match=said):
        racing.known(names)
    assert racing.known(["adam", "sgd", "adam"]) == ["adam", "sgd"]
