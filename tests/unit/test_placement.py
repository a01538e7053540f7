"""Values inside others: regions against numpy's views, and graphs with branches against onnxruntime."""

import itertools
import math
import random

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from branches import BRANCHES
from burnish import passes
from burnish.compiler.driver import separate_outputs
from burnish.compiler.lower.registry import LOWERINGS
from burnish.compiler.partition import partition
from burnish.compiler.placement import DEEPEST, Region, chain_of
from lower.harness import assert_close, reference
from lower.tasks import run_tasks
from onnx import parser

VALUE = ir.Value(name="v", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))


def positions(region):
    """Where every element lies."""
    at = np.full(region.shape, region.offset)
    for n, extent in enumerate(region.shape):
        axis = np.arange(extent) * math.prod(region.memory[n + 1:])
        at += axis.reshape([-1] + [1] * (len(region.shape) - n - 1))
    return at


def describable(at, shape):
    """Is there a shape of memory whose row-major strides are those of `at` seen in `shape`?"""
    at, steps = at.reshape(shape), []
    for axis, extent in enumerate(shape):
        d = np.diff(at, axis=axis)
        if extent > 1 and (d != d.flat[0]).any():
            return False
        steps += [int(d.flat[0])] if extent > 1 else []
    if steps and steps[-1] != 1 and shape[-1] != 1:
        return False
    return all(a % b == 0 for a, b in itertools.pairwise(steps))


def factors(rng, size):
    """A random shape of that size."""
    dims = []
    while size > 1:
        dims.append(rng.choice([k for k in range(2, size + 1) if size % k == 0]))
        size //= dims[-1]
    for _ in range(rng.randrange(3)):
        dims.insert(rng.randrange(len(dims) + 1), 1)
    return tuple(dims)


def test_regions_are_views():
    rng, seen = random.Random(0), set()
    for _ in range(3000):
        whole = tuple(rng.choice([1, 2, 3, 4, 6]) for _ in range(rng.randrange(1, 5)))
        shape = tuple(rng.randint(1, n) for n in whole)
        starts = tuple(rng.randint(0, n - m) for n, m in zip(whole, shape, strict=True))
        want = np.arange(math.prod(whole)).reshape(whole)[tuple(slice(s, s + n) for s, n in zip(starts, shape, strict=True))]
        part = Region(VALUE, 0, whole, whole).part(starts, shape)
        assert (positions(part) == want).all() and part.start == 4 * part.offset and part.nbytes == 4 * want.size
        other = factors(rng, want.size)
        view = part.reshaped(other)
        assert (view is not None) == describable(want, other), f"{part} as {other}"
        for r in (part, *([view] if view else [])):
            assert (positions(r) == want.reshape(r.shape)).all()
            assert all(m >= n for n, m in zip(r.shape, r.memory, strict=True))
            assert r.dense == (np.diff(want.reshape(-1)) == 1).all()
        seen.add((view is None, part.dense))
    assert len(seen) == 3       # whatever is dense has every shape


@pytest.mark.parametrize("name", BRANCHES)
def test_branches(name):
    case = BRANCHES[name]
    proto, given = case.model(), case.sample()
    model = ir.from_proto(proto)
    want = reference(proto, given, "ort")
    passes.run(model, keep=frozenset(LOWERINGS))
    separate_outputs(model)
    groups = partition(model).groups
    left = sum(g.root.op_type == "Concat" for g in groups), sum(str(g) == "Slice" for g in groups)
    assert left == case.copies, [str(g) for g in groups]
    got, _ = run_tasks(model, given)
    assert_close(got, want)


def test_places_within_places_end():
    """However deep a hostile graph goes."""
    text = " ".join(f"c{n + 1} = Concat <axis = 0> (c{n}, t)" for n in range(500))
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> g (float[2,3] x, float[3,4] w) => (float[1002,4] y) {{'
                               f't = MatMul (x, w) c0 = Tanh (t) {text} y = Abs (c500) }}')
    parts = partition(ir.from_proto(onnx.shape_inference.infer_shapes(model)))
    depth = max(len(chain_of(v, parts.aliases, parts.parts)) for v in parts.parts)
    assert depth == DEEPEST + 1
