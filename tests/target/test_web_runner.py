"""The web runner: kernels in Node's V8, real ones and some in C that tell what was called, traps, hangs, a browser's clock."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tune_model
from burnish.compiler import api
from burnish.compiler.errors import FarmError
from burnish.schedules.database import Database
from burnish.schedules.device import Device
from burnish.schedules.jobs import Job
from burnish.schedules.measure import Call, Runner, RunnerDied
from burnish.schedules.templates.gemm import Gemm
from burnish.schedules.worker import build
from burnish.targets import runner as framed
from burnish.targets.cpu import profile as cpu
from burnish.targets.cpu import runner_process, toolchain
from burnish.targets.cpu.errors import DeviceError, RunnerError, ToolchainError
from burnish.targets.cpu.fingerprint import fingerprint
from burnish.targets.web import node, profile
from burnish.targets.web.runner import ENGINE, WebRunner, rig
from burnish.targets.web.target import WebTarget
from schedules.test_gemm import close, gemm

pytestmark = pytest.mark.skipif(node.program() is None, reason="there is no Node here")

RELAXED, SIMD = profile.devices().values()

# `note` appends its last tile to the list whose length comes first; `work` takes time in proportion to its tiles.
KERNELS = """
#include <stdint.h>
#include <stddef.h>
void *memcpy(void *, const void *, size_t); float __extendhfsf2(uint16_t);
void note(int32_t *list, int32_t begin, int32_t end) { list[++list[0]] = end; }
void work(char *unused, int32_t begin, int32_t end) { for (volatile int64_t n = 0; n < end; n++) {} }
void nothing(char *unused, int32_t begin, int32_t end) {}
void count(int64_t *calls, int32_t begin, int32_t end) { ++*calls; }
void outside(float *x, float *y, int32_t begin, int32_t end) { memcpy(y, x, 4 * end); }
void widen(uint16_t *x, float *y, int32_t begin, int32_t end) { for (; begin < end; begin++) y[begin] = __extendhfsf2(x[begin]); }
void wild(int *x, int32_t begin, int32_t end) { *(volatile int *)0xfffffff0u = begin; }
void illegal(char *unused, int32_t begin, int32_t end) { __builtin_trap(); }
void divides(int32_t *x, int32_t begin, int32_t end) { *x = end / begin; }
void forever(char *unused, int32_t begin, int32_t end) { for (volatile int n = 0;;) n++; }
void deep(volatile char *x, int32_t begin, int32_t end) { volatile char y[4096]; y[0] = *x; deep(y, begin, end); *x = y[1]; }
"""


def compiled(code: str, folder: Path) -> bytes:
    """An object file."""
    (folder / "k.c").write_text(code)
    toolchain.cc("-target", "wasm32-freestanding", "-c", "-O1", "-fno-sanitize=undefined", "-fno-builtin", "-w", "-o", "k.o",
                 "k.c", folder=folder)
    return (folder / "k.o").read_bytes()


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compiled(KERNELS, tmp_path_factory.mktemp("kernels"))


def opened(limit: float = 20.0) -> WebRunner:
    found = rig(RELAXED).open(None, limit)
    assert isinstance(found, WebRunner)
    return found


@pytest.fixture
def web(kernels: bytes) -> Iterator[WebRunner]:
    with opened() as r:
        r.load([kernels])
        r.allocate(1 << 16)
        yield r


# ---- Memory and calls


@pytest.mark.parametrize("device", [RELAXED, SIMD], ids=lambda d: d.name)
def test_a_real_kernel_computes_and_is_timed(device: Device) -> None:
    task, arrays, want = gemm(1, 197, 166, 64, "bias relu")
    template = Gemm()
    choices = [template.default(task, device), next(iter(template.space(task, device).candidates()))]
    with opened() as r:
        contract: Runner = r
        contract.allocate(8 << 20)
        for n, knobs in enumerate(choices):
            built = build(Job(f"k{n}", template.name, task, knobs, device))
            assert not built.error
            contract.load([built.code])
            packs = template.pack(task, knobs, device)
            for number, a in arrays.items():
                contract.write(number << 20, packs[number](a) if number in packs else a)
            call = Call(f"k{n}", tuple(b << 20 for b in range(len(task.buffers))), template.tiles(task, knobs, device))
            contract.run([call])
            close(contract.read(3 << 20, want.shape, "float32"), want)
            [[alone]] = contract.time([[call]], 5, 5.0)
            [[among], _] = contract.time([[call], [call]], 5, 5.0)
            flops = 2 * 197 * 166 * 64
            assert len(alone) == len(among) == 5
            assert all(flops / 1e12 < s < 0.1 for s in (*alone, *among))     # no core does 1 TFLOP/s


@pytest.mark.parametrize("data", [np.arange(24.0).reshape(2, 3, 4), np.array([True, False]), np.float16(3),
                                  np.zeros((0, 4), "f4"), np.arange(60, dtype="i8").reshape(6, 10)[::2, ::-3]], ids=str)
def test_what_is_written_is_read(web: WebRunner, data: np.ndarray) -> None:
    data = np.asarray(data)
    web.write(24, data)
    np.testing.assert_array_equal(web.read(24, data.shape, str(data.dtype)), data)
    assert not web.read(24 + data.nbytes, (1024,), "uint8").any() and not web.read(0, (24,), "uint8").any()


def test_arrays_larger_than_a_frame_and_memory_that_grows_and_shrinks(web: WebRunner) -> None:
    data = np.random.default_rng(0).integers(0, 255, framed.PIECE * 2 + 77, np.uint8)
    web.allocate(data.nbytes + 3)
    web.write(3, data)
    np.testing.assert_array_equal(web.read(3, data.shape, "uint8"), data)
    web.allocate(64)
    with pytest.raises(RunnerError, match="do not lie in the memory, which has 64"):
        web.read(0, (65,), "uint8")
    web.allocate(data.nbytes)
    assert not web.read(0, data.shape, "uint8").any()
    web.run([Call("note", (0,), 9)])        # what was loaded before is there
    assert web.read(0, (2,), "int32").tolist() == [1, 9]


def test_every_number_of_arguments(tmp_path: Path) -> None:
    """Each kernel writes its number of tiles to the place of each argument, times the argument's number."""
    code = ["#include <stdint.h>"]
    for count in range(1, 33):
        pointers = ", ".join(f"int32_t *p{n}" for n in range(count))
        code.append(f"void k{count}({pointers}, int32_t begin, int32_t end) {{"
                    + " ".join(f"*p{n} = {n + 1} * end + begin;" for n in range(count)) + "}")
    with opened() as r:
        r.load([compiled("\n".join(code), tmp_path)])
        for count in range(1, 33):
            r.allocate(4 * 33)
            r.run([Call(f"k{count}", tuple(4 * n for n in range(count)), 7)])
            assert r.read(0, (33,), "int32").tolist() == [7 * n for n in range(1, count + 1)] + [0] * (33 - count)


def test_a_kernel_may_call_what_the_runtime_has(web: WebRunner) -> None:
    web.write(0, np.array([7, 4, 2.5], "f4"))
    web.write(128, np.array([1, -0.5, 65504], "f2"))
    web.run([Call("outside", (0, 64), 3), Call("widen", (128, 192), 3)])
    assert web.read(64, (3,), "float32").tolist() == [7, 4, 2.5]
    assert web.read(192, (3,), "float32").tolist() == [1, -0.5, 65504]


def test_modules_come_one_after_the_other_and_each_has_its_own_constants(web: WebRunner, tmp_path: Path) -> None:
    def add(name: str, value: int) -> bytes:
        """A kernel with a table in memory, which it changes."""
        return compiled(f"static volatile int table[999] = {{ [7] = {value} }};"
                        f"void {name}(int *x, int begin, int end) {{ *x = table[7]++; }}", tmp_path)

    for n in range(3):
        web.load([add(f"one{n}", 100 * n), add(f"two{n}", 100 * n + 50)])
    for again in range(2):
        for n in range(3):
            web.run([Call(f"one{n}", (0,), 1), Call(f"two{n}", (4,), 1)])
            assert web.read(0, (2,), "int32").tolist() == [100 * n + again, 100 * n + 50 + again]
    with pytest.raises(ToolchainError, match="duplicate symbol"):
        web.load([add("same", 1), add("same", 2)])
    with pytest.raises(ToolchainError, match=r"constants take \d+ bytes, and only \d+ are left"):
        web.load([compiled("int huge[4 << 20] = {1}; void big(int *x, int b, int e) { *x = huge[e]; }", tmp_path)])
    web.run([Call("one0", (0,), 1)])
    assert web.read(0, (), "int32") == 2


# ---- Refusals


def test_the_runner_says_no_and_goes_on(web: WebRunner) -> None:
    web.write(0, np.int32(5))
    inside = 1 << 16
    for call, why in [(Call("unknown", (0,), 1), "no loaded module has a kernel unknown"),
                      (Call("note", (inside + 1,), 1), "argument 0 of note lies at 65537, the memory has 65536"),
                      (Call("note", (0,) * 33, 1), "33 arguments"), (Call("note", (), 1), "0 arguments"),
                      (Call("note", (0,), -1), "-1 tiles"), (Call("n" * 300, (0,), 1), "300 characters")]:
        for attempt in (lambda c=call: web.run([Call("note", (4,), 1), c]), lambda c=call: web.time([[c]], 1, 1.0)):
            with pytest.raises(RunnerError, match=why):
                attempt()
    for attempt in (lambda: web.write(inside - 3, np.int32(1)), lambda: web.write(2**64 - 1, np.int32(1)),
                    lambda: web.read(inside, (1,), "uint8"), lambda: web.read(2**64 - 1, (4,), "float32")):
        with pytest.raises(RunnerError, match="do not lie in the memory"):
            attempt()
    for steps, rounds, seconds, give_up in [([], 1, 1.0, 0.0), ([[]], 1, 1.0, 0.0), ([[Call("note", (0,), 1)]], 1, -1.0, 0.0),
                                            ([[Call("note", (0,), 1)]], 1, 1.0, 0.5)]:
        with pytest.raises(RunnerError, match="refuses"):
            web.time(steps, rounds, seconds, give_up)
    assert web.read(0, (2,), "int32").tolist() == [5, 0]      # alive, and nothing of all this was run
    for size in (1 << 32, 2**60):
        with pytest.raises(RunnerError, match="no memory"):
            web.allocate(size)
    with pytest.raises(RunnerError, match="do not lie in the memory, which has 0"):
        web.read(0, (1,), "uint8")


def test_what_cannot_be_linked_or_loaded_is_refused(web: WebRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "int missing_thing(void); void late(int *x, int begin, int end) { *x = missing_thing(); }"
    with pytest.raises(ToolchainError, match="missing_thing"):
        web.load([compiled(code, tmp_path)])
    with pytest.raises(ToolchainError):
        web.load([b"no object file"])
    monkeypatch.setattr(web, "_link", lambda objects: b"no module")
    with pytest.raises(RunnerError, match="the module cannot be loaded"):
        web.load([])
    web.run([Call("note", (0,), 1)])


# ---- Timing


def test_rounds_of_two_passes_with_alternatives_in_turn(web: WebRunner) -> None:
    """`work` beside them makes sure that no sample is shorter than the clock's steps."""
    a, b, c, d = (Call("note", (0,), n) for n in (1, 2, 3, 4))
    found = web.time([[a, b], [c], [d]], 2, 5.0)
    called = web.read(0, (1 << 10,), "int32").tolist()
    first, second = [1, 3, 4], [2, 3, 4]
    assert called[1:4] == first and set(called[4:called[0] + 1]) == {1, 2, 3, 4}
    in_order = [x for n, x in enumerate(called[1:called[0] + 1]) if n == 0 or x != called[n]]    # a sample may repeat its call
    assert in_order == first * 2 + second * 2 + first * 2 + second * 2
    assert [[len(s) for s in step] for step in found] == [[2, 2], [4], [4]]
    assert all(0 < s < 0.5 for step in found for alternative in step for s in alternative)


def test_a_slow_alternative_is_given_up_after_three_samples(web: WebRunner) -> None:
    fast, slow = Call("work", (0,), 20_000), Call("work", (0,), 400_000)
    [[x, y, z]] = web.time([[slow, fast, fast]], 9, 20.0, give_up=3.0)
    assert len(x) == 3 and len(y) >= 9 and len(z) >= 9
    assert 5 < x.min() / min(y.min(), z.min()) < 80
    [[x, y], [z]] = web.time([[fast, slow], [slow]], 5, 20.0, give_up=3.0)
    assert len(x) >= 5 and len(y) == 3 and len(z) == len(x) + 3
    [[x, y]] = web.time([[fast, slow]], 5, 20.0)
    assert len(x) == len(y) == 5


def test_a_short_kernel_alone_is_repeated_within_a_sample(web: WebRunner) -> None:
    [[found]] = web.time([[Call("count", (0,), 1)]], 4, 5.0)
    calls = web.read(0, (), "int64")
    assert len(found) == 4 and found.min() < 1e-6       # the first ones hold V8's own first calls
    assert calls > 50e-6 / found.min() * 0.5
    [[_], [_]] = web.time([[Call("count", (8,), 1)], [Call("work", (0,), 100_000)]], 4, 5.0)
    assert web.read(8, (), "int64") < 4 * 40        # among others: a few calls, and few even where the clock is coarse


def test_it_ends_when_the_time_is_over(web: WebRunner) -> None:
    start = time.monotonic()
    [[x, y]] = web.time([[Call("work", (0,), 100_000)] * 2], 1_000_000, 0.3)
    assert 0.3 <= time.monotonic() - start < 2 and 0 < len(y) <= len(x) < 1_000_000
    assert web.time([[Call("nothing", (0,), 1)]], 5, 0.0)[0][0].size == 0


def test_code_is_optimized_at_once(web: WebRunner) -> None:
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


def in_a_browser(tmp_path: Path, kernels: bytes, steps: Sequence[Sequence[Call]], rounds: int, seconds: float,
                 times: int) -> tuple[list[list[np.ndarray]], int]:
    """What the engine measures the last of so many times with a browser's clock of 100 us and no say in how V8 compiles; and the
    number at the memory's start then."""
    recorder = Recorder()
    recording = WebRunner(lambda: recorder)
    recording.load([kernels])
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


def test_with_a_coarse_clock_a_sample_lasts_some_of_its_steps(kernels: bytes, tmp_path: Path) -> None:
    count, work = Call("count", (0,), 1), Call("work", (8,), 1_000_000)
    [[alone]], calls = in_a_browser(tmp_path, kernels, [[count]], 20, 20.0, 1)
    assert len(alone) == 20 and (alone < 5e-6).all() and calls * np.median(alone) > 20 * 20 * 100e-6 / 4
    [[short], [_]], calls = in_a_browser(tmp_path, kernels, [[count], [work]], 20, 20.0, 1)
    assert len(short) == 20 and (short < 5e-6).all() and calls * np.median(short) > 20 * 4 * 100e-6 / 4


def test_a_kernel_is_called_for_a_while_before_it_is_first_timed(kernels: bytes, tmp_path: Path) -> None:
    """V8 would time its baseline compiler's code."""
    count = [[Call("count", (0,), 1)]]
    [[none]], calls = in_a_browser(tmp_path, kernels, count, 0, 0.0, 1)
    assert none.size == 0 and calls > 0.03 / 5e-6
    _, twice = in_a_browser(tmp_path, kernels, count, 0, 0.0, 5)
    assert twice < 3 * calls, "once"


# ---- Death


@pytest.mark.parametrize("symbol, why", [("wild", "memory access out of bounds"), ("deep", "memory access out of bounds"),
                                         ("illegal", "unreachable"), ("divides", "divide by zero")])
@pytest.mark.parametrize("how", ["run", "time"])
def test_it_works_again_after_a_kernel_has_trapped(web: WebRunner, kernels: bytes, symbol: str, why: str, how: str) -> None:
    calls = [Call("nothing", (0,), 1), Call(symbol, (0,), 1)]
    with pytest.raises(RunnerDied, match=f"{why} in {symbol}"):
        web.run(calls) if how == "run" else web.time([[c] for c in calls], 3, 0.01)
    with pytest.raises(RunnerError, match="no loaded module"):     # it is empty
        web.run(calls)
    web.load([kernels])
    web.allocate(64)
    web.run([Call("note", (0,), 9)])
    assert web.read(0, (2,), "int32").tolist() == [1, 9]


def test_it_works_again_after_a_kernel_that_hung(kernels: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_process, "GRACE", 0.3)
    with opened(limit=3.0) as r:
        for _ in range(2):
            r.load([kernels])
            r.allocate(64)
            r.run([Call("note", (0,), 9)])
            with pytest.raises(RunnerDied, match="did not answer within 3 s") as death:
                r.run([Call("forever", (0,), 1)])
            assert death.value.hung


def test_nothing_but_frames_is_taken(kernels: bytes) -> None:
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
