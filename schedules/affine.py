"""What can be known of an index without running it: strides, and which divisions a vector of lanes agrees on.

TVM's simplifier cannot prove that `(48 q + 16 + l) // 64` is the same for 16 lanes l; we can, because we choose the base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .expr import Expr, Operand, add, binary, const, floordiv, floormod, is_const, mul, post_order, var, variables


def flat(index: Sequence[Operand], shape: Sequence[int]) -> Expr:
    """Row-major position of `index` in `shape`."""
    position: Expr = const(0, "int32")
    for axis, i in enumerate(index):
        position = add(position, mul(i, math.prod(shape[axis + 1:])))
    return position


def split(e: Expr, name: str) -> tuple[int, Expr] | None:
    """(stride, rest) such that e = stride * name + rest with `rest` free of variable `name`; None where e is not like that."""
    if name not in variables([e]):
        return 0, e
    if e.op == "var":
        return 1, const(0, "int32")
    parts = [split(a, name) for a in e.args]
    if any(p is None for p in parts):
        return None
    (s, r), *others = [p for p in parts if p is not None]
    if e.op == "neg":
        return -s, binary("sub", 0, r)
    if e.op in ("add", "sub"):
        t, q = others[0]
        return (s + t, add(r, q)) if e.op == "add" else (s - t, r if is_const(q, 0) else binary("sub", r, q))
    if e.op == "mul":
        for (s1, r1), factor in (((s, r), e.args[1]), (others[0], e.args[0])):
            if factor.op == "const":
                return s1 * factor.value, mul(r1, factor)
    return None


def strides(e: Expr, names: Sequence[str], shapes: Sequence[Sequence[int]]) -> tuple[int, tuple[int, ...], Expr] | None:
    """Where e is a load whose flat offset is affine in `names`: (buffer, stride of each name, offset of the rest).
    shapes: of the task's buffers, by number."""
    if e.op != "load":
        return None
    rest, found = flat(e.args, shapes[e.value]), []
    for name in names:
        part = split(rest, name)
        if part is None:
            return None
        found.append(part[0])
        rest = part[1]
    return e.value, tuple(found), rest


def lanewise(root: Expr, name: str, lanes: int, align: int) -> Expr:
    """`root` with variable `name` = base + lane, where 0 <= lane < lanes and base is a multiple of `align`; base and lane are the
    variables "base" and "lane". Quotients that all lanes agree on become quotients of the base, so that vector loads and stores
    of merged and split axes stay contiguous."""
    form: dict[int, tuple[Expr, int, int]] = {}     # int32 value = uniform + stride * lane; uniform is a multiple of the third
    done: dict[int, Expr] = {}

    def settle(e: Expr, uniform: Expr, stride: int, multiple: int) -> None:
        form[id(e)] = uniform, stride, multiple
        done[id(e)] = add(uniform, mul(var("lane"), stride))

    for e in post_order([root]):
        args = tuple(done[id(a)] for a in e.args)
        known = [form.get(id(a)) for a in e.args]
        if e.dtype == "int32" and e.op == "const":
            settle(e, e, 0, abs(e.value))
        elif e.dtype == "int32" and e.op == "var":
            settle(e, *((var("base"), 1, align) if e.value == name else (e, 0, 1)))
        elif e.dtype == "int32" and None not in known and (new := _combine(e, [k for k in known if k is not None], lanes)):
            settle(e, *new)
        else:
            done[id(e)] = e if all(a is b for a, b in zip(args, e.args, strict=True)) else Expr(e.op, args, e.dtype, e.value)
    return done[id(root)]


def _combine(e: Expr, args: list[tuple[Expr, int, int]], lanes: int) -> tuple[Expr, int, int] | None:
    if e.op in ("add", "sub"):
        (u, s, m), (v, t, n) = args
        return (add(u, v), s + t, math.gcd(m, n)) if e.op == "add" else (binary("sub", u, v), s - t, math.gcd(m, n))
    if e.op == "mul":
        for (u, s, m), (c, t, _) in (args, reversed(args)):
            if c.op == "const" and t == 0:
                return mul(u, c), s * c.value, m * abs(c.value)
    if e.op in ("floordiv", "floormod") and args[1][0].op == "const" and args[1][0].value > 0:
        (u, s, m), (c, _, _) = args
        room = math.gcd(m, c.value)     # the uniform part leaves a multiple of this below the next multiple of the divisor
        if 0 <= s * (lanes - 1) < room:
            return (floordiv(u, c), 0, 1) if e.op == "floordiv" else (floormod(u, c), s, room)
    if all(s == 0 for _, s, _ in args):
        return Expr(e.op, tuple(u for u, _, _ in args), e.dtype, e.value), 0, 1
    return None


def within(root: Expr, extents: dict[str, int]) -> Expr:
    """`root` with quotients and remainders dropped that the extents of its variables make trivial."""
    top: dict[int, int | None] = {}     # greatest value of a non-negative int32 expression, where known
    done: dict[int, Expr] = {}
    for e in post_order([root]):
        args = tuple(done[id(a)] for a in e.args)
        tops = [top.get(id(a)) for a in e.args]
        new = e if all(a is b for a, b in zip(args, e.args, strict=True)) else Expr(e.op, args, e.dtype, e.value)
        high: int | None = None
        if e.dtype == "int32":
            if e.op == "const":
                high = e.value if e.value >= 0 else None
            elif e.op == "var":
                high = extents[e.value] - 1 if e.value in extents else None
                new = const(0, "int32") if high == 0 else e
            elif e.op in ("floordiv", "floormod") and tops[0] is not None and args[1].op == "const" and args[1].value > 0:
                d = args[1].value
                if tops[0] < d:
                    new, high = (const(0, "int32"), 0) if e.op == "floordiv" else (args[0], tops[0])
                else:
                    high = tops[0] // d if e.op == "floordiv" else d - 1
            elif e.op in ("add", "mul") and None not in tops:
                high = tops[0] + tops[1] if e.op == "add" else tops[0] * tops[1]    # type: ignore[operator]
                new = add(*args) if e.op == "add" else mul(*args)
        top[id(e)], done[id(e)] = high, new
    return done[id(root)]
