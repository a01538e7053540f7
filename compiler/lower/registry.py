"""How an ONNX op becomes expressions: the table of lowerings and what a lowering is given.

To add an op: one function in the file of its family, registered with `@lowering`, and its test.

    @lowering("Relu", kind=POINTWISE)
    def relu(ctx: Context) -> Tensor:
        return ctx.pointwise(lambda x: maximum(x, 0))

kinds: POINTWISE (element by element, numpy broadcasting), VIEW (same elements in the same order, another shape), INJECTIVE (an
output element reads a few input elements: layout, gather, pad, resize), ANCHOR (everything that a template of its own makes:
reductions, convolutions, sorting). The first three return Tensors and fuse freely; an ANCHOR returns an `Anchor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import onnx_ir as ir

from ...schedules.expr import Expr, const, load
from ...schedules.task import Stage
from ..errors import Refusal
from .tensor import Tensor


class Kind(Enum):
    POINTWISE = "pointwise"
    VIEW = "view"
    INJECTIVE = "injective"
    ANCHOR = "anchor"


POINTWISE, VIEW, INJECTIVE, ANCHOR = Kind


@dataclass(frozen=True)
class Output:
    """One result of an anchor. At the element i0, i1, … of the anchor's space, `index` is where it lands in the ONNX output
    and `value` what lands there (in terms of acc, s0, …)."""

    index: tuple[Expr, ...]
    value: Expr


@dataclass(frozen=True)
class Anchor:
    """What an anchor leaves to a template: see `schedules.task.Task` for family, params, operands and stages.

    space: the iteration space of the epilogue; outputs: one for each output of the node. Only an anchor with a single output
    whose index covers it one to one takes an epilogue.
    """

    family: str
    space: tuple[int, ...]
    outputs: tuple[Output, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    operands: Mapping[str, Expr] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Pieces:
    """A tensor made of parts that lie one after the other along `axis` (a concatenation): each becomes a Store of its own, where
    one element's expression would have to choose among all the parts."""

    axis: int
    parts: tuple[Tensor, ...]


Result = Tensor | Sequence[Tensor] | Pieces | Anchor


@dataclass(frozen=True)
class Lowering:
    function: Callable[[Context], Result]
    kind: Kind
    plain: tuple[int, ...] | None   # inputs that the anchor reads as whole arrays: no prologue fuses into them; None: all
    rereads: bool                   # the anchor reads an element many times: only copies fuse in front of it, no arithmetic
    epilogue: bool                  # the anchor's single output may be worked on before it is stored


LOWERINGS: dict[tuple[str, str], Lowering] = {}


def lowering(*ops: str, kind: Kind, plain: tuple[int, ...] | None = (), rereads: bool = False,
             epilogue: bool = True, domain: str = "") -> Callable[[Any], Any]:
    """Registers a function for ops. plain (anchors): numbers of the inputs that must lie in memory, None for all of them."""
    def register(function: Callable[[Context], Result]) -> Callable[[Context], Result]:
        for op in ops:
            LOWERINGS[domain, op] = Lowering(function, kind, plain, rereads, epilogue)
        return function
    return register


class Refuse(Exception):
    """Raised by `ctx.refuse`; carries the refusal to the partitioner, which collects them all."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(str(refusal))


class Context:
    """What a lowering is given: the node, its inputs as Tensors, the values known now, and ways to ask for more.

    inputs: a Tensor for each input, None for one left out. The group that is being built implements `buffer` and `weight`.
    """

    def __init__(self, node: ir.Node, inputs: Sequence[Tensor | None], group: Any) -> None:
        self.node, self.inputs, self._group = node, inputs, group

    # ---- what the node says

    @property
    def op(self) -> str:
        return self.node.op_type

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as a Python value (int, float, str, list, numpy array for a tensor)."""
        a = self.node.attributes.get(name)
        if a is None:
            return default
        if a.type == ir.AttributeType.TENSOR:
            return a.as_tensor().numpy()
        return list(a.value) if isinstance(a.value, list | tuple) else a.value

    def output_shape(self, n: int = 0) -> tuple[int, ...]:
        return shape_of(self.node.outputs[n])

    def output_dtype(self, n: int = 0) -> str:
        return dtype_of(self.node.outputs[n])

    def has(self, n: int) -> bool:
        """Is input n given?"""
        return n < len(self.inputs) and self.inputs[n] is not None

    def input(self, n: int) -> Tensor:
        t = self.inputs[n] if n < len(self.inputs) else None
        return t if t is not None else self.refuse(f"input {n} is missing")

    def array(self, n: int) -> np.ndarray | None:
        """The value of input n where it is a constant; None where it is computed at run time or left out."""
        v = self.node.inputs[n] if n < len(self.node.inputs) else None
        return v.const_value.numpy() if v is not None and v.const_value is not None else None

    def known(self, n: int, what: str) -> np.ndarray:
        """As `array`, but a value computed at run time is refused."""
        value = self.array(n)
        return value if value is not None else self.refuse(
            f"{what} is computed at run time", "export the model with static shapes and constant parameters")

    def refuse(self, reason: str, hint: str = "") -> Any:
        """Stops the lowering of this node with a reason for the user."""
        raise Refuse(refusal(self.node, reason, hint))

    # ---- what the kernel may read

    def buffer(self, n: int, shape: tuple[int, ...] | None = None) -> int:
        """The number of input n among the task's buffers, seen in another shape of the same size if given. The input must be
        `plain`."""
        return self._group.buffer(self.node.inputs[n], shape)

    def view(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """Input n in another shape of the same size: read as such where it lies in memory (claimed when an element is asked
        for), else by computing its index."""
        t = self.input(n)

        def element(index: tuple[Expr, ...]) -> Expr:
            try:
                buffer = self.buffer(n, shape)
            except ValueError:      # computed inside the group
                return t.reshape(shape).at(index)
            return load(buffer, index, t.dtype)

        return Tensor(shape, t.dtype, element)

    def weight(self, value: np.ndarray) -> int:
        """The number of a new constant among the task's buffers, such as a weight in the family's own layout."""
        return self._group.weight(np.ascontiguousarray(value))

    def constant(self, value: np.ndarray) -> Tensor:
        """A new constant as a Tensor; a single element becomes a literal."""
        value = np.asarray(value)
        if value.size == 1:
            literal = const(value.reshape(()).item(), str(value.dtype))
            return Tensor(value.shape, str(value.dtype), lambda index: literal)
        return self._group.tensor(self.weight(value))

    # ---- helpers that most lowerings are made of

    def pointwise(self, function: Callable[..., Expr], dtype: str | None = None) -> Tensor:
        """`function` on the elements of all inputs, broadcast against each other."""
        given = [t for t in self.inputs if t is not None]
        return Tensor(self.output_shape(), dtype or self.output_dtype(),
                      lambda index: function(*(t.broadcast_at(index) for t in given)))


def refusal(node: ir.Node, reason: str, hint: str = "") -> Refusal:
    return Refusal(node.name or node.outputs[0].name or "?", f"{node.domain}::{node.op_type}" if node.domain else node.op_type,
                   node.version or 0, reason, hint)


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape of a value; passes have made sure that there is one."""
    if value.shape is None or not value.shape.is_static():
        raise ValueError(f"{value.name} has no static shape")
    return tuple(int(d) for d in value.shape.numpy())


def dtype_of(value: ir.Value) -> str:
    if value.dtype is None:
        raise ValueError(f"{value.name} has no dtype")
    return str(value.dtype.numpy())
