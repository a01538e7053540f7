"""Web packages: what is in them, and how they behave in a real Node, in both builds, against onnxruntime."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import native_model
import numpy as np
import onnx
import pytest
from burnish.compiler import driver as compiler
from burnish.compiler import importer
from burnish.compiler.driver import Compiled
from burnish.compiler.planner import signature
from burnish.compiler.sample import reference, sample_inputs
from burnish.models import zoo
from burnish.schedules.numerics import relative_error
from burnish.targets.cpu import toolchain as zig
from burnish.targets.cpu.errors import ArtifactError, DeviceError, ToolchainError
from burnish.targets.plan import KernelCode, Launch, Place, Plan, Signature
from burnish.targets.web import driver, manifest, module, node, package, profile, toolchain
from onnx import TensorProto, helper, numpy_helper

needs_node = pytest.mark.skipif(node.program() is None, reason="no Node from 20.16 on the PATH")

RNG = np.random.default_rng(0)
EVERY_DTYPE = helper.make_model(helper.make_graph(
    [helper.make_node("Gather", ["table", "ids"], ["rows"]),
     helper.make_node("Cast", ["half"], ["whole"], to=TensorProto.FLOAT),
     helper.make_node("Add", ["rows", "whole"], ["shifted"]),
     helper.make_node("Where", ["mask", "shifted", "zero"], ["kept"]),
     helper.make_node("MatMul", ["kept", "w"], ["scores"]),
     helper.make_node("Softmax", ["scores"], ["odd \"name\" */"]),
     helper.make_node("ArgMax", ["scores"], ["best"], axis=-1, keepdims=0),
     helper.make_node("Greater", ["scores", "zero"], ["positive"]),
     helper.make_node("Cast", ["scores"], ["narrow"], to=TensorProto.FLOAT16),
     helper.make_node("MatMulInteger", ["q", "wq"], ["__proto__"])], "dtypes",
    [helper.make_tensor_value_info(*x) for x in (("ids", TensorProto.INT64, [2, 5]), ("half", TensorProto.FLOAT16, [8]),
                                                 ("mask", TensorProto.BOOL, [2, 5, 1]), ("q", TensorProto.UINT8, [4, 16]))],
    [helper.make_tensor_value_info(*x) for x in (
        ("odd \"name\" */", TensorProto.FLOAT, [2, 5, 6]), ("best", TensorProto.INT64, [2, 5]),
        ("positive", TensorProto.BOOL, [2, 5, 6]), ("narrow", TensorProto.FLOAT16, [2, 5, 6]),
        ("__proto__", TensorProto.INT32, [4, 7]))],
    [numpy_helper.from_array(a, name) for name, a in {
        "table": RNG.standard_normal((11, 8), np.float32), "w": RNG.standard_normal((8, 6), np.float32), "zero": np.float32([0]),
        "wq": RNG.integers(-128, 128, (16, 7), np.int8)}.items()]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@dataclass(frozen=True)
class Made:
    """A model, compiled for both builds, and its sample."""

    builds: dict[str, Compiled]
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]

    @property
    def plan(self) -> Plan:
        return self.builds["simd"].plan

    def write(self, place: Path, **changes: Any) -> Path:
        arguments: dict[str, Any] = {
            "plan": self.plan, "builds": {b: x.builds[0] for b, x in self.builds.items()}, "weights": self.builds["simd"].weights,
            "inputs": self.inputs, "outputs": self.outputs, "devices": profile.devices(), "out_dir": place}
        return package.write(**(arguments | changes))


def make(path: Path, name: str) -> Made:
    graph = importer.load(path)
    original = graph.clone()
    inputs = sample_inputs([signature(v) for v in graph.graph.inputs])
    lowered = compiler.lower_model(graph)
    builds = {b: compiler.build_model(lowered, [d], name, workers=1, picks={}) for b, d in profile.devices().items()}
    return Made(builds, list(inputs.values()), reference(original, inputs))


@pytest.fixture(scope="module")
def dtypes(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("web") / "dtypes.onnx"
    onnx.save(EVERY_DTYPE, path)
    return make(path, "Every_dtype")


@pytest.fixture(scope="module")
def lenet() -> Made:
    return make(zoo.build("lenet5"), "lenet5")


@pytest.fixture(scope="module")
def folder(lenet: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lenet.write(tmp_path_factory.mktemp("web") / "lenet5", passes=("fold",), tools={"burnish": "0"}, info={"seed": 0})


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def javascript(folder: Path, code: str, *flags: str) -> Any:
    """What `code` returns, run in Node as the body of an async function that sees the package's exports and `image`, an input."""
    script = f"""
        import * as pack from {json.dumps((folder / "index.js").as_uri())};
        import http from "node:http";
        import fs from "node:fs";
        const {{ load, BurnishError }} = pack;
        const image = new Float32Array(28 * 28).fill(0.5);
        const fails = async (what) => {{
            try {{ await what(); }} catch (e) {{
                return e instanceof BurnishError && e instanceof Error ? [e.code, e.message] : [`not ours: ${{e}}`, ""];
            }}
            return ["nothing", ""];
        }};
        const result = await (async () => {{ {code} }})();
        console.log(JSON.stringify(result));
        process.exit(0);
    """
    path, version = node.program() or ("", (0, 0))
    done = subprocess.run([path, *node.flags(version), *flags, "--input-type=module", "-e", script], capture_output=True,
                          text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- The model ---------------------------------------------------------------------------------------------------------


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
def test_lenet_as_onnxruntime(lenet: Made, folder: Path, build: str | None) -> None:
    (got,) = node.run(folder, lenet.inputs, build) or ()
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


def from_c(sources: Mapping[str, str]) -> dict[str, tuple[KernelCode, ...]]:
    """Kernels written in C, by symbol, for both builds."""
    kernels = tuple(KernelCode(symbol, zig.build("wasm32-freestanding", ("-c", "-O2"), {"k.c": text}, {}, ()), "c", (), symbol)
                    for symbol, text in sources.items())
    return dict.fromkeys(profile.BUILDS, kernels)


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


@needs_node
def test_the_sample_and_the_model_describe_themselves(lenet: Made, folder: Path) -> None:
    got = javascript(folder, """
        const m = await load();
        const about = JSON.parse(fs.readFileSync(new URL("sample/sample.json", %s)));
        const bytes = fs.readFileSync(new URL(`sample/${about.inputs[0].file}`, %s));
        const input = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
        const { logits } = await m.run({ [about.inputs[0].name]: input });
        const frozen = Object.isFrozen(m.inputs[0].shape);
        return { logits: [...logits], inputs: m.inputs, outputs: m.outputs, build: m.build, frozen };
    """ % ((json.dumps(folder.as_uri() + "/"),) * 2))
    assert got["inputs"] == [{"name": "image", "shape": [1, 1, 28, 28], "dtype": "float32"}]
    assert got["outputs"] == [{"name": "logits", "shape": [1, 10], "dtype": "float32"}]
    assert got["build"] == "relaxed-simd" and got["frozen"]
    np.testing.assert_allclose(got["logits"], lenet.outputs[0][0], rtol=1e-3, atol=1e-3)


@needs_node
def test_a_browser_without_relaxed_simd_gets_the_other_build(folder: Path) -> None:
    if node.program()[1][0] >= node.RELAXED:        # type: ignore[index]
        pytest.skip("this Node always has relaxed SIMD")
    flag = "--no-experimental-wasm-relaxed-simd"
    assert javascript(folder, "return (await load()).build", flag) == "simd"
    assert javascript(folder, 'return fails(() => load({ build: "relaxed-simd" }))', flag)[0] == "NO_SIMD"


@needs_node
def test_memory_stays_flat_and_outputs_are_new(folder: Path) -> None:
    got = javascript(folder, """
        const m = await load(), before = m.memoryBytes;
        const { logits: first } = await m.run({ image });
        const copy = first.slice();
        await m.run({ image: new Float32Array(784) });
        const kept = first.every((x, n) => x === copy[n]);
        for (let n = 0; n < 1000; n++) await m.run({ image });
        const [a, b] = await Promise.all([m.run({ image }), m.run({ image: new Float32Array(784) })]);
        const apart = a.logits.every((x, n) => x === copy[n]) && b.logits.some((x, n) => x !== copy[n]);
        return [before, m.memoryBytes, kept, apart];
    """)
    pages = manifest.read(folder).builds["relaxed-simd"].pages
    assert got == [pages << 16, pages << 16, True, True]


@needs_node
def test_progress_ends_at_the_total(folder: Path) -> None:
    seen = javascript(folder, "const seen = []; await load({ onProgress: (p) => seen.push([p.loaded, p.total]) }); return seen;")
    sizes = one(folder, "*.weights").stat().st_size + one(folder, "*.relaxed-simd.*.wasm").stat().st_size
    assert len(seen) > 3 and seen[-1] == [sizes, sizes]
    assert [s[0] for s in seen] == sorted(s[0] for s in seen)


# ---- What goes wrong ---------------------------------------------------------------------------------------------------


@needs_node
def test_wrong_inputs_are_named(folder: Path) -> None:
    cases = {
        "m.run()": ("INPUT_NAME", "image"), "m.run(image)": ("INPUT_NAME", "object"),
        "m.run({})": ("INPUT_NAME", '"image" is missing'),
        "m.run({ image, picture: image })": ("INPUT_NAME", '"picture"'),
        "m.run({ image: new Float64Array(784) })": ("INPUT_DTYPE", "Float32Array, not Float64Array"),
        "m.run({ image: [1, 2] })": ("INPUT_DTYPE", "not object"), "m.run({ image: null })": ("INPUT_DTYPE", "not null"),
        "m.run({ image: new Float32Array(783) })": ("INPUT_SHAPE", "[1, 1, 28, 28], 784 elements, not 783"),
        "load({ build: 'fast' })": ("OPTION", "fast"),
        "load({ build: 'toString' })": ("OPTION", "toString"),
        "(m.dispose(), m.dispose(), m.run({ image }))": ("DISPOSED", "load it again")}
    calls = ", ".join(f"await fails(() => {c})" for c in cases)
    got = javascript(folder, f"const m = await load(); return [{calls}, m.memoryBytes]")
    assert got.pop() == 0
    for (code, words), (found, message) in zip(cases.values(), got, strict=True):
        assert found == code and words in message


@needs_node
@pytest.mark.parametrize(("pattern", "change", "code", "words"), [
    ("*.weights", lambda b: b[:1000] + bytes([b[1000] ^ 1]) + b[1001:], "FILE_DAMAGED", "SHA-256"),
    ("*.weights", lambda b: b[:-64], "FILE_DAMAGED", "cut off"), ("*.weights", lambda b: b + b"0", "FILE_DAMAGED", "larger"),
    ("*.relaxed*.wasm", lambda b: b[:-9], "FILE_DAMAGED", "cut off"),
    ("*.relaxed*.wasm", lambda b: b"<!doctype html>", "FILE_DAMAGED", "another file"),
    ("*.relaxed*.wasm", lambda b: b[:-1] + b"\0", "FILE_DAMAGED", "SHA-256"),
    ("*.relaxed*.wasm", None, "FILE_MISSING", "wasm"), ("*.weights", None, "FILE_MISSING", "weights")])
def test_damaged_files_are_found(folder: Path, tmp_path: Path, pattern: str, change: Any, code: str, words: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = one(copy, pattern)
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    found, message = javascript(copy, "return fails(() => load())")
    assert found == code and words in message and file.name in message
    with pytest.raises(ArtifactError, match=words):
        node.run(copy, [np.zeros((1, 1, 28, 28), np.float32)], "relaxed-simd")


@needs_node
def test_damage_is_found_without_crypto(folder: Path, tmp_path: Path) -> None:
    """A page that is not on https has no crypto.subtle: then code that is no code is still an error of ours."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = one(copy, "*.relaxed*.wasm")
    file.write_bytes(bytes(file.stat().st_size))
    without = 'Object.defineProperty(globalThis, "crypto", { value: undefined });'
    found, message = javascript(copy, f"{without} return fails(() => load())")
    assert found == "FILE_DAMAGED" and "cannot be compiled" in message
    assert javascript(folder, f"{without} return (await (await load()).run({{ image }})).logits.length") == 10


@needs_node
def test_what_the_machine_lacks_has_a_code(folder: Path) -> None:
    """Real lacks: V8 is told that the CPU has no SSE4.1, and that memories are at most a megabyte."""
    if os.uname().machine == "x86_64":
        found, message = javascript(folder, "return fails(() => load())", "--no-enable-sse4-1")
        assert found == "NO_SIMD" and "update the browser" in message
    found, message = javascript(folder, "return fails(() => load())", "--wasm-max-mem-pages=16")
    assert found == "OUT_OF_MEMORY" and "MiB" in message


SERVER = """
    const folder = new URL(%s);
    const server = http.createServer((request, response) => {
        const url = new URL(request.url, "http://x"), name = url.pathname.split("/").pop();
        if (url.pathname.startsWith("/none/")) { response.writeHead(404); return response.end(); }
        const bytes = fs.readFileSync(new URL(name, folder));
        if (!url.pathname.startsWith("/cut/") || !name.endsWith(".weights")) return response.end(bytes);
        response.writeHead(200, { "content-length": bytes.length });
        response.write(bytes.subarray(0, 100000), () => setTimeout(() => response.destroy(), 50));
    });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    const base = `http://127.0.0.1:${server.address().port}`;
"""


@needs_node
def test_over_http(lenet: Made, folder: Path) -> None:
    """As a page loads it: from a server, from one that lacks the files, that breaks off, and that is not there."""
    good, none, cut, gone = javascript(folder, SERVER % json.dumps(folder.as_uri() + "/") + """
        const m = await load({ base: `${base}/models/lenet5` });
        const { logits } = await m.run({ image: new Float32Array(784) });
        const local = await (await load()).run({ image: new Float32Array(784) });
        const results = [logits.every((x, n) => x === local.logits[n])];
        results.push(await fails(() => load({ base: `${base}/none/` })));
        results.push(await fails(() => load({ base: new URL(`${base}/cut/`) })));
        await new Promise((done) => { server.close(done); server.closeAllConnections(); });
        return [...results, await fails(() => load({ base }))];
    """)
    assert good is True
    assert none[0] == "FILE_MISSING" and "404" in none[1]
    assert cut[0] == "NETWORK" and "broke" in cut[1]
    assert gone[0] == "NETWORK" and "cannot fetch" in gone[1]


@needs_node
def test_loading_can_be_given_up(folder: Path) -> None:
    """`load` rejects with the signal's own reason, before it starts and while bytes arrive; and with what the caller throws."""
    assert javascript(folder, """
        const reason = async (what) => { try { await what(); return "loaded"; } catch (e) { return String(e.message ?? e); } };
        const stop = new AbortController();
        return [await reason(() => load({ signal: AbortSignal.abort("early") })),
                await reason(() => load({ signal: stop.signal, onProgress: () => stop.abort("later") })),
                await reason(() => load({ onProgress: () => { throw new Error("mine"); } }))];
    """) == ["early", "later", "mine"]


@needs_node
def test_a_package_that_hangs_is_ended(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "index.js").write_text("export async function load() { for (;;); }")
    with pytest.raises(ArtifactError, match="did not end within 2 s"):
        node.run(copy, [np.zeros((1, 1, 28, 28), np.float32)], limit=2)


# ---- The folder --------------------------------------------------------------------------------------------------------


def test_same_input_same_bytes(lenet: Made, folder: Path, tmp_path: Path) -> None:
    again = lenet.write(tmp_path / "elsewhere", weights=lenet.builds["simd"].weights.tobytes(), passes=("fold",),
                        tools={"burnish": "0"}, info={"seed": 0})
    assert content(again) == content(folder)
    for path, data in content(again).items():
        assert str(tmp_path).encode() not in data and b"burnish-wasm" not in data, path


def test_the_manifest_and_npm_know_every_file(lenet: Made, folder: Path) -> None:
    m, files = manifest.read(folder), content(folder)
    assert {n: hashlib.sha256(files[n]).hexdigest() for n in files if n != manifest.FILE} == m.files
    assert set(json.loads(files["package.json"])["files"]) == {n.split("/")[0] for n in files} - {"package.json"}
    for build, made in lenet.builds.items():
        about, code = m.builds[build], files[m.builds[build].file]
        assert about.file == f"lenet5.{build}.{hashlib.sha256(code).hexdigest()[:8]}.wasm"
        # setup and run come first, then the kernels as their objects have them.
        assert [k.code_bytes for k in about.kernels] == module.function_sizes(code)[-len(about.kernels):]
        assert all(0 < k.code_bytes < len(x.code) for k, x in zip(about.kernels, made.builds[0], strict=True))
        assert about.pages << 16 >= about.heap_base + driver.layout(lenet.plan).size > (about.pages - 1) << 16
        assert about.heap_base >= 1 << 16 and about.heap_base % 16 == 0
    assert len(m.launches) == len(lenet.plan.launches) and m.passes == ("fold",) and m.info == {"seed": 0}
    assert set(m.tools) == {"burnish", "ziglang"}


def test_addresses_do_not_overlap(dtypes: Made) -> None:
    plan, at = dtypes.plan, driver.layout(dtypes.plan)
    parts = [(at.weights, plan.weights), (at.prepared, plan.prepared), (at.arena, plan.arena), (at.scratch, plan.scratch)]
    parts += [(x, s.nbytes) for x, s in zip((*at.inputs, *at.outputs), (*plan.inputs, *plan.outputs), strict=True)]
    parts.sort()
    assert all(x + size <= y for (x, size), (y, _) in itertools.pairwise(parts)) and sum(parts[-1]) <= at.size
    assert all(x % 64 == 0 for x, _ in parts)


def test_what_is_no_package_is_not_overwritten(lenet: Made, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/package.json").write_text("{}")
    with pytest.raises(ArtifactError, match="thesis"):
        lenet.write(tmp_path / "thesis")
    assert (tmp_path / "thesis/package.json").read_text() == "{}"
    (tmp_path / "empty").mkdir()
    place = lenet.write(lenet.write(tmp_path / "empty"))
    assert (place / "index.js").exists() and sorted(os.listdir(tmp_path)) == ["empty", "thesis"]


def test_a_failed_write_leaves_what_was_there(lenet: Made, tmp_path: Path) -> None:
    place = lenet.write(tmp_path / "net")
    before = content(place)

    def fail(folder: Path) -> None:
        assert (folder / "index.js").exists()
        raise ArtifactError("wrong result")

    kernels = {b: x.builds[0] for b, x in lenet.builds.items()}
    for error, words, change in (
            (ArtifactError, "wrong result", {"check": fail}), (ArtifactError, "weights", {"weights": b""}),
            (ArtifactError, "sample", {"inputs": ()}), (ArtifactError, "builds", {"builds": {"simd": kernels["simd"]}}),
            (ToolchainError, "undefined symbol", {"builds": {b: k[:-1] for b, k in kernels.items()}})):
        with pytest.raises(error, match=words):
            lenet.write(place, **change)
    assert content(place) == before and os.listdir(tmp_path) == ["net"]


def test_plans_that_a_module_cannot_hold_are_refused(lenet: Made, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="GiB"):
        driver.layout(dataclasses.replace(lenet.plan, arena=1 << 31))
    with pytest.raises(ToolchainError, match="no arena"):
        driver.source(Plan("x", (), (), (Launch("k", (Place("arena", 64),), 1, 0, (), 0, 0),), 0, 0, 0))
    twice = dataclasses.replace(lenet.plan, outputs=(Signature("y", (1,), "float32"),) * 2)
    with pytest.raises(ArtifactError, match="same name"):
        lenet.write(tmp_path / "net", plan=twice, outputs=[np.zeros(1, np.float32)] * 2)
    with pytest.raises(DeviceError, match="no build"):
        profile.load("fast")


def test_module_reader_refuses_what_is_no_module() -> None:
    with pytest.raises(ValueError, match="not a WebAssembly"):
        module.code_bytes(b"\x7fELF", "k")
    assert module.code_bytes(module.MAGIC, "k") == 0
    with pytest.raises(ValueError, match="does not export"):
        module.exported_address(module.MAGIC, "__heap_base")
