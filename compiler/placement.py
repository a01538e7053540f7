"""Which values lie inside others, so that nothing copies them: what goes into a Concat is made where the Concat puts it, and a
Slice is read where it lies.

A group that stores a value, or reads one, knows its Region. Whatever is written as an expression takes any region; a convolution
reads its input as pixels at equal distances, so that only the channels may be part of something longer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import onnx_ir as ir

from ..schedules.task import ITEMSIZE
from .graph import used_values
from .lower.registry import LOWERINGS, dtype_of, shape_of

LINE = 64       # bytes: what is read again and again is copied where its pieces in memory are shorter than a line of cache,
SPREAD = 4      # or where they are that many times as far apart as they are long: they would share few sets of L1
DEEPEST = 64    # values within values: a model may be hostile


@dataclass(frozen=True)
class Region:
    """Where a value of `shape` lies in the memory of `root`: element `index` is `offset` plus index times the row-major strides
    of shape `memory` behind its first, in elements. memory equals shape where the value lies in one piece."""

    root: ir.Value
    offset: int
    shape: tuple[int, ...]
    memory: tuple[int, ...]

    @classmethod
    def whole(cls, value: ir.Value) -> Region:
        shape = shape_of(value)
        return cls(value, 0, shape, shape)

    @property
    def dense(self) -> bool:
        return self.memory == self.shape

    @property
    def start(self) -> int:
        """Bytes from root's first element to the value's."""
        return self.offset * ITEMSIZE[dtype_of(self.root)]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[dtype_of(self.root)]

    @property
    def run(self) -> int:
        """Elements that follow each other."""
        count = 1
        for extent, room in zip(reversed(self.shape), reversed(self.memory), strict=True):
            count *= extent
            if room != extent:
                break
        return count

    def part(self, starts: Sequence[int], shape: tuple[int, ...]) -> Region:
        """The part of that shape that begins at `starts`."""
        at = sum(s * math.prod(self.memory[n + 1:]) for n, s in enumerate(starts))
        return replace(self, offset=self.offset + at, shape=shape, memory=_plain(shape, self.memory))

    def reshaped(self, shape: tuple[int, ...]) -> Region | None:
        """The same elements in order under another shape; None where no row-major strides say so."""
        if self.dense or 0 in self.shape:
            return replace(self, shape=shape, memory=shape)
        blocks: list[tuple[int, int]] = []      # (extent, stride), neighbours merged where memory runs on
        for n, extent in enumerate(self.shape):
            stride = math.prod(self.memory[n + 1:])
            if extent == 1:
                continue
            if blocks and blocks[-1][1] == extent * stride:
                extent *= blocks.pop()[0]
            blocks.append((extent, stride))
        memory = list(shape)
        left, stride, last = 1, 1, len(shape) - 1       # last: the axis that may be longer in memory to make room for a stride
        for n in range(len(shape) - 1, -1, -1):
            if shape[n] == 1:
                continue
            if left == 1:
                left, stride = blocks.pop()
            behind = math.prod(memory[last + 1:])
            if left % shape[n] or stride % behind or (stride != 1 and n == len(shape) - 1):
                return None
            if n < last:
                memory[last] = stride // behind
            elif stride != 1:       # nothing but axes of one element are behind it
                memory[-1] = stride
            left, stride, last = left // shape[n], stride * shape[n], n
        return replace(self, shape=shape, memory=_plain(shape, memory))


def _plain(shape: Sequence[int], memory: Sequence[int]) -> tuple[int, ...]:
    """`memory` with equal strides wherever an axis is more than one long, as near to `shape` as can be."""
    result = list(memory)
    first = next((n for n, extent in enumerate(shape) if extent != 1), len(shape) - 1)
    result[:first + 1] = shape[:first + 1]
    for n in range(first + 1, len(shape) - 1):
        if shape[n] == 1:
            result[n], result[n + 1] = 1, result[n] * result[n + 1]
    return tuple(result)


@dataclass(frozen=True)
class Part:
    """A value is the part of `whole` that begins at `starts`."""

    whole: ir.Value
    starts: tuple[int, ...]


class Places:
    """The values that lie inside others, while they are found. aliases: value -> the value whose memory it shares whole."""

    def __init__(self, aliases: Mapping[ir.Value, ir.Value], readers: Mapping[ir.Value, Sequence[ir.Node]],
                 made: frozenset[ir.Value], outputs: frozenset[ir.Value]) -> None:
        """readers: the nodes in kernels that read a value; made: what kernels store; outputs: of the graph."""
        self.aliases, self.parts = dict(aliases), dict[ir.Value, Part]()
        self.readers, self.made, self.outputs = readers, made, outputs
        self.inside: dict[ir.Value, set[ir.Value]] = defaultdict(set)       # what lies directly inside a value
        for value, other in aliases.items():
            self.inside[other].add(value)

    def region(self, value: ir.Value) -> Region | None:
        return region(value, self.aliases, self.parts)

    def slice(self, node: ir.Node) -> bool:
        """Reads the result of a Slice where it lies, if everyone can."""
        value, source = node.outputs[0], node.inputs[0]
        starts = slice_starts(node)
        if starts is None or source is None or source.const_value is not None or value in self.outputs or 0 in shape_of(value):
            return False
        return self._lies(value, Part(source, starts))

    def concat(self, node: ir.Node) -> frozenset[int]:
        """The inputs of a Concat that are made inside of it from now on, by number among those that are not empty."""
        whole, done, start = node.outputs[0], set(), 0
        rank = len(shape_of(whole))
        axis = node.attributes["axis"].as_int() % rank
        for n, value in enumerate(v for v in used_values(node) if 0 not in shape_of(v)):
            if self._settle(value, Part(whole, tuple(start if a == axis else 0 for a in range(rank)))):
                done.add(n)
            start += shape_of(value)[axis]
        return frozenset(done)

    def _settle(self, value: ir.Value, part: Part) -> bool:
        """Places a value, and so the one that it is a view of; undone if somebody could not read it there."""
        chain = [value]
        while chain[-1] in self.aliases:
            chain.append(self.aliases[chain[-1]])
        if chain[-1] not in self.made or chain[-1] in self.parts or self.outputs & set(chain):
            return False
        self._turn(chain)
        if self._lies(value, part):
            return True
        self._turn(chain[::-1])
        return False

    def _turn(self, chain: Sequence[ir.Value]) -> None:
        """Of a chain of views, each now is the source of the one that was its own."""
        for view, source in pairwise(chain):
            del self.aliases[view]
            self.inside[source].remove(view)
        for view, source in pairwise(chain):
            self.aliases[source] = view
            self.inside[view].add(source)

    def _lies(self, value: ir.Value, part: Part) -> bool:
        """Places a value, unless somebody could not read it there."""
        if len(chain_of(part.whole, self.aliases, self.parts)) > DEEPEST:
            return False
        self.parts[value] = part
        self.inside[part.whole].add(value)
        if self._legible(value):
            return True
        del self.parts[value]
        self.inside[part.whole].remove(value)
        return False

    def _legible(self, value: ir.Value) -> bool:
        """Can all that lies in the value's memory be read and stored there?"""
        for v in self._within(value):
            place = self.region(v)
            if place is None or not all(takes(n, v, place) for n in self.readers.get(v, ())):
                return False
        return True

    def _within(self, value: ir.Value) -> Iterator[ir.Value]:
        stack = [value]
        while stack:
            yield (v := stack.pop())
            stack += self.inside.get(v, ())


def chain_of(value: ir.Value, aliases: Mapping[ir.Value, ir.Value], parts: Mapping[ir.Value, Part]) -> list[ir.Value]:
    """The value, what it lies in, what that lies in, and so on."""
    chain = [value]
    while chain[-1] in parts or chain[-1] in aliases:
        last = chain[-1]
        chain.append(parts[last].whole if last in parts else aliases[last])
    return chain


def region(value: ir.Value, aliases: Mapping[ir.Value, ir.Value], parts: Mapping[ir.Value, Part]) -> Region | None:
    """Where the value lies; None where its place is none of row-major strides."""
    *inner, root = chain_of(value, aliases, parts)
    place: Region | None = Region.whole(root)
    for v in reversed(inner):
        if place is not None:
            place = place.part(parts[v].starts, shape_of(v)) if v in parts else place.reshaped(shape_of(v))
    return place


def takes(node: ir.Node, value: ir.Value, place: Region) -> bool:
    """Can the node read the value there, at little cost?"""
    if place.dense or not LOWERINGS[node.domain, node.op_type].rereads or value is not node.inputs[0]:
        return True
    if node.op_type == "NhwcConv" and place.memory[1:-1] != place.shape[1:-1]:
        return False
    copied = node.op_type == "NhwcConv" and node.attributes.get_int("group", 1) == 1    # or, 1x1, read once
    return place.run * ITEMSIZE[dtype_of(value)] >= LINE and (copied or place.memory[-1] <= SPREAD * place.shape[-1])


def slice_starts(node: ir.Node) -> tuple[int, ...] | None:
    """Where a Slice without steps begins along every axis of its input; None for any other node."""
    if node.op_type != "Slice" or node.domain:
        return None
    given = [None if v is None else v.const_value for v in node.inputs[1:]]
    if any(v is None and n is not None for v, n in zip(given, node.inputs[1:], strict=True)):
        return None
    source, *_ = used_values(node)
    dims = shape_of(source)
    starts, _, axes, steps = [*([] if v is None else v.numpy().tolist() for v in given), [], []][:4]
    if any(s != 1 for s in steps):
        return None
    result = [0] * len(dims)
    for axis, start in zip(axes or range(len(starts)), starts, strict=True):
        result[axis] = slice(start, None).indices(dims[axis])[0]
    return tuple(result)
