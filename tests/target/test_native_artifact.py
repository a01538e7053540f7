"""Artifact folders: their bytes, their manifest, what replaces what, and what the loader accepts."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from burnish.targets.cpu import artifact, driver, loader, manifest, toolchain
from burnish.targets.cpu.errors import ArtifactError, ToolchainError
from burnish.targets.plan import KernelCode, Launch, Place, Plan, Signature
from native_model import COLUMNS, ROWS, Sample, reference, sample

NAME = "model_3_layer_net"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_input_same_bytes(made: Sample, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another place, another working folder, another temporary folder, weights as bytes."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    again = artifact.write(made.plan, made.kernels, made.weights.tobytes(), *made.arguments[3:], "elsewhere/net",
                           passes=("fold",), tools={"burnish": "0"})
    assert again == tmp_path / "elsewhere/net"
    assert content(again) == content(folder)
    assert os.listdir(tmp_path / "elsewhere") == ["net"] and not os.listdir(tmp_path / "tmp")
    for path, data in content(again).items():
        assert str(tmp_path).encode() not in data and b"burnish-cc" not in data and b"/root" not in data, path


def test_the_manifest_tells_all(made: Sample, folder: Path) -> None:
    m = manifest.read(folder)
    assert (m.name, m.identifier, m.passes) == (made.plan.name, NAME, ("fold",))
    assert set(m.tools) == {"burnish", "ziglang"}
    assert [k.symbol for k in m.kernels] == ["k_add", "k_relu", "k_double", "k_negate"]
    assert all(0 < k.code_bytes < len(code.code) for k, code in zip(m.kernels, made.kernels, strict=True))
    assert m.launches[0].nodes == made.plan.launches[0].nodes and m.launches[0].flops == 10**9
    assert [x.args for x in m.setup] == [(("weights", 0, 0), ("prepared", 0, 0)),
                                         (("prepared", 0, 0), ("prepared", made.plan.prepared // 2, 0))]
    assert set(m.files) | {"manifest.json"} == set(content(folder))
    assert json.loads((folder / "manifest.json").read_text())["device"]["name"] == made.device.name
    with np.load(folder / "sample.npz") as npz:
        np.testing.assert_array_equal(npz["input_0"], made.inputs[0])
        np.testing.assert_array_equal(npz["output_1"], made.outputs[1])


def test_the_header_is_c_and_cpp(folder: Path, tmp_path: Path) -> None:
    for compiler, standard in (("cc", "c99"), ("c++", "c++11")):
        user = tmp_path / f"user.{compiler.replace('+', 'p')}".replace(".cc", ".c")
        user.write_text(f'#include "{NAME}.h"\nint threads({NAME}_model *m);\n'
                        f'int threads({NAME}_model *m) {{ return {NAME}_threads(m); }}\n')
        subprocess.run([sys.executable, "-m", "ziglang", compiler, f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror",
                        "-I", folder, "-c", user, "-o", tmp_path / "user.o"], check=True)


def test_a_loaded_artifact_can_be_replaced(made: Sample, folder: Path, tmp_path: Path) -> None:
    place = artifact.write(*made.arguments, tmp_path / "net")
    other = sample(scale=3)
    with loader.load(place, 2) as old:
        assert artifact.write(*other.arguments, place) == place
        with loader.load(place, 2) as new:
            for m, s in ((old, made), (new, other), (old, made)):
                np.testing.assert_array_equal(m(*s.inputs)[0], s.outputs[0])
    assert os.listdir(tmp_path) == ["net"]


def test_what_is_no_artifact_is_not_overwritten(made: Sample, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter").write_text("1")
    (tmp_path / "file").write_text("1")
    (tmp_path / "empty").mkdir()
    for name in ("thesis", "file"):
        with pytest.raises(ArtifactError, match=name):
            artifact.write(*made.arguments, tmp_path / name)
    assert (tmp_path / "thesis/chapter").read_text() == "1"
    artifact.write(*made.arguments, tmp_path / "empty")
    assert (tmp_path / "empty/manifest.json").exists()


def test_a_failed_build_leaves_what_was_there(made: Sample, tmp_path: Path) -> None:
    place = artifact.write(*made.arguments, tmp_path / "net")
    before = content(place)
    with pytest.raises(ToolchainError, match="k_relu"):
        artifact.write(made.plan, made.kernels[::2], *made.arguments[2:], place)
    with pytest.raises(ArtifactError, match="weights"):
        artifact.write(made.plan, made.kernels, made.weights[1:], *made.arguments[3:], place)
    with pytest.raises(ArtifactError, match="sample"):
        artifact.write(made.plan, made.kernels, made.weights, (made.inputs[0][1:],), *made.arguments[4:], place)
    assert content(place) == before and os.listdir(tmp_path) == ["net"]


@pytest.mark.parametrize(("file", "change", "message"), [
    (f"lib{NAME}.so", lambda b: b[:-1] + b"x", "SHA-256"), (f"{NAME}.weights", lambda b: b[:-4], "SHA-256"),
    ("sample.npz", None, "No such file"), ("manifest.json", None, "not an artifact"),
    ("manifest.json", lambda b: b[:100], "not a manifest"),
    ("manifest.json", lambda b: b.replace(b'"version":1', b'"version":9').replace(b'"version": 1', b'"version": 9'), "version"),
    ("manifest.json", lambda b: b.replace(b'"driver.c"', b'"../driver.c"'), "outside")])
def test_damage_is_found(folder: Path, tmp_path: Path, file: str, change, message: str) -> None:
    copy = tmp_path / "copy"
    for name, data in content(folder).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    if change is None:
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(change((copy / file).read_bytes()))
    with pytest.raises(ArtifactError, match=message):
        loader.load(copy)


# ---- Calling -----------------------------------------------------------------------------------------------------------


def test_arguments_by_position_by_name_and_in_any_layout(made: Sample, folder: Path) -> None:
    x, expected = made.inputs[0], made.outputs[0]
    shifted = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    readonly = x.copy()
    readonly.flags.writeable = False
    with loader.load(folder, 1) as model:
        assert [s.name for s in model.inputs] == ["input.1"] and model.outputs[1].dtype == "int64"
        for given in (x, np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2], shifted, readonly):
            np.testing.assert_array_equal(model(given)[0], expected)
        np.testing.assert_array_equal(model(**{"input.1": x})[0], expected)
        first = model(x)[0]
        model(np.zeros_like(x))
        np.testing.assert_array_equal(first, expected)     # outputs are new arrays


def test_wrong_arguments_are_named(made: Sample, folder: Path) -> None:
    x = made.inputs[0]
    model = loader.load(folder, 1)
    for args, named, error, words in (
            ((x.astype(np.float64),), {}, TypeError, "'input.1' must be float32, float64 came"),
            ((x[1:],), {}, ValueError, rf"'input.1' must have shape \({ROWS}, {COLUMNS}\), \({ROWS - 1}, {COLUMNS}\) came"),
            ((), {}, TypeError, "missing input input.1"), ((x, x), {}, TypeError, "takes 1 inputs"),
            ((), {"z": x}, TypeError, "no input 'z'"), ((x,), {"input.1": x}, TypeError, "twice")):
        with pytest.raises(error, match=words):
            model(*args, **named)
    model.close()
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model(x)
    with pytest.raises(ValueError, match="threads"):
        loader.load(folder, 0)


def test_scalars_empty_arrays_and_no_inputs(made: Sample, tmp_path: Path) -> None:
    """A model without inputs, weights or arena: a scalar, and an array without elements from a kernel without tiles."""
    source = "#include <stdint.h>\nvoid k_five(float *y, int32_t b, int32_t e) { while (b < e) y[b++] = 5; }"
    code = toolchain.build(toolchain.triple(made.device), ("-c", "-O2", "-fPIC"), {"k.c": source}, {}, ())
    launches = Launch("k_five", (Place("output", 0),), 1, 0, (), 0, 0), Launch("k_five", (Place("output", 1),), 0, 0, (), 0, 0)
    plan = Plan("c", (), (Signature("five", (), "float32"), Signature("none", (2, 0), "float32")), launches, 0, 0, 0)
    expected = np.float32(5).reshape(()), np.empty((2, 0), np.float32)
    folder = artifact.write(plan, [KernelCode("k_five", code, "c", (), "")], b"", (), expected, made.device, tmp_path / "c")
    for threads in (1, 3):
        with loader.load(folder, threads) as model:
            five, none = model()
            assert five.shape == () and five == 5 and none.shape == (2, 0)
    subprocess.run(["make", "-s", "run"], cwd=folder, check=True, capture_output=True)


def test_names_become_identifiers() -> None:
    assert driver.identifier("mobilenet-v2.1") == "mobilenet_v2_1"
    assert [driver.identifier(n) for n in ("3d", "", "größe", "timer", "int", "c", "a" * 99)] == [
        "model_3d", "model", "gr_e", "model_timer", "model_int", "model_c", "a" * 64]


def test_plans_that_c_cannot_say_are_refused(made: Sample) -> None:
    launch = made.plan.launches[0]
    for change, words in (({"kernel": "a-b"}, "identifier"), ({"tiles": 1 << 31}, "tiles"), ({"scratch": 500}, "scratch"),
                          ({"args": (Place("arena", 4),) * 3}, "multiple"), ({"args": (Place("input", 1),) * 3}, "no input"),
                          ({"args": (Place("input", 0, made.plan.inputs[0].nbytes + 4),) * 3}, "ends before"),
                          ({"args": (Place("arena", 0, -4),) * 3}, "ends before"),
                          ({"kernel": "k_relu"}, "different arguments")):
        plan = dataclasses.replace(made.plan, launches=(dataclasses.replace(launch, **change), *made.plan.launches[1:]))
        with pytest.raises(ToolchainError, match=words):
            driver.source(plan, made.device, 0)
    for place in (Place("input", 0), Place("arena", 0), Place("prepared", made.plan.prepared + 64)):
        setup = dataclasses.replace(made.plan.setup[0], args=(Place("weights", 0), place))
        with pytest.raises(ToolchainError, match=f"no {place.where}"):
            driver.source(dataclasses.replace(made.plan, setup=(setup,)), made.device, 0)


def test_reference_is_what_the_kernels_say(made: Sample) -> None:
    y, n = reference(made.inputs[0], made.weights)
    assert y.shape == (ROWS, COLUMNS) and n[-1] == ROWS - 1
