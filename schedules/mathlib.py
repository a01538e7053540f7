"""Mathematical functions as TIR: polynomials and bit patterns, never a call (a call of libm would make vectors scalar).

Every function takes TIR scalars or whole vectors, and inside `T.vectorized` its scalar code is widened by VectorizeLoop. One text
serves float32 and float64 through a table of constants; float16 is computed in float32. NaN goes through, infinities and zeros
come out where they should; results below the smallest normal number are 0 (exp, sigmoid, pow).

The largest error over the whole range against a higher precision, in units of the last place of float32 (measured, held by
test_mathlib.py): exp 1, log 1, tanh 4, erf 4.3, sigmoid 2.1, sin and cos 2 (|x| <= 1e6), tan 3, asin acos atan 3.5, sinh
3.3, cosh 3, asinh 2, acosh 2.5, atanh 2, pow 1. float64: relative error 1e-13 (sin, cos, tan to |x| <= 1e6).

Constants: minimax fits made for this file (Lawson's iteration on the linearised rational least squares problem, 50 digits).
Reductions: W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980); log as in fdlibm's e_log.c.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

PrimExpr = Any
Coefficients = tuple[float, ...]    # constant term first


class NotSupported(Exception):
    """A function that is not made for this dtype; the message names both."""


@dataclass(frozen=True)
class Format:
    """A binary floating-point format and the constants of the functions in it.

    mantissa: stored bits; rounder: adding it rounds to an integer, which stands in the low bits of the sum; ln2: in two parts,
    the first short enough to be multiplied exactly by an exponent; edges: arguments between which exp is finite and normal;
    log: P with log((1+s)/(1-s)) = 2 s + s^3 P(s^2); tanh, erf, atan: (P, Q) with f(x) = x P(x^2) / Q(x^2) up to a limit;
    sin, sinh: f(x) = x P(x^2); cos: P(x^2).
    """

    dtype: str
    integer: str
    pack: str
    mantissa: int
    rounder: float
    smallest: float
    largest: float
    ln2: tuple[float, float]
    edges: tuple[float, float]
    exp: Coefficients
    log: Coefficients
    tanh: tuple[Coefficients, Coefficients, float]
    erf: tuple[Coefficients, Coefficients, float]
    atan: tuple[Coefficients, Coefficients]
    sin: Coefficients
    cos: Coefficients
    sinh: Coefficients

    def bits(self, value: float) -> int:
        """The pattern of `value` as a signed integer."""
        return struct.unpack("<i" if self.integer == "int32" else "<q", struct.pack(self.pack, value))[0]

    @property
    def sign(self) -> int:
        return self.bits(-0.0)


F32 = Format(
    dtype="float32", integer="int32", pack="<f", mantissa=23, rounder=1.5 * 2.0**23, smallest=2.0**-126,
    largest=3.4028234663852886e38,
    ln2=(0.693359375, -2.12194440054690583e-4), edges=(-87.3365447505531, 88.722831),
    exp=(1.0, 1.0000000364438796, 0.49999992117463891, 0.16666419926054348, 0.041668225797515841, 0.0083748248827715114,
         0.001383664131604061),
    log=(0.66666666553116872, 0.40000122092353391, 0.28550797844561872, 0.2333098799109823),
    tanh=((0.99999997488417505, 0.13373886221274586, 0.0034871288017059041, 2.0470654138901243e-5, 1.316423875056965e-8),
          (1.0, 0.46707199292609326, 0.025844748251348948, 0.00032718344078092262, 7.6983315643547578e-7), 9.1),
    erf=((1.1283791382607281, 0.19354987001980555, 0.053102142378321249, 0.0038835404655643578, 0.00028456732113124919,
          1.9866705124249858e-6),
         (1.0, 0.50486165787124929, 0.11535178371820891, 0.015207575238846258, 0.0011856175566837775,
          3.7419165624798972e-5), 4.0),
    atan=((0.99999999910412508, 1.129026884911481, 0.28613450369530864, 0.0088949541978205196),
          (1.0, 1.4623600961750328, 0.5735905787710476, 0.050453715526305028)),
    sin=(0.99999999673651522, -0.16666650221280491, 0.0083320164730158889, -0.00019501832720499563),
    cos=(1.0, -0.49999999572970322, 0.041666613378932316, -0.0013886533113885045, 2.4373003944890949e-5),
    sinh=(0.99999997954647056, 0.16666733871270889, 0.008329911359573462, 0.00020394000130497395),
)

F64 = Format(
    dtype="float64", integer="int64", pack="<d", mantissa=52, rounder=1.5 * 2.0**52, smallest=2.0**-1022,
    largest=1.7976931348623157e308,
    ln2=(6.93147180369123816490e-01, 1.90821492927058770002e-10), edges=(-708.396418532264, 709.782712893384),
    exp=(1.0, 1.0, 0.50000000000000177, 0.16666666666666169, 0.041666666666492766, 0.0083333333335591567, 0.001388888895122417,
         0.00019841269432857977, 2.4801486520645745e-5, 2.7557622399453443e-6, 2.7632293506114214e-7, 2.499433960651554e-8),
    log=(0.66666666666666697, 0.39999999999898638, 0.28571428626254961, 0.22222211101308889, 0.18182890958626985,
         0.153316750050534, 0.14616895651438213),
    tanh=((0.9999999999999999, 0.15180188961619781, 0.005974193886758679, 9.3583331731358848e-5, 6.827559561273527e-7,
           2.4385725194865644e-9, 4.1652599040055144e-12, 3.0569212520532175e-15, 7.3891983802074354e-19, 2.4896871561572443e-23),
          (1.0, 0.48513522294953013, 0.034352601536604069, 0.00082800808558088836, 8.750964534104289e-6, 4.4605992673357762e-8,
           1.1099780666715959e-10, 1.2681837268894488e-13, 5.6163000637171566e-17, 6.1985899074055014e-21), 19.1),
    erf=((1.1283791670955125, 0.2201667227059748, 0.066120646654347165, 0.0068892729010622326, 0.00085563858545382129,
          5.694110045366527e-5, 3.9003177857460256e-6, 1.6947567103187585e-7, 6.7599025483580593e-9, 1.7198516307916537e-10,
          3.3368494829086918e-12, 2.2271985436228873e-14, 1.571595540893144e-17),
         (1.0, 0.52845101108405677, 0.13474823442148257, 0.021985959983150478, 0.0025646571398852239, 0.0002260870451338026,
          1.5498089296331422e-5, 8.3499946355569626e-7, 3.5154966614816678e-8, 1.1245888791990091e-9, 2.5495993562152598e-11,
          3.3196030195663291e-13, 8.8524364857718886e-16), 5.93),
    atan=((1.0, 2.5055171861945301, 2.2828358181518095, 0.92092350330040138, 0.15918009137549937, 0.0093583198674577174,
           8.0691236780858607e-5),
          (1.0, 2.8388505195278607, 3.0291193246613157, 1.5057169837990246, 0.34970085092450106, 0.03299445986618753,
           0.00082653659452244227)),
    sin=(1.0, -0.16666666666666614, 0.0083333333333199568, -0.0001984126982837562, 2.7557313292091964e-6, -2.5050705019070044e-8,
         1.5894099665005648e-10),
    cos=(1.0, -0.49999999999999999, 0.041666666666666429, -0.0013888888888858895, 2.4801587282876232e-5, -2.7557312861323839e-7,
         2.0875554723342331e-9, -1.1352106683701893e-11),
    sinh=(1.0, 0.16666666666666668, 0.0083333333333331106, 0.00019841269841450037, 2.755731915254331e-6, 2.5052123738412379e-8,
          1.6057219195877062e-10, 7.75984040998827e-13),
)

FORMATS = {f.dtype: f for f in (F32, F64)}
HALF_PI = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21)   # 33 bits each: products are exact


# ---- Dtypes, constants, bits -------------------------------------------------------------------------------------------


def dtype_of(x: PrimExpr) -> tuple[str, int]:
    """(element dtype, lanes) of a TIR expression."""
    element, _, lanes = str(x.ty.dtype).partition("x")
    return element, int(lanes or 1)


def wide(dtype: str, lanes: int) -> str:
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def like(value: float, x: PrimExpr) -> PrimExpr:
    """A constant in every lane of x's dtype."""
    return tirx.const(value, wide(*dtype_of(x)))


def known(x: PrimExpr) -> float | int | None:
    """The value of a constant (in every lane); None where x is computed."""
    if isinstance(x, tirx.Broadcast):
        x = x.value
    return x.value if isinstance(x, tirx.IntImm | tirx.FloatImm) else None


def bits(x: PrimExpr) -> PrimExpr:
    return _as(FORMATS[dtype_of(x)[0]].integer, x)


def floating(x: PrimExpr, f: Format) -> PrimExpr:
    return _as(f.dtype, x)


def pattern(value: float, x: PrimExpr) -> PrimExpr:
    """NaN or an infinity like x, made of bits so that no simplifier computes with it."""
    element, lanes = dtype_of(x)
    f = FORMATS[element]
    return floating(tirx.const(f.bits(value), wide(f.integer, lanes)), f)


def copysign(size: PrimExpr, sign: PrimExpr, f: Format) -> PrimExpr:
    """`size` (not negative) with the sign of `sign`."""
    b = bits(size)
    return floating(b | (bits(sign) & like(f.sign, b)), f)


def hold(x: PrimExpr) -> PrimExpr:
    """x under a name, so that it is computed once.

    `T.Bind(x)` alone is not enough: TVM's analyzers put a pure value in the place of its name wherever they meet it, and nested
    expressions grow exponentially. They leave alone what reads memory and is no integer, so x is or-ed with a zero that lies in
    a local array, and named as a float of the same bits; LLVM sees through both. Booleans stay as they are: TVM cannot bind a
    vector of them."""
    element, _ = dtype_of(x)
    width = "".join(c for c in element if c.isdigit())
    if width not in ("16", "32", "64") or known(x) is not None or isinstance(x, tirx.Var):
        return x if element == "bool" else T.Bind(x)
    integer, real = f"int{width}", f"float{width}"
    zero = T.alloc_buffer((1,), integer, scope="local")
    T.buffer_store(zero, tirx.const(0, integer), [0])
    same = _as(integer, x) | zero[0]
    return _as(element, T.Bind(_as(real, same)))


def _as(element: str, x: PrimExpr) -> PrimExpr:
    """The bits of x as another type of the same width."""
    of, lanes = dtype_of(x)
    return x if of == element else T.reinterpret(wide(element, lanes), x)


def polynomial(coefficients: Sequence[float], x: PrimExpr) -> PrimExpr:
    result = like(coefficients[-1], x)
    for c in coefficients[-2::-1]:
        result = result * x + like(c, x)
    return result


def odd(x: PrimExpr, p: Coefficients, q: Coefficients = ()) -> PrimExpr:
    """x P(x^2) / Q(x^2)."""
    t = hold(x * x)
    y = x * polynomial(p, t)
    return y / polynomial(q, t) if q else y


def clamped(x: PrimExpr, limit: float) -> PrimExpr:
    """x within ±limit. The constant comes first: then LLVM's comparison hands a NaN through."""
    return T.max(like(-limit, x), T.min(like(limit, x), x))


def real(function: Callable[..., PrimExpr]) -> Callable[..., PrimExpr]:
    """Gives a function its Format after the arguments, which become names; float16 goes through float32."""
    @wraps(function)
    def checked(*args: PrimExpr) -> PrimExpr:
        element, lanes = dtype_of(args[0])
        if element == "float16":
            return checked(*(a.astype(wide("float32", lanes)) for a in args)).astype(wide("float16", lanes))
        if element not in FORMATS:
            raise NotSupported(f"{function.__name__} of {element}")
        return function(*(hold(a) for a in args), FORMATS[element])
    return checked


def _float(x: PrimExpr) -> bool:
    return dtype_of(x)[0].startswith("float")


# ---- Exponentials and logarithms -----------------------------------------------------------------------------------------


@real
def exp(x: PrimExpr, f: Format) -> PrimExpr:
    """2^n e^r with x = n ln 2 + r, |r| <= ln 2 / 2; n is added to the exponent of e^r."""
    k = hold(bits(x * like(math.log2(math.e), x) + like(f.rounder, x)))
    n = hold(floating(k, f) - like(f.rounder, x))      # through bits: TVM would simplify (x + c) - c
    r = hold((x - n * like(f.ln2[0], x)) - n * like(f.ln2[1], x))
    y = floating(bits(polynomial(f.exp, r)) + (k << like(f.mantissa, k)), f)
    low, high = f.edges
    return tirx.Select(x <= like(high, x), tirx.Select(x >= like(low, x), y, like(0, x)), x * like(f.largest, x))


@real
def log(x: PrimExpr, f: Format) -> PrimExpr:
    """k ln 2 + log(1 + g) with sqrt(1/2) <= 1 + g < sqrt(2); log(1 + g) from s = g / (2 + g)."""
    tiny = x < like(f.smallest, x)
    b = hold(bits(tirx.Select(tiny, x * like(2.0**f.mantissa, x), x)))
    e = hold((b - like(f.bits(math.sqrt(0.5)), b)) >> like(f.mantissa, b))
    g = hold(floating(b - (e << like(f.mantissa, e)), f) - like(1, x))
    s = hold(g / (like(2, x) + g))
    t = hold(s * s)
    half = hold(like(0.5, x) * g * g)
    k = hold(e.astype(wide(*dtype_of(x))) - tirx.Select(tiny, like(f.mantissa, x), like(0, x)))
    y = k * like(f.ln2[0], x) - ((half - (s * (half + t * polynomial(f.log, t)) + k * like(f.ln2[1], x))) - g)
    outside = tirx.Select(tirx.EQ(x, like(0, x)), pattern(-math.inf, x), pattern(math.nan, x))
    return tirx.Select(x > like(f.largest, x), x, tirx.Select(x > like(0, x), y, outside))


def _log1p(z: PrimExpr, f: Format) -> PrimExpr:
    """log(1 + z) for z >= 0, with what rounding 1 + z lost put back."""
    z = hold(z)
    u = hold(z + like(1, z))
    lost = z - (floating(bits(u), f) - like(1, z))
    return tirx.Select(z > like(1e15, z), log(z), log(u) + lost / u)


@real
def sigmoid(x: PrimExpr, f: Format) -> PrimExpr:
    return like(1, x) / (like(1, x) + exp(like(0, x) - x))


@real
def tanh(x: PrimExpr, f: Format) -> PrimExpr:
    p, q, limit = f.tanh
    return clamped(odd(hold(clamped(x, limit)), p, q), 1)


@real
def erf(x: PrimExpr, f: Format) -> PrimExpr:
    p, q, limit = f.erf
    return clamped(odd(hold(clamped(x, limit)), p, q), 1)


@real
def sinh(x: PrimExpr, f: Format) -> PrimExpr:
    a = hold(T.abs(x))
    half, inverse = _half_exp(a)
    return tirx.Select(a < like(1, x), odd(x, f.sinh), copysign(half - inverse, x, f))


@real
def cosh(x: PrimExpr, f: Format) -> PrimExpr:
    half, inverse = _half_exp(hold(T.abs(x)))
    return half + inverse


def _half_exp(a: PrimExpr) -> tuple[PrimExpr, PrimExpr]:
    """(e^a / 2, e^-a / 2), by squaring e^(a/2): overflows no earlier than sinh itself."""
    root = hold(exp(a * like(0.5, a)))
    half = hold(root * like(0.5, a) * root)
    return half, like(0.25, a) / half


@real
def asinh(x: PrimExpr, f: Format) -> PrimExpr:
    a = hold(T.abs(x))
    square = hold(a * a)
    z = a + square / (like(1, a) + T.sqrt(square + like(1, a)))
    return copysign(_log_of_sum(a, z, f), x, f)


@real
def acosh(x: PrimExpr, f: Format) -> PrimExpr:
    t = hold(x - like(1, x))
    return _log_of_sum(x, t + T.sqrt(t * (x + like(1, x))), f)


def _log_of_sum(a: PrimExpr, z: PrimExpr, f: Format) -> PrimExpr:
    """log(1 + z), which is log(2 a) where a is so large that its square may overflow."""
    large = a > like(1e9, a)
    return _log1p(tirx.Select(large, a, z), f) + tirx.Select(large, like(math.log(2), a), like(0, a))


@real
def atanh(x: PrimExpr, f: Format) -> PrimExpr:
    a = hold(T.abs(x))
    return copysign(like(0.5, x) * _log1p((a + a) / (like(1, x) - a), f), x, f)


# ---- Trigonometry ----------------------------------------------------------------------------------------------------------


def _quadrant(x: PrimExpr, f: Format) -> tuple[PrimExpr, PrimExpr]:
    """(q, r): x = q pi/2 + r, |r| <= pi/4, q modulo 4 in its low bits. In float64, which keeps float32 exact to |x| of 1e8."""
    _, lanes = dtype_of(x)
    d = hold(x.astype(wide("float64", lanes)))
    k = hold(bits(d * like(2 / math.pi, d) + like(F64.rounder, d)))
    n = hold(floating(k, F64) - like(F64.rounder, d))
    r = d
    for part in HALF_PI if f is F64 else HALF_PI[:2]:
        r = r - n * like(part, d)
    return hold(k.astype(wide(f.integer, lanes))), hold(r.astype(wide(f.dtype, lanes)))


def _sine(q: PrimExpr, r: PrimExpr, f: Format) -> PrimExpr:
    """sin(q pi/2 + r)."""
    even = tirx.EQ(q & like(1, q), like(0, q))
    y = tirx.Select(even, odd(r, f.sin), polynomial(f.cos, hold(r * r)))
    return floating(bits(y) ^ ((q & like(2, q)) << like(30 if f is F32 else 62, q)), f)


@real
def sin(x: PrimExpr, f: Format) -> PrimExpr:
    return _sine(*_quadrant(x, f), f)


@real
def cos(x: PrimExpr, f: Format) -> PrimExpr:
    q, r = _quadrant(x, f)
    return _sine(hold(q + like(1, q)), r, f)


@real
def tan(x: PrimExpr, f: Format) -> PrimExpr:
    q, r = _quadrant(x, f)
    s, c = hold(odd(r, f.sin)), hold(polynomial(f.cos, hold(r * r)))
    even = tirx.EQ(q & like(1, q), like(0, q))
    return tirx.Select(even, s, like(0, x) - c) / tirx.Select(even, c, s)


@real
def atan(x: PrimExpr, f: Format) -> PrimExpr:
    a = hold(T.abs(x))
    large = a > like(1, x)
    y = hold(odd(hold(tirx.Select(large, like(1, x) / a, a)), *f.atan))
    return copysign(tirx.Select(large, like(math.pi / 2, x) - y, y), x, f)


@real
def asin(x: PrimExpr, f: Format) -> PrimExpr:
    return atan(x / T.sqrt((like(1, x) - x) * (like(1, x) + x)))


@real
def acos(x: PrimExpr, f: Format) -> PrimExpr:
    return like(2, x) * atan(T.sqrt((like(1, x) - x) / (like(1, x) + x)))


# ---- Powers ----------------------------------------------------------------------------------------------------------------


@real
def sqrt(x: PrimExpr, f: Format) -> PrimExpr:
    return T.sqrt(x)


@real
def rsqrt(x: PrimExpr, f: Format) -> PrimExpr:
    return like(1, x) / T.sqrt(x)


def power(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """x^y of two floats or two integers. Constant exponents up to 16 become multiplications, ±0.5 a square root; a negative
    integer power of an integer is truncated as C++ would."""
    exponent, x = known(y), hold(x)
    if exponent is not None and abs(exponent) <= 16 and exponent == int(exponent) and (_float(x) or exponent >= 0):
        return _repeated(x, int(exponent))
    if not _float(x):
        return _integer_power(x, hold(y))
    if exponent is not None and abs(exponent) == 0.5:
        return sqrt(x) if exponent > 0 else rsqrt(x)
    return _real_power(x, y)


def _repeated(x: PrimExpr, n: int) -> PrimExpr:
    result, square = like(1, x), x
    for bit in range(abs(n).bit_length()):
        square = hold(square * square) if bit else x
        if abs(n) >> bit & 1:
            result = square if known(result) is not None else hold(result * square)
    return result if n >= 0 else like(1, x) / result


@real
def _real_power(x: PrimExpr, y: PrimExpr, f: Format) -> PrimExpr:
    """e^(y log |x|), in float64 (float32 has not the digits that a large y log x needs), and IEEE's special cases."""
    narrow = wide(*dtype_of(x))
    double = wide("float64", dtype_of(x)[1])
    a = hold(T.abs(x))
    size = exp(y.astype(double) * log(a.astype(double))).astype(narrow)
    one = tirx.Or(tirx.EQ(y, like(0, y)), tirx.EQ(a, like(1, a)))
    size = hold(tirx.Select(one, like(1, x), size))
    half = hold(y * like(0.5, y))
    whole = tirx.EQ(T.floor(y), y)
    is_odd = tirx.And(whole, T.floor(half) < half)
    signed = tirx.Select(is_odd, copysign(size, x, f), size)
    real_base = tirx.Or(tirx.Or(x >= like(0, x), x < like(-f.largest, x)), whole)
    unchanged = tirx.Or(tirx.EQ(y, like(0, y)), tirx.EQ(x, like(1, x)))
    broken = tirx.Or(isnan(x), tirx.Or(isnan(y), tirx.Not(real_base)))
    return tirx.Select(unchanged, like(1, x), tirx.Select(broken, pattern(math.nan, x), signed))


def _integer_power(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """Square and multiply. Six bits of the exponent do: above 63 only 0 and ±1 do not overflow."""
    result, square = like(1, x), x
    for bit in range(6):
        taken = tirx.NE(y & like(1 << bit, y), like(0, y))
        result = hold(tirx.Select(taken, result * square, result))
        square = hold(square * square)
    unit = tirx.EQ(x * x, like(1, x))
    fits = tirx.And(y >= like(0, y), y < like(64, y))
    return tirx.Select(tirx.Or(unit, fits), result, like(0, x))


# ---- What needs no polynomial ------------------------------------------------------------------------------------------------


def maximum(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """The larger one, NaN where either is NaN. One instruction where one side is a constant."""
    return _extreme(T.max, x, y)


def minimum(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    return _extreme(T.min, x, y)


def _extreme(op: Callable[[PrimExpr, PrimExpr], PrimExpr], x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """LLVM gets `x > y ? x : y`, which hands through a NaN of y, but not one of x."""
    if known(y) is not None and known(x) is None:
        x, y = y, x
    if known(x) is not None or not _float(x):
        return op(x, y)
    x, y = hold(x), hold(y)
    return tirx.Select(isnan(x), x, op(x, y))


def absolute(x: PrimExpr) -> PrimExpr:
    element = dtype_of(x)[0]
    if element in ("bool", "uint8", "uint16", "uint32", "uint64"):
        return x
    if element.startswith("float"):
        return T.abs(x)
    x = hold(x)
    return tirx.Select(x < like(0, x), like(0, x) - x, x)


def sign(x: PrimExpr) -> PrimExpr:
    """-1, 0 or 1; NaN of a NaN."""
    x = hold(x)
    low = x if dtype_of(x)[0].startswith("uint") else tirx.Select(x < like(0, x), like(-1, x), x)
    return tirx.Select(x > like(0, x), like(1, x), low)


def isnan(x: PrimExpr) -> PrimExpr:
    """By its bits: TVM simplifies x != x to false."""
    return _beyond(x, lambda b, limit: b > limit)


def isinf(x: PrimExpr) -> PrimExpr:
    return _beyond(x, tirx.EQ)


def _beyond(x: PrimExpr, compare: Callable[[PrimExpr, PrimExpr], PrimExpr]) -> PrimExpr:
    element, lanes = dtype_of(x)
    if element == "float16":
        x, element = x.astype(wide("float32", lanes)), "float32"
    if element not in FORMATS:
        return tirx.const(False, wide("bool", lanes))
    f, b = FORMATS[element], bits(x)
    return compare(b & like(~f.sign, b), like(f.bits(math.inf), b))


def _rounding(intrinsic: str) -> Callable[[PrimExpr], PrimExpr]:
    """An LLVM intrinsic that is one instruction on every target; integers stay as they are. (TVM's own nearbyint makes
    VectorizeLoop fall back to scalars.)"""
    def function(x: PrimExpr) -> PrimExpr:
        element, lanes = dtype_of(x)
        if not _float(x):
            return x
        if element == "float16":
            return function(x.astype(wide("float32", lanes))).astype(wide("float16", lanes))
        return tirx.call_llvm_pure_intrin(wide(element, lanes), intrinsic, x)
    return function


MATH: dict[str, Callable[..., PrimExpr]] = {
    "abs": absolute, "sign": sign, "isnan": isnan, "isinf": isinf, "max": maximum, "min": minimum,
    "floor": _rounding("llvm.floor"), "ceil": _rounding("llvm.ceil"), "trunc": _rounding("llvm.trunc"),
    "round": _rounding("llvm.nearbyint"), "sqrt": sqrt, "rsqrt": rsqrt, "pow": power,
    "exp": exp, "log": log, "erf": erf, "tanh": tanh, "sigmoid": sigmoid, "sin": sin, "cos": cos, "tan": tan, "asin": asin,
    "acos": acos, "atan": atan, "sinh": sinh, "cosh": cosh, "asinh": asinh, "acosh": acosh, "atanh": atanh,
}
