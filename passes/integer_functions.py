"""The integer ops of domain `burnish` as ONNX functions: their bodies, in standard ops on integers, are their exact meaning, so
that onnxruntime and every target give the same bytes. `passes/compress/integer_math.py` says the same in numpy.

Requantize      x [...] integer times multiplier (int32, broadcast to x) over 2^shift, rounded half to even, plus zero, clipped to
                low..high, as dtype `to`. |x| < 2^31; 1 <= shift <= 61: the product has 63 bits.
Lookup          table[x], x clipped into the table: any function of one number of few bits.
IntegerSoftmax  over the last axis of x (int32, |x| < 2^30): e = table[max(x) - x], where the table (int32) falls from its first
                entry on and its last one stands for all beyond, as two uint8: high = e / radix and low, the rest; and per row
                r = numerator / sum(e), rounded down, at most 2^31 - 1 (int32, last axis 1). So e r approximates numerator
                softmax(x), and the e of a row divided by their sum add up to exactly 1.
IntegerLayerNorm  over the last axis, of `count` elements, of x (int32, |x| < 2^16, count <= 4096): 2^10 (x - mean) / deviation as
                int32. mean: rounded half up; v = sum of squares of y = x - mean, plus epsilon (at least 1); k = isqrt(2^16 v);
                f = root / k, rounded down; result: y f / 2^21 half to even. root is sqrt(count) 2^39.
IntegerGelu     x sigmoid(1.702 x) of x (int32) in steps of S as int32 in steps of S / 256: I-ViT's ShiftGELU (Li and Gu 2023),
                repaired: of |x| alone, so that it works element by element and no maximum overflows. one: ceil(1 / (1.702 S));
                bits: min(16, 22 - ceil(log2(one))).

Bounds are taken by Where: Max and Min of onnxruntime 1.31 compare int64 with a scalar by the low half (of 3038777380 and 127 they
find 127 the larger one). Its ReduceSum of int64 is exact up to 2^53.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from .base import DOMAIN

SEED_STEPS = (32, 16, 8, 4, 2, 1)       # of the search for a number's length in bits
NEWTON = 5                              # from a seed within 1 and 2 times the root of 62 bits: the error squares each time


def add_integer_function(model: ir.Model, name: str) -> None:
    """Registers the op, and those that its body calls, in `model.functions`, once. KeyError for one that is not ours."""
    key = (DOMAIN, name, "")
    if key in model.functions:
        return
    signature, body = _BODIES[name]
    opset = model.graph.opset_imports[""]
    text = f'<domain: "{DOMAIN}", opset_import: ["": {opset}, "{DOMAIN}": 1]>\n{name} {signature} {{\n{body}\n}}'
    model.functions[key] = ir.serde.deserialize_function(onnx.parser.parse_function(text))
    model.graph.opset_imports.setdefault(DOMAIN, 1)
    model.ir_version = max(model.ir_version, 10)
    for other in _BODIES:
        if f"{DOMAIN}.{other}" in body:
            add_integer_function(model, other)


def _numbers(**values: int) -> str:
    """Constants of int64 by name."""
    return "\n".join(f"{name} = Constant <value_int = {value}> ()" for name, value in values.items())


def _isqrt(v: str, result: str) -> str:
    """The exact integer square root of v (int64, 1 <= v < 2^62): Newton's iteration down from 2^ceil(bits / 2)."""
    lines = [f"length_0 = Sub (one, one)\nrest_0 = Identity ({v})"]
    for n, step in enumerate(SEED_STEPS):
        lines.append(f"""
            bound_{n} = Constant <value_int = {1 << step}> ()
            step_{n} = Constant <value_int = {step}> ()
            long_{n} = GreaterOrEqual (rest_{n}, bound_{n})
            cut_{n} = Div (rest_{n}, bound_{n})
            more_{n} = Add (length_{n}, step_{n})
            rest_{n + 1} = Where (long_{n}, cut_{n}, rest_{n})
            length_{n + 1} = Where (long_{n}, more_{n}, length_{n})""")
    last = len(SEED_STEPS)
    lines.append(f"""
        longer = Add (length_{last}, two)
        half_length = Div (longer, two)
        shift = Cast <to = 13> (half_length)
        unit = Cast <to = 13> (one)
        seed = BitShift <direction = "LEFT"> (unit, shift)
        root_0 = Cast <to = 7> (seed)""")
    for n in range(NEWTON):
        lines.append(f"""
            quotient_{n} = Div ({v}, root_{n})
            sum_{n} = Add (root_{n}, quotient_{n})
            root_{n + 1} = Div (sum_{n}, two)""")
    lines.append(f"""
        square = Mul (root_{NEWTON}, root_{NEWTON})
        above = Greater (square, {v})
        less = Cast <to = 7> (above)
        {result} = Sub (root_{NEWTON}, less)""")
    return "\n".join(lines)


_REQUANTIZE = f"""
    {_numbers(one=1, two=2)}
    a = Cast <to = 7> (x)
    b = Cast <to = 7> (multiplier)
    product = Mul (a, b)
    shift_by = Constant <value_int: int = @shift> ()
    bits = Cast <to = 13> (shift_by)
    unit = Cast <to = 13> (one)
    power = BitShift <direction = "LEFT"> (unit, bits)
    divisor = Cast <to = 7> (power)
    half = Div (divisor, two)
    rest = Mod (product, divisor)
    whole = Sub (product, rest)
    floor = Div (whole, divisor)
    odd = Mod (floor, two)
    most = Sub (half, odd)
    up = Greater (rest, most)
    carry = Cast <to = 7> (up)
    rounded = Add (floor, carry)
    offset = Constant <value_int: int = @zero> ()
    least = Constant <value_int: int = @low> ()
    largest = Constant <value_int: int = @high> ()
    moved = Add (rounded, offset)
    below = Less (moved, least)
    raised = Where (below, least, moved)
    above = Greater (raised, largest)
    clipped = Where (above, largest, raised)
    y = Cast <to: int = @to> (clipped)"""

_LOOKUP = f"""
    {_numbers(zero=0, one=1)}
    values = Constant <value: tensor = @table> ()
    shape = Shape (values)
    size = Squeeze (shape)
    last = Sub (size, one)
    position = Cast <to = 7> (x)
    below = Less (position, zero)
    raised = Where (below, zero, position)
    above = Greater (raised, last)
    index = Where (above, last, raised)
    y = Gather (values, index)"""

_SOFTMAX = f"""
    {_numbers(one=1, limit=(1 << 31) - 1)}
    axes = Constant <value_ints = [-1]> ()
    values = Constant <value: tensor = @table> ()
    shape = Shape (values)
    size = Squeeze (shape)
    last = Sub (size, one)
    top = ReduceMax (x, axes)
    below = Sub (top, x)
    distance = Cast <to = 7> (below)
    beyond = Greater (distance, last)
    index = Where (beyond, last, distance)
    e = Gather (values, index)
    terms = Cast <to = 7> (e)
    base = Constant <value_int: int = @radix> ()
    tall = Div (terms, base)
    rest = Mod (terms, base)
    high = Cast <to = 2> (tall)
    low = Cast <to = 2> (rest)
    total = ReduceSum (terms, axes)
    whole = Constant <value_int: int = @numerator> ()
    quotient = Div (whole, total)
    large = Greater (quotient, limit)
    clipped = Where (large, limit, quotient)
    r = Cast <to = 6> (clipped)"""

_LAYER_NORM = f"""
    {_numbers(one=1, two=2, scale=1 << 16, limit=(1 << 31) - 1)}
    axes = Constant <value_ints = [-1]> ()
    elements = Constant <value_int: int = @count> ()
    numerator = Constant <value_int: int = @root> ()
    least = Constant <value_int: int = @epsilon> ()
    wide = Cast <to = 7> (x)
    total = ReduceSum (wide, axes)
    half_count = Div (elements, two)
    raised = Add (total, half_count)
    rest = Mod (raised, elements)
    whole = Sub (raised, rest)
    mean = Div (whole, elements)
    deviation = Sub (wide, mean)
    squares = Mul (deviation, deviation)
    sum = ReduceSum (squares, axes)
    v = Add (sum, least)
    scaled = Mul (v, scale)
    {_isqrt("scaled", "k")}
    quotient = Div (numerator, k)
    large = Greater (quotient, limit)
    clipped = Where (large, limit, quotient)
    f = Cast <to = 6> (clipped)
    narrow = Cast <to = 6> (deviation)
    y = {DOMAIN}.Requantize <shift = 21, zero = 0, low = -2147483648, high = 2147483647, to = 6> (narrow, f)"""

_GELU = f"""
    {_numbers(none=0, single=1, two=2, fifteen=15, sixteen=16, levels=256)}
    wide = Cast <to = 7> (x)
    step = Constant <value_int: int = @one> ()
    places = Constant <value_int: int = @bits> ()
    size = Abs (wide)
    size_1 = Add (size, single)
    size_2 = Div (size_1, two)
    size_15 = Add (size, fifteen)
    size_16 = Div (size_15, sixteen)
    more = Add (size, size_2)
    exponent = Sub (more, size_16)
    farthest = Mul (places, step)
    beyond = Greater (exponent, farthest)
    near = Where (beyond, farthest, exponent)
    q = Div (near, step)
    whole = Mul (q, step)
    w = Sub (near, whole)
    w_1 = Add (w, single)
    w_2 = Div (w_1, two)
    mantissa = Sub (step, w_2)
    left = Sub (places, q)
    shift = Cast <to = 13> (left)
    shift_all = Cast <to = 13> (places)
    unsigned = Cast <to = 13> (mantissa)
    unsigned_one = Cast <to = 13> (step)
    shifted = BitShift <direction = "LEFT"> (unsigned, shift)
    shifted_one = BitShift <direction = "LEFT"> (unsigned_one, shift_all)
    e = Cast <to = 7> (shifted)
    full = Cast <to = 7> (shifted_one)
    positive = Greater (wide, none)
    numerator = Where (positive, full, e)
    scaled = Mul (numerator, levels)
    denominator = Add (full, e)
    sigmoid = Div (scaled, denominator)
    product = Mul (wide, sigmoid)
    y = Cast <to = 6> (product)"""

_BODIES = {
    "Requantize": ("<shift, zero, low, high, to> (x, multiplier) => (y)", _REQUANTIZE),
    "Lookup": ("<table> (x) => (y)", _LOOKUP),
    "IntegerSoftmax": ("<table, radix, numerator> (x) => (high, low, r)", _SOFTMAX),
    "IntegerLayerNorm": ("<count, root, epsilon> (x) => (y)", _LAYER_NORM),
    "IntegerGelu": ("<one, bits> (x) => (y)", _GELU),
}
