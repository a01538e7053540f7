"""Tasks to learn from: those of the zoo's networks, and random ones of the families that have a space worth learning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import models
from ..compiler import driver, importer
from ..schedules import expr as x
from ..schedules.expr import Expr
from ..schedules.task import Buffer, Store, Task

FAMILIES = ("gemm", "conv", "depthwise", "attention", "rows")
MOST = 400e6        # multiply-adds of a random task
F32 = "float32"
I0, I1, I2, I3, R0 = (x.var(name) for name in ("i0", "i1", "i2", "i3", "r0"))
ACC = x.var("acc", F32)


def of_network(name: str) -> dict[Task, int]:
    """The zoo model's tasks of FAMILIES, and how often each occurs in it."""
    lowered = driver.lower_model(importer.load(models.build(name), models.ZOO[name].inputs))
    counts: dict[Task, int] = {}
    for group in lowered.groups:
        if group.task.family in FAMILIES:
            counts[group.task] = counts.get(group.task, 0) + 1
    return counts


def random(number: int) -> Task:
    """The random task of this number: the same number, the same task."""
    rng = np.random.default_rng([number, 2026])
    make = KINDS[rng.choice(len(KINDS), p=np.array(SHARES) / sum(SHARES))]
    while True:
        task, work = make(rng)
        if work <= MOST:
            return task


def _size(rng: np.random.Generator, low: int, high: int) -> int:
    """Log-uniform; half of the sizes are multiples of 8 as people like them, the rest as they come."""
    size = int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))
    return max(low, min(high, -(-size // 8) * 8)) if rng.random() < 0.5 else max(low, min(high, size))


def _map(rng: np.random.Generator) -> int:
    """Height or width of a map."""
    return int(rng.choice([7, 14, 28, 56, 112, 20, 40, 80, 160, 10, 13, 19, 38, 75, 64, 32, int(rng.integers(3, 100))]))


class _Buffers:
    """The buffers of a task, and its epilogue, while it is put together."""

    def __init__(self) -> None:
        self.all: list[Buffer] = []

    def add(self, shape: tuple[int, ...], role: str) -> int:
        self.all.append(Buffer(shape, F32, role))       # type: ignore[arg-type]
        return len(self.all) - 1

    def store(self, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Store, ...]:
        """What networks do behind a product: a bias, an activation, a residual."""
        place = tuple(I0 if n == 0 else x.var(f"i{n}") for n in range(len(shape)))
        value: Expr = ACC
        if rng.random() < 0.85:
            value = value + x.load(self.add(shape[-1:], "constant"), place[-1:], F32)
        if rng.random() < 0.25:
            value = value + x.load(self.add(shape, "input"), place, F32)
        value = ACTIVATIONS[int(rng.choice(len(ACTIVATIONS), p=(0.35, 0.25, 0.15, 0.1, 0.1, 0.05)))](value)
        return (Store(self.add(shape, "output"), shape, place, value),)


ACTIVATIONS: tuple[Callable[[Expr], Expr], ...] = (
    lambda v: v, lambda v: x.maximum(v, 0.0), lambda v: x.clip(v, 0.0, 6.0), lambda v: v * x.sigmoid(v),
    lambda v: v * 0.5 * (x.erf(v * 0.7071067811865476) + 1.0), lambda v: v * (x.clip(v + 3.0, 0.0, 6.0) / 6.0))


def gemm(rng: np.random.Generator) -> tuple[Task, float]:
    """A layer with constant weights: a 1x1 convolution, a linear layer, a classifier."""
    m = int(rng.choice([1, 49, 196, 784, 3136, 128, 197, _size(rng, 1, 3000), _size(rng, 1, 3000), _size(rng, 1, 3000)]))
    n, k = _size(rng, 8, 2048), _size(rng, 8, 2048)
    b = _Buffers()
    at = b.add((1, m, k), "input")
    operand = x.load(at, (I0, I1, R0), F32)
    if rng.random() < 0.1:      # something stands in front of it that is evaluated first
        operand = ACTIVATIONS[int(rng.integers(1, len(ACTIVATIONS)))](operand)
    params = {"batch": 1, "m": m, "n": n, "k": k, "w": b.add((k, n), "constant")}
    return Task("gemm", _last(b, stores := b.store(rng, (1, m, n))), stores, params, {"x": operand}), m * n * k


def product(rng: np.random.Generator) -> tuple[Task, float]:
    """A product of two activations, the second of them transposed as often as not."""
    batch, m, n, k = int(rng.choice([1, 2, 4, 8, 12])), _size(rng, 1, 512), _size(rng, 8, 512), _size(rng, 8, 512)
    b = _Buffers()
    operands = {"x": x.load(b.add((batch, m, k), "input"), (I0, I1, R0), F32)}
    shape, index = ((batch, n, k), (I0, I2, R0)) if rng.random() < 0.5 else ((batch, k, n), (I0, R0, I2))
    operands["w"] = x.load(b.add(shape, "input"), index, F32)
    stores = (Store(b.add((batch, m, n), "output"), (batch, m, n), (I0, I1, I2), ACC),)
    return Task("gemm", _last(b, stores), stores, {"batch": batch, "m": m, "n": n, "k": k}, operands), batch * m * n * k


def _conv(rng: np.random.Generator, kernel: int, stride: int, dilation: int, groups: int, ic: int, oc: int, most: int,
          ) -> tuple[Task, float]:
    ih, iw = min(_map(rng), most), min(_map(rng), most)
    if rng.random() < 0.7:
        iw = ih
    reach = (kernel - 1) * dilation + 1
    pad = reach // 2 if rng.random() < 0.85 or min(ih, iw) < reach else 0
    oh, ow = ((i + 2 * pad - reach) // stride + 1 for i in (ih, iw))
    b = _Buffers()
    params = {"n": 1, "ih": ih, "iw": iw, "oh": oh, "ow": ow, "kh": kernel, "kw": kernel, "sh": stride, "sw": stride,
              "dh": dilation, "dw": dilation, "pt": pad, "pl": pad, "ic": ic, "oc": oc, "groups": groups,
              "x": b.add((1, ih, iw, groups * ic), "input"), "w": b.add((groups, kernel, kernel, ic, oc), "constant")}
    stores = b.store(rng, (1, oh, ow, groups * oc))
    return Task("conv", _last(b, stores), stores, params), float(oh * ow * groups * oc * ic * kernel * kernel)


def conv3x3(rng: np.random.Generator) -> tuple[Task, float]:
    """The one that Winograd's algorithm can make, too."""
    return _conv(rng, 3, 1, 1, 1, _size(rng, 8, 512), _size(rng, 8, 512), 112)


def strided(rng: np.random.Generator) -> tuple[Task, float]:
    return _conv(rng, int(rng.choice([1, 2, 3, 3, 5])), 2, 1, 1, _size(rng, 8, 512), _size(rng, 8, 512), 112)


def stem(rng: np.random.Generator) -> tuple[Task, float]:
    kernel, stride = ((3, 2), (7, 2), (4, 4), (16, 16), (3, 1), (6, 2))[int(rng.integers(6))]
    return _conv(rng, kernel, stride, 1, 1, int(rng.choice([1, 3, 3, 4])), _size(rng, 16, 96), 320)


def unusual(rng: np.random.Generator) -> tuple[Task, float]:
    """Dilated, grouped, larger taps."""
    kind = int(rng.integers(3))
    if kind == 0:
        return _conv(rng, 3, 1, int(rng.choice([2, 4])), 1, _size(rng, 16, 256), _size(rng, 16, 256), 64)
    if kind == 1:
        groups = int(rng.choice([2, 4, 8, 32]))
        return _conv(rng, 3, int(rng.choice([1, 2])), 1, groups, _size(rng, 4, 64), _size(rng, 4, 64), 112)
    return _conv(rng, int(rng.choice([5, 7])), 1, 1, 1, _size(rng, 8, 128), _size(rng, 8, 128), 64)


def narrow(rng: np.random.Generator) -> tuple[Task, float]:
    return _conv(rng, int(rng.choice([1, 3, 3, 5])), 1, 1, 1, int(rng.choice([16, 32, 48, 64])), int(rng.integers(1, 5)), 160)


def depthwise(rng: np.random.Generator) -> tuple[Task, float]:
    kernel, stride = int(rng.choice([3, 3, 3, 5, 5, 7])), int(rng.choice([1, 1, 2]))
    dilation = 2 if rng.random() < 0.1 else 1
    c, ih = _size(rng, 8, 1024), _map(rng)
    iw = ih if rng.random() < 0.7 else _map(rng)
    pad = ((kernel - 1) * dilation + 1) // 2
    oh, ow = ((i + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1 for i in (ih, iw))
    b = _Buffers()
    params = {"n": 1, "ih": ih, "iw": iw, "oh": oh, "ow": ow, "kh": kernel, "kw": kernel, "sh": stride, "sw": stride,
              "dh": dilation, "dw": dilation, "pt": pad, "pl": pad, "c": c, "x": b.add((1, ih, iw, c), "input"),
              "w": b.add((kernel, kernel, c), "constant")}
    stores = b.store(rng, (1, oh, ow, c))
    return Task("depthwise", _last(b, stores), stores, params), 10.0 * oh * ow * c * kernel * kernel     # memory counts, too


def attention(rng: np.random.Generator) -> tuple[Task, float]:
    batch, heads = 1, int(rng.choice([1, 2, 3, 4, 6, 8, 12]))
    nq = int(rng.choice([1, 49, 64, 128, 196, 197, 256, _size(rng, 1, 600)]))
    nk = nq if nq > 1 and rng.random() < 0.8 else _size(rng, 4, 600)
    d = int(rng.choice([16, 32, 64, 64, 80, 128, _size(rng, 8, 128)]))
    dv = d if rng.random() < 0.9 else _size(rng, 8, 128)
    b = _Buffers()
    if nq == nk and d == dv and rng.random() < 0.5:     # of one projection [N, T, 3, H, D]
        at = b.add((batch, nq, 3, heads, d), "input")
        operands = {name: x.load(at, (I0, I2, n, I1, R0), F32) for n, name in enumerate("qkv")}
    else:
        shapes = {"q": (batch, heads, nq, d), "k": (batch, heads, nk, d), "v": (batch, heads, nk, dv)}
        operands = {name: x.load(b.add(shape, "input"), (I0, I1, I2, R0), F32) for name, shape in shapes.items()}
    if rng.random() < 0.3:
        operands["mask"] = x.load(b.add((batch, 1, nq, nk), "input"), (I0, 0, I2, I3), F32)
    out = b.add((batch, nq, heads * dv), "output")
    stores = (Store(out, (batch, heads, nq, dv), (I0, I2, I1 * dv + I3), ACC),)
    params = {"batch": batch, "heads": heads, "nq": nq, "nk": nk, "d": d, "dv": dv,
              "causal": int(nq == nk and rng.random() < 0.2), "scale": float(d) ** -0.5}
    return Task("attention", _last(b, stores), stores, params, operands), float(batch * heads * nq * nk * (d + dv))


def _last(b: _Buffers, stores: tuple[Store, ...]) -> tuple[Buffer, ...]:
    """The buffers, of which the output is the last."""
    assert b.all[-1].role == "output" and stores[0].buffer == len(b.all) - 1
    return tuple(b.all)


KINDS = (gemm, product, conv3x3, strided, stem, unusual, narrow, depthwise, attention)
SHARES = (6, 1, 5, 2, 1, 1.5, 0.5, 4, 1.5)
