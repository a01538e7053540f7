"""The inputs of a graph, with every dimension fixed."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping

import onnx_ir as ir
from onnx import GraphProto, TypeProto, ValueInfoProto

from ..schedules.task import ITEMSIZE
from .errors import ImportRefused
from .limits import Limits, gib, quoted

Shapes = Mapping[str, tuple[int, ...]]
DTYPE = {"float": "float32", "double": "float64"}       # onnx's names that numpy has others for


def fix(graph: GraphProto, shapes: Shapes, limits: Limits) -> None:
    """Makes every input of the graph a tensor of static shape, in place: by its own dims, by `shapes`, and by dims of the same
    name that `shapes` fixes elsewhere. What the file says of other values' shapes is dropped: inference finds them anew.

    Raises ImportRefused for what is no dense tensor of numbers, for shapes that contradict the model, and for dims left free,
    with a --shape line to paste.
    """
    constants = {t.name for t in graph.initializer}
    inputs = [v for v in graph.input if v.name not in constants]      # before IR version 4, every initializer was an input, too
    del graph.input[:]
    graph.input.extend(inputs)
    for v in graph.input:
        check_kind(v, f"input {quoted(v.name)}")
    for v in graph.output:
        check_kind(v, f"output {quoted(v.name)}")
    known = {v.name: v for v in graph.input}
    for name in shapes:
        if name not in known:
            raise ImportRefused(f"has no input {quoted(name)}; its inputs are {', '.join(map(quoted, known)) or 'none'}")
    names: dict[str, tuple[int, str]] = {}      # a named dim, its size, and the input that says so
    for name, shape in shapes.items():
        _give(known[name], shape, names)
    for v in graph.input:
        for d in v.type.tensor_type.shape.dim:
            if d.dim_param in names:
                d.dim_value = names[d.dim_param][0]
    free = {v.name: v.type for v in graph.input if _free(v.type)}
    if free:
        raise ImportRefused(_ask(graph, free, shapes))
    for v in graph.input:
        _check_size(v, limits)
    forget_shapes(graph)


def check_kind(v: ValueInfoProto, what: str) -> None:
    """Raises ImportRefused unless it is a dense tensor of numbers."""
    kind = v.type.WhichOneof("value")
    if kind is not None and kind != "tensor_type":
        raise ImportRefused(f"{what} is of type {kind.removesuffix('_type')}: burnish has dense tensors only")
    dtype = v.type.tensor_type.elem_type
    if dtype == 0 and what.startswith("input"):
        raise ImportRefused(f"{what} has no dtype")
    name = ir.DataType(dtype).name.lower() if dtype else ""
    if name and DTYPE.get(name, name) not in ITEMSIZE:
        raise ImportRefused(f"{what} is of dtype {name}; burnish has {', '.join(ITEMSIZE)}")


def _give(v: ValueInfoProto, shape: tuple[int, ...], names: dict[str, tuple[int, str]]) -> None:
    """Fixes one input, and notes the named dims that this fixes."""
    tensor, what, given = v.type.tensor_type, f"input {quoted(v.name)} {describe(v.type)}", _text(shape)
    if not tensor.HasField("shape"):
        tensor.shape.SetInParent()
        for _ in shape:
            tensor.shape.dim.add()
    dims = tensor.shape.dim
    if len(dims) != len(shape):
        raise ImportRefused(f"{what} has {len(dims)} dimensions, not the {len(shape)} of {given or 'a scalar'}")
    for n, (d, size) in enumerate(zip(dims, shape, strict=True)):
        fixed = d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None
        if fixed is not None and fixed != size:
            raise ImportRefused(f"{what} has {fixed} in dimension {n}, not the {size} of {given}")
        if fixed is None and size < 1:
            raise ImportRefused(f"{what}: dimension {n} of {given} must be 1 or more")
        if d.dim_param:
            before, who = names.setdefault(d.dim_param, (size, v.name))
            if before != size:
                raise ImportRefused(f"dimension {quoted(d.dim_param)} would be {before} in input {quoted(who)} and {size} in "
                                    f"{quoted(v.name)}")
        d.dim_value = size


def _free(t: TypeProto) -> bool:
    tensor = t.tensor_type
    return not tensor.HasField("shape") or any(not d.HasField("dim_value") or d.dim_value < 0 for d in tensor.shape.dim)


def describe(t: TypeProto) -> str:
    """[1, 3, height, width], with ? for what has neither a size nor a name."""
    if not t.tensor_type.HasField("shape"):
        return "of unknown rank"
    return "[" + ", ".join(str(d.dim_value) if d.HasField("dim_value") and d.dim_value >= 0 else
                           quoted(d.dim_param)[1:-1] if d.dim_param else "?" for d in t.tensor_type.shape.dim) + "]"


def _ask(graph: GraphProto, free: Mapping[str, TypeProto], given: Shapes) -> str:
    """Lists the free dims, and shows options that fix them all: one input for each named dim."""
    listed = ", ".join(f"{quoted(name)} {describe(t)}" for name, t in free.items())
    settled: set[str] = set()
    options = [f"--shape {_shell(name + '=' + _text(shape))}" for name, shape in given.items()]
    for v in graph.input:
        if v.name not in free:
            continue
        dims = v.type.tensor_type.shape.dim
        mine = {d.dim_param for d in dims if d.dim_param}
        nameless = any(not d.dim_param and (not d.HasField("dim_value") or d.dim_value < 0) for d in dims)
        if nameless or not v.type.tensor_type.HasField("shape") or not mine <= settled:
            settled |= mine
            options.append(f"--shape {_shell(v.name + '=' + _text(_guess(v.type)))}")
    return f"has inputs with free dimensions: {listed}; fix them, for example with {' '.join(options)}"


def _guess(t: TypeProto) -> tuple[int, ...]:
    """A likely shape, to be edited: one of a batch, 224 pixels, 128 tokens."""
    dims = list(t.tensor_type.shape.dim)
    if not t.tensor_type.HasField("shape"):
        return (1, 3, 224, 224)
    sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in dims]
    likely = [1, 3, 224, 224] if len(dims) == 4 else [1, 128] + [64] * len(dims)
    return tuple(likely[n] if size is None else size for n, size in enumerate(sizes))


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _shell(option: str) -> str:
    """One word of a shell's line."""
    return shlex.quote(option)


def _check_size(v: ValueInfoProto, limits: Limits) -> None:
    t = v.type.tensor_type
    dims = [d.dim_value for d in t.shape.dim]
    size = math.prod(dims) * ir.DataType(t.elem_type).bitwidth // 8
    if size > limits.tensor or len(dims) > limits.rank:
        raise ImportRefused(f"input {quoted(v.name)} of shape {_text(tuple(dims))} would take {gib(size)}; at most "
                            f"{gib(limits.tensor)} and {limits.rank} dimensions are allowed")


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and all subgraphs."""
    yield graph
    for node in graph.node:
        for a in node.attribute:
            for g in ([a.g] if a.HasField("g") else []) + list(a.graphs):
                yield from graphs(g)


def forget_shapes(graph: GraphProto) -> None:
    """Drops what the file says of all values but inputs: it may be stale (true of free inputs) or a lie, and is inferred anew."""
    for g in graphs(graph):
        del g.value_info[:]
    for v in graph.output:
        if v.type.tensor_type.elem_type == 0:
            v.ClearField("type")
        else:
            v.type.tensor_type.ClearField("shape")
