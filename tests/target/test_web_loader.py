"""The loader in a real Node: what it says of a model, how it loads it, and what it says when something goes wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from burnish.targets.cpu import toolchain as zig
from burnish.targets.cpu.errors import ArtifactError
from burnish.targets.plan import KernelCode, Launch, Place, Plan, Signature
from burnish.targets.web import manifest, node, package, profile
from web_model import Made, javascript, needs_node, one


@needs_node
def test_the_sample_and_the_model_describe_themselves(lenet: Made, lenet_folder: Path) -> None:
    got = javascript(lenet_folder, """
        const m = await load();
        const about = JSON.parse(fs.readFileSync(new URL("sample/sample.json", %s)));
        const bytes = fs.readFileSync(new URL(`sample/${about.inputs[0].file}`, %s));
        const input = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
        const { logits } = await m.run({ [about.inputs[0].name]: input });
        const frozen = Object.isFrozen(m.inputs[0].shape);
        return { logits: [...logits], inputs: m.inputs, outputs: m.outputs, build: m.build, frozen };
    """ % ((json.dumps(lenet_folder.as_uri() + "/"),) * 2))
    assert got["inputs"] == [{"name": "image", "shape": [1, 1, 28, 28], "dtype": "float32"}]
    assert got["outputs"] == [{"name": "logits", "shape": [1, 10], "dtype": "float32"}]
    assert got["build"] == "relaxed-simd" and got["frozen"]
    np.testing.assert_allclose(got["logits"], lenet.outputs[0][0], rtol=1e-3, atol=1e-3)


@needs_node
def test_a_browser_without_relaxed_simd_gets_the_other_build(lenet_folder: Path) -> None:
    if node.program()[1][0] >= node.RELAXED:        # type: ignore[index]
        pytest.skip("this Node always has relaxed SIMD")
    flag = "--no-experimental-wasm-relaxed-simd"
    assert javascript(lenet_folder, "return (await load()).build", flag) == "simd"
    assert javascript(lenet_folder, 'return fails(() => load({ build: "relaxed-simd" }))', flag)[0] == "NO_SIMD"


@needs_node
def test_relaxed_dot_products_are_probed(tmp_path: Path) -> None:
    """Node 20's are wrong until V8 optimises the code: there the loader takes the other build of a model that has one."""
    source = """
        typedef signed char bytes __attribute__((vector_size(16)));
        typedef int ints __attribute__((vector_size(16)));
        void k_dot(volatile bytes *own, ints *y, int b, int e) { own[0] = (bytes){-128, 127, -1, 1}; while (b++ < e) *y = %s; }"""
    dot = "__builtin_wasm_relaxed_dot_i8x16_i7x16_add_s_i32x4(own[0], (bytes){127, 127, 1}, (ints){0})"
    kernels = {}
    for build, features, y in (("relaxed-simd", "+relaxed_simd", dot), ("simd", "", "(ints){-128}")):
        flags = "-c", "-O2", f"-mcpu=generic+simd128{features}"
        code = zig.build("wasm32-freestanding", flags, {"k.c": source % y}, {}, ())
        kernels[build] = [KernelCode("k_dot", code, "c", (), "k_dot")]
    launch = Launch("k_dot", (Place("arena", 0), Place("output", 0)), 1, 0, (), 0, 0)
    plan = Plan("dot", (), (Signature("y", (4,), "int32"),), (launch,), 64, 0, 0)
    place = package.write(plan, kernels, b"", (), [np.int32([-128, 0, 0, 0])], profile.devices(), tmp_path / "dot")
    build, y = javascript(place, "const m = await load(); return [m.build, [...(await m.run()).y]]")
    assert y == [-128, 0, 0, 0]
    assert build == ("simd" if node.program()[1][0] == 20 else "relaxed-simd")      # type: ignore[index]
    if build == "simd":
        assert javascript(place, "return fails(() => load({ build: 'relaxed-simd' }))")[0] == "NO_SIMD"


@needs_node
def test_memory_stays_flat_and_outputs_are_new(lenet_folder: Path) -> None:
    got = javascript(lenet_folder, """
        const m = await load({ threads: 1 }), before = m.memoryBytes;
        const { logits: first } = await m.run({ image });
        const copy = first.slice();
        await m.run({ image: new Float32Array(784) });
        const kept = first.every((x, n) => x === copy[n]);
        for (let n = 0; n < 1000; n++) await m.run({ image });
        const [a, b] = await Promise.all([m.run({ image }), m.run({ image: new Float32Array(784) })]);
        const apart = a.logits.every((x, n) => x === copy[n]) && b.logits.some((x, n) => x !== copy[n]);
        return [before, m.memoryBytes, kept, apart];
    """)
    pages = manifest.read(lenet_folder).builds["relaxed-simd"].pages
    assert got == [pages << 16, pages << 16, True, True]


@needs_node
def test_progress_ends_at_the_total(lenet_folder: Path) -> None:
    seen = javascript(lenet_folder, """
        const seen = [];
        await load({ threads: 1, onProgress: (p) => seen.push([p.loaded, p.total]) });
        return seen;
    """)
    sizes = one(lenet_folder, "*.weights").stat().st_size + one(lenet_folder, "*.relaxed-simd.*.wasm").stat().st_size
    assert len(seen) > 3 and seen[-1] == [sizes, sizes]
    assert [s[0] for s in seen] == sorted(s[0] for s in seen)


@needs_node
def test_wrong_inputs_are_named(lenet_folder: Path) -> None:
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
    got = javascript(lenet_folder, f"const m = await load(); return [{calls}, m.memoryBytes]")
    assert got.pop() == 0
    for (code, words), (found, message) in zip(cases.values(), got, strict=True):
        assert found == code and words in message


@needs_node
@pytest.mark.parametrize(("pattern", "change", "code", "words"), [
    ("*.weights", lambda b: b[:1000] + bytes([b[1000] ^ 1]) + b[1001:], "FILE_DAMAGED", "SHA-256"),
    ("*.weights", lambda b: b[:-64], "FILE_DAMAGED", "cut off"), ("*.weights", lambda b: b + b"0", "FILE_DAMAGED", "larger"),
    ("*.relaxed-simd.*.wasm", lambda b: b[:-9], "FILE_DAMAGED", "cut off"),
    ("*.relaxed-simd.*.wasm", lambda b: b"<!doctype html>", "FILE_DAMAGED", "another file"),
    ("*.relaxed-simd.*.wasm", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "FILE_DAMAGED", "SHA-256"),
    ("*.relaxed-simd.*.wasm", None, "FILE_MISSING", "wasm"), ("*.weights", None, "FILE_MISSING", "weights")])
def test_damaged_files_are_found(lenet_folder: Path, tmp_path: Path, pattern: str, change: Any, code: str, words: str) -> None:
    copy = Path(shutil.copytree(lenet_folder, tmp_path / "copy"))
    file = one(copy, pattern)
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    found, message = javascript(copy, "return fails(() => load({ threads: 1 }))")
    assert found == code and words in message and file.name in message
    with pytest.raises(ArtifactError, match=words):
        node.run(copy, [np.zeros((1, 1, 28, 28), np.float32)], "relaxed-simd")


@needs_node
def test_damage_is_found_without_crypto(lenet_folder: Path, tmp_path: Path) -> None:
    """A page that is not on https has no crypto.subtle: then code that is no code is still an error of ours."""
    copy = Path(shutil.copytree(lenet_folder, tmp_path / "copy"))
    file = one(copy, "*.relaxed-simd.*.wasm")
    file.write_bytes(bytes(file.stat().st_size))
    without = 'Object.defineProperty(globalThis, "crypto", { value: undefined });'
    found, message = javascript(copy, f"{without} return fails(() => load({{ threads: 1 }}))")
    assert found == "FILE_DAMAGED" and "cannot be compiled" in message
    assert javascript(lenet_folder, f"{without} return (await (await load()).run({{ image }})).logits.length") == 10


@needs_node
def test_what_the_machine_lacks_has_a_code(lenet_folder: Path) -> None:
    """Real lacks: V8 is told that the CPU has no SSE4.1, and that memories are at most a megabyte."""
    if os.uname().machine == "x86_64":
        found, message = javascript(lenet_folder, "return fails(() => load())", "--no-enable-sse4-1")
        assert found == "NO_SIMD" and "update the browser" in message
    found, message = javascript(lenet_folder, "return fails(() => load())", "--wasm-max-mem-pages=16")
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
def test_over_http(lenet: Made, lenet_folder: Path) -> None:
    """As a page loads it: from a server, from one that lacks the files, that breaks off, and that is not there."""
    good, none, cut, gone = javascript(lenet_folder, SERVER % json.dumps(lenet_folder.as_uri() + "/") + """
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
def test_loading_can_be_given_up(lenet_folder: Path) -> None:
    """`load` rejects with the signal's own reason, before it starts and while bytes arrive; and with what the caller throws."""
    assert javascript(lenet_folder, """
        const reason = async (what) => { try { await what(); return "loaded"; } catch (e) { return String(e.message ?? e); } };
        const stop = new AbortController();
        return [await reason(() => load({ signal: AbortSignal.abort("early") })),
                await reason(() => load({ signal: stop.signal, onProgress: () => stop.abort("later") })),
                await reason(() => load({ onProgress: () => { throw new Error("mine"); } }))];
    """) == ["early", "later", "mine"]


@needs_node
def test_a_package_that_hangs_is_ended(lenet_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lenet_folder, tmp_path / "copy"))
    (copy / "index.js").write_text("export async function load() { for (;;); }")
    with pytest.raises(ArtifactError, match="did not end within 2 s"):
        node.run(copy, [np.zeros((1, 1, 28, 28), np.float32)], limit=2)
