"""studies/studies.yaml as typed models: what each study varies, tunes and reports."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, ValidationError, model_validator

from flows.params import fields, params_file
from flows.project import paths
from flows.project.errors import InputError, quoted, unknown
from flows.untrusted import bounded_yaml

FILE = "studies/studies.yaml"
KINDS = ("studies", "repeats")  # keys of the file
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
    def of_classifiers(self) -> "Study":
        task = fields.TASKS.get(self.dataset, ("classification",))[0]
        if task != "classification":
            raise InputError(f"studies compare classifiers by their accuracy, and the task of {self.dataset} is {task}")
        return self

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


class Repeat(Study):
    """A study once more on another dataset: whatever it does not say itself is as in the one that it repeats."""

    of: str
    """The study, or the repeat above this one, that it repeats."""


class Data(fields.Section):
    test: Annotated[str | float, BeforeValidator(fields.official_or_fraction)]
    """official, or the fraction that is set aside before a study sees anything; as in params.yaml."""


class Studies(fields.Section):
    data: dict[Annotated[str, fields.OneOf("dataset", fields.DATASETS)], Data]
    """The datasets that studies use."""
    studies: dict[Annotated[str, PlainValidator(study_name)], Study]
    """The studies, by name."""
    repeats: dict[Annotated[str, PlainValidator(study_name)], Repeat]
    """Studies on a further dataset, by name: a block of their own, because each also depends on the one it repeats."""

    @property
    def every(self) -> dict[str, Study]:
        """The studies, and those on a further dataset, by name."""
        return self.studies | self.repeats

    def block(self, name: str) -> str:
        """Where a study stands: studies.<name>."""
        return f"{'repeats' if name in self.repeats else 'studies'}.{name}"

    def line(self, name: str) -> list[str]:
        """The study, after those that it repeats: of each the one it repeats stands before it."""
        found = [name]
        while isinstance(one := self.every[found[0]], Repeat):
            found.insert(0, one.of)
        return found


def content(path: Path | None = None) -> dict[str, Any]:
    """studies.yaml as it is written. Raises InputError where it is missing, no valid YAML, or has no keys."""
    path = path or paths.root() / FILE
    found = bounded_yaml.read(path)
    if not isinstance(found, dict):
        raise InputError(f"{path.name} is empty or no mapping of keys to values")
    return found


def blocks(given: dict[str, Any]) -> dict[Any, Any]:
    """The block of each study, repeats too, by its name, unchecked; none where there is no mapping of them."""
    return {
        name: block for key in KINDS if isinstance(of_kind := given.get(key), dict) for name, block in of_kind.items()
    }


def read(path: Path | None = None, only: str | None = None) -> Studies:
    """Reads and checks the studies.

    Args:
        only: a study, of all of which its block and those that it repeats are checked alone: a mistake in another one
            is none of its business.

    Raises:
        InputError: the file is missing, no valid YAML, or holds a mistake.
    """
    given = content(path)
    source = Path(path or FILE).name
    every = blocks(given)
    wanted = {name for name in every if only in (None, str(name))}
    if only is not None:
        wanted |= repeated(every, only)
    try:
        found = Studies.model_validate(completed(given, wanted, source))
    except ValidationError as error:
        problems = error.errors()[: params_file.MOST_TOLD]
        raise InputError("; ".join(params_file.explain(source, problem, Studies) for problem in problems)) from None
    for name, study in found.every.items():
        if study.dataset not in found.data:
            raise InputError(
                f"{source}: {found.block(name)}.dataset is {study.dataset}, but data.{study.dataset} is missing"
            )
    for name in found.repeats:
        *others, own = (found.every[one] for one in found.line(name))
        if own.dataset in {other.dataset for other in others}:
            raise InputError(
                f"{source}: repeats.{name}.dataset is {own.dataset}, as in what it repeats: give another dataset"
            )
        if own.baseline != others[0].baseline:
            raise InputError(
                f"{source}: repeats.{name}.baseline is {quoted(own.baseline)}, but what it repeats has "
                f"{quoted(others[0].baseline)}: leave it out"
            )
    return found


def repeated(every: dict[Any, Any], name: Any) -> set[Any]:
    """The names of a study and of what it repeats, by unchecked blocks."""
    found: set[Any] = set()
    while isinstance(name, str) and name in every and name not in found:
        found.add(name)
        name = every[name].get("of") if isinstance(every[name], dict) else None
    return found


def completed(given: dict, wanted: set, source: str) -> dict:
    """The file's content with the wanted studies alone, in which each repeat has what it does not say itself from the
    study that it repeats. What is no mapping is left as it is, to be refused by the models.

    Raises:
        InputError: a wanted repeat is of none that stands above it, or has the name of a study.
    """
    studies, repeats = (given.get(key) for key in KINDS)
    if not isinstance(studies, dict) or not isinstance(repeats, dict):
        return given
    every = dict(studies)
    for name, own in repeats.items():
        if name not in wanted:
            continue
        if name in studies:
            raise InputError(f"{source}: repeats.{name} has the name of a study: give it another one")
        if isinstance(own, dict) and "of" in own:
            if not isinstance(own["of"], str) or own["of"] not in every:
                raise InputError(f"{source}: repeats.{name}.of: {unknown('study', own['of'], map(str, every))}")
            if isinstance(every[own["of"]], dict):
                own = every[own["of"]] | own
        every[name] = own
    return given | {
        key: {name: every[name] for name in of_kind if name in wanted}
        for key, of_kind in zip(KINDS, (studies, repeats), strict=True)
    }


def study(name: str) -> Study:
    """One study. Raises InputError where there is none of that name, or its block holds a mistake."""
    return named(name).every[name]


def named(name: str) -> Studies:
    """A study and those that it repeats. Raises InputError as `study`."""
    found = read(only=name)
    if name not in found.every:
        raise unknown("study", name, map(str, blocks(content())))
    return found
