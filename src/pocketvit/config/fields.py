"""A setting in one place: its default, its description, and the values that it may have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pocketvit.errors import UserError


class Limit(NamedTuple):
    """What a value has to be, and that in words."""

    holds: Callable[[Any], bool]
    words: str


ANY = Limit(lambda value: True, "anything")
AT_LEAST_0 = Limit(lambda value: value >= 0, "at least 0")
AT_LEAST_1 = Limit(lambda value: value >= 1, "at least 1")
ABOVE_0 = Limit(lambda value: value > 0, "above 0")
SHARE = Limit(lambda value: 0 <= value <= 1, "from 0 to 1")
PART = Limit(lambda value: 0 < value < 1, "above 0 and below 1")
BELOW_1 = Limit(lambda value: 0 <= value < 1, "at least 0 and below 1")
ANGLE = Limit(lambda value: 0 <= value <= 180, "from 0 to 180")
SOME = Limit(lambda value: 0 < value <= 1, "above 0 and at most 1")
# What NumPy's generators take, with room for --seeds more.
SEED = Limit(lambda value: 0 <= value <= 4_000_000_000, "from 0 to 4,000,000,000")

# NumPy's numbers are as good as Python's.
ABSTRACT = {int: Integral, float: Real}
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}


def setting(default: Any, text: str, limit: Limit = ANY) -> Any:
    """A field of a frozen dataclass of settings."""
    return dataclasses.field(default=default, metadata={"text": text, "limit": limit})


def group(kind: type, text: str, **changes: Any) -> Any:
    """A field that holds settings of `kind`, with `changes` to its defaults."""
    return dataclasses.field(default_factory=lambda: kind(**changes), metadata={"text": text, "limit": ANY})


def changed(kind: type, name: str, default: Any) -> Any:
    """The field `name` of the dataclass `kind`, with another default."""
    (before,) = (f for f in dataclasses.fields(kind) if f.name == name)
    return dataclasses.field(default=default, metadata=before.metadata)


@dataclasses.dataclass(frozen=True)
class Checked:
    """Settings that are checked when they are made.

    Raises:
        UserError: a value of another type or out of its limits; the message names its flag.
    """

    prefix = ""
    """Of its flags, as in --data.size."""

    def __post_init__(self) -> None:
        for field in _fields(type(self), self.prefix):
            field.check(getattr(self, field.flag.rpartition(".")[-1]))


class Setting(NamedTuple):
    """What is known of a setting, or of a group of them.

    Args:
        flag: its dotted name
        kind: type of its values; a dataclass for a group
        text: description
        limit: of its values
    """

    flag: str
    kind: Any
    text: str
    limit: Limit

    @property
    def is_group(self) -> bool:
        """Whether it holds settings, rather than a value."""
        return dataclasses.is_dataclass(self.kind)

    @property
    def expected(self) -> str:
        """What a value has to be, in words."""
        return in_words(self.kind)

    def check(self, value: Any) -> None:
        """Raise UserError, naming the flag, for a value of another type or out of the limits."""
        if not _is(value, self.kind):
            if value is None:
                raise UserError(f"--{self.flag}: has no value: give one, or leave it out")
            raise UserError(f"--{self.flag}: '{value}' is not valid: expected {self.expected}")
        if value is not None and not self.limit.holds(value):
            raise UserError(f"--{self.flag}: {value} is out of range: expected {self.limit.words}")


def described(kind: type, prefix: str = "") -> Iterator[Setting]:
    """Every setting of the dataclass `kind`, and after a group those in it."""
    for field in _fields(kind, prefix):
        yield field
        if field.is_group:
            yield from described(field.kind, f"{field.flag}.")


def _fields(kind: type, prefix: str) -> Iterator[Setting]:
    types = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield Setting(prefix + field.name, types[field.name], **field.metadata)


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_args(kind):
        return any(_is(value, option) for option in get_args(kind))
    if isinstance(value, bool):
        # To Python also a whole number.
        return kind is bool
    return isinstance(value, ABSTRACT.get(kind, kind))


def in_words(kind: Any) -> str:
    """What a value of a type has to be."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return " or ".join(map(in_words, get_args(kind))) or WORDS.get(kind, getattr(kind, "__name__", ""))
