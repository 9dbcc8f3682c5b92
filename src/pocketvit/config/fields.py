"""A setting in one place: its default, its description, and the values that it may have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

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
SOME = Limit(lambda value: 0 < value <= 1, "above 0 and at most 1")
# What NumPy's generators take, with room for --seeds more.
SEED = Limit(lambda value: 0 <= value <= 4_000_000_000, "from 0 to 4,000,000,000")


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
        UserError: a value out of its limits; the message names its flag.
    """

    prefix = ""
    """Of its flags, as in --data.size."""

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        check(type(self), values, self.prefix)


def check(kind: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise UserError, naming the flag, for a value of the settings `kind` that is out of its limits.

    Args:
        kind: a dataclass of settings.
        values: by field; those of a group are a mapping, or the group itself.
        prefix: of the flags.
    """
    for f in dataclasses.fields(kind):
        value, flag = values[f.name], f"{prefix}{f.name}"
        if isinstance(value, Mapping):
            assert f.default_factory is not dataclasses.MISSING
            check(type(f.default_factory()), value, f"{flag}.")
            continue
        if value is None:
            if "None" not in str(f.type):
                raise UserError(f"--{flag}: has no value: give one, or leave it out")
            continue
        limit: Limit = f.metadata["limit"]
        try:
            holds = limit.holds(value)
        except TypeError:
            holds = False
        if not holds:
            raise UserError(f"--{flag}: {value} is out of range: expected {limit.words}")


def described(kind: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """Every setting of `kind` by its dotted name; those of its groups follow it."""
    for f in dataclasses.fields(kind):
        yield f"{prefix}{f.name}", f
        if f.default_factory is not dataclasses.MISSING:
            yield from described(type(f.default_factory()), f"{prefix}{f.name}.")
