"""The CPU runner: real kernels, kernels in C that tell what was called, crashes, hangs, and a device that answers nonsense."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from burnish.schedules.device import Device
from burnish.schedules.jobs import Job
from burnish.schedules.measure import Call, Runner, RunnerDied
from burnish.schedules.templates.gemm import Gemm
from burnish.schedules.worker import build
from burnish.targets import runner as framed
from burnish.targets.cpu import profile, runner, runner_process, toolchain
from burnish.targets.cpu.errors import RunnerError, ToolchainError
from burnish.targets.cpu.fingerprint import fingerprint
from burnish.targets.cpu.runner import LocalRunner
from schedules.test_gemm import close, gemm

# `note` appends its last tile to the list whose length comes first; `work` takes time in proportion to its tiles.
KERNELS = """
#include <stdint.h>
#include <stddef.h>
void abort(void); int sched_getcpu(void); float fmodf(float, float); void *memcpy(void *, const void *, size_t);
void note(int32_t *list, int32_t begin, int32_t end) { list[++list[0]] = end; }
void work(char *unused, int32_t begin, int32_t end) { for (volatile int64_t n = 0; n < end; n++) {} }
void nothing(char *unused, int32_t begin, int32_t end) {}
void count(int64_t *calls, int32_t begin, int32_t end) { ++*calls; }
void where(int32_t *out, int32_t begin, int32_t end) { *out = sched_getcpu(); }
void outside(float *x, float *y, int32_t begin, int32_t end) { memcpy(y, x, 4 * end); y[0] = fmodf(x[0], x[1]); }
void null(char *unused, int32_t begin, int32_t end) { *(volatile int *)(intptr_t)begin = 1; }
void illegal(char *unused, int32_t begin, int32_t end) { __builtin_trap(); }
void gives_up(char *unused, int32_t begin, int32_t end) { abort(); }
void forever(char *unused, int32_t begin, int32_t end) { for (volatile int n = 0;;) n++; }
void deep(volatile char *x, int32_t begin, int32_t end) { volatile char y[4096]; y[0] = *x; deep(y, begin, end); *x = y[1]; }
"""


def compiled(code: str, device: Device, folder: Path) -> bytes:
    """An object file."""
    (folder / "k.c").write_text(code)
    toolchain.cc("-target", toolchain.triple(device), "-c", "-O1", "-fPIC", "-fno-sanitize=undefined", "-w", "-o", "k.o", "k.c",
                 folder=folder)
    return (folder / "k.o").read_bytes()


@pytest.fixture(scope="module")
def device() -> Device:
    return profile.detect()


@pytest.fixture(scope="module")
def kernels(device: Device, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compiled(KERNELS, device, tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def local(device: Device, kernels: bytes) -> Iterator[LocalRunner]:
    with LocalRunner(device, limit=2.0) as r:
        r.load([kernels])
        r.allocate(1 << 16)
        yield r


# ---- Memory and calls


def test_a_real_kernel_computes_and_is_timed(device: Device) -> None:
    task, arrays, want = gemm(1, 197, 166, 64, "bias relu")
    template = Gemm()
    choices = [template.default(task, device), next(iter(template.space(task, device).candidates()))]
    with LocalRunner(device) as r:
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
def test_what_is_written_is_read(local: LocalRunner, data: np.ndarray) -> None:
    data = np.asarray(data)
    local.write(24, data)
    got = local.read(24, data.shape, str(data.dtype))
    np.testing.assert_array_equal(got, data)
    assert not local.read(24 + data.nbytes, (1024,), "uint8").any() and not local.read(0, (24,), "uint8").any()


def test_arrays_larger_than_a_frame(local: LocalRunner) -> None:
    data = np.random.default_rng(0).integers(0, 255, framed.PIECE * 2 + 77, np.uint8)
    local.allocate(data.nbytes + 3)
    local.write(3, data)
    np.testing.assert_array_equal(local.read(3, data.shape, "uint8"), data)
    local.allocate(data.nbytes)
    assert not local.read(0, data.shape, "uint8").any()


def test_every_number_of_arguments(device: Device, tmp_path: Path) -> None:
    """Each kernel writes its number of tiles to the place of each argument, times the argument's number."""
    code = ["#include <stdint.h>"]
    for count in range(1, 33):
        pointers = ", ".join(f"int32_t *p{n}" for n in range(count))
        code.append(f"void k{count}({pointers}, int32_t begin, int32_t end) {{"
                    + " ".join(f"*p{n} = {n + 1} * end + begin;" for n in range(count)) + "}")
    with LocalRunner(device) as r:
        r.load([compiled("\n".join(code), device, tmp_path)])
        for count in range(1, 33):
            r.allocate(4 * 33)
            r.run([Call(f"k{count}", tuple(4 * n for n in range(count)), 7)])
            assert r.read(0, (33,), "int32").tolist() == [7 * n for n in range(1, count + 1)] + [0] * (33 - count)


def test_a_kernel_may_call_the_c_library_and_its_mathematics(local: LocalRunner) -> None:
    local.write(0, np.array([7, 4, 2.5], "f4"))
    local.run([Call("outside", (0, 64), 3)])
    assert local.read(64, (3,), "float32").tolist() == [3, 4, 2.5]


def test_libraries_come_one_after_the_other_or_together(local: LocalRunner, device: Device, tmp_path: Path) -> None:
    def add(name: str, value: int) -> bytes:
        return compiled(f"void {name}(int *x, int begin, int end) {{ *x = {value}; }}", device, tmp_path)

    for n in range(3):
        local.load([add(f"one{n}", n), add(f"two{n}", 10 * n)])
    for n in range(3):
        local.run([Call(f"one{n}", (0,), 1), Call(f"two{n}", (4,), 1), Call("note", (8,), 5)])
        assert local.read(0, (2,), "int32").tolist() == [n, 10 * n]
    assert local.read(8, (4,), "int32").tolist() == [3, 5, 5, 5]
    with pytest.raises(ToolchainError, match="duplicate symbol"):
        local.load([add("same", 1), add("same", 2)])


def test_it_stays_on_its_cpu(device: Device, kernels: bytes) -> None:
    for cpu in sorted(os.sched_getaffinity(0))[-2:]:
        with LocalRunner(device, cpu=cpu) as r:
            r.load([kernels])
            r.allocate(64)
            for _ in range(20):
                r.run([Call("where", (0,), 1)])
                assert r.read(0, (), "int32") == cpu
    with pytest.raises(RunnerError, match="CPU 1023"):
        LocalRunner(device, cpu=1023)


# ---- Refusals


def test_the_runner_says_no_and_goes_on(local: LocalRunner) -> None:
    local.write(0, np.int32(5))
    inside = 1 << 16
    for call, why in [(Call("unknown", (0,), 1), "no loaded library has a kernel unknown"),
                      (Call("memcpy", (0,), 1), "memcpy"),
                      (Call("note", (inside + 1,), 1), "argument 0 of note lies at 65537, the memory has 65536"),
                      (Call("note", (0,) * 33, 1), "33 arguments"), (Call("note", (), 1), "0 arguments"),
                      (Call("note", (0,), -1), "-1 tiles"), (Call("n" * 300, (0,), 1), "300 characters")]:
        for attempt in (lambda c=call: local.run([Call("note", (4,), 1), c]), lambda c=call: local.time([[c]], 1, 1.0)):
            with pytest.raises(RunnerError, match=why):
                attempt()
    for attempt in (lambda: local.write(inside - 3, np.int32(1)), lambda: local.write(2**64 - 1, np.int32(1)),
                    lambda: local.read(inside, (1,), "uint8"), lambda: local.read(2**64 - 1, (4,), "float32")):
        with pytest.raises(RunnerError, match="do not lie in the memory"):
            attempt()
    for steps, rounds, seconds, give_up in [([], 1, 1.0, 0.0), ([[]], 1, 1.0, 0.0), ([[Call("note", (0,), 1)]], 1, -1.0, 0.0),
                                            ([[Call("note", (0,), 1)]], 1, 1.0, 0.5)]:
        with pytest.raises(RunnerError, match="refuses"):
            local.time(steps, rounds, seconds, give_up)
    assert local.read(0, (2,), "int32").tolist() == [5, 0]      # alive, and nothing of all this was run
    with pytest.raises(RunnerError, match="no memory"):
        local.allocate(2**60)
    with pytest.raises(RunnerError, match="do not lie in the memory, which has 0"):
        local.read(0, (1,), "uint8")


def test_a_library_that_misses_something_is_refused(local: LocalRunner, device: Device, tmp_path: Path) -> None:
    code = "int missing_thing(void); void late(int *x, int begin, int end) { *x = missing_thing(); }"
    with pytest.raises(RunnerError, match="missing_thing"):
        local.load([compiled(code, device, tmp_path)])
    local.run([Call("note", (0,), 1)])


# ---- Timing


def test_rounds_of_two_passes_with_alternatives_in_turn(local: LocalRunner) -> None:
    a, b, c, d = (Call("note", (0,), n) for n in (1, 2, 3, 4))
    found = local.time([[a, b], [c], [d]], 2, 5.0)
    first, second = [1, 3, 4] * 2, [2, 3, 4] * 2
    called = local.read(0, (64,), "int32").tolist()
    assert called[:25] == [24, *first, *second, *first, *second]
    assert [[len(s) for s in step] for step in found] == [[2, 2], [4], [4]]
    assert all(0 < s < 0.5 for step in found for alternative in step for s in alternative)


def test_a_slow_alternative_is_given_up_after_three_samples(local: LocalRunner) -> None:
    fast, slow = Call("work", (0,), 20_000), Call("work", (0,), 400_000)
    [[x, y, z]] = local.time([[slow, fast, fast]], 9, 20.0, give_up=3.0)
    assert len(x) == 3 and len(y) >= 9 and len(z) >= 9
    assert 5 < x.min() / min(y.min(), z.min()) < 80
    [[x, y], [z]] = local.time([[fast, slow], [slow]], 5, 20.0, give_up=3.0)
    assert len(x) >= 5 and len(y) == 3 and len(z) == len(x) + 3
    [[x, y]] = local.time([[fast, slow]], 5, 20.0)
    assert len(x) == len(y) == 5


def test_a_short_kernel_alone_is_repeated_within_a_sample(local: LocalRunner) -> None:
    [[found]] = local.time([[Call("count", (0,), 1)]], 4, 5.0)
    calls = local.read(0, (), "int64")
    assert len(found) == 4 and (found < 1e-6).all()
    assert calls > 4 * 50e-6 / found.max() * 0.9
    [[_], [_]] = local.time([[Call("count", (8,), 1)], [Call("nothing", (0,), 1)]], 4, 5.0)
    assert local.read(8, (), "int64") == 8      # among others: two passes a round, one call each


def test_it_ends_when_the_time_is_over(local: LocalRunner) -> None:
    start = time.monotonic()
    [[x, y]] = local.time([[Call("work", (0,), 100_000)] * 2], 1_000_000, 0.3)
    assert 0.3 <= time.monotonic() - start < 2 and 0 < len(y) <= len(x) < 1_000_000
    assert local.time([[Call("nothing", (0,), 1)]], 5, 0.0)[0][0].size == 0


# ---- Death


@pytest.mark.parametrize("symbol, why", [("null", "SIGSEGV"), ("deep", "SIGSEGV"), ("gives_up", "SIGABRT"),
                                         ("illegal", "SIG(ILL|TRAP)"), ("forever", "did not answer within 2")])
@pytest.mark.parametrize("how", ["run", "time"])
def test_it_works_again_after_a_kernel_has_killed_it(local: LocalRunner, kernels: bytes, symbol: str, why: str, how: str) -> None:
    calls = [Call("nothing", (0,), 1), Call(symbol, (0,), 1)]
    with pytest.raises(RunnerDied, match=f"{why}.*in {symbol}"):
        local.run(calls) if how == "run" else local.time([[c] for c in calls], 3, 0.01)
    with pytest.raises(RunnerError, match="no loaded library"):     # it is empty
        local.run(calls)
    local.load([kernels])
    local.allocate(64)
    local.run([Call("note", (0,), 9)])
    assert local.read(0, (2,), "int32").tolist() == [1, 9]


def test_closing_leaves_no_process(device: Device) -> None:
    r = LocalRunner(device)
    pid = r._channel._process.pid
    r.close()
    r.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# ---- Other pipes, and what they may say


@pytest.mark.parametrize("words", [("env",), ("nice", "-n", "1"), ("sh", "-c", 'echo starts >&2; "$0"; true')],
                         ids=lambda w: w[0])
def test_the_same_through_a_wrapper(device: Device, kernels: bytes, words: tuple[str, ...]) -> None:
    with LocalRunner(device, command=words, limit=1.0) as r:
        r.load([kernels])
        r.allocate(1 << 16)
        for symbol in ("null", "forever"):
            with pytest.raises(RunnerDied, match=f"in {symbol}|status 0"):
                r.run([Call(symbol, (0,), 1)])
            r.load([kernels])
            r.allocate(1 << 16)
        r.run([Call("note", (0,), 3)])
        assert r.read(0, (2,), "int32").tolist() == [1, 3]


@pytest.mark.parametrize("words, why", [(("true",), "no runner starts"), (("no-such-program",), "cannot be started"),
                                        (("echo", "a greeting of more than sixteen bytes"), "nonsense"),
                                        (("sh", "-c", "echo not found >&2; exit 127"), "status 127 .not found.")])
def test_what_is_no_runner(device: Device, words: tuple[str, ...], why: str) -> None:
    with pytest.raises(RunnerError, match=why):
        LocalRunner(device, command=words, limit=1.0)


def frame(body: bytes, what: int = 0, size: int | None = None) -> bytes:
    return struct.pack("<IIQ", what, 0, len(body) if size is None else size) + body


def sampled(*values: float, count: int | None = None) -> bytes:
    return struct.pack(f"<Q{len(values)}d", len(values) if count is None else count, *values)


@pytest.mark.parametrize("reply", [
    frame(b"", 2), frame(b"", 0, 1 << 40), frame(b"", 1, 1 << 20), b"\xff" * 16, frame(sampled(1e-3, 1e-3, 1e-3)),
    frame(sampled(float("nan"))), frame(sampled(float("inf"))), frame(sampled(0.0)), frame(sampled(-1e-3)),
    frame(sampled(1e-3, count=2)), frame(sampled(1e-3, count=2**64 - 1)), frame(sampled(1e-3, count=0)), frame(b""),
    frame(b"abc")])
def test_nonsense_from_the_device_is_refused(device: Device, reply: bytes) -> None:
    script = (f"import sys; o = sys.stdout.buffer; o.write({frame(runner_process.GREETING)!r}); o.flush()\n"
              f"sys.stdin.buffer.read(16); o.write({reply!r}); o.flush(); sys.stdin.buffer.read()")
    with (LocalRunner(device, command=(sys.executable, "-c", script), limit=5.0) as r,
          pytest.raises(RunnerDied, match="nonsense")):
        r.time([[Call("k", (0,), 1)]], 2, 1.0)


def test_a_device_that_ends_in_mid_answer(device: Device) -> None:
    script = f"import sys; sys.stdout.buffer.write({frame(runner_process.GREETING) + frame(b'abc', size=8)!r})"
    with (LocalRunner(device, command=(sys.executable, "-c", script), limit=5.0) as r,
          pytest.raises(RunnerDied, match="status 0")):
        r.read(0, (8,), "uint8")


@pytest.mark.parametrize("reads", [True, False])
def test_a_device_that_falls_silent(device: Device, monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    """It neither ends itself in time nor, perhaps, takes what it is sent."""
    monkeypatch.setattr(runner_process, "GRACE", 0.3)
    script = (f"import sys, time; sys.stdout.buffer.write({frame(runner_process.GREETING)!r}); sys.stdout.flush()\n"
              f"{'sys.stdin.buffer.read()' if reads else ''}\ntime.sleep(60)")
    with LocalRunner(device, command=(sys.executable, "-c", script), limit=1.0) as r:
        start = time.monotonic()
        with pytest.raises(RunnerDied, match="did not answer within 1 s"):
            r.write(0, np.zeros(1 << 20, "u1"))
        assert time.monotonic() - start < 4


def test_no_frame_crashes_the_program(device: Device) -> None:
    """Random commands that are cut, lengthened and changed. (Not `allocate`, which takes what it is told to, nor `load`.)"""
    rng = random.Random(3)
    call = framed.packed(Call("unknown", (0, 8), 4))
    valid = {3: struct.pack("<Q", 0), 4: struct.pack("<QQ", 0, 0), 5: struct.pack("<I", 2) + 2 * call,
             6: struct.pack("<IIdd", 1, 2, 0.1, 0.0) + struct.pack("<I", 2) + 2 * call}
    commands = []
    for _ in range(3000):
        what = rng.choice(list(valid))
        body = bytearray(valid[what])
        for _ in range(rng.randrange(4)):
            body[rng.randrange(len(body))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        body = body[:rng.randrange(len(body) + 1)] if rng.random() < 0.3 else body + rng.randbytes(rng.randrange(3))
        commands.append(frame(bytes(body), what if rng.random() < 0.95 else rng.getrandbits(32)))
    done = subprocess.run([runner.program(device)], input=b"".join(commands), capture_output=True, timeout=60, check=True)
    at, answers = 0, 0
    while at < len(done.stdout):
        what, limit, size = struct.unpack_from("<IIQ", done.stdout, at)
        assert what in (0, 1) and limit == 0 and size < 4096
        at, answers = at + 16 + size, answers + 1
    assert at == len(done.stdout) and answers == len(commands) + 1
    too_long = subprocess.run([runner.program(device)], input=frame(b"", 3, 1 << 62), capture_output=True, timeout=60,
                              check=False)
    assert too_long.returncode == 2 and b"a frame of" in too_long.stderr


# ---- The program


def test_the_program_is_built_once_even_where_two_ask(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CACHE", tmp_path / "cache")
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(runner.program, [device, device])
    assert a == b and [p.name for p in (tmp_path / "cache").iterdir()] == [a.name]
    before = a.stat().st_mtime_ns
    assert runner.program(device).stat().st_mtime_ns == before


def test_it_builds_for_arm() -> None:
    assert toolchain.executable(profile.load("cortex-a76"), runner.SOURCES)[18:20] == b"\xb7\x00"      # EM_AARCH64


def test_the_fingerprint_names_this_machine(device: Device) -> None:
    mark = fingerprint(device)
    assert (mark.os, mark.arch, mark.caches[0]) == (os.uname().sysname.lower(), os.uname().machine, device.l1_kib)
    assert mark.distance(fingerprint(profile.load("cortex-a76"))) is None
