"""From a FusedGroup to a Task: the nodes' lowerings composed into one kernel's expressions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ...schedules import expr as x
from ...schedules.expr import Expr
from ...schedules.task import Buffer, Role, Store, Task
from ..errors import Refusal
from ..partition import FusedGroup, Partition, lowering_of
from ..placement import Region
from .registry import Anchor, Context, Kind, Pieces, Refuse, Result, dtype_of, refusal, shape_of
from .tensor import Tensor, reindex


@dataclass(frozen=True)
class LoweredGroup:
    """A task and what its buffers are bound to, in their order: the place of a value of the graph, or a constant array."""

    group: FusedGroup
    task: Task
    bindings: tuple[Region | np.ndarray, ...]


def lower(group: FusedGroup, partition: Partition) -> LoweredGroup | list[Refusal]:
    """The group's task, or everything in it that cannot be lowered."""
    return _Group(group, partition).build()


@dataclass(frozen=True)
class _Landing:
    """At the element i0, i1, … of `space`, `value` lands at `index` of a value of the graph."""

    space: tuple[int, ...]
    index: tuple[Expr, ...]
    value: Expr


class _Group:
    """The state of one group while it is lowered: its buffers so far and the Tensors of its values."""

    def __init__(self, group: FusedGroup, partition: Partition) -> None:
        self.group, self.partition = group, partition
        self.buffers: list[Buffer] = []
        self.bindings: list[Region | np.ndarray] = []
        self.known: dict[tuple[int, int, Role, tuple[int, ...]], int] = {}
        self.tensors: dict[ir.Value, Tensor] = {}
        self.refusals: list[Refusal] = []

    # ---- what a Context asks for

    def buffer(self, value: ir.Value, shape: tuple[int, ...] | None = None) -> int:
        if value.producer() in self.group.nodes:
            raise ValueError(f"{value.name} is computed inside the group and lies nowhere")
        place = self.partition.region(value).reshaped(shape_of(value) if shape is None else shape)
        if place is None:
            raise ValueError(f"{value.name} does not lie in memory as an array of shape {shape}")
        return self._add(place, "input" if place.root.const_value is None else "constant")

    def weight(self, array: np.ndarray) -> int:
        return self._number((id(array), 0, "constant", array.shape), Buffer(array.shape, str(array.dtype), "constant"), array)

    def tensor(self, buffer: int) -> Tensor:
        b = self.buffers[buffer]
        return Tensor(b.shape, b.dtype, lambda index: x.load(buffer, index, b.dtype))

    def _add(self, place: Region, role: Role) -> int:
        buffer, root = Buffer(place.memory, dtype_of(place.root), role), place.root
        known = root.const_value.numpy() if root.const_value is not None else None
        return self._number((id(root), place.offset, role, place.memory), buffer, place if known is None else known)

    def _number(self, key: tuple[int, int, Role, tuple[int, ...]], buffer: Buffer, binding: Region | np.ndarray) -> int:
        if key not in self.known:       # the bindings and the graph keep the object, and so its id, alive
            self.known[key] = len(self.buffers)
            self.buffers.append(buffer)
            self.bindings.append(binding)
        return self.known[key]

    # ---- building

    def build(self) -> LoweredGroup | list[Refusal]:
        task = self._task()
        return self.refusals if task is None or self.refusals else LoweredGroup(self.group, task, tuple(self.bindings))

    def _task(self) -> Task | None:
        root = self.group.root
        behind = self._behind(root)
        for node in self.group.nodes:
            if node is not root and node not in behind:
                self._compute(node)
        result = self._lower(root)
        if result is None:
            for node in behind:     # only for their refusals, as if their inputs lay in memory
                self._lower(node)
            return None
        made = [(v, x) for v, x in self._landings(result) if behind or v in self.group.outputs]
        if behind:
            made = [(self.group.outputs[0], self._carried(landing, behind)) for _, landing in made]
        # only now, after every read has claimed its buffer: outputs are the last buffers
        stores = tuple(Store(self._add(self.partition.region(v), "output"), x.space, x.index, x.value) for v, x in made)
        if not isinstance(result, Anchor):
            return Task("generic", tuple(self.buffers), stores)
        if result.family == "rows":
            stores = tuple(replace(s, space=_rows_space(result, s)) for s in stores)
        return Task(result.family, tuple(self.buffers), stores, dict(result.params), dict(result.operands), tuple(result.stages))

    def _behind(self, root: ir.Node) -> list[ir.Node]:
        """The epilogue's nodes: those of the group that depend on the root."""
        reached, result = set(root.outputs), []
        for node in self.group.nodes:
            if any(v in reached for v in node.inputs):
                reached.update(node.outputs)
                result.append(node)
        return result

    def _landings(self, result: Result) -> Iterator[tuple[ir.Value, _Landing]]:
        """What the root stores in each of its outputs."""
        outputs = self.group.root.outputs
        if isinstance(result, Anchor):
            for v, o in zip(outputs, result.outputs, strict=False):
                yield v, _Landing(result.space, o.index, o.value)
        elif isinstance(result, Pieces):
            start = 0
            for n, part in enumerate(result.parts):
                i = x.indices(len(part.shape))
                index = tuple(x.add(e, start) if axis == result.axis else e for axis, e in enumerate(i))
                if n not in self.group.done:
                    yield outputs[0], _Landing(part.shape, index, part.at(i))
                start += part.shape[result.axis]
        else:
            for v, t in zip(outputs, [result] if isinstance(result, Tensor) else result, strict=False):
                if v in self.group.outputs:
                    i = x.indices(len(t.shape))
                    yield v, _Landing(t.shape, i, t.at(i))

    def _carried(self, landing: _Landing, behind: Sequence[ir.Node]) -> _Landing:
        """What the root's only output lands as, behind the epilogue's nodes."""
        value = self.group.root.outputs[0]
        place = {value: landing.index}
        self.tensors[value] = _standing(value, landing.value)
        for n in behind:
            carried = next(v for v in n.inputs if v in place)
            out, at = n.outputs[0], place[carried]
            place[out] = moved(n, at, shape_of(carried), shape_of(out))
            if lowering_of(n).kind is Kind.POINTWISE:
                self._compute(n)
                element = self.tensors[out].at(place[out])
            else:
                element = self.tensors[carried].at(at)
            self.tensors[out] = _standing(out, element)
        out = behind[-1].outputs[0]
        return _Landing(landing.space, place[out], self.tensors[out].at(place[out]))

    def _compute(self, node: ir.Node) -> None:
        """Tensors of the node's outputs; where it is refused anything takes their place, to find what else would be."""
        result = self._lower(node)
        if result is None:
            result = [_standing(v, x.const(0, dtype_of(v))) for v in node.outputs]
        assert not isinstance(result, Anchor | Pieces), node.op_type
        self.tensors.update(zip(node.outputs, [result] if isinstance(result, Tensor) else result, strict=True))

    def _lower(self, node: ir.Node) -> Result | None:
        try:
            return lowering_of(node).function(Context(node, [None if v is None else self._ensure(v) for v in node.inputs], self))
        except Refuse as e:
            self.refusals.append(e.refusal)
        except (ValueError, TypeError, IndexError, KeyError, NotImplementedError) as e:
            self.refusals.append(refusal(node, f"the lowering failed: {type(e).__name__}: {e}", "please report this model"))
        return None

    def _ensure(self, value: ir.Value) -> Tensor:
        """The Tensor of a value: computed in the group, a literal, or read from memory (lazily: a buffer is claimed only when an
        element of it is asked for)."""
        if value not in self.tensors:
            shape, dtype, known = shape_of(value), dtype_of(value), value.const_value
            if known is not None and known.size == 1:
                literal = x.const(known.numpy().reshape(()).item(), dtype)
                self.tensors[value] = Tensor(shape, dtype, lambda index: literal)
            else:
                self.tensors[value] = Tensor(shape, dtype, lambda index: x.load(self.buffer(value, shape), index, dtype))
        return self.tensors[value]


def moved(node: ir.Node, at: tuple[Expr, ...], source: tuple[int, ...], target: tuple[int, ...]) -> tuple[Expr, ...]:
    """Where the element `at` of its input stands in the output of a node that an epilogue may hold."""
    if node.op_type == "Transpose":
        return tuple(at[p] for p in node.attributes["perm"].as_ints())
    if node.op_type == "NhwcDepthToSpace":
        n, h, w, c = at
        b, channels = node.attributes["blocksize"].as_int(), target[3]
        if node.attributes.get_string("mode", "DCR") == "DCR":
            place, channel = x.floordiv(c, channels), x.floormod(c, channels)
        else:
            place, channel = x.floormod(c, b * b), x.floordiv(c, b * b)
        return n, x.add(x.mul(h, b), x.floordiv(place, b)), x.add(x.mul(w, b), x.floormod(place, b)), channel
    return reindex(at, source, target)


def _standing(value: ir.Value, element: Expr) -> Tensor:
    """A value of the epilogue, whose current element is known and is the only one ever asked for."""
    return Tensor(shape_of(value), dtype_of(value), lambda index: element)


def _rows_space(anchor: Anchor, store: Store) -> tuple[int, ...]:
    """A result that depends on the reduction position is stored over space + reduce."""
    rows = tuple(anchor.params["space"])
    full = (*rows, *anchor.params["reduce"])
    inner = {f"i{n}" for n in range(len(rows), len(full))}
    return full if store.space == full or inner & x.variables([*store.index, store.value]) else store.space
