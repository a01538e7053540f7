"""The folder of a web package: its files and what they say of each other, and how it is written."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from burnish.targets.cpu.errors import ArtifactError, DeviceError, ToolchainError
from burnish.targets.plan import Launch, Place, Plan, Signature
from burnish.targets.web import driver, manifest, module, profile
from web_model import Made, content


def test_same_input_same_bytes(lenet: Made, lenet_folder: Path, tmp_path: Path) -> None:
    again = lenet.write(tmp_path / "elsewhere", weights=lenet.builds["simd"].weights.tobytes(), passes=("fold",),
                        tools={"burnish": "0"}, info={"seed": 0})
    assert content(again) == content(lenet_folder)
    for path, data in content(again).items():
        assert str(tmp_path).encode() not in data and b"burnish-wasm" not in data, path


def test_the_manifest_and_npm_know_every_file(lenet: Made, lenet_folder: Path) -> None:
    m, files = manifest.read(lenet_folder), content(lenet_folder)
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
