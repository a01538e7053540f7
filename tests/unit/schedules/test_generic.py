"""The generic template against numpy."""

import numpy as np
import pytest
from burnish.schedules import expr as x
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.templates.generic import Generic
from burnish.schedules.templates.nest import nest

from .harness import NEON, WASM, ZEN5, Built, run

RNG = np.random.default_rng(0)


def task(inputs, out, *stores):
    """inputs: arrays; stores: (space, index, value) of functions of the index variables and the loads."""
    buffers = [Buffer(a.shape, str(a.dtype), "input") for a in inputs]
    reads = [lambda *i, n=n, a=a: x.load(n, i, str(a.dtype)) for n, a in enumerate(inputs)]
    made = []
    for space, index, value in stores:
        i = x.indices(len(space))
        made.append(Store(len(inputs), tuple(space), tuple(x.as_expr(e, "int32") for e in index(*i)), value(i, *reads)))
    return Task("generic", (*buffers, Buffer(tuple(out[0]), out[1], "output")), tuple(made))


def check(t, inputs, expected, devices=(ZEN5,), cuts=(1, 2)):
    for device in devices:
        (got,) = run(Generic(), t, dict(enumerate(inputs)), device, cuts=cuts)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def normal(*shape):
    return RNG.standard_normal(shape).astype("f4")


@pytest.mark.parametrize("shape", [(), (1,), (5,), (16,), (3, 37, 41), (2, 1, 5000), (1, 70000)])
def test_pointwise_with_broadcasting(shape):
    a, b = normal(*shape), normal(*shape[-1:])
    t = task([a, b], (shape, "float32"), (shape, lambda *i: i, lambda i, p, q: x.maximum(p(*i) * 2 + q(*i[-1:]), 0)))
    check(t, [a, b], np.maximum(a * 2 + b, 0), (ZEN5, WASM))


@pytest.mark.parametrize("shape, perm", [
    ((37, 53), (1, 0)), ((16, 32), (1, 0)), ((2, 3, 40, 50), (0, 2, 3, 1)), ((2, 40, 50, 3), (0, 3, 1, 2)),
    ((1, 20, 30, 64), (0, 3, 1, 2)), ((5, 6, 7), (2, 1, 0)), ((3, 2, 100, 17), (1, 3, 0, 2)), ((64, 300, 20), (1, 0, 2))])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
def test_transpositions(shape, perm, dtype):
    a = RNG.integers(0, 100, shape).astype(dtype)
    out = tuple(shape[p] for p in perm)
    t = task([a], (out, dtype), (out, lambda *i: i, lambda i, p: p(*(i[perm.index(n)] for n in range(len(perm))))))
    check(t, [a], a.transpose(perm), (ZEN5, WASM) if dtype == "float32" else (ZEN5,), cuts=(1, 3))


def test_pieces_fill_one_buffer():
    a, b, c = normal(7, 5, 30), normal(7, 1, 30), normal(7, 40, 30)
    parts, start = [], 0
    for n, p in enumerate((a, b, c)):
        parts.append((p.shape, lambda i, j, k, s=start: (i, j + s, k), lambda i, *r, n=n: r[n](*i)))
        start += p.shape[1]
    t = task([a, b, c], ((7, 46, 30), "float32"), *parts)
    check(t, [a, b, c], np.concatenate([a, b, c], 1), (ZEN5, WASM), cuts=(1, 2, 3))


def test_gather_reads_through_an_index():
    a, index = normal(50, 33), RNG.integers(0, 50, (4, 6))
    t = task([a, index], ((4, 6, 33), "float32"),
             ((4, 6, 33), lambda *i: i, lambda i, p, q: p(x.cast(q(i[0], i[1]), "int32"), i[2])))
    check(t, [a, index], a[index])
    a = normal(50, 60)
    t = task([a, index], ((50, 4, 6), "float32"),
             ((50, 4, 6), lambda *i: i, lambda i, p, q: p(i[0], x.cast(q(i[1], i[2]), "int32"))))
    check(t, [a, index], a[:, index])


def test_padding_clamps_and_selects():
    a = normal(9, 13)

    def padded(i, p):
        inside = x.all_of([i[0] >= 2, i[0] < 11, i[1] >= 3, i[1] < 16])
        return x.select(inside, p(x.clip(i[0] - 2, 0, 8), x.clip(i[1] - 3, 0, 12)), 1.5)
    t = task([a], ((12, 20), "float32"), ((12, 20), lambda *i: i, padded))
    check(t, [a], np.pad(a, ((2, 1), (3, 4)), constant_values=1.5), (ZEN5, WASM))


def test_booleans_and_casts():
    a, b = normal(5, 19), normal(5, 19)
    t = task([a, b], ((5, 19), "bool"), ((5, 19), lambda *i: i, lambda i, p, q: x.logical("and", p(*i) > q(*i), p(*i) > 0)))
    check(t, [a, b], (a > b) & (a > 0), (ZEN5, WASM))
    t = task([a], ((5, 19), "int64"), ((5, 19), lambda *i: i, lambda i, p: x.cast(p(*i) * 10, "int64")))
    check(t, [a], (a * 10).astype("i8"))


def test_reshaped_reads_stay_whole_vectors():
    a = normal(12, 48)
    t = task([a], ((24, 24), "float32"), ((24, 24), lambda *i: i, lambda i, p: p(i[0] // 2, i[0] % 2 * 24 + i[1])))
    check(t, [a], a.reshape(24, 24))
    t = task([a], ((576,), "float32"), ((576,), lambda *i: i, lambda i, p: p(i[0] // 48, i[0] % 48)))
    check(t, [a], a.reshape(-1))


def test_nothing_to_do_is_no_tile():
    a = np.zeros((0, 4), "f4")
    t = task([a], ((0, 4), "float32"), ((0, 4), lambda *i: i, lambda i, p: p(*i)))
    assert Generic().tiles(t, Generic().default(t, ZEN5), ZEN5) == 0
    Built(Generic(), t)


@pytest.mark.parametrize("dtype", ["f4", "u1"])
@pytest.mark.parametrize("planes, size", [(3, 50), (2, 16), (4, 77), (3, 5)])
def test_planes_are_woven_into_pixels(planes, size, dtype):
    a = (RNG.random((2, planes, 3, size)) * 99).astype(dtype)
    by = (RNG.random(planes) * 9).astype(dtype)
    t = task([a, by], ((2, 3, size, planes), a.dtype.name), ((2, 3, size, planes), lambda *i: i,
                                                            lambda i, p, q: p(i[0], i[3], i[1], i[2]) + q(i[3])))
    assert nest(t, t.stores[0], 16).woven == (planes if size >= 16 else 1)
    check(t, [a, by], a.transpose(0, 2, 3, 1) + by, (ZEN5, WASM, NEON))


def test_axes_merge_where_memory_runs_on():
    a, b = normal(4, 5, 6, 8), normal(8)
    t = task([a], ((4, 5, 6, 8), "float32"), ((4, 5, 6, 8), lambda *i: i, lambda i, p: p(*i) + 1))
    assert nest(t, t.stores[0], 16).extents == (960,)
    t = task([a, b], ((4, 5, 6, 8), "float32"), ((4, 5, 6, 8), lambda *i: i, lambda i, p, q: p(*i) + q(i[3])))
    assert nest(t, t.stores[0], 16).extents == (120, 8)


def test_axes_stay_apart_where_the_value_depends_on_one_of_them():
    a = normal(6, 16)
    triangle = task([a], ((6, 16), "float32"), ((6, 16), lambda *i: i, lambda i, p: x.select(i[1] <= i[0], p(*i), 0.0)))
    assert nest(triangle, triangle.stores[0], 16).extents == (6, 16)
    check(triangle, [a], np.tril(a))


@pytest.mark.timeout(60)
def test_functions_of_functions_build_in_linear_time():
    a = np.abs(normal(40)) + 0.5
    chain = task([a], ((40,), "float32"), ((40,), lambda *i: i,
                                            lambda i, p: x.unary("asinh", x.unary("cos", x.exp(x.log(p(*i)))))))
    check(chain, [a], np.arcsinh(np.cos(a)))


def test_compiles_for_arm():
    a = normal(33, 65)
    Built(Generic(), task([a], ((65, 33), "float32"), ((65, 33), lambda *i: i, lambda i, p: p(i[1], i[0]))), NEON)


@pytest.mark.parametrize("op", ["lt", "le", "gt", "ge", "eq", "ne"])
def test_what_is_not_so_of_a_nan(op):
    """not (a < b) is not a >= b."""
    values = np.array([np.nan, 1, -2, np.inf, -np.inf, 0, -0.0], "f4")
    a, b = (m.reshape(-1) for m in np.meshgrid(values, values))
    compare = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal}
    t = task([a, b], ((49,), "bool"), ((49,), lambda *i: i, lambda i, p, q: x.logical_not(x.binary(op, p(*i), q(*i)))))
    check(t, [a, b], ~compare[op](a, b), (ZEN5, WASM))
