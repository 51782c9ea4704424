"""The members that docs/members/ offers can be put into params.yaml as their comments say."""

import pytest
import yaml
from conftest import ROOT

from flows.params.params_file import parse

OFFERED = sorted((ROOT / "docs" / "members").glob("*.yaml"))


@pytest.mark.parametrize("file", OFFERED, ids=lambda file: file.stem)
def test_a_member_on_offer_fits_below_members(file):
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("members:"))
    offered = file.read_text(encoding="utf-8")
    content = yaml.safe_load("\n".join([*lines[: place + 1], offered, *lines[place + 1 :]]))
    before = yaml.safe_load("\n".join(lines))["members"]
    members = parse(content).members
    if (own := content["data"].get(file.stem)) and "task" in own:  # offered for a dataset of another task
        named = {name: content["members"][name] for name in set(members) - set(before)}
        assert parse(content | {"dataset": file.stem, "members": named}).feed.task == own["task"]
    assert set(before) < set(members)
    assert set(yaml.safe_load("members:\n" + offered)["members"]) == set(members) - set(before)
    assert f"'/^members:/r docs/members/{file.name}'" in offered


def test_there_are_members_on_offer():
    assert {file.stem for file in OFFERED} == {
        "airbench", "blobs", "cifar10_rmsprop", "diabetes", "digit_strings", "mnist", "mnist_128", "mnist_dropout_512",
    }  # fmt: skip
