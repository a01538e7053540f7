"""The web runner, beyond test_runner_contract.py: what modules may hold, hangs, a browser's clock, the device, a tune."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tune_model
from burnish.compiler import api
from burnish.compiler.errors import FarmError
from burnish.schedules.database import Database
from burnish.schedules.measure import Call, RunnerDied
from burnish.targets import runner as framed
from burnish.targets.cpu import profile as cpu
from burnish.targets.cpu import runner_process
from burnish.targets.cpu.errors import DeviceError, RunnerError, ToolchainError
from burnish.targets.cpu.fingerprint import fingerprint
from burnish.targets.runner import FramedRunner
from burnish.targets.web import node
from burnish.targets.web.runner import ENGINE, WebRunner
from burnish.targets.web.target import WebTarget
from runners import NODE
from web_model import needs_node

pytestmark = needs_node


@pytest.fixture
def web() -> Iterator[FramedRunner]:
    with NODE.ready() as r:
        yield r


# ---- Calls


def test_a_kernel_may_call_what_the_runtime_has(web: FramedRunner) -> None:
    web.write(0, np.array([7, 4, 2.5], "f4"))
    web.write(128, np.array([1, -0.5, 65504], "f2"))
    web.run([Call("outside", (0, 64), 3), Call("widen", (128, 192), 3)])
    assert web.read(64, (3,), "float32").tolist() == [7, 4, 2.5]
    assert web.read(192, (3,), "float32").tolist() == [1, -0.5, 65504]


# ---- Refusals


def test_there_is_no_memory_beyond_32_bits(web: FramedRunner) -> None:
    with pytest.raises(RunnerError, match="no memory"):
        web.allocate(1 << 32)
    with pytest.raises(RunnerError, match="do not lie in the memory, which has 0"):
        web.read(0, (1,), "uint8")


def test_constants_for_which_no_room_is_left_are_refused(web: FramedRunner) -> None:
    def filled(name: str, size: int) -> bytes:
        return NODE.compiled(f"int {name}_table[{size}] = {{ [7] = 1 }};"
                             f"void {name}(int *x, int begin, int end) {{ *x = {name}_table[end]++; }}")

    web.load([filled("small", 999)])
    web.run([Call("small", (0,), 7)])
    with pytest.raises(ToolchainError, match=r"constants take \d+ bytes, and only \d+ are left"):
        web.load([filled("huge", 4 << 20)])
    web.run([Call("small", (0,), 7)])
    assert web.read(0, (), "int32") == 2


def test_what_cannot_be_linked_or_loaded_is_refused(web: FramedRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "int missing_thing(void); void late(int *x, int begin, int end) { *x = missing_thing(); }"
    with pytest.raises(ToolchainError, match="missing_thing"):
        web.load([NODE.compiled(code)])
    with pytest.raises(ToolchainError):
        web.load([b"no object file"])
    monkeypatch.setattr(web, "_link", lambda objects: b"no module")
    with pytest.raises(RunnerError, match="the module cannot be loaded"):
        web.load([])
    web.run([Call("note", (0,), 1)])


# ---- Timing


def test_rounds_of_two_passes_with_alternatives_in_turn(web: FramedRunner) -> None:
    a, b, c, d = (Call("note", (0,), n) for n in (1, 2, 3, 4))
    found = web.time([[a, b], [c], [d]], 2, 5.0)
    called = web.read(0, (1 << 10,), "int32").tolist()
    first, second = [1, 3, 4], [2, 3, 4]
    assert called[1:4] == first and set(called[4:called[0] + 1]) == {1, 2, 3, 4}
    in_order = [x for n, x in enumerate(called[1:called[0] + 1]) if n == 0 or x != called[n]]    # a sample may repeat its call
    assert in_order == first * 2 + second * 2 + first * 2 + second * 2
    assert [[len(s) for s in step] for step in found] == [[2, 2], [4], [4]]
    assert all(0 < s < 0.5 for step in found for alternative in step for s in alternative)


def test_a_short_kernel_alone_is_repeated_within_a_sample(web: FramedRunner) -> None:
    [[found]] = web.time([[Call("count", (0,), 1)]], 4, 5.0)
    calls = web.read(0, (), "int64")
    assert len(found) == 4 and found.min() < 1e-6       # the first ones hold V8's own first calls
    assert calls > 50e-6 / found.min() * 0.5
    [[_], [_]] = web.time([[Call("count", (8,), 1)], [Call("work", (0,), 100_000)]], 4, 5.0)
    assert web.read(8, (), "int64") < 4 * 40        # among others: a few calls, and few even where the clock is coarse


def test_code_is_optimized_at_once(web: FramedRunner) -> None:
    """The very first samples are as fast as any later."""
    call = Call("work", (0,), 300_000)
    [[first], _] = web.time([[call], [Call("nothing", (0,), 1)]], 3, 20.0)
    [[later], _] = web.time([[call], [Call("nothing", (0,), 1)]], 40, 20.0)
    assert first.min() < 1.5 * later.min()


class Recorder:
    """A channel that keeps what it is told, and answers nothing."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []

    def ask(self, what: int, parts: Sequence[framed.Part], limit: float, most: int = 0) -> bytearray:
        self.told.append((what, b"".join(parts).hex()))
        return bytearray(most if what == framed.READ else 0)

    def end(self) -> None: ...


def in_a_browser(tmp_path: Path, steps: Sequence[Sequence[Call]], rounds: int, seconds: float,
                 times: int) -> tuple[list[list[np.ndarray]], int]:
    """What the engine measures the last of so many times with a browser's clock of 100 us and no say in how V8 compiles; and the
    number at the memory's start then."""
    recorder = Recorder()
    recording = WebRunner(lambda: recorder)
    recording.load([NODE.kernels])
    recording.allocate(1 << 16)
    for _ in range(times):
        with pytest.raises(RunnerDied, match="nonsense"):       # as the recorder does not answer
            recording.time(steps, rounds, seconds)
    recording.read(0, (), "int64")
    (tmp_path / "told.json").write_text(json.dumps(recorder.told))
    (tmp_path / "try.mjs").write_text(f"""
        import {{ readFileSync }} from "node:fs";
        import {{ Engine }} from {json.dumps((ENGINE / "engine.js").as_uri())};
        const engine = new Engine({{ warm: 0.03, now: () => Math.floor(performance.now() * 10) / 10000 }});
        const told = JSON.parse(readFileSync("told.json"));
        const hex = (bytes) => Buffer.from(bytes).toString("hex");
        console.log(JSON.stringify(told.map(([what, body]) => hex(engine.obey(what, Buffer.from(body, "hex"))))));
        """)
    path, _ = node.program()
    done = subprocess.run([path, "try.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    *_, timed, read = map(bytes.fromhex, json.loads(done.stdout))
    return framed.samples(bytearray(timed), [len(s) for s in steps]), int.from_bytes(read, "little")


def test_with_a_coarse_clock_a_sample_lasts_some_of_its_steps(tmp_path: Path) -> None:
    count, work = Call("count", (0,), 1), Call("work", (8,), 1_000_000)
    [[alone]], calls = in_a_browser(tmp_path, [[count]], 20, 20.0, 1)
    assert len(alone) == 20 and (alone < 5e-6).all() and calls * np.median(alone) > 20 * 20 * 100e-6 / 4
    [[short], [_]], calls = in_a_browser(tmp_path, [[count], [work]], 20, 20.0, 1)
    assert len(short) == 20 and (short < 5e-6).all() and calls * np.median(short) > 20 * 4 * 100e-6 / 4


def test_a_kernel_is_called_for_a_while_before_it_is_first_timed(tmp_path: Path) -> None:
    """V8 would time its baseline compiler's code."""
    count = [[Call("count", (0,), 1)]]
    [[none]], calls = in_a_browser(tmp_path, count, 0, 0.0, 1)
    assert none.size == 0 and calls > 0.03 / 5e-6
    _, twice = in_a_browser(tmp_path, count, 0, 0.0, 5)
    assert twice < 3 * calls, "once"


# ---- Death


def test_it_works_again_after_a_kernel_that_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_process, "GRACE", 0.3)
    with NODE.open(3.0) as r:
        for _ in range(2):
            r.load([NODE.kernels])
            r.allocate(64)
            r.run([Call("note", (0,), 9)])
            with pytest.raises(RunnerDied, match="did not answer within 3 s") as death:
                r.run([Call("forever", (0,), 1)])
            assert death.value.hung


def test_nothing_but_frames_is_taken() -> None:
    path, version = node.program()
    done = subprocess.run([path, *node.flags(version), ENGINE / "node.mjs"], input=runner_process.HEAD.pack(3, 0, 1 << 62),
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == 2 and b"a frame of" in done.stderr


# ---- The device


def test_the_fingerprint_is_of_this_machine_and_the_build() -> None:
    here, native = WebTarget().fingerprint(), fingerprint(cpu.detect())
    assert (here.arch, here.lanes, here.isa) == ("wasm32", 4, ("relaxed-simd", "simd128"))
    assert (here.core, here.caches, here.os) == (f"v8-{native.core}", native.caches, native.os)
    assert here.distance(native) is None
    phone = type(here)("wasm32", "v8-arm-Pixel-9", here.isa, 4, (32, 512, 0), "android")
    assert here.distance(phone) == 2 and WebTarget().rig().fingerprint == here


def test_without_node_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"takes Node 20.16 or newer on the PATH: install it, or use --browser"):
        WebTarget().rig()
    with pytest.raises(DeviceError, match=r"Node 20.16"):
        api.tune(tune_model.save(tmp_path / "small.onnx"), target="wasm", records="none")


def test_a_farm_measures_for_cpus(tmp_path: Path) -> None:
    with pytest.raises(FarmError, match="tune for wasm without --farm"):
        api.tune(tune_model.save(tmp_path / "small.onnx"), target="wasm", records="none", farm="tcp://127.0.0.1:1")


# ---- A tune


def test_compile_uses_what_a_tune_in_node_found(tmp_path: Path) -> None:
    model = tune_model.save(tmp_path / "small.onnx")
    records = str(tmp_path / "records.sqlite")
    found = api.tune(model, target="wasm", budget=30.0, records=records, workers=len(os.sched_getaffinity(0)))
    assert found.trials >= 4 and found.notes == tuple(filter(None, [WebTarget().rig().note])) and 0 < found.latency <= found.first
    with Database.open(records) as database:
        kept = list(database.records())
    assert len(kept) == found.trials and all(r.fingerprint == WebTarget().fingerprint() and r.verified for r in kept)
    assert all(r.tools["node"].startswith(f"{node.program()[1][0]}.") for r in kept)
    api.compile(model, tmp_path / "out", target="wasm", records=records)
    made = json.loads((tmp_path / "out/manifest.json").read_text())["builds"]["relaxed-simd"]["kernels"]
    tuned = {r.task.family for r in kept if r.situ}
    assert tuned and sum(k["origin"] == "tuned on this device" for k in made) >= len(tuned)
