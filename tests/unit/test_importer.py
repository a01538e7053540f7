"""What the importer makes of sound models: static shapes, all data, nothing that may be stale. (Broken ones: tests/fuzz.)"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from burnish.compiler import importer, wire
from burnish.compiler.errors import ImportRefused
from burnish.compiler.limits import Deadline, Limits
from burnish.compiler.shapes import parse_shapes
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Dims = Sequence[int | str | None] | None


def save(path: Path, nodes: Sequence[onnx.NodeProto], inputs: dict[str, Dims], outputs: Sequence[str],
         constants: Sequence[onnx.TensorProto] = (), **fields: object) -> Path:
    opset = int(fields.pop("opset", 21))        # type: ignore[call-overload]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(n, FLOAT, d) for n, d in inputs.items()],
                              [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs], constants)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("my", 1)]
    model = helper.make_model(graph, opset_imports=imports, **({"ir_version": 10} | fields))
    path.write_bytes(model.SerializeToString())
    return path


def add(path: Path, x: Dims, y: Dims) -> Path:
    return save(path, [helper.make_node("Add", ["x", "y"], ["z"])], {"x": x, "y": y}, ["z"])


def shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    return {str(v.name): tuple(v.shape.numpy()) for v in model.graph.inputs if v.shape is not None}


def test_a_named_dim_is_fixed_everywhere(tmp_path: Path) -> None:
    path = add(tmp_path / "m.onnx", ["n", 3, "t"], ["n", 3, "t"])
    assert shapes(importer.load(path, {"y": (2, 3, 5)})) == {"x": (2, 3, 5), "y": (2, 3, 5)}
    with pytest.raises(ImportRefused, match="'n' would be 2 in input 'x' and 4 in 'y'"):
        importer.load(path, {"x": (2, 3, 5), "y": (4, 3, 5)})


@pytest.mark.parametrize(("x", "y", "options"), [
    (["n", 3, "t"], ["n", 3, "t"], 1),              # one input fixes both
    (["n", None], ["n", None], 2),                  # dims without a name are each their own
    ([None, 3], [-1, 3], 2),                        # as is -1, an old way to say free
    (["a b", 3, "c", 9], ["a b", 3, "c", 9], 1),
    (None, [2, 2], 1),                              # not even a rank
])
def test_the_line_to_paste_is_enough(x: Dims, y: Dims, options: int, tmp_path: Path) -> None:
    path = add(tmp_path / "m.onnx", x, y)
    with pytest.raises(ImportRefused, match="free dimensions") as refused:
        importer.load(path)
    words = shlex.split(str(refused.value).split("for example with ")[1])
    assert words[::2] == ["--shape"] * options
    given = parse_shapes(words[1::2])
    if x is None:
        given = {"x": (2, 2)}       # the rank was a guess
    assert all(d > 0 for s in shapes(importer.load(path, given)).values() for d in s)


def test_scalars_and_empty_arrays(tmp_path: Path) -> None:
    path = add(tmp_path / "m.onnx", [], [0, 3])
    assert shapes(importer.load(path)) == {"x": (), "y": (0, 3)}
    assert shapes(importer.load(path, {"x": (), "y": (0, 3)})) == {"x": (), "y": (0, 3)}


def test_initializers_are_no_inputs(tmp_path: Path) -> None:
    """Until IR version 4, every initializer was listed as an input."""
    w = numpy_helper.from_array(np.ones(3, np.float32), "y")
    node = helper.make_node("Add", ["x", "y"], ["z"])
    path = save(tmp_path / "m.onnx", [node], {"x": [2, 3], "y": [3]}, ["z"], [w], ir_version=3, opset=7)
    assert shapes(importer.load(path)) == {"x": (2, 3)}


def test_what_the_file_says_of_shapes_is_not_believed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["z"])]
    path = save(tmp_path / "m.onnx", nodes, {"x": ["n", 3]}, ["z"])
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("a", FLOAT, [1, 3]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", FLOAT, [7, 7]))
    onnx.save(model, path)
    loaded = importer.load(path, {"x": (4, 3)})
    assert all(v.shape is None for node in loaded.graph for v in node.outputs)


@pytest.mark.parametrize("dtype", sorted({*TensorProto.DataType.values()} - {TensorProto.UNDEFINED, TensorProto.STRING}))
@pytest.mark.parametrize("raw", [False, True])
def test_constants_of_every_dtype(dtype: int, raw: bool, tmp_path: Path) -> None:
    """In the field for their dtype and as raw bytes; five elements, so that packed ones do not fill their last byte."""
    numbers = [1] * 5 if dtype == TensorProto.FLOAT8E8M0 else [0, 1, 1, 0, 1]      # which has no zero
    array = np.array(numbers).astype(ir.DataType(dtype).numpy())
    tensor = ir.serde.serialize_tensor(ir.tensor(array, dtype=ir.DataType(dtype), name="c")) if raw else (
        helper.make_tensor("c", dtype, [5], numbers))
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["z"])], {"x": [2]}, ["z"], [tensor])
    value = importer.load(path, isolated=False).graph.initializers["c"].const_value
    assert value is not None
    np.testing.assert_array_equal(value.numpy().astype(np.float32 if value.dtype.is_floating_point() else np.int64).real,
                                  np.array(numbers))
    data = onnx.load(path)
    del data.graph.initializer[0].dims[:]
    data.graph.initializer[0].dims.append(9)
    path.write_bytes(data.SerializeToString())
    with pytest.raises(ImportRefused, match="initializer 'c' of shape"):
        importer.load(path)


def test_functions_and_branches(tmp_path: Path) -> None:
    """Values of outer graphs may be read in branches, the model's functions called in functions."""
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    inner = helper.make_function("my", "Inner", ["a"], ["b"], [leaky], [helper.make_opsetid("", 21)])
    inner.attribute.append("slope")
    inner.node[0].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    outer = helper.make_function("my", "Outer", ["a"], ["b"], [helper.make_node("Inner", ["a"], ["b"], domain="my", slope=0.5)],
                                 [helper.make_opsetid("", 21), helper.make_opsetid("my", 1)])
    branches = {f"{k}_branch": helper.make_graph([helper.make_node(op, ["f"], ["r"])], k, [], [
        helper.make_tensor_value_info("r", FLOAT, None)]) for k, op in (("then", "Relu"), ("else", "Neg"))}
    path = save(tmp_path / "m.onnx", [
        helper.make_node("Outer", ["x"], ["f"], domain="my"), helper.make_node("If", ["c"], ["z"], **branches)],
        {"x": [2, 3]}, ["z"], [numpy_helper.from_array(np.array(True), "c")])
    model = onnx.load(path)
    model.functions.extend([inner, outer])
    onnx.save(model, path)
    assert [n.op_type for n in importer.load(path).graph] == ["Outer", "If"]


@pytest.mark.parametrize("opset", range(7, onnx.defs.onnx_opset_version() + 1))
def test_opsets(opset: int, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["z"])], {"x": [2]}, ["z"], opset=opset, ir_version=3)
    assert importer.load(path, isolated=False).graph.opset_imports[""] == opset


def test_onnx_by_its_other_name(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["z"], domain="ai.onnx")], {"x": [2]}, ["z"])
    model = onnx.load(path)
    model.opset_import[0].domain = "ai.onnx"
    onnx.save(model, path)
    loaded = importer.load(path)
    assert loaded.graph.opset_imports[""] == 21 and next(iter(loaded.graph)).domain == ""


def test_a_model_may_be_named_by_a_link(tmp_path: Path) -> None:
    """The user's own path is trusted; what the model names is not."""
    path = add(tmp_path / "m.onnx", [2], [2])
    (tmp_path / "link.onnx").symlink_to(path)
    assert shapes(importer.load(tmp_path / "link.onnx")) == {"x": (2,), "y": (2,)}


def test_the_scan_counts_what_parsing_would_cost() -> None:
    """Two bytes a message: what takes megabytes in a file takes gigabytes once parsed."""
    one = onnx.ModelProto(graph=onnx.GraphProto(node=[onnx.NodeProto()] * 1000)).SerializeToString()
    wire.scan(one, Limits(decoded=1 << 20), Deadline(60))
    for limits in (Limits(decoded=100_000), Limits(nodes=999)):
        with pytest.raises(ImportRefused):
            wire.scan(one, limits, Deadline(60))
