"""The types of single values in params.yaml, each with its bounds."""

import dataclasses
import math
import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from flows.project.errors import InputError, unknown

WITHOUT_TEST_SPLIT = ("digits", "blobs", "diabetes", "digit_strings")
WITH_TEST_SPLIT = ("mnist", "fashion_mnist", "cifar10")
DATASETS = (*WITHOUT_TEST_SPLIT, *WITH_TEST_SPLIT, "folder")  # which may have one
# The tasks of datasets that are not for classification alone, the default first.
TASKS = {"diabetes": ("regression",), "digit_strings": ("sequence",)}
MOST_ENTRIES = 2000  # of a list or mapping
# Names that a member cannot have: its files would overwrite others.
RESERVED = ("ensemble", "members")
MEMBER_NAME = r"[a-z][a-z0-9_-]*"


def no_boolean(value: Any) -> Any:
    """Refuses true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "a number")
    return value


def limit_entries(value: Any) -> Any:
    """Refuses too many entries before each is checked: the errors of a megabyte of wrong ones would take seconds."""
    if isinstance(value, (dict, list)) and len(value) > MOST_ENTRIES:
        raise InputError(f"{len(value):,} entries are too many: {MOST_ENTRIES:,} at most")
    return value


# Has to stand after the bounds: pydantic leaves bounds that follow it out of the JSON Schema.
NUMBER = BeforeValidator(no_boolean)
Fraction = Annotated[float, Field(gt=0, lt=1), NUMBER]
Share = Annotated[float, Field(ge=0, lt=1), NUMBER]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), NUMBER]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]
Count = Annotated[int, Field(ge=1, le=10**9), NUMBER]
Size = Annotated[int, Field(ge=1, le=10**15), NUMBER]  # bytes or pixels


def official_or_fraction(value: Any) -> str | float:
    if value == "official":
        return value
    try:
        fraction = float(value)
    except (TypeError, ValueError, OverflowError):
        fraction = math.nan
    if isinstance(value, bool) or not 0 < fraction < 1:
        raise PydanticCustomError("test", "official or a fraction between 0 and 1")
    return fraction


def member_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(MEMBER_NAME, name):
        raise InputError(
            'a member\'s name is made of lower-case letters, digits, "-" and "_", and starts with a letter'
        )
    return name


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Annotates a name from a table. Other names are refused with a list of the known ones, also in the JSON Schema."""

    kind: str
    names: Collection[str]

    def check(self, name: str) -> str:
        if name not in self.names:
            raise unknown(self.kind, name, self.names)
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        return handler(schema) | {"enum": sorted(self.names)}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def names_one_of(table: dict, given: Any) -> bool:
    """Whether `given` is a mapping whose `name` is in the table. If not, the fields' types report what is wrong."""
    return isinstance(given, dict) and isinstance(given.get("name"), str) and given["name"] in table


def number(value: Any) -> float | int | None:
    """The value as a number, also from a string: YAML reads 1e-8 as one. None where it is no finite number."""
    if isinstance(value, bool):
        return None
    try:
        finite = math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    if not finite:
        return None
    return value if isinstance(value, int) else float(value)
