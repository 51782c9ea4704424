"""studies/studies.yaml as typed models: what each study varies, tunes and reports."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, ValidationError, model_validator

from flows.params import fields, params_file
from flows.project import paths
from flows.project.errors import InputError, unknown
from flows.untrusted import bounded_yaml

FILE = "studies/studies.yaml"
DEFAULT = "default"  # the published default of what is tuned


def at_least_two(value: Any) -> Any:
    """Refuses a number of seeds from which nothing can be said, with the reason."""
    if value in (0, 1):
        raise InputError(
            f"{value} is too few: the seed is the unit of comparison, and one has no spread. Give 2 or more"
        )
    return value


def study_name(name: Any) -> str:
    """Refuses a name that cannot be that of a folder, of a stage and a word on a command line."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", name):
        raise InputError(
            'a study\'s name has at most 64 lower-case letters, digits, "-" and "_", and starts with a letter'
        )
    return name


def variant_name(value: Any) -> Any:
    """A number or a list as the name of the variant that has it: YAML reads `baseline: 0.5` as a number."""
    return json.dumps(value) if isinstance(value, (bool, int, float, list)) else value


class Study(fields.Section):
    """One comparison."""

    about: str
    """The question, in a sentence: the title of the study's page and figures."""
    dataset: Annotated[str, fields.OneOf("dataset", fields.DATASETS)]
    """The dataset, whose training split alone is used: the test split stays unread."""
    member: dict[str, Any]
    """What all variants share: a member as in params.yaml, with epochs and batch_size."""
    vary: Annotated[dict[str, list], BeforeValidator(fields.limit_entries)] = Field(default_factory=dict)
    """Dotted keys of a member and their values: a variant for each value, or combination of values."""
    variants: Annotated[dict[str, dict[str, Any]], BeforeValidator(fields.limit_entries)] = Field(default_factory=dict)
    """Variants by name instead, each with its dotted keys and values; {} is the member as it is."""
    tune: dict[str, Literal["default"] | list[float]] = Field(default_factory=dict)
    """What is tuned for each variant: a dotted key, and its values, or `default` for seven values at half-decade steps
    around the published default; then an optimum at the edge extends the grid."""
    baseline: Annotated[str, BeforeValidator(variant_name)] = ""
    """The variant to which the others are compared. A study needs one: `variants` says which there are."""
    seeds: Annotated[int, BeforeValidator(at_least_two), Field(ge=2, le=1000), fields.NUMBER] = 5
    """Fresh seeds that are reported: networks for each variant."""
    tuning_seeds: Annotated[int, Field(ge=1, le=1000), fields.NUMBER] = 1
    """Seeds of each tuning trial, none of which is reported."""
    select_by: Literal["accuracy", "nll"] = "accuracy"
    """The validation score that chooses the tuned value; equal accuracies are told apart by nll."""
    validation: fields.Fraction = 0.2
    """Fraction of the training split on which every choice is made, stratified."""
    held_out: fields.Fraction = 0.2
    """Fraction of the training split on which the study reports, stratified."""
    target: fields.Fraction = 0.9
    """Validation accuracy; steps and seconds to it are reported."""
    margin: Annotated[float, Field(gt=0, le=100), fields.NUMBER] = 0.1
    """Percentage points within which two variants count as equivalent."""
    seed: Annotated[int, Field(ge=0, lt=2**32), fields.NUMBER] = 0
    """Seed of the splits, and of all seeds."""
    early_stopping: fields.Count | None = None
    """Epochs without a better validation nll before a network stops; null: none stops before its last epoch."""

    @model_validator(mode="after")
    def one_way_to_vary(self) -> "Study":
        if bool(self.vary) == bool(self.variants):
            raise InputError("give either `vary`, dotted keys with a list of values each, or `variants` by name")
        if empty := [key for key, values in self.vary.items() if not values]:
            raise InputError(f"vary.{empty[0]} is empty: give a list of values")
        if len(self.tune) > 1:
            raise InputError(f"tune has {len(self.tune)} keys ({', '.join(self.tune)}), but one at most can be tuned")
        varied = {*self.vary, *(key for own in self.variants.values() for key in own)}
        for key, values in self.tune.items():
            for other in varied:
                if f"{other}.".startswith(f"{key}.") or f"{key}.".startswith(f"{other}."):
                    raise InputError(f"{key} is both varied and tuned: take it out of one of them")
            if values == DEFAULT and key != "optimizer.lr":
                raise InputError(
                    f"tune.{key} is default, but only optimizer.lr has a published default: list its values"
                )
            if isinstance(values, list) and (not 2 <= len(values) <= 100 or len(set(values)) < len(values)):
                raise InputError(f"tune.{key} has to list 2 to 100 different values, or be `default`")
        if self.validation + self.held_out >= 1:
            raise InputError("validation and held_out together leave nothing to train on: give fractions below 1")
        return self

    @property
    def tuned_key(self) -> str | None:
        return next(iter(self.tune), None)


class Studies(fields.Section):
    data: dict[Annotated[str, fields.OneOf("dataset", fields.DATASETS)], "Data"]
    """The datasets that studies use."""
    studies: dict[Annotated[str, PlainValidator(study_name)], Study]
    """The studies, by name."""


class Data(fields.Section):
    test: Annotated[str | float, BeforeValidator(fields.official_or_fraction)]
    """official, or the fraction that is set aside before a study sees anything; as in params.yaml."""


Studies.model_rebuild()


def content(path: Path | None = None) -> dict[str, Any]:
    """studies.yaml as it is written. Raises InputError where it is missing, no valid YAML, or has no keys."""
    path = path or paths.root() / FILE
    found = bounded_yaml.read(path)
    if not isinstance(found, dict):
        raise InputError(f"{path.name} is empty or no mapping of keys to values")
    return found


def blocks(given: dict[str, Any]) -> dict[Any, Any]:
    """The block of each study, by its name, unchecked; none where `studies` is no mapping."""
    found = given.get("studies")
    return found if isinstance(found, dict) else {}


def read(path: Path | None = None, only: str | None = None) -> Studies:
    """Reads and checks the studies.

    Args:
        only: a study, of all of which its block alone is checked: a mistake in another one is none of its business.

    Raises:
        InputError: the file is missing, no valid YAML, or holds a mistake.
    """
    given = content(path)
    if only is not None and blocks(given):
        given = given | {"studies": {name: block for name, block in blocks(given).items() if str(name) == only}}
    source = Path(path or FILE).name
    try:
        found = Studies.model_validate(given)
    except ValidationError as error:
        problems = error.errors()[: params_file.MOST_TOLD]
        raise InputError("; ".join(params_file.explain(source, problem, Studies) for problem in problems)) from None
    for name, study in found.studies.items():
        if study.dataset not in found.data:
            raise InputError(
                f"{source}: studies.{name}.dataset is {study.dataset}, but data.{study.dataset} is missing"
            )
    return found


def study(name: str) -> Study:
    """One study. Raises InputError where there is none of that name, or its block holds a mistake."""
    found = read(only=name)
    if name not in found.studies:
        raise unknown("study", name, map(str, blocks(content())))
    return found.studies[name]
