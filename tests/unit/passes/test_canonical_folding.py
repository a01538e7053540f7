"""Passes that fold one op into another, or into nothing."""

import numpy as np
import pytest
from burnish.passes.base import constant
from burnish.passes.canonical.decompose_batchnorm import DecomposeBatchNorm
from burnish.passes.canonical.explicit_padding import ExplicitPadding
from burnish.passes.canonical.fold_affine import FoldAffine
from burnish.passes.canonical.fold_pad import FoldPad
from burnish.passes.canonical.inline_functions import InlineFunctions
from burnish.passes.canonical.inline_if import InlineIf
from burnish.passes.canonical.lift_constants import LiftConstants
from burnish.passes.canonical.merge_equal import MergeEqual
from burnish.passes.canonical.merge_reshapes import MergeReshapes
from burnish.passes.canonical.merge_transposes import MergeTransposes
from burnish.passes.canonical.remove_dead_code import RemoveDeadCode
from burnish.passes.canonical.remove_no_ops import RemoveNoOps
from harness import check, load, ops


def numbers(*dims, seed=0, positive=False):
    """An initializer's values in ONNX text."""
    a = np.random.default_rng(seed).standard_normal(dims).reshape(-1)
    return "{" + ", ".join(f"{v:.5f}" for v in (np.abs(a) + 0.5 if positive else a)) + "}"


# ---- no-ops ---------------------------------------------------------------------------------------------------------------

NO_OPS = {
    "identity": "y0 = Identity(x)", "dropout": "y0 = Dropout(x)", "cast": "y0 = Cast<to = 1>(x)",
    "reshape": "s = Constant<value_ints = [0, -1, 4]>() y0 = Reshape(x, s)", "transpose": "y0 = Transpose<perm = [0, 1, 2]>(x)",
    "pad": "s = Constant<value_ints = [0, 0, 0, 0, 0, 0]>() y0 = Pad(x, s)",
    "slice": "a = Constant<value_ints = [0]>() b = Constant<value_ints = [99]>() y0 = Slice(x, a, b)",
    "expand": "s = Constant<value_ints = [1, 4]>() y0 = Expand(x, s)", "concat": "y0 = Concat<axis = 1>(x)",
    "split": "y0 = Split<axis = 1, num_outputs = 1>(x)", "sum": "y0 = Sum(x)", "clip": "y0 = Clip(x)",
    "plus 0": "c = Constant<value_float = 0.0>() y0 = Add(c, x)", "times 1": "c = Constant<value_float = 1.0>() y0 = Mul(x, c)",
    "power 1": "c = Constant<value_float = 1.0>() y0 = Pow(x, c)",
    "tile": "s = Constant<value_ints = [1, 1, 1]>() y0 = Tile(x, s)",
    "resize": "s = Constant<value_ints = [2, 3, 4]>() y0 = Resize<mode = \"linear\">(x, , , s)",
}


@pytest.mark.parametrize("case", NO_OPS)
@pytest.mark.parametrize("inside", [True, False])
def test_no_ops_go(case, inside):
    last = "Relu" if inside else "Identity"
    model = check(f"g (float[2,3,4] u) => (float[2,3,4] y) {{ x = Neg(u)  {NO_OPS[case]}  y = {last}(y0) }}",
                  LiftConstants(), RemoveNoOps())
    assert ops(model) == (["Neg", "Relu"] if inside else ["Neg"])
    assert model.graph.outputs[0].name == "y"


STAYS = {
    "an input as an output": "g (float[2] x) => (float[2] y) { y = Identity(x) }",
    "0 - x": "g (float[2] x) => (float[2] y) <float[1] c = {0}> { y = Sub(c, x) }",
    "a reversing slice": "g (float[2] x) => (float[2] y) <int64[1] a = {-1}, int64[1] b = {-9}, int64[1] d = {0}, "
                         "int64[1] s = {-1}> { y = Slice(x, a, b, d, s) }",
    "a broadcasting 1": "g (float[1] x) => (float[2] y) <float[2] c = {1, 1}> { y = Mul(x, c) }",
    "a square transpose": "g (float[2,2] x) => (float[2,2] y) { y = Transpose(x) }",
    "a shifting pad": "g (float[2] x) => (float[2] y) <int64[2] p = {1, -1}> { y = Pad(x, p) }",
}


@pytest.mark.parametrize("case", STAYS)
def test_what_does_something_stays(case):
    check(STAYS[case], RemoveNoOps(), changed=False)


def test_two_outputs_of_one_value_keep_their_names():
    model = check("g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x)  z = Identity(y) }", RemoveNoOps(), changed=False)
    assert [v.name for v in model.graph.outputs] == ["y", "z"]


# ---- shapes ---------------------------------------------------------------------------------------------------------------


def test_all_views_become_one_reshape():
    model = check("""g (float[2,3,4] x) => (float[24] y) {
        a = Constant<value_ints = [0]>()  t = Constant<value_ints = [4, -1]>()  o = Constant<value_ints = [1, 1, 1]>()
        m = Constant<value_ints = [-1]>()  u = Unsqueeze(x, a)  v = Flatten<axis = 2>(u)  w = Reshape(v, t)  e = Expand(w, o)
        q = Squeeze(e, a)  k = Unsqueeze(q, a)  z = Transpose<perm = [1, 0, 2]>(k)  r = Reshape(z, m)  y = Relu(r) }""",
                  LiftConstants(), MergeReshapes(), RemoveDeadCode())
    assert ops(model) == ["Reshape", "Relu"]


def test_empty_tensors_keep_their_zero():
    check("g (float[0,3] x) => (float[3,0] y) <int64[2] s = {3, -1}> { y = Reshape<allowzero = 0>(x, s) }", MergeReshapes())


def test_transposes_merge():
    model = check("g (float[2,3,4] x) => (float[3,4,2] y, float[4,3,2] z) { a = Transpose<perm = [1, 0, 2]>(x)"
                  "  y = Transpose<perm = [0, 2, 1]>(a)  z = Transpose(x) }", MergeTransposes(), RemoveDeadCode(), changed=True)
    assert ops(model) == ["Transpose", "Transpose"]
    check("g (float[2,3,4] x) => (float[2,3,4] y) { a = Transpose<perm = [1, 2, 0]>(x) y = Transpose<perm = [2, 0, 1]>(a) }",
          MergeTransposes(), RemoveNoOps(), RemoveDeadCode(), idempotent=False)


def test_equal_nodes_and_constants_merge_but_not_random_ones():
    model = check("g (float[2] x) => (float[2] y) <float[2] c = {1, 2}, float[2] d = {1, 2}> "
                  "{ a = Add(x, c)  b = Add(x, d)  y = Mul(a, b) }", MergeEqual())
    assert ops(model) == ["Add", "Mul"] and len(model.graph.initializers) == 1
    random = load("g (float[2] x) => (float[2] y) { a = RandomNormalLike(x)  b = RandomNormalLike(x)  y = Sub(a, b) }")
    assert not MergeEqual()(random).modified


# ---- control --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [0, 1])
def test_a_decided_if_is_inlined_with_its_constants(condition):
    model = check(f"""g (float[2] x) => (float[2] y) <bool c = {{{condition}}}> {{ k = Neg(x)
        y = If(c) <then_branch = a () => (float[2] p) <float[2] w = {{1, 2}}> {{ t = Mul(k, w)  p = Relu(t) }},
                   else_branch = b () => (float[2] q) <float[2] w = {{3, 4}}> {{ q = Add(k, w) }}> }}""", InlineIf())
    assert ops(model) == (["Neg", "Mul", "Relu"] if condition else ["Neg", "Add"])


def test_an_open_if_stays():
    step = InlineIf()
    check("g (bool c, float[2] x) => (float[2] y) { y = If(c) <then_branch = a () => (float[2] p) { p = Neg(x) }, "
          "else_branch = b () => (float[2] q) { q = Abs(x) }> }", step, changed=False)
    assert "run time" in step.misses[0].reason


def test_local_functions_are_inlined():
    model = check("""<ir_version: 10, opset_import: ["": 20, "own": 1]>
        g (float[2] x) => (float[2] y) { a = own.twice(x) y = own.twice(a) }
        <domain: "own", opset_import: ["": 20]> twice (u) => (v) { v = Add(u, u) }""", InlineFunctions())
    assert ops(model) == ["Add", "Add"] and not model.functions


# ---- scales and shifts ------------------------------------------------------------------------------------------------------

BN = f"float[4] g = {numbers(4)}, float[4] b = {numbers(4, seed=1)}, float[4] m = {numbers(4, seed=2)}, " \
     f"float[4] v = {numbers(4, seed=3, positive=True)}"
W = f"float[4,3,3,3] w = {numbers(4, 3, 3, 3)}"

AFFINE = {      # text, ops left
    "conv bn": (f"g (float[1,3,5,5] x) => (float[1,4,3,3] y) <{W}, {BN}> "
                "{ a = Conv(x, w)  y = BatchNormalization(a, g, b, m, v) }", ["Conv"]),
    "conv bias scale shift": (f"g (float[1,3,5,5] x) => (float[1,4,5,5] y) <{W}, float[4] c = {numbers(4)}, "
                              f"float[4,1,1] s = {numbers(4)}, float[1,4,1,1] t = {{1, 2, 3, 4}}> "
                              "{ a = Conv<pads = [1, 1, 1, 1]>(x, w, c)  e = Div(a, s)  y = Sub(t, e) }", ["Conv"]),
    "grouped transposed": (f"g (float[1,4,3,3] x) => (float[1,4,5,5] y) <float[4,2,3,3] w = {numbers(4, 2, 3, 3)}, {BN}> "
                           "{ a = ConvTranspose<group = 2>(x, w)  y = BatchNormalization(a, g, b, m, v) }", ["ConvTranspose"]),
    "before": (f"g (float[1,3,5,5] x) => (float[1,4,3,3] y) <{W}, float[3,1,1] s = {{1, 2, 3}}, float[3,1,1] t = {{4, 5, 6}}> "
               "{ a = Mul(x, s)  e = Add(a, t)  y = Conv(e, w) }", ["Conv"]),
    "before, padded": (f"g (float[1,3,5,5] x) => (float[1,4,5,5] y) <{W}, float[3,1,1] s = {{1, 2, 3}}> "
                       "{ a = Mul(x, s)  y = Conv<pads = [1, 1, 1, 1]>(a, w) }", ["Conv"]),
    "before, depthwise": (f"g (float[1,4,5,5] x) => (float[1,8,3,3] y) <float[8,1,3,3] w = {numbers(8, 1, 3, 3)}, {BN}> "
                          "{ a = BatchNormalization(x, g, b, m, v)  y = Conv<group = 4>(a, w) }", ["Conv"]),
    "matmul bias bn": (f"g (float[5,3] x) => (float[5,4] y) <float[3,4] w = {numbers(3, 4)}, float[4] c = {{1, 2, 3, 4}}, {BN}> "
                       "{ a = MatMul(x, w)  e = Add(c, a)  y = BatchNormalization(e, g, b, m, v) }", ["MatMul", "Add"]),
    "scaled matmul": (f"g (float[2,5,3] x) => (float[2,5,4] y) <float[3,4] w = {numbers(3, 4)}, float s = {{0.125}}, "
                      "float[3] r = {1, 2, 3}> { e = Mul(x, r)  a = MatMul(e, w)  y = Mul(a, s) }", ["MatMul"]),
    "two in a row": (f"g (float[2,4,3] x) => (float[2,4,3] y) <float[4,1] s = {{1, 2, 3, 4}}, {BN}> "
                     "{ a = BatchNormalization(x, g, b, m, v)  e = Mul(a, s)  y = Add(e, s) }", ["Mul", "Add"]),
}


@pytest.mark.parametrize("case", AFFINE)
def test_scales_and_shifts_fold_into_weights(case):
    text, left = AFFINE[case]
    model = check(text, DecomposeBatchNorm(), *[FoldAffine() for _ in range(3)], tolerance=1e-4)
    RemoveDeadCode()(model)
    assert ops(model) == left


NOT_AFFINE = {
    "a shift before padding": (f"g (float[1,3,5,5] x) => (float[1,4,5,5] y) <{W}, float[3,1,1] t = {{1, 2, 3}}> "
                               "{ a = Add(x, t)  y = Conv<pads = [1, 1, 1, 1]>(a, w) }", "pads with zeros"),
    "a map as a scale": (f"g (float[1,3,5,5] x) => (float[1,4,3,3] y) <{W}, float[3] s = {{1, 2, 3}}> "
                         "{ a = Conv(x, w)  y = Mul(a, s) }", "per channel"),
    "weights at run time": ("g (float[1,3,5,5] x, float[4,3,3,3] w) => (float[1,4,3,3] y) <float s = {2}> "
                            "{ a = Conv(x, w)  y = Mul(a, s) }", "run time"),
    "another reader": (f"g (float[1,3,5,5] x) => (float[1,4,3,3] y, float[1,4,3,3] a) <{W}, float s = {{2}}> "
                       "{ a = Conv(x, w)  y = Mul(a, s) }", None),
    "integers": ("g (int64[3] x) => (int64[3] y) <int64 s = {2}> { a = Mul(x, s)  y = Mul(a, s) }", None),
}


@pytest.mark.parametrize("case", NOT_AFFINE)
def test_what_does_not_fold_says_why(case):
    text, reason = NOT_AFFINE[case]
    step = FoldAffine()
    check(text, step, changed=False)
    assert reason is None or any(reason in m.reason for m in step.misses)


@pytest.mark.parametrize("training", [0, 1])
def test_batch_norm_of_statistics_at_run_time(training):
    more, names = (", float[4] rm, float[4] rv", "y, rm, rv") if training else ("", "y")
    check(f"""g (float[3,4,5] x, float[4] s, float[4] b, float[4] m) => (float[3,4,5] y{more}) {{
        v = Exp(m)  {names} = BatchNormalization<training_mode = {training}, momentum = 0.8>(x, s, b, m, v) }}""",
          DecomposeBatchNorm())


# ---- padding --------------------------------------------------------------------------------------------------------------

PADDED = {
    "conv": (f"g (float[1,3,4,4] x) => (float[1,4,5,6] y) <{W}, int64[8] p = {{0, 0, 1, 1, 0, 0, 1, 2}}> "
             "{ a = Pad(x, p)  y = Conv<pads = [0, 0, 1, 1]>(a, w) }", "Conv"),
    "by axes": (f"g (float[1,3,4,4] x) => (float[1,4,4,4] y) <{W}, int64[4] p = {{1, 1, 1, 1}}, int64[2] ax = {{-1, 2}}> "
                "{ a = Pad(x, p, , ax)  y = Conv(a, w) }", "Conv"),
    "average": ("g (float[1,2,4,4] x) => (float[1,2,4,4] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}> "
                "{ a = Pad(x, p)  y = AveragePool<kernel_shape = [3, 3]>(a) }", "AveragePool"),
    "max of relu": ("g (float[1,2,4,4] x) => (float[1,2,4,4] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}> "
                    "{ r = Relu(x)  a = Pad(r, p)  y = MaxPool<kernel_shape = [3, 3]>(a) }", "MaxPool"),
    "lowest": ("g (float[1,2,4,4] x) => (float[1,2,4,4] y) <int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}, float l = {-3.4028235e38}> "
               "{ a = Pad(x, p, l)  y = MaxPool<kernel_shape = [3, 3]>(a) }", "MaxPool"),
}


@pytest.mark.parametrize("case", PADDED)
def test_pads_fold_into_windows(case):
    text, last = PADDED[case]
    model = check(text, ExplicitPadding(), FoldPad(), RemoveDeadCode())
    assert ops(model)[-1] == last and "Pad" not in ops(model)


UNPADDED = {
    "reflected": ("{ a = Pad<mode = \"reflect\">(x, p)  y = MaxPool<kernel_shape = [3, 3]>(a) }", "constant padding"),
    "a max of anything": ("{ a = Pad(x, p)  y = MaxPool<kernel_shape = [3, 3]>(a) }", "pads with 0"),
    "as large as the window": ("{ a = Pad(x, p)  y = AveragePool<kernel_shape = [1, 1]>(a) }", "smaller than its window"),
    "an average that does not count": ("{ a = Pad(x, p)  y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a) }",
                                       "does not count"),
}


@pytest.mark.parametrize("case", UNPADDED)
def test_other_pads_stay(case):
    body, reason = UNPADDED[case]
    n = {"as large as the window": 6, "an average that does not count": 6}.get(case, 4)
    model = load(f"g (float[1,2,4,4] x) => (float[1,2,{n},{n}] y) <int64[8] p = {{0, 0, 1, 1, 0, 0, 1, 1}}> {body}")
    ExplicitPadding()(model)
    step = FoldPad()
    check(model, step, changed=False)
    assert any(reason in m.reason for m in step.misses)


@pytest.mark.parametrize("auto", ["VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (4, 1), (2, 3)])
def test_auto_pad_is_written_out(auto, kernel, stride):
    k, s = f"[{kernel}, 3]", f"[{stride}, 2]"
    w = numbers(2, 2, kernel, 3)
    check(f"""g (float[1,2,7,8] x) => (float[N,C,H,W] y, float[N,C,P,Q] z) <float[2,2,{kernel},3] w = {w}> {{
        y = Conv<auto_pad = "{auto}", strides = {s}>(x, w)
        z = MaxPool<auto_pad = "{auto}", kernel_shape = {k}, strides = {s}>(x) }}""", ExplicitPadding())


@pytest.mark.parametrize("attributes", ['auto_pad = "SAME_UPPER"', 'auto_pad = "SAME_LOWER"', "output_shape = [9, 7]",
                                        "output_shape = [10, 8]"])
def test_transposed_padding_is_written_out(attributes):
    model = check(f"g (float[1,2,4,3] x) => (float[N,C,H,W] y) <float[2,2,3,3] w = {numbers(2, 2, 3, 3)}> "
                  f"{{ y = ConvTranspose<{attributes}, strides = [2, 2]>(x, w) }}", ExplicitPadding())
    assert constant(model.graph[0].inputs[1]) is not None and "auto_pad" not in model.graph[0].attributes
