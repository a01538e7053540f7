"""What a web package computes in a real Node, in every build, against onnxruntime and numpy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import native_model
import numpy as np
import pytest
from burnish.schedules.numerics import relative_error
from burnish.targets.plan import Launch, Place, Plan, Signature
from burnish.targets.web import driver, node, package, profile, toolchain
from web_model import Made, from_c, javascript, needs_node


def test_both_builds_have_the_same_plan_and_weights(dtypes: Made, lenet: Made) -> None:
    """So that one weights file serves both; only their code differs."""
    for made in (dtypes, lenet):
        a, b = made.builds.values()
        assert a.plan == b.plan
        np.testing.assert_array_equal(a.weights, b.weights)
        assert [k.symbol for k in a.builds[0]] == [k.symbol for k in b.builds[0]]
    assert any(k.code != j.code for k, j in zip(*(x.builds[0] for x in lenet.builds.values()), strict=True))


@needs_node
@pytest.mark.parametrize("build", [None, *profile.BUILDS])
def test_lenet_as_onnxruntime(lenet: Made, lenet_folder: Path, build: str | None) -> None:
    (got,) = node.run(lenet_folder, lenet.inputs, build) or ()
    assert got.shape == (1, 10) and relative_error(got, lenet.outputs[0]) < 1e-4


@needs_node
@pytest.mark.parametrize("build", profile.BUILDS)
def test_every_dtype_as_onnxruntime(dtypes: Made, tmp_path: Path, build: str) -> None:
    place = dtypes.write(tmp_path / "out")
    got = node.run(place, dtypes.inputs, build)
    assert got is not None
    for s, g, expected in zip(dtypes.plan.outputs, got, dtypes.outputs, strict=True):
        assert (g.dtype, g.shape) == (expected.dtype, expected.shape)
        assert relative_error(g, expected) <= {"float32": 1e-4, "float16": 1e-3}.get(s.dtype, 0), s.name
    assert {s.dtype for s in (*dtypes.plan.inputs, *dtypes.plan.outputs)} == {
        "int64", "float16", "bool", "uint8", "float32", "int32"}
    assert '"odd \\"name\\" */": Float32Array;' in (place / "index.d.ts").read_text()
    assert json.loads((place / "package.json").read_text())["name"] == "every-dtype"


@needs_node
def test_halves_are_rounded_as_numpy_rounds(tmp_path: Path) -> None:
    """WebAssembly has no float16: its conversions are our own C. Every half, and floats and doubles between and beyond them."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.sort(halves[np.isfinite(halves)]).astype(np.float64)
    middle = (finite[1:] + finite[:-1]) / 2
    doubles = np.concatenate([finite, middle, finite * (1 + 2.0**-40), middle * (1 - 2.0**-40),
                              [65519.99, 65520, 1e300, -1e300, np.inf, -np.inf, np.nan, 1e-300, -5e-8]])
    with np.errstate(over="ignore"):
        floats = doubles.astype(np.float32)
    source = f"""
        float __extendhfsf2(unsigned short); unsigned short __truncsfhf2(float); unsigned short __truncdfhf2(double);
        float *out(void); double *given(void); unsigned short *made(void);
        static float wide[65536]; static double doubles[{len(doubles)}]; static unsigned short narrow[2 * {len(doubles)}];
        float *out(void) {{ for (int n = 0; n < 65536; n++) wide[n] = __extendhfsf2((unsigned short)n); return wide; }}
        double *given(void) {{ return doubles; }}
        unsigned short *made(void) {{
            for (int n = 0; n < {len(doubles)}; n++) {{
                narrow[n] = __truncdfhf2(doubles[n]); narrow[n + {len(doubles)}] = __truncsfhf2((float)doubles[n]);
            }}
            return narrow;
        }}"""
    (tmp_path / "m.wasm").write_bytes(toolchain.link(source, {}, ("out", "given", "made")))
    (tmp_path / "doubles").write_bytes(doubles.tobytes())
    (tmp_path / "run.mjs").write_text(f"""
        import fs from "node:fs";
        const memory = new WebAssembly.Memory({{ initial: 64 }}), n = {len(doubles)};
        const {{ instance }} =
            await WebAssembly.instantiate(fs.readFileSync("m.wasm"), {{ env: {{ memory }} }}), e = instance.exports;
        new Uint8Array(memory.buffer).set(fs.readFileSync("doubles"), e.given());
        fs.writeFileSync("wide", new Uint8Array(memory.buffer, e.out(), 4 * 65536));
        fs.writeFileSync("narrow", new Uint8Array(memory.buffer, e.made(), 4 * n));
    """)
    subprocess.run(["node", "run.mjs"], cwd=tmp_path, check=True, timeout=60)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "wide", np.float32), halves.astype(np.float32))
    narrow = np.fromfile(tmp_path / "narrow", np.float16).reshape(2, -1)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(narrow[0], doubles.astype(np.float16))
        np.testing.assert_array_equal(narrow[1], floats.astype(np.float16))


@needs_node
def test_setup_scratch_and_hostile_names(tmp_path: Path) -> None:
    """The CPU target's sample: its setup makes constants that the model reads, a kernel needs scratch, names end comments."""
    made = native_model.sample()
    place = package.write(made.plan, from_c(native_model.KERNELS), made.weights, made.inputs, made.outputs, profile.devices(),
                          tmp_path / "net")
    assert json.loads((place / "package.json").read_text())["name"] == "model-3-layer-net"
    for build in profile.BUILDS:
        for got, expected in zip(node.run(place, made.inputs, build) or (), made.outputs, strict=True):
            np.testing.assert_array_equal(got, expected)


@needs_node
def test_constants_are_made_while_more_weights_arrive(tmp_path: Path) -> None:
    """Each launch of the setup runs once, as soon as what it reads is there: the first before the second half of the file is."""
    size = 1 << 14
    code = {"k_negate": "void k_negate(const float *x, float *y, int b, int e) { for (; b < e; b++) y[b] = -x[b]; }",
            "k_add": "void k_add(float *x, float *y, float *z, int b, int e) { for (; b < e; b++) z[b] = x[b] + y[b]; }"}
    halves = [(Place("weights", 4 * n), Place("prepared", 4 * n)) for n in (0, size)]
    setup = tuple(Launch("k_negate", args, size, 0, (), 0, 0) for args in halves)
    launch = Launch("k_add", (*(p for _, p in halves), Place("output", 0)), size, 0, (), 0, 0)
    plan = Plan("sum", (), (Signature("y", (size,), "float32"),), (launch,), 0, 0, 8 * size, setup=setup, prepared=8 * size)
    assert driver.needs(plan) == (4 * size, 8 * size)
    weights = np.arange(2 * size, dtype=np.float32)
    expected = -weights[:size] - weights[size:]
    place = package.write(plan, from_c(code), weights.tobytes(), (), [expected], profile.devices(), tmp_path / "sum")
    order, wrong = javascript(place, """
        const order = [], instantiate = WebAssembly.instantiate;
        WebAssembly.instantiate = async (...given) => {
            const { exports } = await instantiate(...given);
            return { exports: { ...exports, setup: (...range) => { order.push(range.join()); exports.setup(...range); } } };
        };
        const folder = new URL(FOLDER), server = http.createServer(async (request, response) => {
            const bytes = fs.readFileSync(new URL(`.${request.url}`, folder));
            if (!request.url.endsWith(".weights")) return response.end(bytes);
            response.write(bytes.subarray(0, bytes.length / 2 + 100));
            setTimeout(() => { order.push("rest"); response.end(bytes.subarray(bytes.length / 2 + 100)); }, 500);
        }).listen(0, "localhost");
        await new Promise((ready) => server.on("listening", ready));
        const m = await load({ base: `http://localhost:${server.address().port}/`, threads: 1 }), { y } = await m.run({});
        return [order, y.filter((v, n) => v !== -n - (n + 16384)).length];
    """.replace("FOLDER", json.dumps(f"{place.as_uri()}/")))
    assert order == ["0,1", "rest", "1,2"] and wrong == 0


@needs_node
def test_scalars_empty_arrays_and_no_inputs(tmp_path: Path) -> None:
    """Neither inputs nor weights nor arena: a scalar, and an array without elements from a kernel without tiles."""
    source = "void k_five(float *y, int b, int e) { while (b < e) y[b++] = 5; }"
    launches = Launch("k_five", (Place("output", 0),), 1, 0, (), 0, 0), Launch("k_five", (Place("output", 1),), 0, 0, (), 0, 0)
    plan = Plan("c", (), (Signature("five", (), "float32"), Signature("none", (2, 0), "float32")), launches, 0, 0, 0)
    expected = np.float32(5).reshape(()), np.empty((2, 0), np.float32)
    place = package.write(plan, from_c({"k_five": source}), b"", (), expected, profile.devices(), tmp_path / "c")
    five, none = node.run(place, ()) or ()
    assert five.shape == () and five == 5 and none.shape == (2, 0)
    assert javascript(place, "const m = await load(); return [(await m.run()).five[0], (await m.run({})).five[0]]") == [5, 5]
