"""The zoo, compiled: every compile compares the artifact with onnxruntime; here also what runs of it must keep to."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import burnish
import numpy as np
import pytest
from burnish import models
from burnish.compiler.sample import sample_inputs
from burnish.targets.cpu import emulator
from burnish.targets.cpu.loader import Model

LATER = ("efficientnet_lite0", "minilm", "ppocr_rec", "ppocr_det", "u2netp", "waifu2x", "yolov8n", "resnet18", "resnet50",
         "convnext_tiny", "deit_tiny", "deit_small", "silero_vad", "nsnet2")


def compiled(name: str, folder: Path, target: str = "native", workers: int | None = None) -> burnish.Artifact:
    return burnish.compile(models.build(name), folder, target=target, shapes=models.ZOO[name].inputs, workers=workers)


def inputs(model: Model, seed: int = 1) -> list[np.ndarray]:
    return list(sample_inputs(model.inputs, seed).values())


@pytest.fixture(scope="module")
def lenet5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("lenet5", tmp_path_factory.mktemp("zoo") / "lenet5").path


@pytest.fixture(scope="module")
def mobilenetv2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("mobilenetv2", tmp_path_factory.mktemp("zoo") / "mobilenetv2").path


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_two_compiles_give_the_same_bytes(lenet5: Path, tmp_path: Path) -> None:
    assert content(compiled("lenet5", tmp_path / "again", workers=1).path) == content(lenet5)


def test_a_thousand_runs_are_equal_and_leave_memory_alone(lenet5: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    with burnish.load(lenet5) as model:
        given = inputs(model)
        first = model(*given)
        for _ in range(100):
            model(*given)
        before = resident()
        assert all(np.array_equal(model(*given), first) for _ in range(1000))
        assert resident() - before < 1 << 20


def test_threads_do_not_change_a_bit(mobilenetv2: Path) -> None:
    with burnish.load(mobilenetv2, threads=1) as one, burnish.load(mobilenetv2, threads=2) as two:
        for seed in range(10):
            given = inputs(one, seed)
            assert np.array_equal(one(*given), two(*given))


def test_instances_do_not_disturb_each_other(mobilenetv2: Path) -> None:
    with burnish.load(mobilenetv2) as a, burnish.load(mobilenetv2) as b:
        given = [inputs(a, seed) for seed in (1, 2)]
        alone = [a(*given[0]), b(*given[1])]
        wrong: list[int] = []

        def work(n: int) -> None:
            if not all(np.array_equal((a, b)[n](*given[n]), alone[n]) for _ in range(30)):
                wrong.append(n)

        threads = [threading.Thread(target=work, args=(n,)) for n in (0, 1)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not wrong and not np.array_equal(*alone)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", LATER)
def test_zoo(name: str, tmp_path: Path) -> None:
    artifact = compiled(name, tmp_path / name)
    with artifact.load(threads=1) as one, artifact.load(threads=2) as two:
        given = inputs(one)
        results = [r if isinstance(r, tuple) else (r,) for r in (one(*given), two(*given), two(*given))]
        assert all(np.array_equal(x, y) for r in results for x, y in zip(results[0], r, strict=True))


@pytest.mark.skipif(not emulator.available("aarch64"), reason="no emulator of ARM: install qemu-user")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["lenet5", *(pytest.param(n, marks=pytest.mark.slow) for n in ("mobilenetv2", "deit_tiny"))])
def test_arm(name: str, tmp_path: Path) -> None:
    assert compiled(name, tmp_path / name, "linux-arm64", workers=1 if name == "lenet5" else None).error is not None
