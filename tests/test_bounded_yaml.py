"""Whatever params.yaml holds, it is read or refused in one sentence."""

import os
import string

import pytest
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flows.params import params_file
from flows.project.errors import InputError
from flows.untrusted import bounded_yaml

DEFAULT = (ROOT / "tests" / "params.yaml").read_text()
MOST_SAID = 5000  # characters


def bomb(link: str) -> str:
    """Ten lines of which each stands for nine times the one before."""
    rows = [f"{own}: &{own} {link % ', '.join([f'*{before}'] * 9)}" for before, own in zip("abcdefghi", "bcdefghij")]
    return "\n".join(rows) + "\n"


def refused(content: object) -> str | None:
    """Why such params are refused."""
    try:
        params_file.parse(content)
    except InputError as error:
        return one_sentence(error)
    return None


def refusal(content: bytes) -> str | None:
    """Why a params.yaml of these bytes is refused."""
    try:
        read = bounded_yaml.load(content, "params.yaml")
    except InputError as error:
        return one_sentence(error)
    return refused(read)


def one_sentence(error: InputError) -> str:
    said = str(error)
    assert said.isprintable(), said
    assert len(said) < MOST_SAID
    return said


def test_the_default_is_read():
    assert refusal(DEFAULT.encode()) is None


# Each of these once took minutes or gigabytes, or ended in a traceback.
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (DEFAULT + "a: &a [1, 2]\n" + bomb("[%s]"), "more than 100,000 values"),
        (DEFAULT + "a: &a {x: 1}\n" + bomb("{<<: [%s]}"), "more than 100,000 values"),
        ("[" * 500_000, "nested deeper than 30 levels"),
        ("- " * 400_000, "nested deeper than 30 levels"),
        ("a: &a [*a]", r"\*a stands for something that it is a part of"),
        (" " * 1_000_001, "more than 1,000,000 bytes"),
        ("seed: " + "9" * 500_000, "4300 digits"),
        (DEFAULT.replace("seed: 0", "seed: 0x" + "f" * 500_000), "seed is a number of thousands of digits"),
        (DEFAULT.replace("name: cnn", "name: [cnn]"), r"network.name is \['cnn'\], but should be a name"),
        (DEFAULT.replace("lr: 0.001", "lr: !!int ''"), "not what its tag says"),
        (DEFAULT.replace("lr: 0.001", "lr: !!bool maybe"), "not what its tag says"),
        (DEFAULT.replace("lr: 0.001", "lr: !!timestamp now"), "not what its tag says"),
        (DEFAULT.replace("relu", "relu\x1b[31m\n"), "no valid YAML"),
        (DEFAULT.replace("relu", '"relu\\e[31m\\n"'), r'unknown activation "relu\\x1b\[31m\\n"'),
        (DEFAULT.replace("relu", '"\\ud800"'), "no valid YAML"),
        (DEFAULT.replace("activation: relu", "activation: " + "r" * 300_000), 'unknown activation "r{80}…"'),
        ("".join(f"k{number}: 1\n" for number in range(40_000)), "more mistakes"),
        (DEFAULT.replace("members:", "members:\n" + "".join(f"  m{i}: 1\n" for i in range(40_000))), "too many"),
    ],
)
def test_what_no_person_writes_is_refused_in_a_sentence(content, said):
    with pytest.raises(InputError, match=said):
        params_file.parse(bounded_yaml.load(content.encode(), "params.yaml"))
    assert refusal(content.encode())


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path, make):
    place = tmp_path / "params.yaml"
    make(place)
    with pytest.raises(InputError, match=r"params.yaml (is no plain file|cannot be read)"):
        params_file.read(place)


# No subnormal floats: a training in the same process lets the processor count them as zero.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_subnormal=False),
    st.text(),
    st.dates(),
    st.datetimes(),
    st.binary(max_size=20),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.one_of(SCALARS, st.sampled_from(["name", "lr"])), inner)
    ),
    max_leaves=10,
)


def places(value: object, place: tuple = ()) -> list[tuple]:
    """The ways to all values in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place] * bool(place) + [way for key, inner in items for way in places(inner, (*place, key))]


PLACES = places(yaml.safe_load(DEFAULT))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(PLACES), value=ANYTHING)
@example(place=("members", "mlp", "network", "hidden"), value=[10**5000])
def test_any_value_in_any_place(place, value):
    content = yaml.safe_load(DEFAULT)
    section = content
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    refused(content)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    at=st.integers(0, len(DEFAULT)), cut=st.integers(0, 20), text=st.text(string.printable + "é\0\u2028", max_size=8)
)
def test_any_text_in_any_place(at, cut, text):
    refusal((DEFAULT[:at] + text + DEFAULT[at + cut :]).encode())


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes(content):
    assert refusal(content)
