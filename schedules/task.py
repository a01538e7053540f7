"""A Task is one kernel to make: what it computes, as plain data, and nothing about how."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self, get_args

from .expr import Expr, from_rows, rows, shown, text

Role = Literal["input", "constant", "output"]
ITEMSIZE = {"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
            "int64": 8, "uint64": 8, "float64": 8}
REDUCTIONS = frozenset({"sum", "prod", "max", "min", "argmax", "argmin", "argmax_last", "argmin_last"})


@dataclass(frozen=True)
class Buffer:
    """A dense row-major array that the kernel is handed. A `constant` is a weight: its template may ask for it repacked."""

    shape: tuple[int, ...]
    dtype: str
    role: Role

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * ITEMSIZE[self.dtype]

    def __str__(self) -> str:
        return f"{self.role} {self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Stage:
    """One reduction over the reduction space: s = op over r0, r1, … of `value`. Later stages may read earlier results.

    op: sum prod max min (dtype of `value`), argmax argmin (int32 flat position in the reduction space, first on ties),
    argmax_last argmin_last (last on ties).
    """

    op: str
    value: Expr


@dataclass(frozen=True)
class Store:
    """buffer[index] = value for every element of `space`. Index and value read i0 … (one per axis of `space`)."""

    buffer: int
    space: tuple[int, ...]
    index: tuple[Expr, ...]
    value: Expr


@dataclass(frozen=True)
class Task:
    """family, its parameters, the buffers in the order in which the kernel takes them (outputs last), and expressions.

    operands: how an anchor reads what it reduces over, by name (documented by each family's template); stages: of a `rows`
    task; stores: the epilogue, one for each output (or piece of an output).
    """

    family: str
    buffers: tuple[Buffer, ...]
    stores: tuple[Store, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    operands: Mapping[str, Expr] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    @classmethod
    def of(cls, data: object) -> Self:
        """The task whose `data` this is, which may be anybody's: raises ValueError with what is wrong. That a template can make
        the task is not said: it asks for the parameters that it needs."""
        fields = ("family", "params", "buffers", "operands", "stages", "stores", "expressions")
        if not isinstance(data, dict) or sorted(data) != sorted(fields):
            raise ValueError(f"a task has {', '.join(fields)}")
        family, params, buffers, operands, stages, stores, table = (data[name] for name in fields)
        _check(isinstance(family, str) and family.isidentifier() and len(family) <= 32, "family", family)
        _check(_is_names(params), "params", params)
        _check(_is_names(operands), "operands", operands)
        for name, value in (("buffers", buffers), ("stages", stages), ("stores", stores)):
            _check(isinstance(value, list), name, value)
        made = tuple(_buffer(n, b) for n, b in enumerate(buffers))
        exprs = from_rows(table)
        for n, e in enumerate(exprs):
            if e.op == "load" and (e.value >= len(made) or len(made[e.value].shape) != len(e.args)):
                raise ValueError(f"expression {n}: there is no buffer {e.value} of {len(e.args)} axes")

        def at(place: object, where: str) -> Expr:
            if type(place) is not int or not 0 <= place < len(exprs):
                raise ValueError(f"{where}: there is no expression {shown(place)}")
            return exprs[place]

        def store(n: int, row: object) -> Store:
            buffer, space, index, value = _row(row, 4, f"store {n}")
            _check(type(buffer) is int and 0 <= buffer < len(made), f"buffer of store {n}", buffer)
            _check(_is_extents(space), f"space of store {n}", space)
            _check(isinstance(index, list) and len(index) == len(made[buffer].shape), f"index of store {n}", index)
            return Store(buffer, tuple(space), tuple(at(i, f"store {n}") for i in index), at(value, f"store {n}"))

        def stage(n: int, row: object) -> Stage:
            op, value = _row(row, 2, f"stage {n}")
            _check(isinstance(op, str) and op in REDUCTIONS, f"op of stage {n}", op)
            return Stage(op, at(value, f"stage {n}"))

        return cls(family, made, tuple(store(n, row) for n, row in enumerate(stores)),
                   {name: _parameter(name, value) for name, value in params.items()},
                   {name: at(place, f"operand {name}") for name, place in operands.items()},
                   tuple(stage(n, row) for n, row in enumerate(stages)))

    @cached_property
    def data(self) -> dict[str, Any]:
        """The task as JSON."""
        exprs = [*self.operands.values(), *(s.value for s in self.stages)]
        for s in self.stores:
            exprs += [*s.index, s.value]
        table, places = rows(exprs)
        at = iter(places)
        return {
            "family": self.family, "params": dict(self.params),
            "buffers": [[list(b.shape), b.dtype, b.role] for b in self.buffers],
            "operands": {name: next(at) for name in self.operands},
            "stages": [[s.op, next(at)] for s in self.stages],
            "stores": [[s.buffer, list(s.space), [next(at) for _ in s.index], next(at)] for s in self.stores],
            "expressions": table,
        }

    @cached_property
    def key(self) -> str:
        """Canonical: equal for two tasks if and only if one kernel serves both."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def outputs(self) -> tuple[int, ...]:
        return tuple(n for n, b in enumerate(self.buffers) if b.role == "output")

    def __str__(self) -> str:
        params = " ".join(f"{k}={v}" for k, v in self.params.items())
        lines = [f"{self.family} {params}", *(f"  b{n}: {b}" for n, b in enumerate(self.buffers))]
        lines += [f"  {name} = {text(e)}" for name, e in self.operands.items()]
        lines += [f"  s{n} = {s.op} {text(s.value)}" for n, s in enumerate(self.stages)]
        lines += [f"  b{s.buffer}[{', '.join(map(text, s.index))}] = {text(s.value)}" for s in self.stores]
        return "\n".join(lines)


# ---- What others wrote -------------------------------------------------------------------------------------------------


def _check(ok: bool, what: str, value: object) -> None:
    if not ok:
        raise ValueError(f"the task's {what} cannot be {shown(value)}")


def _row(value: object, length: int, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) != length:
        raise ValueError(f"the task's {what} has not {length} parts: {shown(value)}")
    return value


def _is_names(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) and name.isidentifier() and len(name) <= 32 for name in value)


def _is_extents(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 48 for v in value)


def _buffer(n: int, row: object) -> Buffer:
    shape, dtype, role = _row(row, 3, f"buffer {n}")
    _check(_is_extents(shape), f"shape of buffer {n}", shape)
    _check(isinstance(dtype, str) and dtype in ITEMSIZE, f"dtype of buffer {n}", dtype)
    _check(isinstance(role, str) and role in get_args(Role), f"role of buffer {n}", role)
    return Buffer(tuple(shape), dtype, role)


def _parameter(name: str, value: object, depth: int = 0) -> Any:
    """A number, a string, nothing, or lists of such, which become tuples."""
    if isinstance(value, list) and depth < 4:
        return tuple(_parameter(name, v, depth + 1) for v in value)
    number = (type(value) is int and abs(value) < 1 << 63) or (isinstance(value, float) and math.isfinite(value))
    _check(number or value is None or isinstance(value, bool | str), f"parameter {name}", value)
    return value
