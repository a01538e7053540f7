"""Shapes, constants, opsets: what every later pass relies on."""

import numpy as np
import onnx
import pytest
from burnish.passes.base import Unsupported, shape
from burnish.passes.canonical.fold_constants import FoldConstants
from burnish.passes.canonical.infer_shapes import InferShapes, dynamic
from burnish.passes.canonical.lift_constants import LiftConstants
from burnish.passes.canonical.remove_dead_code import RemoveDeadCode
from burnish.passes.canonical.upgrade_opset import UpgradeOpset
from harness import check, load, ops
from onnx import helper


def test_a_shape_chain_folds_in_one_sweep():
    model = check("""g (float[2,3,4,5] x) => (float[A,B,C] y) {
        s = Shape(x)  zero = Constant<value_ints = [0]>()  n = Gather(s, zero)
        rest = Constant<value_ints = [3, -1]>()  target = Concat<axis = 0>(n, rest)  r = Reshape(x, target)
        s2 = Shape<start = -2>(r)  last = Constant<value_ints = [5]>()  t2 = Concat<axis = 0>(s2, last)
        two = Constant<value_ints = [2, 3, 20, 1]>()  u = Reshape(r, two)  e = Relu(u)
        m = Constant<value_ints = [3]>()  q = Squeeze(e, m)  y = Identity(q) }""", LiftConstants(), FoldConstants())
    assert ops(model) == ["Reshape", "Reshape", "Relu", "Squeeze", "Identity"]
    assert all(shape(v) is not None for n in model.graph for v in n.outputs)


@pytest.mark.parametrize("attribute", ["value = float[2] {1, 2}", "value_float = 2.5", "value_floats = [1.5, 2.5]",
                                       "value_int = 3", "value_ints = [4, 5]"])
def test_every_form_of_constant_is_lifted_also_as_an_output(attribute):
    dtype = "int64" if "int" in attribute else "float"
    rank = "[]" if attribute.startswith(("value_float ", "value_int ")) else "[2]"
    model = check(f"g ({dtype}[2] x) => ({dtype}{rank} c, {dtype}[2] y) {{ c = Constant<{attribute}>()  y = Add(x, c) }}",
                  LiftConstants())
    assert sorted(ops(model)) == ["Add", "Identity"]


def test_random_and_large_results_are_not_folded():
    model = load("""g (float[1] x) => (float[2] r, float[B,C] big) {
        s = Constant<value_ints = [2]>()  r = RandomNormal<shape = [2]>()
        d = Constant<value_ints = [4096, 8192]>()  c = ConstantOfShape(d)  big = Add(c, x) }""")
    LiftConstants()(model)
    fold = FoldConstants(limit=64 << 20)
    fold(model)
    assert ops(model) == ["RandomNormal", "ConstantOfShape", "Add"]
    assert "128 MiB" in fold.misses[0].reason


def test_data_dependent_shapes_are_reported_where_they_begin():
    model = load("g (float[4] x) => (int64[A,B] y) { n = NonZero(x)  y = Transpose(n) }")
    InferShapes()(model)
    (found,) = dynamic(model)
    assert found.op == "NonZero" and "n" in found.reason and "static" in found.hint


def test_stale_shapes_yield_to_inference():
    model = load("g (float[2,3] x) => (float[N,3] y) { a = Relu(x)  y = Relu(a) }")
    next(iter(model.graph)).outputs[0].shape = None
    check(model, InferShapes(again=True))
    assert shape(model.graph.outputs[0]) == (2, 3)


def test_dead_code_and_defaults_of_inputs():
    model = check("""<ir_version: 10, opset_import: ["": 20]>
        g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}, float[2] unused = {1, 2}> {
        d = Neg(x)  y = Add(x, w) }""",
                  RemoveDeadCode())
    assert ops(model) == ["Add"] and [v.name for v in model.graph.inputs] == ["x"] and list(model.graph.initializers) == ["w"]


# ---- Opsets: (opset, declarations and body); before and after are run by onnxruntime ----------------------------------------

OLD = {
    "squeeze": (12, "(float[1,3,1] x) => (float[3] y) { y = Squeeze<axes = [0, 2]>(x) }"),
    "unsqueeze": (11, "(float[3] x) => (float[1,3,1] y) { y = Unsqueeze<axes = [0, 2]>(x) }"),
    "reduce": (12, "(float[2,3,4] x) => (float[2,1,1] y) { y = ReduceMean<axes = [1, 2]>(x) }"),
    "reduce sum": (12, "(float[2,3,4] x) => (float[2] y) { y = ReduceSum<axes = [1, 2], keepdims = 0>(x) }"),
    "reduce all": (9, "(float[2,3,4] x) => (float[1,1,1] y) { y = ReduceL2(x) }"),
    "clip": (9, "(float[2,3] x) => (float[2,3] y) { y = Clip<min = 0.0, max = 0.5>(x) }"),
    "clip below": (9, "(float[2,3] x) => (float[2,3] y) { y = Clip<max = 0.5>(x) }"),
    "pad": (10, "(float[2,3] x) => (float[4,6] y) { y = Pad<pads = [1, 1, 1, 2], value = 3.0>(x) }"),
    "pad reflect": (10, "(float[4,4] x) => (float[6,7] y) { y = Pad<pads = [1, 1, 1, 2], mode = \"reflect\">(x) }"),
    "split": (12, "(float[2,6] x) => (float[2,2] y, float[2,4] z) { y, z = Split<axis = 1, split = [2, 4]>(x) }"),
    "split equal": (12, "(float[2,6] x) => (float[2,3] y, float[2,3] z) { y, z = Split<axis = 1>(x) }"),
    "slice": (9, "(float[4,6] x) => (float[2,3] y) { y = Slice<axes = [0, 1], starts = [1, -4], ends = [3, -1]>(x) }"),
    "topk": (9, "(float[4,6] x) => (float[4,3] y, int64[4,3] i) { y, i = TopK<k = 3>(x) }"),
    "dropout": (10, "(float[4,6] x) => (float[4,6] y) { y = Dropout<ratio = 0.3>(x) }"),
    "softmax": (11, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax(x) }"),
    "softmax first": (11, "(float[2,3,4] x) => (float[2,3,4] y) { y = LogSoftmax<axis = 0>(x) }"),
    "softmax last": (11, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis = 2>(x) }"),
    "hardmax": (11, "(float[2,3,4] x) => (float[2,3,4] y) { y = Hardmax<axis = 1>(x) }"),
    "upsample": (7, "(float[1,1,2,3] x) => (float[1,1,4,9] y) { y = Upsample<scales = [1.0, 1.0, 2.0, 3.0]>(x) }"),
    "upsample linear": (9, "(float[1,1,2,3] x) => (float[1,1,4,9] y) <float[4] s = {1, 1, 2, 3}> "
                           "{ y = Upsample<mode = \"linear\">(x, s) }"),
    "resize": (10, "(float[1,1,4,5] x) => (float[1,1,6,4] y) <float[4] s = {1, 1, 1.5, 0.8}> { y = Resize(x, s) }"),
    "resize shrinks": (10, "(float[1,1,4,5] x) => (float[1,1,2,4] y) <float[4] s = {1, 1, 0.6, 0.8}> { y = Resize(x, s) }"),
    "resize sizes": (11, "(float[1,1,4,5] x) => (float[1,1,6,4] y) <float[0] e = {}, int64[4] s = {1, 1, 6, 4}> "
                         "{ y = Resize<mode = \"linear\">(x, e, e, s) }"),
    "scatter": (9, "(float[3,2] x, float[1,2] u) => (float[3,2] y) <int64[1,2] i = {0, 2}> { y = Scatter<axis = 0>(x, i, u) }"),
    "batch norm": (7, "(float[1,2,3] x) => (float[1,2,3] y) <float[2] a = {1, 2}, float[2] v = {3, 4}> "
                      "{ y = BatchNormalization<spatial = 1>(x, a, a, a, v) }"),
    "grid sample": (16, "(float[1,1,4,4] x, float[1,2,2,2] g) => (float[1,1,2,2] y) "
                        "{ y = GridSample<mode = \"bilinear\">(x, g) }"),
    "in a branch": (11, "(bool c, float[2,3] x) => (float[2] y) { y = If(c) <then_branch = a () => (float[2] p) "
                        "{ p = ReduceSum<axes = [1], keepdims = 0>(x) }, else_branch = b () => (float[2] q) "
                        "{ q = ReduceMax<axes = [1], keepdims = 0>(x) }> }"),
}


@pytest.mark.parametrize("case", OLD)
def test_old_forms_become_the_newest(case):
    version, text = OLD[case]
    model = check(f'<ir_version: 8, opset_import: ["": {version}]> g {text}', InferShapes(), UpgradeOpset(), idempotent=False)
    assert model.opset_imports[""] == 26 and not UpgradeOpset()(model).modified


def test_group_normalization_gets_scale_and_bias_per_channel():
    x, y = (helper.make_tensor_value_info(n, 1, [1, 6, 4]) for n in "xy")
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    init = [onnx.numpy_helper.from_array(np.array(v, "f"), n) for n, v in (("s", [1, 2]), ("b", [3, 4]))]
    check(helper.make_model(helper.make_graph([node], "g", [x], [y], init), opset_imports=[helper.make_opsetid("", 18)]),
          UpgradeOpset())


def test_what_has_no_newer_form_is_said():
    model = load("""<ir_version: 8, opset_import: ["": 12]> g (float[1,1,4,4] x) => (float[1,1,8,8] y)
        <float[0] roi = {}, float[4] s = {1, 1, 2, 2}> {
        y = Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn">(x, roi, s) }""")
    with pytest.raises(Unsupported, match="tf_half_pixel_for_nn"):
        UpgradeOpset()(model)
