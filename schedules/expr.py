"""The scalar expression language: what one element of a kernel's output is, as plain data.

`compiler/lower` writes these expressions, a `Task` carries them, `schedules/tir.py` turns them into TIR (over scalars or
whole vectors alike). They know nothing of ONNX and nothing of TVM, so that the compiler never loads TVM in its own process.

Names of variables, fixed by position:
    i0, i1, …   the element of the iteration space that is being computed
    r0, r1, …   the reduction axes of an anchor
    acc         the anchor's result at (i0, i1, …), in an epilogue
    s0, s1, …   the results of the stages of a row-wise reduction
Booleans have dtype "bool"; indices are "int32".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FLOATS = frozenset({"float16", "float32", "float64"})
INTEGERS = frozenset({"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"})
COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
LOGIC = frozenset({"and", "or", "not", "isnan", "isinf"})
BINARY = frozenset({"add", "sub", "mul", "div", "floordiv", "floormod", "truncmod", "max", "min", "pow",
                    "bitand", "bitor", "bitxor", "shl", "shr"})
UNARY = frozenset({"neg", "abs", "sign", "bitnot", "floor", "ceil", "round", "trunc", "sqrt", "rsqrt",
                   "exp", "log", "erf", "tanh", "sigmoid", "sin", "cos", "tan", "asin", "acos", "atan",
                   "sinh", "cosh", "asinh", "acosh", "atanh"})


@dataclass(frozen=True, eq=False)
class Expr:
    """One scalar value. Compared by identity: a value used twice is one object, computed once.

    op: a name from the sets above, or const (value: a Python number), var (value: its name), load (value: the number of the
    buffer among the task's buffers; args: one index per axis), select (condition, then, else), cast, reinterpret, quantize
    (saturate(round_half_even(x) + zero) of a float32 x and an int32 zero, which the dtype can say).
    """

    op: str
    args: tuple[Expr, ...]
    dtype: str
    value: Any = None

    def __add__(self, other: Operand) -> Expr: return add(self, other)
    def __radd__(self, other: Operand) -> Expr: return add(other, self)
    def __sub__(self, other: Operand) -> Expr: return binary("sub", self, other)
    def __rsub__(self, other: Operand) -> Expr: return binary("sub", other, self)
    def __mul__(self, other: Operand) -> Expr: return mul(self, other)
    def __rmul__(self, other: Operand) -> Expr: return mul(other, self)
    def __truediv__(self, other: Operand) -> Expr: return binary("div", self, other)
    def __rtruediv__(self, other: Operand) -> Expr: return binary("div", other, self)
    def __floordiv__(self, other: Operand) -> Expr: return floordiv(self, other)
    def __mod__(self, other: Operand) -> Expr: return floormod(self, other)
    def __neg__(self) -> Expr: return unary("neg", self)
    def __lt__(self, other: Operand) -> Expr: return binary("lt", self, other)
    def __le__(self, other: Operand) -> Expr: return binary("le", self, other)
    def __gt__(self, other: Operand) -> Expr: return binary("gt", self, other)
    def __ge__(self, other: Operand) -> Expr: return binary("ge", self, other)
    def __str__(self) -> str: return text(self)


Operand = Expr | int | float | bool


# ---- Construction ------------------------------------------------------------------------------------------------------


def const(value: float | bool, dtype: str) -> Expr:
    """A constant; `value` is normalised to what `dtype` can say (bool, int or float)."""
    if dtype == "bool":
        return Expr("const", (), dtype, bool(value))
    return Expr("const", (), dtype, float(value) if dtype in FLOATS else int(value))


def var(name: str, dtype: str = "int32") -> Expr:
    return Expr("var", (), dtype, name)


def indices(count: int, prefix: str = "i") -> tuple[Expr, ...]:
    """The index variables i0 … (or r0 …)."""
    return tuple(var(f"{prefix}{n}") for n in range(count))


def load(buffer: int, index: Sequence[Operand], dtype: str) -> Expr:
    """Element `index` of buffer number `buffer`. Every index must be in range: there is no check in the kernel."""
    return Expr("load", tuple(as_expr(i, "int32") for i in index), dtype, buffer)


def as_expr(x: Operand, dtype: str) -> Expr:
    return x if isinstance(x, Expr) else const(x, dtype)


def is_const(x: Operand, value: float | None = None) -> bool:
    if isinstance(x, Expr):
        return x.op == "const" and (value is None or x.value == value)
    return value is None or x == value


def unary(op: str, x: Expr) -> Expr:
    return Expr(op, (x,), x.dtype)


def binary(op: str, x: Operand, y: Operand) -> Expr:
    """`x op y`; a Python number takes the other side's dtype; integer constants fold."""
    dtype = x.dtype if isinstance(x, Expr) else y.dtype if isinstance(y, Expr) else "int32"
    a, b = as_expr(x, dtype), as_expr(y, dtype)
    if a.dtype != b.dtype:
        raise TypeError(f"{op} of {a.dtype} and {b.dtype}: cast one side first")
    if a.op == b.op == "const" and dtype == "int32" and op in _FOLD:
        folded = _FOLD[op](a.value, b.value)
        return const(folded, "bool" if op in COMPARISONS else dtype)
    return Expr(op, (a, b), "bool" if op in COMPARISONS or op in LOGIC else dtype)


_FOLD: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "max": max, "min": min,
    "floordiv": lambda a, b: a // b, "floormod": lambda a, b: a % b,
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}


def _integer(*xs: Operand) -> bool:
    return all(x.dtype == "int32" if isinstance(x, Expr) else isinstance(x, int) for x in xs)


def add(x: Operand, y: Operand) -> Expr:
    if _integer(x, y) and is_const(x, 0):
        return as_expr(y, "int32")
    if _integer(x, y) and is_const(y, 0):
        return as_expr(x, "int32")
    return binary("add", x, y)


def mul(x: Operand, y: Operand) -> Expr:
    for a, b in ((x, y), (y, x)):
        if _integer(a, b) and is_const(a, 1):
            return as_expr(b, "int32")
        if _integer(a, b) and is_const(a, 0):
            return const(0, "int32")
    return binary("mul", x, y)


def floordiv(x: Operand, y: Operand) -> Expr:
    return as_expr(x, "int32") if _integer(x, y) and is_const(y, 1) else binary("floordiv", x, y)


def floormod(x: Operand, y: Operand) -> Expr:
    return const(0, "int32") if _integer(x, y) and is_const(y, 1) else binary("floormod", x, y)


def maximum(x: Operand, y: Operand) -> Expr: return binary("max", x, y)
def minimum(x: Operand, y: Operand) -> Expr: return binary("min", x, y)
def clip(x: Expr, low: Operand, high: Operand) -> Expr: return minimum(maximum(x, low), high)
def equal(x: Operand, y: Operand) -> Expr: return binary("eq", x, y)
def not_equal(x: Operand, y: Operand) -> Expr: return binary("ne", x, y)
def power(x: Operand, y: Operand) -> Expr: return binary("pow", x, y)
def logical_not(x: Expr) -> Expr: return Expr("not", (x,), "bool")
def exp(x: Expr) -> Expr: return unary("exp", x)
def log(x: Expr) -> Expr: return unary("log", x)
def erf(x: Expr) -> Expr: return unary("erf", x)
def tanh(x: Expr) -> Expr: return unary("tanh", x)
def sigmoid(x: Expr) -> Expr: return unary("sigmoid", x)
def sqrt(x: Expr) -> Expr: return unary("sqrt", x)
def rsqrt(x: Expr) -> Expr: return unary("rsqrt", x)
def absolute(x: Expr) -> Expr: return unary("abs", x)
def floor(x: Expr) -> Expr: return unary("floor", x)
def round_even(x: Expr) -> Expr: return unary("round", x)


def logical(op: str, x: Operand, y: Operand) -> Expr:
    """`and` or `or` of two booleans, folded where one side is known."""
    for a, b in ((x, y), (y, x)):
        if is_const(a):
            known = bool(a.value if isinstance(a, Expr) else a)
            if op == "and":
                return as_expr(b, "bool") if known else const(False, "bool")
            return const(True, "bool") if known else as_expr(b, "bool")
    return Expr(op, (as_expr(x, "bool"), as_expr(y, "bool")), "bool")


def all_of(conditions: Iterable[Operand]) -> Expr:
    result = const(True, "bool")
    for c in conditions:
        result = logical("and", result, c)
    return result


def select(condition: Operand, then: Operand, other: Operand) -> Expr:
    """Both sides are computed: a load in the side not taken must still be in range (clamp its index)."""
    dtype = then.dtype if isinstance(then, Expr) else other.dtype if isinstance(other, Expr) else "int32"
    a, b = as_expr(then, dtype), as_expr(other, dtype)
    if a.dtype != b.dtype:
        raise TypeError(f"select between {a.dtype} and {b.dtype}")
    c = as_expr(condition, "bool")
    if c.op == "const":
        return a if c.value else b
    return Expr("select", (c, a, b), dtype)


def cast(x: Expr, dtype: str) -> Expr:
    """Conversion as ONNX Cast does it: float to integer truncates; to bool is `x != 0`."""
    if x.dtype == dtype:
        return x
    if x.op == "const" and not (isinstance(x.value, float) and not math.isfinite(x.value)):
        return const(x.value, dtype)
    return Expr("cast", (x,), dtype)


def quantize(x: Expr, zero: Operand, dtype: str) -> Expr:
    """saturate(round_half_even(x) + zero) in int8, uint8, int16 or uint16; what a NaN becomes is not said."""
    if x.dtype != "float32":
        raise TypeError(f"quantize of {x.dtype}: cast it to float32 first")
    return Expr("quantize", (x, as_expr(zero, "int32")), dtype)


# ---- Inspection --------------------------------------------------------------------------------------------------------


def post_order(roots: Iterable[Expr]) -> list[Expr]:
    """Every expression below `roots` once, arguments before users."""
    order: list[Expr] = []
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(r, False) for r in reversed(list(roots))]
    while stack:
        node, ready = stack.pop()
        if id(node) in seen:
            continue
        if ready:
            seen.add(id(node))
            order.append(node)
        else:
            stack.append((node, True))
            stack.extend((a, False) for a in reversed(node.args))
    return order


def variables(roots: Iterable[Expr]) -> set[str]:
    return {e.value for e in post_order(roots) if e.op == "var"}


def substitute(root: Expr, values: Mapping[str, Operand], buffers: Mapping[int, int] | None = None) -> Expr:
    """`root` with variables replaced by name and buffer numbers renumbered; shared parts stay shared."""
    done: dict[int, Expr] = {}
    for e in post_order([root]):
        args = tuple(done[id(a)] for a in e.args)
        if e.op == "var" and e.value in values:
            new = as_expr(values[e.value], e.dtype)
        elif e.op == "load" and buffers is not None:
            new = Expr("load", args, e.dtype, buffers[e.value])
        elif args == e.args:
            new = e
        elif e.op in ("add", "mul", "floordiv", "floormod") and e.dtype == "int32":
            new = {"add": add, "mul": mul, "floordiv": floordiv, "floormod": floormod}[e.op](*args)
        else:
            new = Expr(e.op, args, e.dtype, e.value)
        done[id(e)] = new
    return done[id(root)]


def rows(roots: Iterable[Expr]) -> tuple[list[list[Any]], list[int]]:
    """The expressions as JSON: [op, dtype, value, arguments] in order, equal ones merged, and the place of each root.
    Two tasks are the same task if and only if their rows are equal."""
    roots = list(roots)
    table: list[list[Any]] = []
    place: dict[int, int] = {}
    known: dict[tuple[Any, ...], int] = {}
    for e in post_order(roots):
        args = [place[id(a)] for a in e.args]
        value = repr(e.value) if isinstance(e.value, float) and not math.isfinite(e.value) else e.value
        key = (e.op, e.dtype, type(value).__name__, repr(value), *args)
        if key not in known:
            known[key] = len(table)
            table.append([e.op, e.dtype, value, args])
        place[id(e)] = known[key]
    return table, [place[id(r)] for r in roots]


def from_rows(table: object) -> list[Expr]:
    """The expressions of a table that `rows` made, or that anybody wrote. Raises ValueError with the row that is wrong."""
    if not isinstance(table, list):
        raise ValueError("the expressions are no list")
    made: list[Expr] = []
    for n, row in enumerate(table):
        if not (isinstance(row, list) and len(row) == 4):
            raise ValueError(f"expression {n} is not [op, dtype, value, arguments]")
        op, dtype, value, args = row
        if not (isinstance(args, list) and all(type(a) is int and 0 <= a < n for a in args)):
            raise ValueError(f"expression {n}: its arguments are not numbers of expressions before it")
        if dtype != "bool" and dtype not in (*FLOATS, *INTEGERS):
            raise ValueError(f"expression {n}: there is no dtype {shown(dtype)}")
        if op != "load" and (not isinstance(op, str) or _ARITY.get(op) != len(args)):
            raise ValueError(f"expression {n}: there is no op {shown(op)} of {len(args)} arguments")
        if op in COMPARISONS | LOGIC and dtype != "bool":
            raise ValueError(f"expression {n}: {op} is a bool, not {dtype}")
        made.append(Expr(op, tuple(made[a] for a in args), dtype, _value(n, op, dtype, value)))
    return made


_ARITY: Mapping[str, int] = {
    "const": 0, "var": 0, "select": 3, "cast": 1, "reinterpret": 1, "quantize": 2, "and": 2, "or": 2, "not": 1, "isnan": 1,
    "isinf": 1, **dict.fromkeys(BINARY | COMPARISONS, 2), **dict.fromkeys(UNARY, 1)}
_NOT_FINITE = ("inf", "-inf", "nan")        # as `rows` writes them: JSON has no such numbers
_NAME = re.compile(r"[a-z_]{1,16}[0-9]{0,4}")


def _value(n: int, op: str, dtype: str, value: object) -> Any:
    """The value of expression `n`, of the type that its op wants."""
    ok = value is None
    if op == "var":
        ok = isinstance(value, str) and _NAME.fullmatch(value) is not None
    elif op == "load":
        ok = type(value) is int and value >= 0
    elif op == "const" and dtype in FLOATS:
        ok = (isinstance(value, float) and math.isfinite(value)) or value in _NOT_FINITE
    elif op == "const":
        ok = type(value) is bool if dtype == "bool" else type(value) is int and -1 << 63 <= value < 1 << 64
    if not ok:
        raise ValueError(f"expression {n}: {shown(value)} is no value of a {op} of {dtype}")
    return float(value) if op == "const" and isinstance(value, str) else value


def shown(value: object) -> str:
    """What somebody wrote, in a message: not all of it."""
    written = repr(value)
    return written if len(written) <= 40 else f"{written[:40]}…"


def text(root: Expr, names: Sequence[str] = ()) -> str:
    """One line of infix text, for messages and dumps."""
    signs = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "floormod": "%", "lt": "<", "le": "<=",
             "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
    done: dict[int, str] = {}
    for e in post_order([root]):
        a = [done[id(x)] for x in e.args]
        if e.op in ("const", "var"):
            done[id(e)] = str(e.value)
        elif e.op == "load":
            done[id(e)] = f"{names[e.value] if names else f'b{e.value}'}[{', '.join(a)}]"
        elif e.op in signs:
            done[id(e)] = f"({a[0]} {signs[e.op]} {a[1]})"
        else:
            done[id(e)] = f"{e.dtype if e.op == 'cast' else e.op}({', '.join(a)})"
    return done[id(root)]
