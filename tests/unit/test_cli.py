"""What a user types and sees: every verb on a small real model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from burnish.compiler import ui
from burnish.compiler.cli import run_app
from burnish.targets.web import node
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

Say = Callable[..., tuple[int, str, str]]
FLOAT = TensorProto.FLOAT


def classifier(path: Path, size: Sequence[int | str] = (1, 3, 16, 16), nodes: Sequence[onnx.NodeProto] = ()) -> Path:
    """An image to twelve scores. nodes: more of them, that read x."""
    rng = np.random.default_rng(0)
    weights = {"w": (8, 3, 3, 3), "b": (8,), "m": (8, 12)}
    graph = helper.make_graph([
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "m"], ["scores"], name="head"), *nodes],
        "classifier", [helper.make_tensor_value_info("x", FLOAT, size)], [helper.make_tensor_value_info("scores", FLOAT, None)],
        [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("cli") / "tiny.onnx")


@pytest.fixture(scope="module")
def artifact(model: Path) -> Path:
    """Compiled once. Tests that change it take a copy."""
    out = model.parent / "artifact"
    run_app(["compile", str(model), "-o", str(out), "--threads", "2"])
    return out


def expected(model: Path, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


# ---- compile, check ----------------------------------------------------------------------------------------------------


def test_compile_says_what_it_made(model: Path, tmp_path: Path, say: Say) -> None:
    code, out, err = say("compile", model, "-o", tmp_path / "out", "--json")
    made = json.loads(out)
    assert code == 0 and err == ""
    assert made["path"] == str(tmp_path / "out") and 0 < made["code"] < 200_000 and 0 <= made["error"] < 1e-5
    assert {"manifest.json", "libtiny.so", "tiny.h", "tiny.weights"} <= {p.name for p in (tmp_path / "out").iterdir()}
    first = {p.name: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    code, out, _ = say("compile", model, "-o", tmp_path / "out")
    assert code == 0 and "equals onnxruntime's" in out and "burnish measure" in out
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == first      # by the same bytes


@pytest.mark.parametrize("stem, library", [
    ("m", "libmodel_m.so"), ("9 lives", "libmodel_9_lives.so"), ("Long" * 20, f"lib{'Long' * 16}.so")])
def test_compile_names_the_library_after_the_file(stem: str, library: str, tmp_path: Path, say: Say) -> None:
    code, _, _ = say("compile", classifier(tmp_path / f"{stem}.onnx"), "-o", tmp_path / "out", "--records", "none")
    assert code == 0 and (tmp_path / "out" / library).is_file()


def test_compile_for_the_web(model: Path, tmp_path: Path, say: Say) -> None:
    code, out, _ = say("compile", model, "-o", tmp_path / "out", "--target", "wasm", "--records", "none")
    assert code == 0 and ("equals onnxruntime's" in out) == (node.program() is not None)
    assert json.loads((tmp_path / "out" / "package.json").read_text())["type"] == "module" and "npm install" in out
    code, _, _ = say("compile", model, "-o", tmp_path / "out", "--target", "wasm", "--records", "none")
    assert code == 0, "a package may be replaced"
    code, _, err = say("compile", model, "-o", tmp_path / "out", "--records", "none")
    assert code == 2 and "holds other files" in err, "a package is no library"
    code, out, err = say("inspect", tmp_path / "out")
    assert code == 0 and err == "" and "tiny for relaxed-simd" in out and "x: float32[1, 3, 16, 16]" in out and "SHA-256" in out
    found = json.loads(say("inspect", tmp_path / "out", "--json")[1])
    for made in found["code"].values():
        assert made["bytes"] == (tmp_path / "out" / made["file"]).stat().st_size > made["gzip"] > 0
    assert found["memory"] % (64 << 10) == 0 and found["memory"] >= found["weights"] + found["arena"]
    (weights,) = (tmp_path / "out").glob("*.weights")
    weights.write_bytes(weights.read_bytes()[:-1])
    code, _, err = say("inspect", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and weights.name in err


def test_compile_with_variants(model: Path, tmp_path: Path, say: Say) -> None:
    """Every kernel that has some is launched by its first; only wasm packages have them."""
    wasm = "--target", "wasm", "--variants", "3", "--records", "none"
    code, out, err = say("compile", model, "-o", tmp_path / "out", *wasm, "--json")
    assert code == 0, err
    found = json.loads((tmp_path / "out" / "manifest.json").read_text())
    varied = [x for x in found["launches"] if x["variants"]]
    assert varied and all(len(x["variants"]) <= 2 for x in varied) and (tmp_path / "out" / "tune.js").exists()
    kernels = {k["symbol"]: k for k in found["builds"]["simd"]["kernels"]}
    assert json.loads(out)["kernels"] == len(kernels)
    for x in varied:
        first, *others = (kernels[symbol] for symbol in (x["kernel"], *x["variants"]))
        assert all(o["task"] == first["task"] and o["knobs"] != first["knobs"] and o["origin"] == "variant" for o in others)
    code, _, err = say("compile", model, "-o", tmp_path / "cpu", "--variants", "2")
    assert code == 2 and "native" in err and not (tmp_path / "cpu").exists()


def test_compile_overwrites_nothing_but_artifacts(model: Path, tmp_path: Path, say: Say) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    code, _, err = say("compile", model, "-o", tmp_path)
    assert code == 2 and "choose another folder" in err and [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    code, _, err = say("compile", model, "-o", tmp_path / "thesis.txt")
    assert code == 2 and "is a file" in err


def test_compile_for_an_unknown_target(model: Path, tmp_path: Path, say: Say) -> None:
    code, _, err = say("compile", model, "-o", tmp_path / "out", "--target", "toaster")
    assert code == 2 and err.count("\n") == 1 and "toaster" in err and not (tmp_path / "out").exists()


def test_check(model: Path, say: Say) -> None:
    code, out, err = say("check", model)
    assert code == 0 and err == "" and "tiny.onnx can be compiled" in out and "Conv + Relu" in out
    code, out, _ = say("check", model, "--json")
    found = json.loads(out)
    assert code == 0 and sum(g["count"] for g in found["groups"]) >= found["kernels"] > 0


def test_check_shows_every_refusal(tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = [helper.make_node("Frobnicate", ["x"], [f"odd{n}"], name=f"strange[{n}]\x1b[31m", domain="acme", n=n) for n in range(2)]
    path = classifier(tmp_path / "odd.onnx", nodes=odd)
    broken = onnx.load(path)
    broken.opset_import.add(domain="acme", version=1)
    broken.graph.output.extend(helper.make_tensor_value_info(f"odd{n}", FLOAT, (1, 3, 16, 16)) for n in range(2))
    onnx.save(broken, path)
    monkeypatch.setattr(ui.err, "width", 200)
    code, out, err = say("check", path)
    assert code == 2 and out == "" and err.endswith("error: 2 nodes cannot be compiled; the table above says why\n")
    assert "strange[0]" in err and "strange[1]" in err and "acme::Frobnicate" in err        # names are no markup
    assert "\x1b" not in err                                                                # and no commands to the terminal
    code, out, _ = say("check", path, "--json")
    assert code == 2 and [r["op"] for r in json.loads(out)["refusals"]] == ["acme::Frobnicate"] * 2


def test_free_dimensions_are_asked_for(tmp_path: Path, say: Say) -> None:
    path = classifier(tmp_path / "free.onnx", ("n", 3, "height", "width"))
    code, _, err = say("check", path)
    assert code == 2 and "[n, 3, height, width]" in err and "--shape x=1x3x224x224" in err
    assert say("check", path, "--shape", "x=2x3x16x18")[0] == 0
    for shape, why in (("x=1x3x16", "4 dimensions"), ("x=1x4x16x16", "not the 4"), ("z=1", "no input 'z'"),
                       ("x=1x3x0x16", "1 or more"), ("x=axb", "is not NAME=AxBxC"), ("x", "is not NAME=AxBxC")):
        code, _, err = say("check", path, "--shape", shape)
        assert code == 2 and err.count("\n") == 1 and why in err


def test_a_model_that_onnxruntime_cannot_run(tmp_path: Path, say: Say) -> None:
    """The oracle's own failure is one line, too: here a division by zero."""
    path = classifier(tmp_path / "zero.onnx")
    broken = onnx.load(path)
    broken.graph.initializer.extend(numpy_helper.from_array(np.array([v]), n) for n, v in (("one", 1), ("zero", 0)))
    broken.graph.node.append(helper.make_node("Div", ["one", "zero"], ["q"], name="div"))
    broken.graph.output.append(helper.make_tensor_value_info("q", TensorProto.INT64, None))
    onnx.save(broken, path)
    code, _, err = say("compile", path, "-o", tmp_path / "out")
    assert code == 2 and err.count("\n") == 1 and "onnxruntime" in err and not (tmp_path / "out").exists()


# ---- run ---------------------------------------------------------------------------------------------------------------


def test_run_on_arrays(model: Path, artifact: Path, tmp_path: Path, say: Say) -> None:
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    y = expected(model, x)
    for name in ("x.npy", "x.npz"):
        code, out, err = say("run", artifact, tmp_path / name, "-o", tmp_path / "y.npy", "--threads", 1)
        assert code == 0 and err == "" and "scores: float32[1, 12]" in out
        assert out.splitlines()[1].split() == [str(y.argmax()), f"{y.max():.6g}"]
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), y, rtol=1e-5, atol=1e-5)
    code, out, _ = say("run", artifact, tmp_path / "x.npy", "--json")
    assert code == 0 and json.loads(out)["scores"]["top"][0][0] == y.argmax()
    assert say("run", artifact, tmp_path / "x.npy", "-o", tmp_path / "y.npz")[0] == 0
    assert np.load(tmp_path / "y.npz").files == ["scores"]


def test_run_on_an_image(model: Path, artifact: Path, tmp_path: Path, say: Say) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    code, _, _ = say("run", artifact, tmp_path / "cat.png", "--mean", "0.5", "--std", "0.2,0.3,0.4", "-o", tmp_path / "y.npy")
    x = ((pixels / 255 - 0.5) / [0.2, 0.3, 0.4]).transpose(2, 0, 1)[None].astype(np.float32)
    assert code == 0
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected(model, x), rtol=1e-5, atol=1e-5)


def test_run_says_what_does_not_fit(artifact: Path, tmp_path: Path, say: Say) -> None:
    np.save(tmp_path / "short.npy", np.zeros((1, 3, 4, 4), np.float32))
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    (tmp_path / "no.png").write_text("no picture")
    (tmp_path / "no.npy").write_text("no array")
    for words, why in (((tmp_path / "short.npy",), "has shape (1, 3, 16, 16)"), ((tmp_path / "two.npz",), "has no array x"),
                       ((tmp_path / "no.png",), "cannot read the image"), ((tmp_path / "no.npy",), "cannot read"),
                       ((tmp_path / "none.npy",), "cannot read"), ((tmp_path / "short.npy",) * 2, "2 files came"),
                       ((tmp_path / "no.png", "--mean", "a"), "cannot read the image"),
                       ((), "Missing argument")):
        code, _, err = say("run", artifact, *words)
        assert code == 2 and err.count("\n") == 1 and why in err, err


# ---- measure, compare, inspect -------------------------------------------------------------------------------------------


def test_measure(artifact: Path, say: Say) -> None:
    code, out, err = say("measure", artifact, "--rounds", 5, "--threads", 2, "--kernels", 2)
    assert code == 0 and err == "" and "median" in out and "of peak" in out and "more (--kernels)" in out
    code, out, _ = say("measure", artifact, "--rounds", 5, "--json")
    found = json.loads(out)
    assert code == 0 and 0 < found["p10"] <= found["median"] <= found["p90"]
    assert sum(k["share"] for k in found["launches"]) == pytest.approx(1)


def test_compare(model: Path, say: Say) -> None:
    code, out, err = say("compare", model, "--json")
    found = json.loads(out)
    assert code == 0 and err == "" and found["first"] is None and len(found["layers"]) >= 3
    assert all(x["difference"]["error"] <= x["difference"]["tolerance"] for x in found["layers"])


def test_inspect(artifact: Path, tmp_path: Path, say: Say) -> None:
    code, out, err = say("inspect", artifact)
    assert code == 0 and err == "" and "x: float32[1, 3, 16, 16]" in out and "SHA-256" in out
    assert json.loads(say("inspect", artifact, "--json")[1])["outputs"][0]["name"] == "scores"
    copy = shutil.copytree(artifact, tmp_path / "copy")
    with (copy / "tiny.weights").open("r+b") as weights:
        weights.seek(100)
        weights.write(b"\xff")
    for verb in ("inspect", "measure"):
        code, _, err = say(verb, copy)
        assert code == 2 and err.count("\n") == 1 and "tiny.weights" in err


@pytest.mark.parametrize("verb", ["inspect", "measure", "run"])
def test_what_is_no_artifact(verb: str, tmp_path: Path, say: Say) -> None:
    code, _, err = say(verb, tmp_path, *(["x.npy"] if verb == "run" else []))
    assert code == 2 and err.count("\n") == 1 and "is not an artifact" in err


@pytest.mark.parametrize("width", [80, 140])
def test_tables_fit_their_terminal(width: int, model: Path, artifact: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words in (("check", model), ("measure", artifact, "--rounds", 3)):
        assert max(map(len, say(*words)[1].splitlines())) <= width
    table = say("inspect", artifact)[1].split("made by")[1].splitlines()[1:]      # the versions are one long line
    assert max(map(len, table)) <= width


# ---- The program -------------------------------------------------------------------------------------------------------


def test_usage_errors_point_to_help(say: Say) -> None:
    for words, why in ((("fry",), "'fry'"), (("compile",), "See burnish compile --help."),
                       (("measure", "x", "--rounds", "1"), "--rounds")):
        code, _, err = say(*words)
        assert code == 2 and err.count("\n") == 1 and why in err
    code, out, err = say()
    assert code == 0 and "inspect" in out and err == ""
    for verb in ("compile", "check", "run", "measure", "compare", "inspect"):
        assert "Example" in say(verb, "--help")[1]


def test_an_unexpected_failure_is_one_line(model: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object, **__: object) -> None:
        raise KeyError("surprise")
    monkeypatch.setattr("burnish.compiler.importer.load", bug)
    code, _, err = say("check", model)
    assert code == 1 and err.count("\n") == 1 and "please report it: KeyError: 'surprise' (test_cli.py:" in err


def test_the_programs(tmp_path: Path) -> None:
    """The scripts: the exit code comes through, `compile` is `burnish compile`, and a crash of native code is one line."""
    def program(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=60, check=False)

    scripts = Path(sys.executable).parent
    done = program(scripts / "compile", "--help")
    assert done.returncode == 0 and "compile [OPTIONS]" in done.stdout
    done = program(scripts / "burnish", "check", tmp_path / "none.onnx")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    crash = ("import os; from burnish.compiler import program; program.work = lambda words: os.kill(os.getpid(), 11); "
             "program.watch([])")
    done = program(sys.executable, "-c", crash)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "SIGSEGV" in done.stderr
