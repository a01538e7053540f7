"""burnish's own ops in files: accepted with the bodies that burnish writes, and no others."""

import onnx
import onnx_ir as ir
import pytest
from burnish.compiler.errors import ImportRefused
from burnish.compiler.importer import load
from burnish.passes.functions import add_function, is_ours
from burnish.passes.integer_functions import add_integer_function
from onnx import TensorProto, helper

NAMES = [("SiLU", None), ("FactorPair", None), ("ShiftWeights", None), ("MatAdd", None), ("ShiftLinearAttention", None),
         ("NhwcConv", 4), ("NhwcMaxPool", 5)]


def functions(opset=21):
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": opset}), ir_version=10)
    for name, rank in NAMES:
        add_function(model, name, rank)
    add_integer_function(model, "IntegerSoftmax")
    return [ir.serde.serialize_function(f) for f in model.functions.values()]


@pytest.mark.parametrize("opset", [20, 23, 26])
def test_what_burnish_writes_is_known_again(opset):
    for f in functions(opset):
        assert is_ours(f), f.name
        again = onnx.FunctionProto.FromString(f.SerializeToString())
        for n, node in enumerate(again.node):
            node.name = f"other_{n}"
        assert is_ours(again)


def test_what_others_write_is_not():
    for f in functions():
        f.node[-1].op_type = "Neg"
        assert not is_ours(f), f.name
    (shift,) = (f for f in functions() if f.name == "ShiftWeights")
    table = next(n for n in shift.node if n.output[0] == "table")
    table.attribute[0].t.CopyFrom(helper.make_tensor("", TensorProto.FLOAT, [16], [1.0] * 16))
    assert not is_ours(shift)
    shift.name = "Unknown"
    assert not is_ours(shift)


def test_files(tmp_path):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy")
    graph = helper.make_graph([helper.make_node("SiLU", ["x"], ["y"], domain="burnish")], "g", [x], [y])
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("burnish", 1)]
    model = helper.make_model(graph, ir_version=10, opset_imports=versions)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ImportRefused, match="not for models to use"):
        load(tmp_path / "m.onnx")
    model.functions.extend(f for f in functions() if f.name == "SiLU")
    onnx.save(model, tmp_path / "m.onnx")
    assert [n.op_type for n in load(tmp_path / "m.onnx").graph] == ["SiLU"]
    model.functions[0].node[0].op_type = "Tanh"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ImportRefused, match="not the model's to define"):
        load(tmp_path / "m.onnx")
