"""The rules by which a random graph grows: each adds one op, or a pattern that passes look for, to a value in the graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .writer import LARGEST, SIZES, NotHere, Type, Writer

Rule = Callable[[Writer], object]
RULES: list[tuple[Rule, int]] = []


def rule(weight: int = 1) -> Callable[[Rule], Rule]:
    """Registers a rule; the weight says how often it is chosen."""
    def register(function: Rule) -> Rule:
        RULES.append((function, weight))
        return function
    return register


def grow(seed: int, prefix: str = "", steps: tuple[int, int] = (2, 14)) -> Writer:
    """A random graph."""
    w = Writer(seed, prefix)
    for _ in range(w.between(1, 2)):
        start(w)
    weights = np.array([weight for _, weight in RULES], float)
    weights *= w.rng.random(len(RULES)) ** 2     # each graph has its favourites
    weights /= weights.sum()
    for _ in range(w.between(*steps)):
        try:
            RULES[int(w.rng.choice(len(RULES), p=weights))][0](w)
        except NotHere:
            continue
    w.finish()
    return w


def start(w: Writer) -> None:
    if w.chance(0.45):
        w.image()
    elif w.chance(0.4):
        w.input("float32", (w.choose((1, 2)), w.between(1, 20), w.choose((8, 12, 16, 17, 32, 48))))
    else:
        dtype = w.choose(("float32",) * 6 + ("int64", "int32", "bool", "float64"))
        rank = w.between(0, 5)
        w.input(dtype, [0 if w.chance(0.02) else w.choose(SIZES[:8 if rank > 3 else None]) for _ in range(rank)])


# ---- Element by element ------------------------------------------------------------------------------------------------

UNARY = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Gelu", "Erf", "Abs", "Neg", "Sin", "Cos",
         "Softplus", "Elu", "Selu", "Celu", "Mish", "Softsign", "Identity", "Floor", "Ceil", "Round", "Sign", "Atan", "Asinh",
         "ThresholdedRelu")


@rule(10)
def unary(w: Writer) -> object:
    return w.add(w.choose(UNARY), w.pick())


@rule(2)
def guarded(w: Writer) -> object:
    """Functions that need their argument in some range."""
    x = w.pick()
    op = w.choose(("Exp", "Sqrt", "Square", "Log", "Reciprocal", "Pow"))
    if op == "Exp":
        return w.add("Exp", w.add("Clip", x, w.const(-9, "float32"), w.const(4, "float32")))
    if op == "Sqrt":
        return w.add("Sqrt", w.add("Abs", x))
    if op == "Square":
        return w.add("Pow", x, w.const(w.choose((2, 3)), "float32"))
    positive = w.add("Add", w.add("Abs", x), w.const(0.5, "float32"))
    return w.add(op, positive, *([w.const(w.choose((0.5, 1.7, -0.5)), "float32")] if op == "Pow" else []))


def operand(w: Writer, t: Type) -> str:
    """Something that broadcasts with t: another value, or a constant with some axes of size 1 or left out."""
    def fits(o: Type) -> bool:
        return o.dtype == t.dtype and all(a == b or 1 in (a, b) for a, b in zip(o.shape[::-1], t.shape[::-1], strict=False))

    if w.chance(0.55):
        return w.pick(fits)
    shape = [1 if w.chance(0.35) else n for n in t.shape]
    shape = shape[w.between(0, len(shape)):] if w.chance(0.4) else shape
    if t.dtype == "bool":
        return w.const(w.rng.integers(0, 2, shape), "bool")
    return w.const(w.rng.integers(1, 6, shape) if "int" in t.dtype else w.rng.standard_normal(shape), t.dtype)


@rule(12)
def binary(w: Writer) -> object:
    x = w.pick(lambda t: t.dtype in ("float32", "float64", "int32", "int64"))
    t = w[x]
    pair = [x, operand(w, t)]
    w.rng.shuffle(pair)
    if "int" in t.dtype:
        op = w.choose(("Add", "Sub", "Mul", "Max", "Min", "Mod"))
        return w.add(op, pair[0], w.const(w.between(1, 7), t.dtype) if op == "Mod" else pair[1])
    op = w.choose(("Add", "Add", "Mul", "Mul", "Sub", "Max", "Min", "Div"))
    if op == "Div":
        pair[1] = w.add("Add", w.add("Abs", pair[1]), w.const(0.5, t.dtype)) if pair[1] in w.types else w.const(
            np.abs(w.constants[pair[1]]) + 0.5, t.dtype)
    return w.add(op, *pair)


@rule(2)
def variadic(w: Writer) -> object:
    x = w.pick()
    return w.add(w.choose(("Sum", "Mean", "Max", "Min")), x, *(operand(w, w[x]) for _ in range(w.between(0, 3))))


@rule(3)
def compare(w: Writer) -> object:
    x = w.pick(lambda t: t.dtype in ("float32", "int64", "int32"))
    op = w.choose(("Less", "Greater", "LessOrEqual", "GreaterOrEqual", *(("Equal",) if "int" in w[x].dtype else ())))
    return w.add(op, x, operand(w, w[x]))


@rule(3)
def logic(w: Writer) -> object:
    a = w.pick(lambda t: t.dtype == "bool")
    return w.add("Not", a) if w.chance(0.3) else w.add(w.choose(("And", "Or", "Xor")), a, operand(w, w[a]))


@rule(3)
def where(w: Writer) -> object:
    x = w.pick(lambda t: t.dtype in ("float32", "int64"))
    try:
        condition = operand(w, Type("bool", w[x].shape))
    except NotHere:
        condition = w.add("Greater" if w[x].real else "Less", x, operand(w, w[x]))
    return w.add("Where", condition, x, operand(w, w[x]))


@rule(3)
def cast(w: Writer) -> object:
    x = w.pick(lambda t: True)
    to = w.choose(("float32", "float32", "int32", "int64", "bool", "float64", "float16", "uint8", "int8"))
    if w[x].dtype.startswith("float") and "int" in to:
        if not w[x].real:
            raise NotHere
        x = w.add("Clip", x, w.const(0 if to == "uint8" else -100, "float32"), w.const(100, "float32"))
    return w.add("Cast", x, to=Type(to, ()).element)


@rule(2)
def clip(w: Writer) -> object:
    low, high = sorted(w.rng.standard_normal(2))
    return w.add("Clip", w.pick(), w.const(low, "float32") if w.chance(0.8) else "", w.const(high, "float32"))


@rule(1)
def prelu(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 1)
    return w.add("PRelu", x, w.weight(w[x].shape[1], *(1,) * (w[x].rank - 2), scale=1))


# ---- Layout ------------------------------------------------------------------------------------------------------------

@rule(5)
def transpose(w: Writer) -> object:
    x = w.pick(lambda t: t.rank > 1)
    return w.add("Transpose", x, perm=[int(p) for p in w.rng.permutation(w[x].rank)])


@rule(5)
def reshape(w: Writer) -> object:
    x = w.pick(lambda t: t.size > 0)
    shape = list(w[x].shape)
    for _ in range(w.between(1, 3)):
        at = w.between(0, max(0, len(shape) - 1))
        if w.chance(0.5) and at + 1 < len(shape):
            shape[at:at + 2] = [shape[at] * shape[at + 1]]
        elif len(shape) < 5:
            n = shape[at] if shape else 1
            d = w.choose([d for d in range(1, n + 1) if n % d == 0])
            shape[at:at + 1] = [d, n // d]
    if shape and w.chance(0.3):
        shape[w.between(0, len(shape) - 1)] = -1
    return w.add("Reshape", x, w.ints(*shape))


@rule(2)
def unit_axes(w: Writer) -> object:
    x = w.pick(lambda t: True)
    t = w[x]
    units = [a for a, n in enumerate(t.shape) if n == 1]
    if units and w.chance(0.5):
        return w.add("Squeeze", x, w.ints(w.choose(units)))
    if t.rank == 5:
        return w.add("Flatten", x, axis=w.between(0, t.rank))
    return w.add("Unsqueeze", x, w.ints(w.between(0, t.rank)))


@rule(4)
def slice_(w: Writer) -> object:
    x = w.pick(lambda t: t.rank > 0 and t.size > 0)
    axis = w.between(0, w[x].rank - 1)
    n = w[x].shape[axis]
    start, end = sorted((w.between(0, n), w.between(0, n)))
    if start == end and not w.chance(0.05):
        start, end = 0, max(1, n // 2)
    if w.chance(0.25):
        stop = start - 1 if start else -1 - n
        return w.add("Slice", x, w.ints(end - 1), w.ints(stop), w.ints(axis), w.ints(-w.between(1, 2)))
    return w.add("Slice", x, w.ints(start), w.ints(end), w.ints(axis), w.ints(w.between(1, 3)))


@rule(3)
def split(w: Writer) -> object:
    x = w.pick(lambda t: t.rank > 0 and max(t.shape) > 1)
    axis = w.choose([a for a, n in enumerate(w[x].shape) if n > 1])
    parts = w.choose([k for k in (2, 3) if (k - 1) * -(-w[x].shape[axis] // k) < w[x].shape[axis]])    # none is empty
    return w.add("Split", x, outputs=parts, axis=axis, num_outputs=parts)


@rule(5)
def concat(w: Writer) -> object:
    x = w.pick(lambda t: t.rank > 0 and t.size * 3 < LARGEST)
    axis = w.between(0, w[x].rank - 1)

    def fits(t: Type) -> bool:
        return t.dtype == w[x].dtype and t.rank == w[x].rank and all(
            a == b or k == axis for k, (a, b) in enumerate(zip(t.shape, w[x].shape, strict=True)))
    return w.add("Concat", *[x, *(w.pick(fits) for _ in range(w.between(1, 3)))], axis=axis)


@rule(2)
def pad(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 0 and min(t.shape) > 2)
    rank = w[x].rank
    mode = w.choose(("constant", "constant", "reflect", "edge"))
    pads = [w.between(-1 if mode == "constant" else 0, 2) if w.chance(0.5) else 0 for _ in range(2 * rank)]
    return w.add("Pad", x, w.ints(*pads), *([w.const(0.25, "float32")] if mode == "constant" else []), mode=mode)


@rule(2)
def expand(w: Writer) -> object:
    x = w.pick(lambda t: t.size < LARGEST // 8)
    if w.chance(0.5) and w[x].rank:
        return w.add("Tile", x, w.ints(*(w.between(1, 2) for _ in w[x].shape)))
    shape = [w.between(2, 4) if n == 1 and w.chance(0.7) else n for n in w[x].shape]
    return w.add("Expand", x, w.ints(*([w.between(1, 3)] if len(shape) < 5 and w.chance(0.4) else []), *shape))


@rule(2)
def depth_space(w: Writer) -> object:
    x = w.image()
    if w.chance(0.5):
        if w[x].shape[1] % 4:
            x = w.add("Conv", x, w.weight(8, w[x].shape[1], 1, 1))
        return w.add("DepthToSpace", x, blocksize=2, mode=w.choose(("DCR", "CRD")))
    if w[x].shape[2] % 2 or w[x].shape[3] % 2:
        raise NotHere
    return w.add("SpaceToDepth", x, blocksize=2)


@rule(3)
def resize(w: Writer) -> object:
    x = w.image()
    n, c, h, v = w[x].shape
    mode = w.choose(("nearest", "linear", "linear", "cubic"))
    size = (h * 2, v * 2) if w.chance(0.5) else (w.between(1, 2 * h), w.between(1, 2 * v))
    transformation = w.choose(("half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners"))
    return w.add("Resize", x, "", "", w.ints(n, c, *size), mode=mode, coordinate_transformation_mode=transformation,
                 **({"nearest_mode": "floor"} if mode == "nearest" else {}))


@rule(3)
def gather(w: Writer) -> object:
    x = w.pick(lambda t: t.rank > 0 and t.size > 0)
    axis = w.between(0, w[x].rank - 1)
    n = w[x].shape[axis]
    if w.chance(0.4):
        return w.add("Gather", x, indices(w, lambda t: t.rank <= 2 and t.size <= 20, n), axis=axis)
    return w.add("Gather", x, w.const(w.rng.integers(-n, n, w.choose([(), (1,), (3,), (2, 2)])), "int64"), axis=axis)


def indices(w: Writer, fits: Callable[[Type], bool], n: int) -> str:
    """Integers in the graph, brought into 0..n-1."""
    return str(w.add("Mod", w.add("Abs", w.pick(lambda t: t.dtype == "int64" and fits(t))), w.const(n, "int64")))


@rule(1)
def gather_elements(w: Writer) -> object:
    x = w.pick(lambda t: t.rank > 0 and t.size > 0)
    axis = w.between(0, w[x].rank - 1)
    shape = [max(1, s - (a != axis and w.chance(0.3))) for a, s in enumerate(w[x].shape)]
    return w.add("GatherElements", x, w.const(w.rng.integers(0, w[x].shape[axis], shape), "int64"), axis=axis)


@rule(1)
def scatter(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 0 and 0 < t.size < 3000)
    t = w[x]
    axis = w.between(0, t.rank - 1)
    count = w.between(1, t.shape[axis])
    shape = [count if a == axis else n for a, n in enumerate(t.shape)]
    order = np.argsort(w.rng.random(t.shape), axis=axis).take(range(count), axis)
    return w.add("ScatterElements", x, w.const(order, "int64"), w.weight(*shape, scale=1), axis=axis,
                 **({"reduction": "add"} if w.chance(0.5) else {}))


@rule(1)
def one_hot(w: Writer) -> object:
    n = w.between(2, 7)
    hot = indices(w, lambda t: t.rank < 4 and t.size < 2000, n)
    return w.add("OneHot", hot, w.const(n, "int64"), w.const([0.5, 2], "float32"), axis=w.choose((-1, 0)))


@rule(1)
def trilu(w: Writer) -> object:
    return w.add("Trilu", w.pick(lambda t: t.real and t.rank > 1), w.const(w.between(-2, 2), "int64"), upper=w.between(0, 1))


# ---- Reductions --------------------------------------------------------------------------------------------------------

@rule(5)
def reduce(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 0)
    rank = w[x].rank
    op = w.choose(("ReduceSum", "ReduceMean", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
                   "ReduceLogSumExp"))
    if 0 in w[x].shape and op not in ("ReduceSum", "ReduceL1", "ReduceSumSquare"):
        raise NotHere
    axes = [int(a) for a in np.flatnonzero(w.rng.random(rank) < 0.5)] or [w.between(0, rank - 1)]
    return w.add(op, x, w.ints(*axes) if w.chance(0.9) else "", keepdims=w.between(0, 1))


@rule(1)
def reduce_other_types(w: Writer) -> object:
    x = w.pick(lambda t: t.dtype in ("int32", "int64", "float64") and t.rank > 0 and t.size > 0)
    axis = w.between(0, w[x].rank - 1)
    return w.add(w.choose(("ReduceSum", "ReduceMax", "ReduceMin")), x, w.ints(axis), keepdims=w.between(0, 1))


def distinct(w: Writer) -> str:
    """A value without equal elements: which of them comes first would hang on the last bit."""
    x = w.pick(lambda t: t.real and t.rank > 0 and 0 < t.size < 3000)
    return str(w.add("Add", x, w.weight(*w[x].shape, scale=1)))


@rule(1)
def arg_extreme(w: Writer) -> object:
    x = distinct(w)
    return w.add(w.choose(("ArgMax", "ArgMin")), x, axis=w.between(0, w[x].rank - 1), keepdims=w.between(0, 1))


@rule(1)
def top_k(w: Writer) -> object:
    x = distinct(w)
    axis = w.between(0, w[x].rank - 1)
    return w.add("TopK", x, w.ints(w.between(1, w[x].shape[axis])), outputs=2, axis=axis, largest=w.between(0, 1))


@rule(1)
def cumulate(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 0)
    return w.add("CumSum", x, w.const(w.between(0, w[x].rank - 1), "int64"), exclusive=w.between(0, 1), reverse=w.between(0, 1))


@rule(4)
def softmax(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 0 and t.size > 0)
    return w.add(w.choose(("Softmax", "Softmax", "LogSoftmax")), x, axis=w.between(-1, w[x].rank - 1))


@rule(4)
def layer_norm(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 1 and t.shape[-1] > 1 and t.size > 0)
    n = w[x].shape[-1]
    scale, bias = w.weight(n, scale=1), w.weight(n, scale=1)
    if w.chance(0.5):
        return w.add("LayerNormalization", x, scale, *([bias] if w.chance(0.7) else []), epsilon=1e-3)
    axis = w.ints(-1)
    d = w.add("Sub", x, w.add("ReduceMean", x, axis))
    square = w.add("Mul", d, d) if w.chance(0.5) else w.add("Pow", d, w.const(2, "float32"))
    v = w.add("Sqrt", w.add("Add", w.add("ReduceMean", square, axis), w.const(1e-3, "float32")))
    return w.add("Add", w.add("Mul", w.add("Div", d, v), scale), bias)


@rule(2)
def channel_norm(w: Writer) -> object:
    x = w.image()
    c = w[x].shape[1]
    if w.chance(0.4):
        return w.add("BatchNormalization", x, w.weight(c, scale=1), w.weight(c, scale=1), w.weight(c, scale=1),
                     w.const(w.rng.random(c) + 0.5, "float32"))
    if w[x].shape[2] * w[x].shape[3] == 1:
        raise NotHere
    if w.chance(0.5):
        return w.add("InstanceNormalization", x, w.weight(c, scale=1), w.weight(c, scale=1), epsilon=1e-3)
    groups = w.choose([g for g in (1, 2, 3, 4) if c % g == 0])
    return w.add("GroupNormalization", x, w.weight(c, scale=1), w.weight(c, scale=1), num_groups=groups, epsilon=1e-3)


@rule(1)
def other_norm(w: Writer) -> object:
    x = w.image()
    if w.chance(0.5):
        return w.add("LRN", x, size=w.choose((3, 5)))
    return w.add("LpNormalization", x, axis=w.between(0, 3), p=w.between(1, 2))


# ---- Windows -----------------------------------------------------------------------------------------------------------

def window(w: Writer, shape: tuple[int, ...]) -> dict[str, list[int]]:
    """Kernel, strides, dilations and pads that fit the spatial extents."""
    rank = len(shape)
    kernel = [w.choose([k for k in (1, 2, 3, 3, 5) if k <= n + 1]) for n in shape]
    dilations = [w.between(1, 2) if (k - 1) * 2 < n else 1 for k, n in zip(kernel, shape, strict=True)]
    pads = [w.between(0, (k - 1) // 2 + (k > n)) for k, n in zip(kernel * 2, shape * 2, strict=True)]
    for a in range(rank):
        pads[a] = max(pads[a], (kernel[a] - 1) * dilations[a] + 1 - shape[a] - pads[a + rank])
    return {"kernel_shape": kernel, "strides": [w.choose((1, 1, 1, 2, 3)) for _ in kernel], "dilations": dilations, "pads": pads}


@rule(9)
def conv(w: Writer) -> object:
    x = w.image() if w.chance(0.85) else w.pick(lambda t: t.real and t.rank in (3, 5) and 0 < t.size < 5000 and t.shape[1] <= 64)
    c, shape = w[x].shape[1], w[x].shape[2:]
    geometry = window(w, shape)
    if w.chance(0.3):
        ones = [1] * len(shape)
        geometry |= {"kernel_shape": ones, "dilations": ones, "pads": [0, 0] * len(shape)}
    group = c if w.chance(0.3) else w.choose([g for g in (1, 1, 2, 4) if c % g == 0])
    oc = group * w.choose((1, 1, 2) if group == c else (1, 2, 3, 5, 8, 16, 19))
    y = w.add("Conv", x, w.weight(oc, c // group, *geometry["kernel_shape"]), *([w.weight(oc, scale=1)] if w.chance(0.7) else []),
              group=group, **geometry)
    return w.add(w.choose(("Relu", "HardSwish", "Clip")), y) if w.chance(0.3) else y


@rule(1)
def conv_transpose(w: Writer) -> object:
    x = w.image()
    c = w[x].shape[1]
    group = w.choose([g for g in (1, 1, 2) if c % g == 0])
    k = w.choose((2, 3, 4))
    return w.add("ConvTranspose", x, w.weight(c, w.choose((1, 3, 8)), k, k), *([] if w.chance(0.5) else [""]), group=group,
                 strides=[w.choose((1, 2))] * 2, pads=[0, 0, 1, 1] if w.chance(0.3) else [0, 0, 0, 0])


@rule(4)
def pool(w: Writer) -> object:
    x = w.image()
    if w.chance(0.25):
        return w.add(w.choose(("GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool")), x)
    geometry = window(w, w[x].shape[2:])
    geometry["pads"] = [min(p, k - 1, 1) for p, k in zip(geometry["pads"], geometry["kernel_shape"] * 2, strict=True)]
    if w.chance(0.5):
        return w.add("MaxPool", x, outputs=w.choose((1, 1, 1, 2)), ceil_mode=w.between(0, 1), **geometry)
    del geometry["dilations"]
    return w.add("AveragePool", x, count_include_pad=w.between(0, 1), **geometry)


@rule(3)
def squeeze_excite(w: Writer) -> object:
    x = w.image()
    c = w[x].shape[1]
    g = w.add("GlobalAveragePool", x) if w.chance(0.5) else w.add("ReduceMean", x, w.ints(2, 3))
    h = w.add("Relu", w.add("Conv", g, w.weight(4, c, 1, 1), w.weight(4)))
    return w.add("Mul", x, w.add(w.choose(("Sigmoid", "HardSigmoid")), w.add("Conv", h, w.weight(c, 4, 1, 1), w.weight(c))))


@rule(3)
def residual(w: Writer) -> object:
    x = w.image()
    c = w[x].shape[1]
    h = w.add("Conv", x, w.weight(2 * c, c, 1, 1))
    h = w.add("Clip", h, w.const(0, "float32"), w.const(6, "float32")) if w.chance(0.5) else w.add("Mul", h, w.add("Sigmoid", h))
    h = w.add("Conv", h, w.weight(2 * c, 1, 3, 3), w.weight(2 * c), group=2 * c, pads=[1, 1, 1, 1])
    return w.add("Add", x, w.add("Conv", w.add("Relu", h), w.weight(c, 2 * c, 1, 1), w.weight(c)))


# ---- Products ----------------------------------------------------------------------------------------------------------

@rule(7)
def matmul(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 0)
    k = w[x].shape[-1]
    columns = (w.choose((1, 3, 8, 16, 17, 40)),) if w.chance(0.9) else ()
    y = w.add("MatMul", x, w.weight(k, *columns, scale=max(k, 1) ** -0.5))
    return w.add("Add", y, operand(w, w[y])) if w.chance(0.5) else y


@rule(3)
def computed_matmul(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 1 and t.size < 4000)
    y = w.pick(lambda t: t.real and t.rank in (2, w[x].rank) and w[x].shape[-1] in t.shape[-2:] and t.size < 4000)
    if w[y].shape[-2] != w[x].shape[-1]:
        y = w.add("Transpose", y, perm=[*range(w[y].rank - 2), w[y].rank - 1, w[y].rank - 2])
    return w.add("MatMul", x, y)


@rule(2)
def gemm(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank == 2 and t.size > 0)
    a, b = w.between(0, 1), w.between(0, 1)
    k, n = w[x].shape[0 if a else 1], w.choose((1, 5, 16, 33))
    bias = [w.weight(*w.choose([(n,), (1,), (1, n), ()]), scale=1)] if w.chance(0.7) else []
    return w.add("Gemm", x, w.weight(*((n, k) if b else (k, n)), scale=k ** -0.5), *bias, transA=a, transB=b,
                 alpha=w.choose((1.0, 0.5)), beta=w.choose((1.0, 2.0)))


@rule(3)
def attention(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank == 3 and t.shape[-1] > 1 and 0 < t.size < 3000)
    b, t, c = w[x].shape
    heads, d = w.choose((1, 2, 3)), w.choose((4, 8, 5))

    def head() -> str:
        y = w.add("MatMul", x, w.weight(c, heads * d, scale=c ** -0.5))
        return str(w.add("Transpose", w.add("Reshape", y, w.ints(b, t, heads, d)), perm=[0, 2, 1, 3]))

    q, k, v = head(), head(), head()
    s = w.add("Mul", w.add("MatMul", q, w.add("Transpose", k, perm=[0, 1, 3, 2])), w.const(d ** -0.5, "float32"))
    if w.chance(0.4):
        s = w.add("Add", s, w.const(w.rng.standard_normal(w.choose([(t, t), (1, 1, t, t), (b, 1, 1, t)])), "float32"))
    y = w.add("MatMul", w.add("Softmax", s, axis=-1), v)
    return w.add("Reshape", w.add("Transpose", y, perm=[0, 2, 1, 3]), w.ints(b, t, heads * d))


@rule(1)
def einsum(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank == 3 and 0 < t.size < 3000)
    n = w[x].shape[-1]
    return w.add("Einsum", x, w.weight(5, n, scale=n ** -0.5), equation=w.choose(("abc,dc->abd", "abc,dc->adb", "abc,dc->bad")))


@rule(2)
def quantize(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 0)
    dtype = w.choose(("uint8", "int8"))
    zero = w.const(w.between(0, 9), dtype)
    axis = w.between(0, w[x].rank - 1)
    n = w[x].shape[axis]
    scale, more = w.const(0.07, "float32"), {}
    if w.chance(0.5):
        scale, zero = w.const(w.rng.random(n) / 10 + 0.01, "float32"), w.const(w.rng.integers(0, 9, n), dtype)
        more = {"axis": axis}
    return w.add("DequantizeLinear", w.add("QuantizeLinear", x, scale, zero, **more), scale, zero, **more)


@rule(2)
def integer_matmul(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank > 1 and 0 < t.size < 5000)
    q, scale, zero = w.add("DynamicQuantizeLinear", x, outputs=3)
    weight = w.const(w.rng.integers(-127, 128, (w[x].shape[-1], w.choose((1, 5, 16)))), "int8")
    y = w.add("MatMulInteger", q, weight, zero)
    return w.add("Mul", w.add("Cast", y, to=Type("float32", ()).element), w.add("Mul", scale, w.const(0.01, "float32")))


@rule(1)
def recurrent(w: Writer) -> object:
    x = w.pick(lambda t: t.real and t.rank == 3 and 0 < t.size < 800)
    n, h, d = w[x].shape[-1], w.choose((3, 8, 16)), w.between(1, 2)
    op, gates = w.choose((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    shapes = (d, gates * h, n), (d, gates * h, h), (d, 2 * gates * h)
    return w.add(op, x, *(w.weight(*shape, scale=shape[-1] ** -0.5) for shape in shapes), outputs=w.choose((1, 2)), hidden_size=h,
                 direction="forward" if d == 1 else "bidirectional")
