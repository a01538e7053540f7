"""Is an untrusted ModelProto a model? All is checked in Python before native code (shape inference, onnxruntime) sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto
from onnx.defs import OpSchema, SchemaError, get_schema, onnx_opset_version

from ..passes.functions import is_ours
from .errors import ImportRefused
from .limits import Deadline, Limits, quoted
from .tensors import TYPES, Tensors

OLDEST_OPSET, NEWEST_OPSET = 7, onnx_opset_version()
RESERVED = "burnish"        # the domain of the ops that passes make
ONNX_NAMES = ("", "ai.onnx")
FIELD_OF = {AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s", AttributeProto.TENSOR: "t",
            AttributeProto.GRAPH: "g", AttributeProto.TYPE_PROTO: "tp", AttributeProto.FLOATS: "floats",
            AttributeProto.INTS: "ints", AttributeProto.STRINGS: "strings", AttributeProto.TENSORS: "tensors",
            AttributeProto.GRAPHS: "graphs", AttributeProto.TYPE_PROTOS: "type_protos"}
SIZE, AXIS = (1, 1 << 20), (-Limits().rank, Limits().rank)
# What numbers of these names must be in every op. Native inference and loops over windows trust some of them too far.
BOUNDS = {"group": SIZE, "num_groups": SIZE, "blocksize": SIZE, "kernel_shape": (1, 1 << 12), "strides": SIZE, "dilations": SIZE,
          "hidden_size": SIZE, "axis": AXIS, "axes": AXIS, "perm": AXIS}
SPARSE = (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS)
NO_DEFAULT = (AttributeProto.TENSOR, AttributeProto.GRAPH, AttributeProto.TYPE_PROTO)      # others may be left out for 0 or empty

FunctionKey = tuple[str, str, str]
Scopes = Sequence[set[str]]


class Validator:
    """One walk over a model; `check` raises ImportRefused at the first thing that is wrong. External data is read on the way."""

    def __init__(self, model: ModelProto, tensors: Tensors, limits: Limits, deadline: Deadline) -> None:
        self.model, self.tensors, self.limits, self.deadline = model, tensors, limits, deadline
        self.functions: dict[FunctionKey, FunctionProto] = {}
        self.opsets: dict[str, int] = {}

    def check(self) -> None:
        m = self.model
        if not m.HasField("graph"):
            raise ImportRefused("is not an ONNX model: it has no graph")
        if not 3 <= m.ir_version <= onnx.IR_VERSION:
            raise ImportRefused(f"has IR version {m.ir_version}; 3 to {onnx.IR_VERSION} are known")
        self.opsets = opsets(m.opset_import, "the model")
        version = self.opsets.get("")
        if version is None:
            raise ImportRefused("does not say which version of ONNX's ops it uses (opset_import)")
        if not OLDEST_OPSET <= version <= NEWEST_OPSET:
            raise ImportRefused(f"uses opset {version}; burnish reads {OLDEST_OPSET} to {NEWEST_OPSET}"
                                + (": convert it with onnx.version_converter" if version < OLDEST_OPSET else ""))
        for f in m.functions:
            key = (f.domain, f.name, f.overload)
            if key in self.functions:
                raise ImportRefused(f"defines function {_function(key)} twice")
            if f.domain in ONNX_NAMES or (f.domain == RESERVED and not is_ours(f)):
                raise ImportRefused(f"defines function {_function(key)} in a domain that is not the model's to define")
            self.functions[key] = f
        for f in m.functions:
            self._check_function(f)
        expanded_nodes(m, self.functions, self.limits)
        self._check_graph(m.graph, [], "the graph")

    # ---- Graphs, functions, nodes ----

    def _check_function(self, f: FunctionProto) -> None:
        where = f"function {_function((f.domain, f.name, f.overload))}"
        used = opsets(f.opset_import, where)
        for domain, version in used.items():
            if self.opsets.get(domain, version) != version:
                raise ImportRefused(f"{where} is written in version {version} of domain {quoted(domain)}, the model in "
                                    f"{self.opsets[domain]}: burnish expands functions of the same version only")
        names: set[str] = set()
        for name in f.input:
            _define(name, names, f"{where}: input")
        self._check_nodes(f.node, [names], where, used, inside_function=True)
        for name in f.output:
            if name not in names:
                raise ImportRefused(f"{where}: output {quoted(name)} is made by no node")
        for a in f.attribute_proto:
            self._check_attribute(a, [names], where, inside_function=False)

    def _check_graph(self, g: GraphProto, outer: Scopes, where: str, inside_function: bool = False) -> None:
        names: set[str] = set()
        for v in g.input:
            _define(v.name, names, f"{where}: input")
            _check_type(v.type, f"{where}: input {quoted(v.name)}")
        if g.sparse_initializer:
            raise ImportRefused(f"{where}: sparse initializers are not supported: store them dense")
        constants: set[str] = set()
        for t in g.initializer:
            _define(t.name, constants, f"{where}: initializer")
            self._check_tensor(t, f"{where}: initializer {quoted(t.name)}")
        names |= constants
        self._check_nodes(g.node, [*outer, names], where, self.opsets, inside_function)
        results: set[str] = set()
        for v in g.output:
            if v.name not in names:
                raise ImportRefused(f"{where}: output {quoted(v.name)} is made by no node")
            _define(v.name, results, f"{where}: output")
            _check_type(v.type, f"{where}: output {quoted(v.name)}")

    def _check_nodes(self, nodes: Iterable[NodeProto], scopes: Scopes, where: str, versions: dict[str, int],
                     inside_function: bool) -> None:
        names, later = scopes[-1], {o for n in nodes for o in n.output}
        for number, n in enumerate(nodes):
            self.deadline.check()
            here = f"{where}: node {quoted(n.name) if n.name else number} ({quoted(n.op_type)[1:-1]})"
            for name in n.input:
                if name and not any(name in s for s in scopes):
                    raise ImportRefused(f"{here}: input {quoted(name)} is made " + (
                        "only later: the nodes are not in topological order, or in a cycle" if name in later else "by no node"))
            self._check_op(n, here, versions)
            seen: set[str] = set()
            for a in n.attribute:
                _define(a.name, seen, f"{here}: attribute")
                self._check_attribute(a, scopes, here, inside_function)
            for name in n.output:
                if name:
                    _define(name, names, f"{here}: output")

    def _check_op(self, n: NodeProto, where: str, versions: dict[str, int]) -> None:
        """Numbers of inputs and outputs, and attributes, against the op's schema or function. Ops that nobody knows are for
        the lowering to refuse, all at once."""
        if not n.op_type:
            raise ImportRefused(f"{where}: it has no op type")
        if n.domain == RESERVED and (n.domain, n.op_type, n.overload) not in self.functions:
            raise ImportRefused(f"{where}: the domain {RESERVED} is not for models to use")
        function = self.functions.get((n.domain, n.op_type, n.overload))
        if function is not None:
            if len(n.input) > len(function.input) or len(n.output) > len(function.output):
                raise ImportRefused(f"{where}: the call has {len(n.input)} inputs and {len(n.output)} outputs, the function "
                                    f"{len(function.input)} and {len(function.output)}")
            return
        if n.domain in ONNX_NAMES:
            n.domain = ""
        if n.domain not in versions:
            raise ImportRefused(f"{where}: the domain {quoted(n.domain)} has no version (opset_import)")
        schema = _schema(n.op_type, versions[n.domain], n.domain)
        given = {a.name: a for a in n.attribute}
        _check_bounds(given, where)
        if schema is None or schema.deprecated:
            return
        for what, names, least, most, formal in (("input", n.input, schema.min_input, schema.max_input, schema.inputs),
                                                 ("output", n.output, schema.min_output, schema.max_output, schema.outputs)):
            if not least <= len(names) <= most:
                wanted = str(least) if least == most else f"{least} to {most}" if most < 1 << 30 else f"{least} or more"
                raise ImportRefused(f"{where}: it has {len(names)} {what}s instead of {wanted}")
            for name, f in zip(names, formal, strict=False):
                if not name and f.option == OpSchema.FormalParameterOption.Single:
                    raise ImportRefused(f"{where}: {what} {f.name!r} may not be left out")
        if n.op_type == "Split" and n.domain == "" and "num_outputs" in given and given["num_outputs"].i != len(n.output):
            # onnx 1.23's inference writes past its list of outputs here
            raise ImportRefused(f"{where}: num_outputs is {given['num_outputs'].i}, but it has {len(n.output)} outputs")
        for name, known in schema.attributes.items():
            if known.required and name not in given:
                raise ImportRefused(f"{where}: it has no attribute {name!r}")
        for name, a in given.items():
            if name not in schema.attributes:
                if not name.startswith("__"):       # annotations, by ONNX's convention
                    raise ImportRefused(f"{where}: {n.op_type} has no attribute {quoted(name)} in opset {versions[n.domain]}")
            elif a.type != int(schema.attributes[name].type.value):  # type: ignore[attr-defined]  # onnx's stub lacks it
                kind: Any = schema.attributes[name].type
                raise ImportRefused(f"{where}: attribute {quoted(name)} is of type {_type_name(a.type)} instead of {kind.name}")

    # ---- Attributes, tensors ----

    def _check_attribute(self, a: AttributeProto, scopes: Scopes, where: str, inside_function: bool) -> None:
        where = f"{where}: attribute {quoted(a.name)}"
        if a.type in SPARSE:
            raise ImportRefused(f"{where}: sparse tensors are not supported: store it dense")
        field = FIELD_OF.get(a.type)
        if field is None:
            raise ImportRefused(f"{where}: it has the unknown type {a.type}")
        filled = [d.name for d, _ in a.ListFields() if d.name in FIELD_OF.values() or d.name.startswith("sparse")]
        if a.ref_attr_name:
            if not inside_function or filled:
                raise ImportRefused(f"{where}: only a node of a function may refer to the function's attribute, "
                                    "and has no value then")
            return
        if filled not in ([], [field]) or (not filled and a.type in NO_DEFAULT):
            raise ImportRefused(f"{where}: it is of type {_type_name(a.type)}, but has "
                                + (f"values in {', '.join(filled)}" if filled else "no value"))
        try:
            for text in (a.s, *a.strings):
                text.decode()
        except UnicodeDecodeError:
            raise ImportRefused(f"{where}: it is not UTF-8 text") from None
        for t in ([a.t] if a.HasField("t") else []) + list(a.tensors):
            self._check_tensor(t, where)
        for g in ([a.g] if a.HasField("g") else []) + list(a.graphs):
            self._check_graph(g, scopes, where, inside_function)
        for tp in ([a.tp] if a.HasField("tp") else []) + list(a.type_protos):
            _check_type(tp, where)

    def _check_tensor(self, t: onnx.TensorProto, where: str) -> None:
        try:
            self.tensors.check(t)
        except ImportRefused as e:
            raise ImportRefused(f"{where} {e}") from None


# ---- Parts that need no state ----------------------------------------------------------------------------------------------


def _check_bounds(given: Mapping[str, AttributeProto], where: str) -> None:
    for name in BOUNDS.keys() & given.keys():
        least, most = BOUNDS[name]
        a = given[name]
        numbers = [a.i] if a.type == AttributeProto.INT and not a.ref_attr_name else list(a.ints)
        if any(not least <= n <= most for n in numbers):
            raise ImportRefused(f"{where}: attribute {name!r} must be {least} to {most}, not {quoted(str(numbers))[1:-1]}")


def opsets(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
    """{domain: version}. ONNX's own domain, which has two names, gets the one that the passes know."""
    found: dict[str, int] = {}
    for o in imports:
        if o.domain in ONNX_NAMES:
            o.domain = ""
        if found.setdefault(o.domain, o.version) != o.version:
            raise ImportRefused(f"{where} imports domain {quoted(o.domain)} in versions {found[o.domain]} and {o.version}")
    return found


def expanded_nodes(model: ModelProto, functions: dict[FunctionKey, FunctionProto], limits: Limits) -> int:
    """Nodes once every call is its function's body. Refuses recursion, depth, and doublings that would fill any memory."""
    sizes: dict[FunctionKey, int] = {}
    open_calls: list[FunctionKey] = []

    def size(nodes: Iterable[NodeProto]) -> int:
        total = 0
        for n in nodes:
            key = (n.domain, n.op_type, n.overload)
            total += 1 if key not in functions else call(key)
            for a in n.attribute:
                total += sum(size(g.node) for g in ([a.g] if a.HasField("g") else []) + list(a.graphs))
        return total

    def call(key: FunctionKey) -> int:
        if key in open_calls:
            circle = (*open_calls[open_calls.index(key):], key)
            raise ImportRefused(f"has a function that calls itself: {' calls '.join(map(_function, circle))}")
        if key not in sizes:
            open_calls.append(key)
            if len(open_calls) > limits.nesting:
                raise ImportRefused(f"has functions that call each other more than {limits.nesting} deep")
            sizes[key] = size(functions[key].node)
            open_calls.pop()
        return sizes[key]

    for key in functions:
        call(key)
    total = size(model.graph.node)
    if total > limits.nodes:
        raise ImportRefused(f"has more than {limits.nodes} nodes once its functions are expanded")
    return total


@cache
def _schema(op: str, version: int, domain: str) -> OpSchema | None:
    try:
        return get_schema(op, version, domain)
    except (SchemaError, TypeError):        # TypeError: a version beyond 32 bits
        return None


def _define(name: str, names: set[str], what: str) -> None:
    if not name:
        raise ImportRefused(f"{what} without a name")
    if name in names:
        raise ImportRefused(f"{what} {quoted(name)}: there is another of this name")
    names.add(name)


def _check_type(t: TypeProto, where: str) -> None:
    """Known dtypes and dims that are sizes, as deep as the type goes. -1 is an old way to say that a dim is free."""
    while (kind := t.WhichOneof("value")) in ("sequence_type", "optional_type"):
        t = getattr(t, kind).elem_type
    if kind in ("map_type", "opaque_type"):
        raise ImportRefused(f"{where} is a {kind.removesuffix('_type')}: burnish has tensors only")
    tensor = t.tensor_type if kind == "tensor_type" else t.sparse_tensor_type if kind == "sparse_tensor_type" else None
    if tensor is None:
        return
    if tensor.elem_type not in TYPES and tensor.elem_type != 0:
        raise ImportRefused(f"{where} has the unknown dtype {tensor.elem_type}")
    for d in tensor.shape.dim:
        if d.dim_value < -1:
            raise ImportRefused(f"{where} has the negative dimension {d.dim_value}")


def _function(key: FunctionKey) -> str:
    return quoted("::".join(p for p in key if p))


def _type_name(value: int) -> str:
    return AttributeProto.AttributeType.Name(value) if value in AttributeProto.AttributeType.values() else str(value)


