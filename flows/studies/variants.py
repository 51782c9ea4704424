"""The variants of a study: the shared member, with what varies put in its place."""

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from flows.params import params_file, recipes
from flows.project.errors import InputError, quoted, unknown
from flows.studies import specification
from lightning_modules import names

STEPS = (0, -1, 1, -2, 2, -3, 3)  # of the default grid: half decades from the default
PARENTS = {"optimizer": names.OPTIMIZERS, "network": names.NETWORKS}

MOST_VARIANTS = 200
MOST_SIGNS = 80  # of a variant's name


@dataclass(frozen=True)
class Variant:
    """One of the things that a study compares.

    Attributes:
        name: its values of what varies, as text.
        given: the member, of which the tuned key has its default.
        tuned: the dotted key that is tuned; None where none is.
        default: the default of what is tuned; None where nothing is.
        grid: the values that tuning tries first.
    """

    name: str
    given: Mapping[str, Any]
    tuned: str | None
    default: float | None
    grid: tuple[float, ...]

    def at(self, value: float | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The complete recipe with a value of what is tuned, None for the default, and epochs, batch_size and augment.

        Raises:
            InputError: the value does not fit.
        """
        given = self.given if value is None or self.tuned is None else with_value(self.given, self.tuned, value)
        member = checked(self.name, given)
        settings = {"epochs": member.epochs, "batch_size": member.batch_size, "augment": member.augment or "none"}
        return member.recipe, settings


def read(name: str) -> tuple[specification.Study, list[Variant]]:
    """A study of studies.yaml with its variants. Raises InputError as `specification.study` and `variants`."""
    found = specification.named(name)
    study = found.every[name]
    try:
        return study, variants(study)
    except InputError as error:
        raise InputError(f"studies.yaml: {found.block(name)}: {error}") from None


def variants(study: specification.Study) -> list[Variant]:
    """The variants, in the order of the file.

    Raises:
        InputError: a key does not exist, a value does not fit, or the baseline is none of the variants.
    """
    count = len(study.variants) or math.prod(map(len, study.vary.values()))
    if count > MOST_VARIANTS:
        raise InputError(f"{count:,} variants are too many: {MOST_VARIANTS} at most")
    found: dict[str, Variant] = {}
    for name, values in named(study):
        if not name.isprintable() or not 0 < len(name) <= MOST_SIGNS:
            raise InputError(
                f"{quoted(name)} cannot be a variant's name: it has to be one line of at most {MOST_SIGNS} signs; "
                "give names with `variants`"
            )
        if name in found:
            raise InputError(f"two variants are called {quoted(name)}: give each value once")
        found[name] = variant(study, name, values)
    if len(found) < 2:
        raise InputError("there is a single variant: a comparison needs two or more")
    if not study.baseline:
        raise InputError(f"baseline is missing: name the variant to compare the others to, of {', '.join(found)}")
    if study.baseline not in found:
        raise InputError(f"baseline: {unknown('variant', study.baseline, found)}")
    return list(found.values())


def named(study: specification.Study) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each variant's name and its values by dotted key."""
    if study.variants:
        yield from study.variants.items()
        return
    for values in itertools.product(*study.vary.values()):
        yield ", ".join(map(text, values)), dict(zip(study.vary, values))


def text(value: Any) -> str:
    try:
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            rest = {key: own for key, own in value.items() if key != "name"}
            return f"{value['name']} {json.dumps(rest)}" if rest else value["name"]
        return value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError):
        raise InputError(f"{quoted(value)} cannot be varied: give a number, a name, a list or a mapping") from None


def variant(study: specification.Study, name: str, values: Mapping[str, Any]) -> Variant:
    given: dict[str, Any] = copy.deepcopy(study.member)
    # First names, which bring their own hyper-parameters, then these.
    for one in sorted(values, key=lambda one: (not one.endswith(".name"), one)):
        put(given, one, values[one])
    optimizer = given.get("optimizer")
    if isinstance(optimizer, str):
        optimizer = given["optimizer"] = {"name": optimizer}
    if isinstance(optimizer, dict) and optimizer.get("name") in names.OPTIMIZERS:
        published = names.LEARNING_RATES[optimizer["name"]]
        if "optimizer.lr" in study.tune and study.tune["optimizer.lr"] == specification.DEFAULT:
            optimizer = optimizer | {"lr": published}
        given["optimizer"] = {"lr": published} | optimizer
    member = checked(name, given)
    missing = [setting for setting in ("epochs", "batch_size") if getattr(member, setting) is None]
    if missing:
        raise InputError(f"member.{missing[0]} is missing: a study says how long it trains")
    key = study.tuned_key
    if key is None:
        return Variant(name, given, None, None, ())
    default = lookup(member.model_dump(), key)
    if isinstance(default, bool) or not isinstance(default, (int, float)):
        raise InputError(f"variant {quoted(name)}: {key} is {quoted(default)}, and only numbers can be tuned")
    values_tried = study.tune[key]
    if isinstance(values_tried, str):
        grid = tuple(half_decades(default, step) for step in STEPS)
    else:
        whole = isinstance(default, int)
        grid = tuple(int(value) if whole and value == int(value) else value for value in values_tried)
    found = Variant(name, given, key, default, grid)
    for value in grid:  # one that does not fit is found before any training
        found.at(value)
    return found


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


def with_value(member: Mapping[str, Any], key: str, value: Any) -> dict:
    changed = copy.deepcopy(dict(member))
    put(changed, key, value)
    return changed


def checked(name: str, given: Mapping[str, Any]) -> recipes.Member:
    """The member as params.yaml's reader takes it.

    Raises:
        InputError: names the variant, and each key with what it has to be.
    """
    try:
        member = recipes.Member.model_validate(given)
    except ValidationError as error:
        # Each known optimizer has a published rate: one is missing where the name is wrong, and that is all to say.
        problems = [one for one in error.errors() if (one["loc"], one["type"]) != (("optimizer", "lr"), "missing")]
    else:
        if wrong := names.unfit("classification", member.recipe):
            raise InputError(f"variant {quoted(name)}: {wrong}")
        return member
    told = (params_file.explain("", problem, recipes.Member) for problem in problems[: params_file.MOST_TOLD])
    raise InputError(f"variant {quoted(name)}: {'; '.join(said.removeprefix(': ') for said in told)}")
