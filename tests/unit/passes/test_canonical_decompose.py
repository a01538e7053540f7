"""Passes that say an op by simpler ones."""

import numpy as np
import pytest
from burnish.passes.base import shape
from burnish.passes.canonical.decompose_conv_transpose import DecomposeConvTranspose
from burnish.passes.canonical.decompose_einsum import DecomposeEinsum
from burnish.passes.canonical.decompose_gemm import DecomposeGemm
from burnish.passes.canonical.decompose_normalizations import DecomposeNormalizations
from burnish.passes.canonical.decompose_pools import DecomposePools
from burnish.passes.canonical.decompose_variadic import DecomposeVariadic
from burnish.passes.canonical.expand_functions import ExpandFunctions
from burnish.passes.canonical.explicit_padding import ExplicitPadding
from burnish.passes.canonical.fold_constants import FoldConstants
from harness import check, load, ops
from test_canonical_folding import numbers


@pytest.mark.parametrize("a, b", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm_becomes_matmul_and_add(a, b):
    x, w = ("2,3", "3,2")[a], ("3,5", "5,3")[b]
    model = check(f"g (float[{x}] x) => (float[2,5] y) <float[{w}] w = {numbers(3, 5)}, float[5] c = {{1, 2, 3, 4, 5}}> "
                  f"{{ y = Gemm<transA = {a}, transB = {b}, alpha = 0.5, beta = 2.0>(x, w, c) }}",
                  DecomposeGemm(), FoldConstants())
    assert ops(model) == ["Transpose", "MatMul", "Add"][1 - a:]


def test_gemm_of_values_at_run_time():
    model = check("g (float[2,3] x, float[5,3] w, float[2,1] c) => (float[2,5] y) { y = Gemm<transB = 1, alpha = 3.0>(x, w, c) }",
                  DecomposeGemm())
    assert ops(model) == ["Transpose", "Mul", "MatMul", "Add"]


POOLS = {
    "global average": ("y = GlobalAveragePool(x)", "ReduceMean"), "global max": ("y = GlobalMaxPool(x)", "ReduceMax"),
    "whole image": ("y = AveragePool<kernel_shape = [3, 5]>(x)", "ReduceMean"),
    "whole image, max": ("y = MaxPool<kernel_shape = [3, 5]>(x)", "ReduceMax"),
}


@pytest.mark.parametrize("case", POOLS)
def test_global_pools_become_reductions(case):
    body, op = POOLS[case]
    assert ops(check(f"g (float[2,4,3,5] x) => (float[2,4,1,1] y) {{ {body} }}", ExplicitPadding(), DecomposePools())) == [op]


def test_smaller_or_padded_windows_stay_pools():
    model = load("g (float[2,4,3,3] x) => (float[2,4,N,M] y, float[2,4,P,Q] z) { y = AveragePool<kernel_shape = [3, 2]>(x)"
                 "  z = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x) }")
    ExplicitPadding()(model)
    check(model, DecomposePools(), changed=False)


@pytest.mark.parametrize("body", ["LpNormalization<axis = 1, p = 1>(x)", "LpNormalization(x)", "MeanVarianceNormalization(x)",
                                  "MeanVarianceNormalization<axes = [-1]>(x)"])
def test_normalizations(body):
    check(f"g (float[2,3,4,5] x) => (float[2,3,4,5] y) {{ y = {body} }}", DecomposeNormalizations())


def test_zero_rows_stay_zero():
    check("g (float[2,3] x) => (float[2,3] y) { y = LpNormalization<p = 2>(x) }", DecomposeNormalizations(),
          inputs={"x": np.array([[0, 0, 0], [3, 4, 0]], "f")})


@pytest.mark.parametrize("op, first", [("Sum", "Add"), ("Mean", "Add"), ("Max", "Max"), ("Min", "Min")])
def test_many_inputs_become_a_chain(op, first):
    model = check(f"g (float[3,1] a, float[4] b, float[2,1,1] c) => (float[2,3,4] y) {{ y = {op}(a, b, c) }}",
                  DecomposeVariadic())
    assert ops(model) == [first, first] + (["Mul"] if op == "Mean" else [])
    assert shape(model.graph[0].outputs[0]) == (3, 4)


EINSUMS = {
    "ij,jk->ik": ["2,3", "3,4"], "bhqd,bhkd->bhqk": ["2,3,4,5", "2,3,6,5"], "bqhd,bkhd->bhqk": ["2,4,3,5", "2,6,3,5"],
    "ij,ij->ij": ["2,3", "2,3"], "i,j->ij": ["2", "3"], "ij->ji": ["2,3"], "ij->i": ["2,3"], "ij->": ["2,3"],
    "ij,jk": ["2,3", "3,4"], "...ij,...jk->...ik": ["5,2,3", "5,3,4"],
    "ijk,jl,kl->il": ["2,3,4", "3,5", "4,5"], "ab,bc,cd->da": ["2,3", "3,4", "4,5"],
    "ij,k->i": ["2,3", "4"], "abc->abc": ["2,3,4"], "i,i->": ["3", "3"],
}


def einsum(equation, shapes, out):
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = ", ".join(f"float[{s}] {n}" for s, n in zip(shapes, names, strict=True))
    return f'g ({inputs}) => (float[{out}] y) {{ y = Einsum<equation = "{equation}">({", ".join(names)}) }}'


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum(equation):
    shapes = EINSUMS[equation]
    rank = np.einsum(equation, *(np.zeros([int(d) for d in s.split(",")]) for s in shapes)).ndim
    check(einsum(equation, shapes, ",".join("ABCD"[:rank])), DecomposeEinsum(), idempotent=False)


@pytest.mark.parametrize("equation, shapes", [("ii->i", ["3,3"]), ("...i,...i->...", ["1,3", "4,3"])])
def test_einsum_of_a_diagonal_or_a_broadcast_stays(equation, shapes):
    step = DecomposeEinsum()
    check(einsum(equation, shapes, "N"), step, changed=False)
    assert "diagonal" in step.misses[0].reason


TRANSPOSED = {      # weight, attributes, input, ops
    "stride 1": ((3, 2, 3, 3), "pads = [1, 0, 0, 1]", "1,3,4,5", ["Conv"]),
    "stride 1, dilated": ((3, 2, 3, 2), "dilations = [2, 3]", "1,3,4,5", ["Conv"]),
    "kernel = stride": ((3, 2, 2, 2), "strides = [2, 2]", "1,3,4,5", ["Conv", "DepthToSpace"]),
    "4 by 2": ((3, 2, 4, 4), "strides = [2, 2], pads = [1, 1, 1, 1]", "1,3,4,5", ["Conv", "DepthToSpace", "Slice"]),
    "3 by 2": ((3, 2, 3, 3), "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]", "2,3,4,5", None),
    "much cut": ((3, 2, 5, 5), "strides = [2, 2], pads = [4, 3, 4, 3]", "1,3,6,5", None),
    "wide output": ((3, 2, 2, 2), "strides = [3, 3], output_padding = [2, 1]", "1,3,4,5", None),
    "groups": ((4, 3, 4, 3), "strides = [2, 2], group = 2", "1,4,4,5", None),
    "unequal": ((3, 2, 3, 4), "strides = [2, 3]", "1,3,4,5", None),
    "1-d": ((3, 2, 16), "strides = [8], pads = [4, 4]", "1,3,9", None),
    "3-d": ((2, 2, 2, 3, 2), "strides = [2, 2, 1]", "1,2,3,3,2", None),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose(case):
    weight, attributes, x, left = TRANSPOSED[case]
    channels, dims = weight[1] * (2 if case == "groups" else 1), ",".join("NCDEF"[:len(weight)])
    model = check(f"g (float[{x}] x) => (float[{dims}] y) <float[{','.join(map(str, weight))}] w = {numbers(*weight)}, "
                  f"float[{channels}] b = {numbers(channels)}> {{ y = ConvTranspose<{attributes}>(x, w, b) }}",
                  ExplicitPadding(), DecomposeConvTranspose())
    assert "ConvTranspose" not in ops(model) and (left is None or ops(model) == left)


def test_conv_transpose_stays_where_phases_or_weights_are_unknown():
    step = DecomposeConvTranspose()
    model = load(f"g (float[1,1,4] x, float[1,1,3] w) => (float[1,C,D] y, float[1,E,F] z) <float[1,1,3] k = {numbers(1, 1, 3)}> "
                 "{ y = ConvTranspose(x, w)  z = ConvTranspose<strides = [2], dilations = [2]>(x, k) }")
    ExplicitPadding()(model)
    check(model, step, changed=False)
    assert [m.reason for m in step.misses] == ["its weights are computed at run time", "stride and dilation at once"]


FUNCTIONS = {
    "Softmax": "y = Softmax<axis = 1>(x)", "LogSoftmax": "y = LogSoftmax(x)",
    "Clip": "l = Constant<value_float = -0.5>() y = Clip(x, l)",
    "LayerNormalization": "w = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() y = LayerNormalization(x, w)",
    "RMSNormalization": "w = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() y = RMSNormalization(x, w)",
    "Elu": "y = Elu(x)", "Selu": "y = Selu(x)", "HardSwish": "y = HardSwish(x)", "Gelu": 'y = Gelu<approximate = "tanh">(x)',
    "Mish": "y = Mish(x)", "Shrink": "y = Shrink<lambd = 0.3>(x)", "CastLike": "y = CastLike(x, x)",
    "GroupNormalization": "w = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() y = GroupNormalization<num_groups = 2>(x, w, w)",
    "MeanVarianceNormalization": "y = MeanVarianceNormalization<axes = [0, 1]>(x)", "HardSigmoid": "y = HardSigmoid(x)",
}


@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions_of_onnx_expand_to_primitives(op):
    model = check(f"g (float[2,4,4] x) => (float[2,4,4] y) {{ {FUNCTIONS[op]} }}", ExpandFunctions(frozenset()), tolerance=1e-4)
    assert op not in ops(model)


def test_functions_to_keep_are_kept():
    text = "g (float[2,4,4] x) => (float[2,4,4] y) { a = Softmax(x)  y = HardSwish(a) }"
    check(text, ExpandFunctions(), changed=False)
    assert ops(check(text, ExpandFunctions(frozenset({("", "Softmax")}))))[0] == "Softmax"


def test_losses_and_quantization_expand_with_their_types():
    model = check("g (float[3,5] x, int64[3] t) => (float l, float[3,5] p) { l, p = SoftmaxCrossEntropyLoss(x, t) }",
                  ExpandFunctions(frozenset()), FoldConstants(), tolerance=1e-4)
    assert all(shape(v) is not None for n in model.graph for v in n.outputs)
    check("g (float[6] x) => (uint8[6] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }", ExpandFunctions(frozenset()))


def test_outputs_left_out_stay_left_out():
    q = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype("f")
    model = check("g (float[1,2,3,4] q) => (float[1,2,3,4] y, float[1,2,3,3] s) { y, , , s = Attention(q, q, q) }",
                  ExpandFunctions(frozenset()), inputs={"q": q}, tolerance=1e-4)
    assert "Attention" not in ops(model)
