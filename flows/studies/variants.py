"""The variants of a study: the shared member, with what varies put in its place."""

import copy
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from flows.params import params_file, recipes
from flows.project.errors import InputError, quoted, unknown
from flows.studies import specification
from lightning_modules import names

# The default grid: values at half-decade steps around the default, nearest first, so that a smaller budget tries the
# first of them.
STEPS = (0, -1, 1, -2, 2, -3, 3)
PARENTS = {"optimizer": names.OPTIMIZERS, "network": names.NETWORKS}


@dataclass(frozen=True)
class Variant:
    """One of the things that a study compares.

    Attributes:
        name: its values of what varies, as text.
        recipe: a member's recipe, complete; of what is tuned it has the default.
        settings: epochs, batch_size and augment.
        default: the default of what is tuned; None where nothing is.
        grid: the values that tuning tries first.
    """

    name: str
    recipe: Mapping[str, Any]
    settings: Mapping[str, Any]
    default: float | None
    grid: tuple[float, ...]


def variants(study: specification.Study) -> list[Variant]:
    """The variants, in the order of the file.

    Raises:
        InputError: a key does not exist, a value does not fit, or the baseline is none of the variants.
    """
    found: dict[str, Variant] = {}
    for name, values in named(study):
        if name in found:
            raise InputError(f"two variants are called {quoted(name)}: give each value once")
        found[name] = variant(study, name, values)
    if len(found) < 2:
        raise InputError("there is a single variant: a comparison needs two or more")
    if study.baseline not in found:
        raise unknown("variant", study.baseline, found)
    return list(found.values())


def named(study: specification.Study) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each variant's name and its values by dotted key."""
    if study.variants:
        yield from study.variants.items()
        return
    for values in itertools.product(*study.vary.values()):
        yield ", ".join(map(text, values)), dict(zip(study.vary, values))


def text(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        rest = {key: own for key, own in value.items() if key != "name"}
        return f"{value['name']} {json.dumps(rest)}" if rest else value["name"]
    return value if isinstance(value, str) else json.dumps(value)


def variant(study: specification.Study, name: str, values: Mapping[str, Any]) -> Variant:
    given = copy.deepcopy(study.member)
    # First names, which bring their own hyper-parameters, then these.
    for one in sorted(values, key=lambda one: (not one.endswith(".name"), one)):
        put(given, one, values[one])
    key, default = study.tuned_key, None
    grid: tuple[float, ...] = ()
    if "optimizer" in given and isinstance(given["optimizer"], dict) and "lr" not in given["optimizer"]:
        given["optimizer"]["lr"] = names.LEARNING_RATES.get(str(given["optimizer"].get("name")), 0.01)
    if key:
        values_tried = study.tune[key]
        if isinstance(values_tried, str):
            default = float(given["optimizer"]["lr"])
            grid = tuple(half_decades(default, step) for step in STEPS)
        else:
            grid = tuple(values_tried)
            default = lookup(given, key)
            default = grid[len(grid) // 2] if default is None else default
        put(given, key, default)
        for value in grid:  # a value that does not fit is found before any training
            checked(name, with_value(given, key, value))
    member = checked(name, given)
    missing = [setting for setting in ("epochs", "batch_size") if getattr(member, setting) is None]
    if missing:
        raise InputError(f"member.{missing[0]} is missing: a study says how long it trains")
    settings = {"epochs": member.epochs, "batch_size": member.batch_size, "augment": member.augment or "none"}
    return Variant(name, member.recipe, settings, default, grid)


def half_decades(default: float, step: int) -> float:
    """`step` half decades above the default, rounded to three digits: 0.001, 0.00316, 0.01."""
    return float(f"{default * 10 ** (step / 2):.3g}")


def put(member: dict, key: str, value: Any) -> None:
    """Sets a dotted key. A new name of a network or an optimizer takes the others' own hyper-parameters away.

    Raises:
        InputError: a member has no such key.
    """
    first, _, rest = key.partition(".")
    if first not in recipes.Member.model_fields:
        raise unknown("key", first, recipes.Member.model_fields)
    if not rest:
        member[first] = copy.deepcopy(value)
        return
    inside = member.get(first, {})
    inside = {"name": inside} if isinstance(inside, str) else dict(inside or {})
    if rest == "name" and first in PARENTS and inside.get("name") != value:
        inside = {own: inside[own] for own in ("weight_decay",) if own in inside}
    member[first] = inside | {rest: copy.deepcopy(value)}


def lookup(member: Mapping, key: str) -> Any:
    value: Any = member
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def with_value(member: dict, key: str, value: Any) -> dict:
    changed = copy.deepcopy(member)
    put(changed, key, value)
    return changed


def checked(name: str, given: dict) -> recipes.Member:
    """The member as params.yaml's reader takes it.

    Raises:
        InputError: names the variant, and each key with what it has to be.
    """
    try:
        return recipes.Member.model_validate(given)
    except ValidationError as error:
        problems = error.errors()
    told = []
    for problem in problems[: params_file.MOST_TOLD]:
        if problem["type"] in ("extra_forbidden", "invalid_key"):
            told.append(str(unknown("key", ".".join(map(str, problem["loc"])), recipes.Member.model_fields)))
        else:
            told.append(params_file.explain("", problem).removeprefix(": "))
    raise InputError(f"variant {quoted(name)}: {'; '.join(told)}")
