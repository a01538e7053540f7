"""From a FusedGroup to a Task: the nodes' lowerings composed into one kernel's expressions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...schedules import expr as x
from ...schedules.expr import Expr
from ...schedules.task import Buffer, Store, Task
from ..errors import Refusal
from ..partition import FusedGroup, Partition, lowering_of
from .registry import Anchor, Context, Kind, Pieces, Refuse, dtype_of, refusal, shape_of
from .tensor import Tensor, reindex

LITERAL = 1     # constants of at most this many elements become literals in the kernel


@dataclass(frozen=True)
class LoweredGroup:
    """A task and what its buffers are bound to, in their order: a value of the graph or a constant array."""

    group: FusedGroup
    task: Task
    bindings: tuple[ir.Value | np.ndarray, ...]


def lower(group: FusedGroup, partition: Partition) -> LoweredGroup | list[Refusal]:
    """The group's task, or everything in it that cannot be lowered."""
    return _Group(group, partition).build()


class _Group:
    """The state of one group while it is lowered: its buffers so far and the Tensors of its values."""

    def __init__(self, group: FusedGroup, partition: Partition) -> None:
        self.group, self.partition = group, partition
        self.buffers: list[Buffer] = []
        self.bindings: list[ir.Value | np.ndarray] = []
        self.known: dict[tuple[int, tuple[int, ...]], int] = {}
        self.tensors: dict[ir.Value, Tensor] = {}
        self.refusals: list[Refusal] = []

    # ---- what a Context asks for

    def buffer(self, value: ir.Value, shape: tuple[int, ...] | None = None) -> int:
        if value in self.tensors and self._inside(value):
            raise ValueError(f"{value.name} is computed inside the group and lies nowhere")
        value = self.partition.root(value)
        shape = shape_of(value) if shape is None else shape
        if value.const_value is not None:
            return self._add(value, shape, dtype_of(value), "constant", value.const_value.numpy())
        return self._add(value, shape, dtype_of(value), "input", value)

    def weight(self, array: np.ndarray) -> int:
        return self._add(array, array.shape, str(array.dtype), "constant", array)

    def tensor(self, buffer: int) -> Tensor:
        b = self.buffers[buffer]
        return Tensor(b.shape, b.dtype, lambda index: x.load(buffer, index, b.dtype))

    def _add(self, key: object, shape: tuple[int, ...], dtype: str, role: str, binding: ir.Value | np.ndarray) -> int:
        name = (key if isinstance(key, str) else id(key), shape)    # `binding` keeps the object, and so its id, alive
        place = self.known.get(name)
        if place is None:
            place = self.known[name] = len(self.buffers)
            self.buffers.append(Buffer(tuple(shape), dtype, role))  # type: ignore[arg-type]
            self.bindings.append(binding)
        return place

    # ---- building

    def build(self) -> LoweredGroup | list[Refusal]:
        task = self._anchored() if self.group.anchor is not None else self._generic()
        return self.refusals if task is None or self.refusals else LoweredGroup(self.group, task, tuple(self.bindings))

    def _generic(self) -> Task | None:
        root = self.group.nodes[-1]
        for node in self.group.nodes[:-1]:
            self._compute(node)
        result = self._lower(root)
        if result is None:
            return None
        i = x.indices(len(shape_of(root.outputs[0])))
        assert not isinstance(result, Anchor), root.op_type
        stores: list[tuple[ir.Value, tuple[int, ...], tuple[Expr, ...], Expr]] = []
        if isinstance(result, Pieces):
            start = 0
            for part in result.parts:
                index = tuple(x.add(e, start) if axis == result.axis else e for axis, e in enumerate(i))
                stores.append((root.outputs[0], part.shape, index, part.at(i)))
                start += part.shape[result.axis]
        else:
            for value, t in zip(root.outputs, [result] if isinstance(result, Tensor) else result, strict=False):
                if value in self.group.outputs:
                    own = x.indices(len(t.shape))
                    stores.append((value, t.shape, own, t.at(own)))
        # only now, after every read has claimed its buffer: outputs are the last buffers
        outputs = tuple(Store(self._output(v), *s) for v, *s in stores)
        return Task("generic", tuple(self.buffers), outputs)

    def _anchored(self) -> Task | None:
        anchor_node = self.group.anchor
        assert anchor_node is not None
        behind = self._behind(anchor_node)
        for node in self.group.nodes:
            if node is not anchor_node and node not in behind:
                self._compute(node)
        anchor = self._lower(anchor_node)
        if anchor is None:
            self._check(behind)
            return None
        assert isinstance(anchor, Anchor), anchor_node.op_type
        if not behind:
            pairs = [(v, o) for v, o in zip(anchor_node.outputs, anchor.outputs, strict=False) if v in self.group.outputs]
            stores = tuple(Store(self._output(v), self._store_space(anchor, o.index, o.value), o.index, o.value) for v, o in pairs)
        else:
            index, value = self._epilogue(anchor_node, anchor, behind)
            if value is None:
                return None
            stores = (Store(self._output(self.group.outputs[0]), self._store_space(anchor, index, value), index, value),)
        return Task(anchor.family, tuple(self.buffers), stores, dict(anchor.params), dict(anchor.operands), tuple(anchor.stages))

    def _store_space(self, anchor: Anchor, index: tuple[Expr, ...], value: Expr) -> tuple[int, ...]:
        """A `rows` result that still depends on the reduction position is stored over space + reduce."""
        if anchor.family != "rows":
            return anchor.space
        full = (*anchor.params["space"], *anchor.params["reduce"])
        used = x.variables([*index, value])
        inner = any(f"i{n}" in used for n in range(len(anchor.params["space"]), len(full)))
        return full if inner or len(anchor.space) == len(full) else anchor.space

    def _behind(self, anchor: ir.Node) -> list[ir.Node]:
        """The epilogue's nodes: those of the group that depend on the anchor."""
        reached, result = set(anchor.outputs), []
        for node in self.group.nodes:
            if node is not anchor and any(v in reached for v in node.inputs):
                reached.update(node.outputs)
                result.append(node)
        return result

    def _epilogue(self, node: ir.Node, anchor: Anchor, behind: list[ir.Node]) -> tuple[tuple[Expr, ...], Expr | None]:
        """Carries (where it lands, what lands there) through the epilogue's nodes."""
        first = next(o for v, o in zip(node.outputs, anchor.outputs, strict=False) if v.uses())
        source = next(v for v in node.outputs if v.uses())
        place: dict[ir.Value, tuple[Expr, ...]] = {source: first.index}
        self.tensors[source] = _standing(source, first.value)
        for n in behind:
            carried = next(v for v in n.inputs if v in place)
            index, out = place[carried], n.outputs[0]
            for v in n.inputs:      # a prologue of the epilogue: what another input is computed from
                if v is not None and v not in place:
                    self._ensure(v)
            low = lowering_of(n)
            assert low is not None
            if low.kind is Kind.VIEW:
                place[out] = reindex(index, shape_of(carried), shape_of(out))
                value = self.tensors[carried].at(index)
            elif n.op_type == "Transpose":
                place[out] = tuple(index[p] for p in n.attributes["perm"].as_ints())
                value = self.tensors[carried].at(index)
            else:
                result = self._lower(n)
                assert result is None or isinstance(result, Tensor)
                place[out] = reindex(index, shape_of(carried), shape_of(out))
                value = result.at(place[out]) if result is not None else x.const(0, dtype_of(out))
            self.tensors[out] = _standing(out, value)
        last = self.group.outputs[0]
        return (place[last], self.tensors[last].at(place[last])) if last in place else ((), None)

    def _check(self, nodes: list[ir.Node]) -> None:
        """Lowers nodes only for their refusals, as if their inputs lay in memory."""
        for n in nodes:
            self._lower(n)

    def _compute(self, node: ir.Node) -> None:
        result = self._lower(node)
        if result is None:      # refused: go on with anything in its place, to find what else would be
            result = [_standing(v, x.const(0, dtype_of(v))) for v in node.outputs]
        results = [result] if isinstance(result, Tensor) else result
        assert not isinstance(results, Anchor | Pieces), node.op_type
        for v, t in zip(node.outputs, results, strict=True):
            self.tensors[v] = t

    def _lower(self, node: ir.Node) -> Tensor | tuple[Tensor, ...] | Anchor | Pieces | None:
        low = lowering_of(node)
        assert low is not None
        try:
            return low.function(Context(node, [None if v is None else self._ensure(v) for v in node.inputs], self))  # type: ignore[return-value]
        except Refuse as e:
            self.refusals.append(e.refusal)
        except (ValueError, TypeError, IndexError, KeyError, NotImplementedError) as e:
            self.refusals.append(refusal(node, f"the lowering failed: {type(e).__name__}: {e}", "please report this model"))
        return None

    def _ensure(self, value: ir.Value) -> Tensor:
        """The Tensor of a value: computed in the group, a literal, or read from memory (lazily: a buffer is claimed only when an
        element of it is asked for)."""
        if value in self.tensors:
            return self.tensors[value]
        shape, dtype = shape_of(value), dtype_of(value)
        if value.const_value is not None and value.const_value.size <= LITERAL and value.const_value.size > 0:
            literal = x.const(value.const_value.numpy().reshape(()).item(), dtype)
            t = Tensor(shape, dtype, lambda index: literal)
        else:
            t = Tensor(shape, dtype, lambda index: x.load(self.buffer(value, shape), index, dtype))
        self.tensors[value] = t
        return t

    def _inside(self, value: ir.Value) -> bool:
        return value.producer() in self.group.nodes

    def _output(self, value: ir.Value) -> int:
        return self._add(f"output {value.name}", shape_of(value), dtype_of(value), "output", value)


def _standing(value: ir.Value, element: Expr) -> Tensor:
    """A value of the epilogue, whose current element is known and is the only one ever asked for."""
    return Tensor(shape_of(value), dtype_of(value), lambda index: element)
