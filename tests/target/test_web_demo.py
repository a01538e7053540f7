"""The demo page without a browser: its files, its servers in Node and in Python, and how it reads and writes arrays."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from burnish.compiler.cli import run_app
from burnish.schedules.numerics import relative_error
from burnish.targets.web import demo, manifest
from web_model import Made, needs_node

BURNISH = (sys.executable, "-c", "from burnish.compiler.program import main; main()", "demo")


def command(server: str, folder: Path) -> list[str]:
    return ["node", str(folder / demo.SERVER)] if server == "node" else [*BURNISH, str(folder)]


@contextmanager
def serving(line: Sequence[str]) -> Iterator[Iterator[str]]:
    """What a server prints, word by word; ended as a terminal's Ctrl-C ends it, after which Python's must end well."""
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        try:
            yield (word for words in process.stdout for word in words.split())
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(20) == (0 if line[0] == sys.executable else -signal.SIGINT)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def fetch(url: str, method: str = "GET") -> tuple[int, bytes, Message]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=20) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as e:
        return e.code, e.read(), e.headers


# ---- The files ---------------------------------------------------------------------------------------------------------


def test_a_package_has_its_page(lenet_folder: Path) -> None:
    """All of it: every module that is imported, and everything that the page names, is there and in the manifest."""
    about = json.loads((lenet_folder / "package.json").read_text())
    assert about["bin"] == {"lenet5": "./demo/serve.mjs"} and "demo" in about["files"]
    assert os.access(lenet_folder / demo.SERVER, os.X_OK)
    files = {p.name for p in (lenet_folder / "demo").iterdir()}
    assert {f"demo/{name}" for name in files} <= manifest.read(lenet_folder).files.keys()
    page = (lenet_folder / demo.PAGE).read_text()
    named = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    for path in (lenet_folder / "demo").glob("*.js"):
        named |= set(re.findall(r'"\./([\w.]+)"', path.read_text()))
    assert named and named <= files
    assert f'data-weights="{next(lenet_folder.glob("*.weights")).stat().st_size}"' in page
    assert "<title>lenet5</title>" in page and "@" not in page
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page), "a strict policy forbids what is inline"


def test_a_models_name_is_no_markup(lenet: Made) -> None:
    from dataclasses import replace
    page = demo.contents(replace(lenet.plan, name="<b>&\"x'"), {})[demo.PAGE].decode()
    assert "<title>&lt;b&gt;&amp;&quot;x&#x27;</title>" in page and "<b>" not in page


# ---- The servers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [pytest.param("node", marks=needs_node), "python"])
def test_servers(lenet_folder: Path, tmp_path: Path, server: str) -> None:
    """Headers for threads, types, caching, the settings of the command line; nothing outside the package."""
    (tmp_path / "labels.txt").write_text("zero\n\n  eins — \r\ntwo\n")
    options = ["--port", "0", "--labels", str(tmp_path / "labels.txt"), "--mean", "0.5", "--std", "0.1,0.2,3e-1"]
    weights, code = (next(lenet_folder.glob(f"*{kind}")).name for kind in (".weights", ".wasm"))
    with serving([*command(server, lenet_folder), *options]) as said:
        url = next(said)
        root = url.removesuffix("demo/")
        assert root != url
        kinds = {"demo/": "text/html", "demo/demo.css": "text/css", "demo/demo.js": "text/javascript", code: "application/wasm",
                 "index.js": "text/javascript", "demo/icon.svg": "image/svg+xml", weights: "application/octet-stream"}
        forever = (code, weights) if server == "node" else ()
        for path, kind in kinds.items():
            status, body, headers = fetch(root + path)
            assert (status, headers["Content-Type"].split(";")[0]) == (200, kind), path
            assert body == (lenet_folder / path / "index.html" if path.endswith("/") else lenet_folder / path).read_bytes()
            assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert headers["Cache-Control"] == ("public, max-age=31536000, immutable" if path in forever else "no-cache"), path
        assert json.loads(fetch(f"{url}settings.json")[1]) == {
            "labels": ["zero", "eins —", "two"], "mean": [0.5], "std": [0.1, 0.2, 0.3]}
        assert fetch(root + "demo")[1] == (lenet_folder / demo.PAGE).read_bytes(), "not led to demo/"
        status, body, headers = fetch(root + weights, "HEAD")
        assert (status, body, int(headers["Content-Length"])) == (200, b"", (lenet_folder / weights).stat().st_size)
        for path in ("none.js", "sample/none", "../web.py", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc", "no%00ne", "demo/%"):
            status, _, headers = fetch(root + path)
            assert status in (400, 404) and headers["Cross-Origin-Embedder-Policy"], path
        assert fetch(url, "POST")[0] == 405


@pytest.mark.parametrize("server", [pytest.param("node", marks=needs_node), "python"])
def test_a_taken_port(lenet_folder: Path, server: str) -> None:
    """The default one gives way to the next; one that was asked for is refused."""
    line = command(server, lenet_folder)
    with serving(line) as said:
        first = next(said)
        with serving(line) as other:
            second = next(other)
            assert first != second and fetch(first)[0] == fetch(second)[0] == 200
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([*line, "--port", str(port)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and f"port {port} is taken" in done.stderr and done.stderr.count("\n") == 1


BAD: tuple[tuple[list[str], str], ...] = (
    (["--std", "1,0,1"], "none of them 0"), (["--std", "1,2"], "one number or three"), (["--mean", "x"], "--mean x"),
    (["--mean", "0.1,,0.2"], "--mean"), (["--labels", "/none.txt"], "cannot read the labels"), (["--port", "70000"], "--port"),
    (["--prot", "1"], "--prot"))


@pytest.mark.parametrize("server", [pytest.param("node", marks=needs_node), "python"])
@pytest.mark.parametrize(("options", "words"), BAD)
def test_bad_options(lenet_folder: Path, capsys: pytest.CaptureFixture[str], server: str, options: list[str], words: str) -> None:
    if server == "node":
        done = subprocess.run([*command(server, lenet_folder), *options], capture_output=True, text=True, timeout=60, check=False)
        code, said = done.returncode, done.stderr
    else:
        with pytest.raises(SystemExit) as end:
            run_app(["demo", str(lenet_folder), *options])
        code, said = int(end.value.code or 0), capsys.readouterr().err
    assert code == 2 and words in said and said.count("\n") == 1


def test_what_is_no_web_package_is_refused(folder: Path, lenet_folder: Path, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    """A native artifact, an empty folder, a file, nothing, a package of before there was a demo."""
    old = Path(shutil.copytree(lenet_folder, tmp_path / "old"))
    shutil.rmtree(old / "demo")
    (tmp_path / "empty").mkdir()
    for place, words in ((folder, "--target wasm"), (tmp_path / "empty", "--target wasm"), (tmp_path / "none", "--target wasm"),
                         (folder / "manifest.json", "--target wasm"), (old, "compile the model again")):
        with pytest.raises(SystemExit) as end:
            run_app(["demo", str(place)])
        said = capsys.readouterr().err
        assert end.value.code == 2 and words in said and str(place) in said and said.count("\n") == 1


def test_others_on_the_network_get_an_address_and_a_code(lenet_folder: Path) -> None:
    with serving([*command("python", lenet_folder), "--port", "0", "--host", "0.0.0.0"]) as said:
        here, there = (word for word in itertools.islice(said, 5) if word.startswith("http"))
        assert "█" in next(said)
        assert here.startswith("http://localhost:") and fetch(there)[1] == (lenet_folder / demo.PAGE).read_bytes()


@needs_node
@pytest.mark.skipif(shutil.which("npx") is None, reason="no npx on the PATH")
def test_npx(lenet_folder: Path, tmp_path: Path) -> None:
    line = ["npx", "--yes", "--offline", "--cache", str(tmp_path / "cache"), str(lenet_folder), "--port", "0"]
    with serving(line) as said:
        assert fetch(next(said))[1] == (lenet_folder / demo.PAGE).read_bytes()


# ---- Arrays ------------------------------------------------------------------------------------------------------------


def javascript(folder: Path, place: Path, code: str) -> Any:
    """What `code` returns, run in Node as the body of an async function with the exports of tensors.js as `t`; `file` gives a
    file of `place` as one that was dropped."""
    script = f"""
        import * as t from {json.dumps((folder / "demo/tensors.js").as_uri())};
        import fs from "node:fs";
        process.chdir({json.dumps(str(place))});
        const file = (name) => new File([fs.readFileSync(name)], name);
        const write = async (name, blob) => fs.writeFileSync(name, Buffer.from(await blob.arrayBuffer()));
        const result = await (async () => {{ {code} }})();
        console.log(JSON.stringify(result ?? null));
    """
    done = subprocess.run(["node", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


DTYPES = ("float64", "float32", "float16", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@needs_node
def test_npy_of_every_dtype_and_back(lenet_folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {d: (rng.standard_normal((3, 1, 5)) * 90).astype(d) if d[0] in "fb" else rng.integers(0, 100, (3, 1, 5)).astype(d)
              for d in DTYPES}
    arrays["int64"][0, 0, 0], arrays["uint64"][0, 0, 0] = -(1 << 62) - 1, (1 << 63) + 1      # more than a double can hold
    for dtype, array in arrays.items():
        np.save(tmp_path / f"{dtype}.npy", array)
    javascript(lenet_folder, tmp_path, f"""
        for (const dtype of {json.dumps(DTYPES)}) {{
            const tensor = {{ name: "x", dtype, shape: [3, 1, 5] }};
            await write(`${{dtype}}.back.npy`, t.toNpy(await t.fromFile(file(`${{dtype}}.npy`), tensor), tensor));
        }}
        await write("vector.npy", t.toNpy(new Float32Array([1, 2]), {{ dtype: "float32", shape: [2] }}));
        await write("scalar.npy", t.toNpy(new Float32Array([1]), {{ dtype: "float32", shape: [] }}));
    """)
    for dtype, array in arrays.items():
        back = np.load(tmp_path / f"{dtype}.back.npy")
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    assert np.load(tmp_path / "vector.npy").shape == (2,) and np.load(tmp_path / "scalar.npy").shape == ()


@needs_node
def test_files_of_another_dtype_are_converted_as_numpy_converts(lenet_folder: Path, tmp_path: Path) -> None:
    """Doubles to halves, rounded to even: every half, what is between them and beyond them; JSON; raw bytes."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.sort(halves[np.isfinite(halves)]).astype(np.float64)
    middle = (finite[1:] + finite[:-1]) / 2
    values = np.concatenate([finite, middle, finite * (1 + 2.0**-40), middle * (1 - 2.0**-40),
                             [65519.99, 65520, 1e300, -1e300, np.inf, -np.inf, np.nan, 1e-300, -5e-8]])
    np.save(tmp_path / "doubles.npy", values)
    (tmp_path / "deep.json").write_text("[[1, 2.5], [true, -4]]")
    (tmp_path / "raw.bin").write_bytes(np.array([1, -2], np.int16).tobytes())
    got = javascript(lenet_folder, tmp_path, f"""
        const halves = {{ dtype: "float16", shape: [{values.size}] }};
        await write("halves.npy", t.toNpy(await t.fromFile(file("doubles.npy"), halves), halves));
        const seen = t.numbers(new Uint16Array(65536).map((_, n) => n), "float16");
        fs.writeFileSync("seen", new Uint8Array(seen.buffer));
        return [[...await t.fromFile(file("deep.json"), {{ dtype: "float32", shape: [4] }})],
                Array.from(await t.fromFile(file("deep.json"), {{ dtype: "int64", shape: [1, 4] }}), String),
                [...await t.fromFile(file("raw.bin"), {{ dtype: "int16", shape: [2] }})]];
    """)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(np.load(tmp_path / "halves.npy"), values.astype(np.float16))
    np.testing.assert_array_equal(np.fromfile(tmp_path / "seen", np.float32), halves.astype(np.float32))
    assert got == [[1, 2.5, 1, -4], ["1", "2", "1", "-4"], [1, -2]]


@needs_node
def test_files_that_do_not_fit_are_refused(lenet_folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "five.npy", np.zeros(5))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(np.zeros((2, 2))))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    whole = (tmp_path / "five.npy").read_bytes()
    broken = {"cut.npy": whole[:-1], "head.npy": whole[:40], "no.npy": b"PK\3\4" * 9, "short.npy": b"", "bad.json": b"[1,",
              "text.json": b'["a"]', "three.json": b"[1,2,3]", "odd.bin": b"123", "photo.jpg": b"\xff\xd8"}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    words = {"five.npy": "holds 5 numbers", "fortran.npy": "Fortran", "words.npy": "not numbers", "cut.npy": "cut off",
             "head.npy": "cut off", "no.npy": "no .npy file", "short.npy": "no .npy file", "bad.json": "not JSON",
             "text.json": "must hold numbers", "three.json": "holds 3 numbers", "odd.bin": "3 bytes", "photo.jpg": "takes 16"}
    got = javascript(lenet_folder, tmp_path, f"""
        const fails = (name) => t.fromFile(file(name), {{ dtype: "float32", shape: [4] }}).then(() => "read", (e) => e.message);
        return Promise.all({json.dumps(list(words))}.map(fails));
    """)
    for (name, expected), message in zip(words.items(), got, strict=True):
        assert expected in message and name in message and "\n" not in message


@needs_node
def test_errors_are_those_of_the_compiler(lenet_folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    odd, infinite, zero = np.array([np.nan, 1.0]), np.array([np.inf, 2.0]), np.zeros(3)
    near, plain = rng.standard_normal(50), np.array([0.0, 1.0])
    pairs = [(near, near), (near + 1e-3, near), (odd, odd), (plain, odd), (odd, plain), (infinite, infinite),
             (-infinite, infinite), (zero, zero), (zero + 1e-3, zero), (plain, -plain)]
    for n, pair in enumerate(pairs):
        for m, array in enumerate(pair):
            array.tofile(tmp_path / f"{n}.{m}")
    got = javascript(lenet_folder, tmp_path, f"""
        const read = (name) => new Float64Array(new Uint8Array(fs.readFileSync(name)).buffer);
        const one = (_, n) => String(t.relativeError(read(`${{n}}.0`), read(`${{n}}.1`), "float64"));
        return Array.from({{ length: {len(pairs)} }}, one);
    """)
    np.testing.assert_allclose([float(x.replace("Infinity", "inf")) for x in got], [relative_error(*pair) for pair in pairs])


@needs_node
def test_zeros_and_random_numbers(lenet_folder: Path, tmp_path: Path) -> None:
    kinds = [{"dtype": d, "shape": [4, 1000]} for d in DTYPES]
    got = javascript(lenet_folder, tmp_path, f"""
        return {json.dumps(kinds)}.map((x) => [t.zeros(x), t.random(x)].map((a) => Array.from(t.numbers(a, x.dtype))));
    """)
    for kind, (zeros, random) in zip(kinds, got, strict=True):
        assert len(random) == 4000 and not any(zeros)
        if str(kind["dtype"]).startswith("float"):
            assert abs(np.mean(random)) < 0.1 and 0.9 < np.std(random) < 1.1
        else:
            low, high = {"uint8": (0, 255), "int8": (-128, 127)}.get(str(kind["dtype"]), (0, 1))
            assert (min(random), max(random)) == (low, high)
