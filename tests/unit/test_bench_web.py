"""The browser benchmark, run on a small model in a real Chromium."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from burnish.targets.web import chromium, manifest
from burnish.tools import bench_web, npm
from burnish.tools.timing import rotate
from typer import Typer
from typer.testing import CliRunner, Result

MODEL = "lenet5"
needs_chromium = pytest.mark.skipif(chromium.program() is None, reason="there is no Chromium on the PATH")


def bench(*words: str) -> Result:
    """The tool, with CPUs left as they are: the tests that come after want theirs."""
    app = Typer()
    app.command()(bench_web.main)
    return CliRunner().invoke(app, ["--quick", "--models", MODEL, "--reuse", *words])


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our package of the model."""
    folder = tmp_path_factory.mktemp("packages")
    bench_web.compiled(MODEL, folder, reuse=False, budget=None, records="none")
    return folder


@pytest.fixture(autouse=True)
def unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_web, "pin", lambda threads: None)


@needs_chromium
@pytest.mark.parametrize("threads, files", [(1, {"index.js"}), (2, {"index.js", "threads.js", "worker.js"})])
def test_our_package_is_timed_and_weighed(packages, tmp_path, threads, files):
    pytest.importorskip("playwright")
    page = tmp_path / "page.md"
    done = bench("--runtimes", "burnish", "--artifacts", str(packages), "--threads", str(threads), "--memory", "20", "--json",
                 "-o", str(page))
    assert done.exit_code == 0, done.output
    [row] = json.loads(done.stdout)["rows"]
    assert row["missing"] == {} and 0 < row["runners"]["burnish"]["p10_ms"] < 100
    about, start = manifest.read(packages / MODEL), row["starts"]["burnish"]
    build = about.builds["relaxed-simd" if threads == 1 else "relaxed-simd-threads"]
    assert start["raw"] == sum((packages / MODEL / name).stat().st_size for name in {build.file, *files})
    assert 0 < start["brotli"] < start["raw"] and 0 < start["seconds"] < start["navigated"] and row["weights_s"] > 0
    assert row["growth"]["runs"] == 20 and row["growth"]["page"][0] > build.pages << 16
    assert "| lenet5 | burnish |" in page.read_text() and "Not measured" not in page.read_text()


@needs_chromium
def test_a_package_that_fails_is_named_with_its_own_message(packages, tmp_path):
    pytest.importorskip("playwright")
    shutil.copytree(packages / MODEL, tmp_path / MODEL)
    [weights] = (tmp_path / MODEL).glob("*.weights")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    done = bench("--runtimes", "burnish", "--artifacts", str(tmp_path), "--json")
    [row] = json.loads(done.stdout)["rows"]
    assert "is damaged" in row["missing"]["burnish"] and row["runners"] == {} and done.exit_code == 1


def test_without_a_browser_one_line_says_so(packages, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    done = bench("--runtimes", "burnish", "--artifacts", str(packages))
    assert done.exit_code == 1 and "bench_web: there is no browser on the PATH" in done.stderr


def test_without_npm_one_line_says_so(packages, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    done = bench("--runtimes", "ort")
    assert done.exit_code == 1 and "bench_web: there is no npm on the PATH" in done.stderr


def test_a_package_that_npm_does_not_know_is_an_error():
    if shutil.which("npm") is None:
        pytest.skip("there is no npm")
    with pytest.raises(npm.NpmError, match="npm"):
        npm.install({"onnxruntime-web": "0.0.0-none"})


def test_unknown_names_are_listed():
    done = bench("--runtimes", "tfjs")
    assert done.exit_code == 2 and "tfjs" in done.output and "litert" in done.output


def test_turns_rotate_and_ratios_are_those_within_a_round():
    order: list[str] = []

    def turn(name: str, seconds: float):
        def take() -> np.ndarray:
            order.append(name)
            return np.full(2, seconds * (1 + (len(order) - 1) // 2))       # the machine is slower from round to round
        return take
    found = rotate({"a": turn("a", 1.0), "b": turn("b", 2.0)}, 4)
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert len(found["a"].samples) == 8 and found["a"].faster_than(found["b"]) == 2
