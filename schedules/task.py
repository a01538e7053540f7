"""A Task is one kernel to make: what it computes, as plain data, and nothing about how."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from .expr import Expr, rows, text

Role = Literal["input", "constant", "output"]
ITEMSIZE = {"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
            "int64": 8, "uint64": 8, "float64": 8}


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
