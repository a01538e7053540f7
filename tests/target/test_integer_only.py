"""An integer-only model gives the same bytes on every target: AVX-512, AVX2, and both builds of WebAssembly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import wasmtime
from burnish import load, passes
from burnish.compiler import driver
from burnish.compiler.compress.integer_only import integer_only
from burnish.compiler.driver import Lowered
from burnish.compiler.lower.registry import LOWERINGS
from burnish.compiler.sample import reference
from burnish.schedules.candidate import default
from burnish.schedules.expr import FLOATS, post_order
from burnish.targets.cpu import artifact, profile
from burnish.targets.plan import Plan
from burnish.targets.web import driver as web_driver
from burnish.targets.web import manifest, node, package
from burnish.targets.web import profile as web
from onnx import parser
from web_model import needs_node

RNG = np.random.default_rng(0)
TEXT = """<ir_version: 10, opset_import: ["": 23]>
    net (float[1, 3, 12, 12] image, int64[1, 9] mask) => (float[1, 9, 5] y) {
        a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
        b = Clip (a, zero, six)
        c = Conv <pads = [1, 1, 1, 1], group = 16> (b, w2)
        d = HardSwish (c)
        e = Conv (d, w3)
        f = Add (e, b)
        g = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (f)
        h = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (g)
        rows = Reshape (h, shape_rows)
        tokens = Transpose <perm = [0, 2, 1]> (rows)
        placed = Add (tokens, places)
        normed = LayerNormalization <axis = -1> (placed, gamma, beta)
        q = MatMul (normed, wq)
        k = MatMul (normed, wk)
        v = MatMul (normed, wv)
        turned = Transpose <perm = [0, 2, 1]> (k)
        scores = MatMul (q, turned)
        near = Mul (scores, quarter)
        float_mask = Cast <to = 1> (mask)
        hidden = Sub (one, float_mask)
        far = Mul (hidden, minus)
        row = Reshape (far, shape_mask)
        masked = Add (near, row)
        p = Softmax (masked)
        mixed = MatMul (p, v)
        stream = Add (mixed, placed)
        m = MatMul (stream, wm)
        n = Add (m, bm)
        o = Gelu (n)
        out = MatMul (o, wo)
        mean = ReduceMean <keepdims = 1> (stream, axis)
        y = Add (out, mean)
    }"""


def net() -> ir.Model:
    """A convolution, a depthwise one, pools, attention with a mask, GELU and LayerNorm, in little."""
    model = parser.parse_model(TEXT)
    normal = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 1, 3, 3), "w3": (16, 16, 1, 1), "places": (1, 9, 16), "gamma": (16,),
              "beta": (16,), "wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wm": (16, 40), "bm": (40,), "wo": (40, 5)}
    numbers = {"zero": 0, "six": 6, "quarter": 0.25, "one": 1, "minus": -3.4e38}
    rng = np.random.default_rng(1)
    arrays = {n: rng.standard_normal(s).astype("f4") / (s[-1] if len(s) > 2 else 2) for n, s in normal.items()}
    arrays |= {n: np.array(v, "f4") for n, v in numbers.items()}
    arrays |= {n: np.array(v, "i8") for n, v in {"shape_rows": [1, 16, 9], "shape_mask": [1, 1, 9], "axis": [-1]}.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    passes.canonicalize(graph, frozenset(LOWERINGS))
    return graph


def feed() -> dict[str, np.ndarray]:
    mask = (np.arange(9) < RNG.integers(3, 10)).astype(np.int64)
    return {"image": RNG.standard_normal((1, 3, 12, 12)).astype("f4"), "mask": mask[None]}


def integers(top: int) -> ir.Model:
    graph = net()
    integer_only(graph, [feed() for _ in range(6)], top=top)
    return graph


def lowered(top: int) -> tuple[ir.Model, Lowered]:
    graph = integers(top)
    return graph, driver.lower_model(graph.clone())


@pytest.mark.parametrize("top", [127, 255])
def test_no_kernel_computes_a_float_but_the_first_and_the_last(top: int) -> None:
    _, low = lowered(top)
    float_groups = []
    for g in low.groups:
        t = g.task
        roots = [*t.operands.values(), *(s.value for s in t.stages), *(e for s in t.stores for e in (*s.index, s.value))]
        if any(e.dtype in FLOATS for e in post_order(roots)) or any(b.dtype in FLOATS for b in t.buffers):
            float_groups.append([n.op_type for n in g.group.nodes])
    assert all(g[-1] == "DequantizeLinear" or "QuantizeLinear" in g for g in float_groups)
    assert len(float_groups) == 2 and {"Softmax", "Gelu", "LayerNormalization", "Conv", "MatMul"}.isdisjoint(
        n.op_type for g in low.groups for n in g.group.nodes)


FLOAT = re.compile(r"= (?:fast |nnan |contract )*f(?:add|sub|mul|div|rem|neg|cmp|ptrunc|pext|ptosi|ptoui)\b|= [su]itofp\b|"
                   r"@llvm\.(?:fma|fmuladd|sqrt|nearbyint|rint|round|floor|ceil|trunc|minnum|maxnum)\.")


def test_no_instruction_computes_a_float(tmp_path: Path) -> None:
    """LLVM's code of every kernel between the two."""
    from burnish.schedules import tir

    _, low = lowered(127)
    device = profile.load("x86-64-v3")
    quantizing = 0
    for n, task in enumerate({g.task.key: g.task for g in low.groups}.values()):
        made = default(task, device)
        assert made is not None
        module = tir.build({"k": made.maker.emit(task, made.knobs, device)}, device, tmp_path / f"{n}.o")
        if any(b.dtype in FLOATS for b in task.buffers):
            quantizing += 1
            assert FLOAT.search(module.inspect_source("ll")), "the search finds nothing where there is something"
        else:
            found = FLOAT.search(module.inspect_source("ll"))
            assert found is None, f"{found} in\n{task}"
    assert quantizing == 2


def under_wasmtime(folder: Path, build: str, plan: Plan, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The only output of a package's module; Node 20 computes the relaxed dot product wrongly."""
    config = wasmtime.Config()
    config.wasm_relaxed_simd = True
    store = wasmtime.Store(wasmtime.Engine(config))
    about, at = manifest.read(folder).builds[build], web_driver.layout(plan)
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits(about.pages, None)))
    module = wasmtime.Module(store.engine, (folder / about.file).read_bytes())
    exports = wasmtime.Instance(store, module, [memory]).exports(store)
    (weights,) = folder.glob("*.weights")
    memory.write(store, weights.read_bytes(), about.heap_base + at.weights)
    for place, array in zip(at.inputs, inputs.values(), strict=True):
        memory.write(store, array.tobytes(), about.heap_base + place)
    exports["setup"](store, 0, len(plan.setup))
    exports["run"](store, 0, len(plan.launches))
    (y,), start = plan.outputs, about.heap_base + at.outputs[0]
    return np.frombuffer(bytes(memory.read(store, start, start + y.nbytes)), y.dtype).reshape(y.shape)


@pytest.mark.parametrize("top", [127, 255])
def test_processors_give_the_same_bytes(top: int, tmp_path: Path) -> None:
    graph, low = lowered(top)
    inputs = feed()
    (want,), (real,) = reference(graph, inputs), reference(net(), inputs)
    assert np.linalg.norm(want - real) < (0.12 if top == 127 else 0.06) * np.linalg.norm(real)
    for device in (profile.detect(), profile.load("x86-64-v3")):
        made = driver.build_model(low, [device], "net", workers=1, picks={})
        artifact.write(made.plan, made.builds[0], made.weights, list(inputs.values()), [want], device, tmp_path / device.name)
        np.testing.assert_array_equal(load(tmp_path / device.name, threads=1)(**inputs), want, device.name)


@needs_node
def test_a_web_package_gives_the_same_bytes(tmp_path: Path) -> None:
    graph, low = lowered(127)
    inputs = feed()
    want, = reference(graph, inputs)
    devices = web.devices()
    made = driver.build_model(low, list(devices.values()), "net", workers=1, picks={})
    folder = package.write(made.plan, dict(zip(devices, made.builds, strict=True)), made.weights, list(inputs.values()), [want],
                           devices, tmp_path / "web")
    for build in devices:
        np.testing.assert_array_equal(under_wasmtime(folder, build, made.plan, inputs), want, build)
    got = node.run(folder, list(inputs.values()), "simd")
    assert got is not None
    np.testing.assert_array_equal(got[0], want)
