"""Spaces of knobs: what a template lets one choose, and what is legal, as data with reasons."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

Value = int | str
Predicate = Callable[[Any], bool]


@dataclass(frozen=True)
class Knobs(Mapping[str, Value]):
    """One choice: plain JSON, read as `k["rows"]` or `k.rows`."""

    items_: tuple[tuple[str, Value], ...]

    @classmethod
    def of(cls, **values: Value) -> Knobs:
        return cls(tuple(values.items()))

    def __getitem__(self, name: str) -> Value:
        return dict(self.items_)[name]

    def __getattr__(self, name: str) -> Any:
        for key, value in object.__getattribute__(self, "items_"):
            if key == name:
                return value
        raise AttributeError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.items_))

    def __len__(self) -> int:
        return len(self.items_)

    def __str__(self) -> str:
        return " ".join(f"{k}={v}" for k, v in self.items_)


@dataclass(frozen=True)
class Space:
    """Named knobs with their values, and the conditions a choice must meet, each with the reason it would be refused.

        Space.of(rows=range(1, 17), vectors=range(1, 9)).require(lambda k: k.rows * k.vectors <= 28, "accumulators would spill")
    """

    knobs: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    conditions: tuple[tuple[Predicate, str], ...] = ()

    @classmethod
    def of(cls, **knobs: Iterable[Value]) -> Space:
        return cls(tuple((name, tuple(values)) for name, values in knobs.items()))

    def require(self, condition: Predicate, reason: str) -> Space:
        return Space(self.knobs, (*self.conditions, (condition, reason)))

    def why_not(self, choice: Mapping[str, Value]) -> str | None:
        """Why a choice (of a record, say) is not in this space; None where it is."""
        for name, values in self.knobs:
            if choice.get(name) not in values:
                return f"{name}={choice.get(name)!r} is none of {values}"
        if len(choice) > len(self.knobs):
            return f"there is no knob {next(iter(set(choice) - {name for name, _ in self.knobs}))}"
        k = SimpleNamespace(**choice)
        return next((reason for condition, reason in self.conditions if not condition(k)), None)

    def candidates(self) -> Iterator[Knobs]:
        names = [name for name, _ in self.knobs]
        for values in itertools.product(*(values for _, values in self.knobs)):
            choice = dict(zip(names, values, strict=True))
            if self.why_not(choice) is None:
                yield Knobs(tuple(choice.items()))
