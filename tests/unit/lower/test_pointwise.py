"""Elementwise ops against onnxruntime (or onnx's reference where it has no kernel), on edge values and odd shapes."""

import numpy as np
import pytest
from burnish.compiler.lower.registry import Refuse

from .harness import check, const

RNG = np.random.default_rng(1)
F32 = np.concatenate([RNG.normal(size=24), [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1.5, 60.0, -60.0]]).astype("f4").reshape(11, 3)
POSITIVE = np.abs(F32) + np.float32(0.01)
UNIT = np.clip(F32, -0.99, 0.99)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0, -3, 7], "f4")

UNARY = ("Neg", "Abs", "Sign", "Exp", "Floor", "Ceil", "Round", "Erf", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Tanh",
         "Asinh", "Sigmoid", "Relu", "Softplus", "Softsign", "Mish", "HardSwish", "LeakyRelu", "Elu", "Celu", "Selu",
         "ThresholdedRelu", "HardSigmoid", "Shrink", "Gelu", "Identity")


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_unary(op, dtype):
    x = F32.astype(dtype)
    if op in ("Sinh", "Cosh"):
        x = np.clip(x, -8, 8)
    check(op, x, by="onnx" if dtype == "f2" or op in ("Mish", "Celu") else "ort", tolerance=2e-3 if dtype == "f2" else 1e-5)


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Reciprocal"])
def test_positive(op):
    check(op, POSITIVE)
    check(op, POSITIVE.astype("f8"))


@pytest.mark.parametrize(("op", "x"), [("Asin", UNIT), ("Acos", UNIT), ("Atanh", UNIT), ("Acosh", POSITIVE + 1)])
def test_inverse(op, x):
    check(op, x)


@pytest.mark.parametrize("op", ["Relu", "IsNaN", "IsInf", "Abs", "Neg", "Floor"])
def test_special_values(op):
    check(op, SPECIAL, by="onnx")


@pytest.mark.parametrize(("negative", "positive"), [(0, 1), (1, 0), (0, 0)])
def test_signed_infinity(negative, positive):
    check("IsInf", SPECIAL, detect_negative=negative, detect_positive=positive)


def test_attributes():
    check("LeakyRelu", F32, alpha=0.2)
    check("LeakyRelu", F32, alpha=1.7)
    check("Elu", F32, alpha=2.0)
    check("Celu", F32, alpha=2.0, by="onnx")
    check("Gelu", F32, approximate="tanh")
    check("HardSigmoid", F32, alpha=0.5, beta=0.25)
    check("Shrink", F32, lambd=1.0, bias=1.5)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8"])
@pytest.mark.parametrize("shapes", [((3, 1, 5), (4, 1)), ((2, 3), ()), ((1,), (7,)), ((0, 3), (1, 3))])
def test_binary_broadcasts(op, dtype, shapes):
    x, y = (RNG.uniform(1, 6, s).astype(dtype) for s in shapes)
    check(op, x if op == "Pow" else -x, y)


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_nan_goes_through(op):
    a, b = np.array([np.nan, 1, 2, np.nan], "f4"), np.array([0, np.nan, 5, np.nan], "f4")
    check(op, a, b, by="onnx")
    check(op, a, const(np.float32(1)), by="onnx")
    check(op, const(np.float32(1)), a, by="onnx")


def test_variadic():
    xs = [RNG.normal(size=s).astype("f4") for s in ((3, 1), (1, 4), (4,))]
    for op in ("Sum", "Mean", "Max", "Min"):
        check(op, *xs)


def test_integer_division_truncates_and_never_traps():
    x = np.array([7, -7, 7, -7, 5, -2**31, -2**31], "i4")
    y = np.array([2, 2, -2, -2, 1, 1, -1], "i4")
    check("Div", x[:-1], y[:-1])
    check("Div", x, y, expected=[np.array([3, -3, -3, 3, 5, -2**31, -2**31], "i4")])
    check("Mod", x, y, expected=[np.array([1, 1, -1, -1, 0, 0, 0], "i4")])
    check("Div", np.array([9], "u1"), np.array([0], "u1"), expected=[np.array([9], "u1")])


@pytest.mark.parametrize("dtype", ["i1", "i4", "i8", "u1", "u4"])
def test_integer_mod(dtype):
    x = RNG.integers(0, 100, 30).astype(dtype) - (0 if dtype[0] == "u" else 50)
    y = RNG.integers(1, 9, 30).astype(dtype) * (1 if dtype[0] == "u" else RNG.choice([-1, 1], 30))
    x, y = x.astype(dtype), y.astype(dtype)
    check("Mod", x, y)
    check("Mod", x, y, fmod=1)


def test_float_mod():
    x, y = RNG.uniform(-50, 50, 200).astype("f4"), RNG.uniform(0.5, 7, 200).astype("f4") * RNG.choice([-1, 1], 200).astype("f4")
    check("Mod", x, y, fmod=1)
    check("Mod", np.array([0.3, 6], "f4"), np.array([0.1, 3], "f4"), fmod=1, tolerance=1e-6)
    check("Mod", x, y, expected=[np.mod(x, y)])


@pytest.mark.parametrize("exponent", [2, 3.0, 0.5, -1.0, 0, 7.5, -2])
def test_constant_power(exponent):
    check("Pow", POSITIVE, const(np.float32(exponent)))


def test_integer_power():
    check("Pow", np.array([2, -3, 1, -1, 0], "i8"), np.array([5, 3, 60, 61, 0], "i8"))
    check("Pow", np.array([2, 3, 4], "i4"), np.array([0.5, 2, 1.5], "f4"))
    check("Pow", np.array([2, 3, 4], "f4"), np.array([2, 0, 3], "i8"))


def test_clip():
    check("Clip", F32, const(np.float32(-0.5)), const(np.float32(0.7)))
    check("Clip", F32, None, np.float32(0.7))
    check("Clip", F32, np.float32(0.2))
    check("Clip", F32)
    check("Clip", F32, const(np.float32(1)), const(np.float32(-1)), by="onnx")
    check("Clip", SPECIAL, const(np.float32(-1)), const(np.float32(1)), by="onnx")
    check("Clip", np.arange(-9, 9, dtype="i1"), np.int8(-3), np.int8(4))


def test_comparisons_and_logic():
    a, b = RNG.integers(0, 3, (4, 1)), RNG.integers(0, 3, (5,))
    for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        check(op, a, b)
        check(op, a.astype("f4"), b.astype("f4"))
    p, q = a > 1, b > 0
    for op in ("And", "Or", "Xor", "Equal"):
        check(op, p, q)
    check("Not", p)
    check("Where", p, a, b)
    check("PRelu", F32, np.array([0.1, -0.2, 3], "f4"))


def test_bits():
    a, b = RNG.integers(0, 255, (3, 4)).astype("u1"), RNG.integers(0, 255, 4).astype("u1")
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        check(op, a, b)
    check("BitwiseNot", a)
    by = np.array([0, 3, 7, 1], "u1")
    check("BitShift", a, by, direction="LEFT")
    check("BitShift", a, const(by[:1]), direction="RIGHT")
    check("BitShift", a, np.array([9], "u1"), direction="RIGHT", expected=[np.zeros_like(a)])
    signed = a.astype("i1")
    check("BitShift", signed, np.array([3, 9, 0, 1], "i1"), direction="RIGHT", expected=[signed >> np.array([3, 7, 0, 1], "i1")])


@pytest.mark.parametrize("source", ["f4", "f2", "f8", "i4", "i8", "u1", "?"])
@pytest.mark.parametrize("target", ["f4", "f2", "f8", "i1", "i4", "i8", "u1", "u4", "?"])
def test_cast(source, target):
    import onnx
    x = np.array([0, 1, 2.7, 100.2] + ([-2.7, -100] if source[0] in "fi" and target[0] != "u" else []), "f8").astype(source)
    check("Cast", x, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target)))


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2"])
@pytest.mark.parametrize("size", [(), (3,)])
def test_quantize(dtype, size):
    x = np.concatenate([RNG.normal(size=30) * 50, [1e9, -1e9, 0.5, 1.5, 2.5, -0.5]]).astype("f4").reshape(4, 3, 3)
    scale = np.full(size, 0.5, "f4") if size == () else np.array([0.5, 1, 0.7], "f4")
    zero = RNG.integers(0, 100, size).astype(dtype)
    check("QuantizeLinear", x, const(scale), const(zero))
    check("QuantizeLinear", x.transpose(0, 2, 1), scale, zero, axis=-1 if size else 1)
    q = RNG.integers(0, 120, (4, 3, 3)).astype(dtype)
    check("DequantizeLinear", q, const(scale), const(zero))
    check("DequantizeLinear", q, scale, axis=-2)


def test_blocked_quantization():
    x, scale = RNG.normal(size=(4, 6, 2)).astype("f4") * 9, RNG.uniform(0.1, 1, (4, 2, 2)).astype("f4")
    zero = RNG.integers(0, 9, (4, 2, 2)).astype("u1")
    (q,) = check("QuantizeLinear", x, scale, zero, axis=1, block_size=3)
    check("DequantizeLinear", q, scale, zero, axis=1, block_size=3)


def test_dropout():
    check("Dropout", F32, outputs=2)
    check("Dropout", F32, const(np.float32(0.5)), const(np.bool_(False)), outputs=2)
    with pytest.raises(Refuse):
        check("Dropout", F32, const(np.float32(0.5)), const(np.bool_(True)), expected=[F32])
