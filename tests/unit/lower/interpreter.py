"""Expressions and anchors evaluated with numpy: what a lowering means, without TVM and without a schedule.

Every element of a space is computed at once: a variable is an array that broadcasts against the others. A load out of range is
an error here (a kernel would read foreign memory), on both sides of a select.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from burnish.compiler.lower.registry import Anchor
from burnish.schedules.expr import Expr, post_order, variables

Env = Mapping[str, np.ndarray]
Arrays = Sequence[np.ndarray]

_ERF = np.vectorize(math.erf, otypes=[np.float64])
_INTEGER_DIVISION = {"floordiv": np.floor_divide, "floormod": np.mod, "truncmod": np.fmod}
_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "pow": np.power,
    "max": np.maximum, "min": np.minimum,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "and": np.logical_and, "or": np.logical_or, "bitand": np.bitwise_and, "bitor": np.bitwise_or, "bitxor": np.bitwise_xor,
    "shl": np.left_shift, "shr": np.right_shift,
}
_UNARY: dict[str, Callable[..., Any]] = {
    "neg": lambda a: np.zeros_like(a) - a if a.dtype.kind == "u" else np.negative(a), "abs": np.abs, "sign": np.sign,
    "bitnot": np.invert, "not": np.logical_not, "isnan": np.isnan, "isinf": np.isinf, "floor": np.floor, "ceil": np.ceil,
    "round": np.rint, "trunc": np.trunc, "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "exp": np.exp, "log": np.log,
    "erf": _ERF, "tanh": np.tanh, "sigmoid": lambda a: 1 / (1 + np.exp(-a)), "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh,
}


def grid(extents: Sequence[int], prefix: str = "i", before: int = 0, after: int = 0) -> dict[str, np.ndarray]:
    """i0, i1, … over `extents`, each an int32 array along its own axis, with axes of size 1 before and after."""
    rank = before + len(extents) + after
    shapes = ([n if axis == before + k else 1 for axis in range(rank)] for k, n in enumerate(extents))
    return {f"{prefix}{k}": np.arange(n, dtype=np.int32).reshape(shape)
            for k, (n, shape) in enumerate(zip(extents, shapes, strict=True))}


def evaluate(root: Expr, env: Env, arrays: Arrays) -> np.ndarray:
    """The values of `root`, with the dtype it claims."""
    done: dict[int, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for e in post_order([root]):
            done[id(e)] = np.asarray(_node(e, [done[id(a)] for a in e.args], env, arrays)).astype(e.dtype, copy=False)
    return done[id(root)]


def _node(e: Expr, args: list[np.ndarray], env: Env, arrays: Arrays) -> Any:
    match e.op:
        case "const": return np.asarray(e.value, e.dtype)
        case "var": return env[e.value]
        case "select": return np.where(*args)
        case "cast": return args[0] != 0 if e.dtype == "bool" else args[0].astype(e.dtype)
        case "quantize":
            limits = np.iinfo(e.dtype)
            return np.clip(np.rint(args[0].astype("f8")) + args[1], limits.min, limits.max)
        case "reinterpret": return np.ascontiguousarray(args[0]).view(e.dtype).reshape(args[0].shape)
        case "load":
            array = arrays[e.value]
            assert array.dtype == e.dtype, f"load of {e.dtype} from a buffer of {array.dtype}"
            assert len(args) == array.ndim, f"{len(args)} indices into {array.shape}"
            for i, n in zip(args, array.shape, strict=True):
                assert i.size == 0 or (i.min() >= 0 and i.max() < n), f"index {i.min()}..{i.max()} of an axis of {n}: {e}"
            return array[tuple(args)] if args else array
        case "div" if np.dtype(e.dtype).kind != "f":
            quotient = np.floor_divide(*args)
            exact = quotient * args[1] == args[0]
            return np.where((quotient < 0) & ~exact, quotient + 1, quotient)
        case "div": return np.divide(*args)
        case op if op in _INTEGER_DIVISION: return _INTEGER_DIVISION[op](*args)
        case op if op in _BINARY: return _BINARY[op](*args)
        case op: return _UNARY[op](*args)


# ---- Families ----------------------------------------------------------------------------------------------------------


def run_anchor(anchor: Anchor, arrays: Arrays, outputs: Sequence[np.ndarray]) -> None:
    """Fills `outputs` (arrays of the ONNX outputs' shapes) with what the anchor computes."""
    env = dict(grid(anchor.space)) | FAMILIES[anchor.family](anchor, arrays)
    for out, array in zip(anchor.outputs, outputs, strict=False):
        at_time = {"h": env["every"]} if "every" in env and "i2" in variables(out.index) else {}
        store(out.index, out.value, anchor.space, env | at_time, arrays, array)


def store(index: Sequence[Expr], value: Expr, space: tuple[int, ...], env: Env, arrays: Arrays, into: np.ndarray) -> None:
    if 0 in space:
        return
    at = tuple(np.broadcast_to(evaluate(i, env, arrays), space) for i in index)
    values = np.broadcast_to(evaluate(value, env, arrays), space)
    assert values.dtype == into.dtype, f"store of {values.dtype} into {into.dtype}"
    for i, n in zip(at, into.shape, strict=True):
        assert i.size == 0 or (i.min() >= 0 and i.max() < n), f"store at {i.min()}..{i.max()} of an axis of {n}"
    into[at] = values if at else values.reshape(-1)[-1]


def generic(anchor: Anchor, arrays: Arrays) -> dict[str, np.ndarray]:
    return {}


def rows(anchor: Anchor, arrays: Arrays) -> dict[str, np.ndarray]:
    space, reduce = tuple(anchor.params["space"]), tuple(anchor.params["reduce"])
    env = grid(space, after=len(reduce)) | grid(reduce, "r", before=len(space))
    results: dict[str, np.ndarray] = {}
    for n, stage in enumerate(anchor.stages):
        if 0 in space + reduce:     # nothing is evaluated: an index along an empty axis would be out of range
            values = np.zeros((*space, math.prod(reduce)), stage.value.dtype)
        else:
            values = np.broadcast_to(evaluate(stage.value, env, arrays), space + reduce).reshape(*space, math.prod(reduce))
        s = _reduce(stage.op, values)
        env[f"s{n}"] = s.reshape((*space, *(1 for _ in reduce)))
        results[f"s{n}"] = s.reshape((*space, *(1 for _ in range(len(anchor.space) - len(space)))))
    return results


def _reduce(op: str, values: np.ndarray) -> np.ndarray:
    last = values.shape[-1] - 1
    match op:
        case "sum" | "prod": return getattr(values, op)(axis=-1, dtype=values.dtype)
        case "max" | "min": return getattr(values, op)(axis=-1)
        case "argmax" | "argmin": return getattr(values, op)(axis=-1).astype(np.int32)
        case _: return (last - getattr(values[..., ::-1], op.removesuffix("_last"))(axis=-1)).astype(np.int32)


def gemm(anchor: Anchor, arrays: Arrays) -> dict[str, np.ndarray]:
    b, m, n, k = (anchor.params[p] for p in ("batch", "m", "n", "k"))
    env = {"i0": np.arange(b, dtype="i4").reshape(-1, 1, 1, 1), "i1": np.arange(m, dtype="i4").reshape(-1, 1, 1),
           "i2": np.arange(n, dtype="i4").reshape(-1, 1), "r0": np.arange(k, dtype="i4")}
    x = np.broadcast_to(evaluate(anchor.operands["x"], env, arrays), (b, m, 1, k))[:, :, 0]
    if "w" in anchor.operands:
        w = np.broadcast_to(evaluate(anchor.operands["w"], env, arrays), (b, 1, n, k))[:, 0].swapaxes(1, 2)
    else:
        w = arrays[anchor.params["w"]]
    return {"acc": np.matmul(_centred(anchor, x), w.astype("f8")).astype(_sums(anchor))}


def _centred(anchor: Anchor, x: np.ndarray) -> np.ndarray:
    """x, of bytes less their zero point, in doubles, which sum them exactly."""
    return x.astype("f8") - anchor.params.get("zero", 0)


def _sums(anchor: Anchor) -> str:
    return "i4" if "zero" in anchor.params else "f4"


def conv(anchor: Anchor, arrays: Arrays) -> dict[str, np.ndarray]:
    p = anchor.params
    x, w = arrays[p["x"]], arrays[p["w"]]
    assert x.shape == (p["n"], p["ih"], p["iw"], p["groups"] * p["ic"]), x.shape
    assert w.shape == (p["groups"], p["kh"], p["kw"], p["ic"], p["oc"]), w.shape
    acc = np.zeros((p["n"], p["oh"], p["ow"], p["groups"], p["oc"]))
    for y, z, window in _windows(p, _centred(anchor, x)):
        acc += np.einsum("nhwgi,gio->nhwgo", window.reshape(*window.shape[:3], p["groups"], p["ic"]), w[:, y, z].astype("f8"))
    return {"acc": acc.reshape(*acc.shape[:3], -1).astype(_sums(anchor))}


def depthwise(anchor: Anchor, arrays: Arrays) -> dict[str, np.ndarray]:
    p = anchor.params
    x, w = arrays[p["x"]], arrays[p["w"]]
    assert x.shape == (p["n"], p["ih"], p["iw"], p["c"]) and w.shape == (p["kh"], p["kw"], p["c"]), (x.shape, w.shape)
    acc = np.zeros((p["n"], p["oh"], p["ow"], p["c"]))
    for y, z, window in _windows(p, _centred(anchor, x)):
        acc += window * w[y, z].astype("f8")
    return {"acc": acc.astype(_sums(anchor))}


def _windows(p: Mapping[str, Any], x: np.ndarray) -> Any:
    """(kh, kw, what that tap reads at every output position)."""
    after = [max(0, (p[f"o{a}"] - 1) * p[f"s{a}"] + (p[f"k{a}"] - 1) * p[f"d{a}"] + 1 - p[f"p{t}"] - p[f"i{a}"])
             for a, t in (("h", "t"), ("w", "l"))]
    padded = np.pad(x.astype("f8"), ((0, 0), (p["pt"], after[0]), (p["pl"], after[1]), (0, 0)))
    for y in range(p["kh"]):
        for z in range(p["kw"]):
            top, left = y * p["dh"], z * p["dw"]
            yield y, z, padded[:, top:top + (p["oh"] - 1) * p["sh"] + 1:p["sh"], left:left + (p["ow"] - 1) * p["sw"] + 1:p["sw"]]


def attention(anchor: Anchor, arrays: Arrays) -> dict[str, np.ndarray]:
    p = anchor.params
    b, h, nq, nk = (p[n] for n in ("batch", "heads", "nq", "nk"))

    def operand(name: str, *tail: int) -> np.ndarray:
        env = grid((b, h, tail[0]), after=1) | {k: np.arange(tail[1], dtype="i4") for k in ("r0", "i3")}
        return np.broadcast_to(evaluate(anchor.operands[name], env, arrays), (b, h, *tail)).astype("f8")

    score = operand("q", nq, p["d"]) @ operand("k", nk, p["d"]).swapaxes(2, 3) * p["scale"]
    if "mask" in anchor.operands:
        score = score + operand("mask", nq, nk)
    if p.get("causal"):
        score = np.where(np.tri(nq, nk, dtype=bool), score, -np.inf)
    top = score.max(-1, keepdims=True)
    score = np.where(top == -np.inf, 0, np.exp(score - np.where(top == -np.inf, 0, top)))     # a query that may look nowhere
    return {"acc": (score / np.maximum(score.sum(-1, keepdims=True), 1e-300) @ operand("v", nk, p["dv"])).astype("f4")}


def scan(anchor: Anchor, arrays: Arrays) -> dict[str, np.ndarray]:
    p = anchor.params
    values = _along(anchor, arrays)
    values = values[..., ::-1] if p["reverse"] else values
    one = np.full((*values.shape[:-1], 1), 0 if p["op"] == "sum" else 1, values.dtype)
    if p["exclusive"]:
        values = np.concatenate([one, values[..., :-1]], -1)
    acc = getattr(np, f"cum{p['op']}")(values, axis=-1, dtype=values.dtype)
    return {"acc": acc[..., ::-1] if p["reverse"] else acc}


def sort(anchor: Anchor, arrays: Arrays) -> dict[str, np.ndarray]:
    values = _along(anchor, arrays)
    keys = values.astype("f8" if values.dtype.kind in "fu" else "i8")
    order = np.argsort(-keys if anchor.params["largest"] else keys, axis=-1, kind="stable")[..., :anchor.params["k"]]
    return {"s0": np.take_along_axis(values, order, -1), "s1": order.astype(np.int32)}


def _along(anchor: Anchor, arrays: Arrays) -> np.ndarray:
    """Operand x over space and the axis r0."""
    space, length = tuple(anchor.params["space"]), anchor.params["length"]
    env = grid(space, after=1) | {"r0": np.arange(length, dtype=np.int32)}
    return np.broadcast_to(evaluate(anchor.operands["x"], env, arrays), (*space, length))


def scatter(anchor: Anchor, arrays: Arrays) -> dict[str, np.ndarray]:
    space, rest, updates = (tuple(anchor.params[p]) for p in ("space", "rest", "updates"))
    env = grid(space, after=len(rest)) | grid(rest, "r", before=len(space))
    acc = np.array(np.broadcast_to(evaluate(anchor.operands["data"], env, arrays), (*space, *rest)))
    row = grid(space)
    for position in np.ndindex(*updates):
        step = row | {f"r{d}": np.asarray(p, np.int32) for d, p in enumerate(position)}
        at = (*row.values(), *(evaluate(anchor.operands[f"place{d}"], step, arrays) for d in range(len(rest))))
        acc[at] = evaluate(anchor.operands["value"], step | {"acc": acc[at]}, arrays)
    return {"acc": acc}


def recurrent(anchor: Anchor, arrays: Arrays) -> dict[str, np.ndarray]:
    """h and c over [direction, batch, time, hidden]; an output without a time reads the last of each sequence."""
    p, ops = anchor.params, anchor.operands
    shape = (p["directions"], p["batch"], p["steps"], p["hidden"])
    every, last = np.zeros(shape, np.float32), np.zeros((2, *shape[:2], 1, shape[3]), np.float32)
    for d, b in np.ndindex(*shape[:2]):
        env = {"i0": np.int32(d), "i1": np.int32(b), "i3": np.arange(p["hidden"], dtype=np.int32)}

        def at(name: str, env: Env) -> np.ndarray:
            return np.broadcast_to(evaluate(ops[name], env, arrays), shape[3:])
        env["h"], env["c"] = at("h_first", env), at("c_first", env) if "c" in ops else np.zeros(shape[3:], np.float32)
        length = int(evaluate(ops["length"], env, arrays)) if "length" in ops else p["steps"]
        for step in range(length):
            back = p["reverse"] == "reverse" or (p["reverse"] == "bidirectional" and d == 1)
            env["i2"] = np.int32(length - 1 - step if back else step)
            for n, gates in enumerate(p["phases"]):
                state = at("between", env) if n else env["h"]
                for g in gates:
                    total = np.array(at(f"bias{g}", env))
                    for name, extent in ((f"w{g}", p["inputs"]), (f"r{g}_", p["hidden"])):
                        if name in ops:
                            k = np.arange(extent, dtype=np.int32)
                            x = state if name.endswith("_") else np.broadcast_to(
                                evaluate(ops["x"], env | {"r0": k}, arrays), extent)
                            total += evaluate(ops[name], env | {"r0": k, "i3": env["i3"][:, None]}, arrays) @ x
                    env[f"g{g}"] = total
            if "c" in ops:
                env["c_new"] = at("c", env)
            env["h"] = at("h", env)
            env["c"] = env.get("c_new", env["c"])
            every[d, b, env["i2"]] = env["h"]
        last[0, d, b], last[1, d, b] = env["h"], env["c"]
    return {"every": every, "h": last[0], "c": last[1]}


FAMILIES: dict[str, Callable[[Anchor, Arrays], dict[str, np.ndarray]]] = {
    "generic": generic, "rows": rows, "gemm": gemm, "conv": conv, "depthwise": depthwise, "attention": attention,
    "scan": scan, "sort": sort, "scatter": scatter, "recurrent": recurrent}
