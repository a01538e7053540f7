"""The CPU runner, beyond test_runner_contract.py: its process, other pipes, and a device that answers nonsense."""

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
from burnish.schedules.measure import Call, RunnerDied
from burnish.targets import runner as framed
from burnish.targets.cpu import profile, runner, runner_process, toolchain
from burnish.targets.cpu.errors import RunnerError
from burnish.targets.cpu.fingerprint import fingerprint
from burnish.targets.cpu.runner import LocalRunner
from burnish.targets.runner import FramedRunner
from runners import NATIVE


@pytest.fixture(scope="module")
def device() -> Device:
    return profile.detect()


@pytest.fixture
def local() -> Iterator[FramedRunner]:
    with NATIVE.ready() as r:
        yield r


# ---- Calls


def test_a_kernel_may_call_the_c_library_and_its_mathematics(local: FramedRunner) -> None:
    local.write(0, np.array([7, 4, 2.5], "f4"))
    local.run([Call("outside", (0, 64), 3)])
    assert local.read(64, (3,), "float32").tolist() == [3, 4, 2.5]


def test_the_c_library_has_no_kernels(local: FramedRunner) -> None:
    note, memcpy = Call("note", (0,), 1), Call("memcpy", (0,), 1)
    for attempt in (lambda: local.run([note, memcpy]), lambda: local.time([[memcpy]], 1, 1.0)):
        with pytest.raises(RunnerError, match="memcpy"):
            attempt()
    assert not local.read(0, (2,), "int32").any()


def test_a_library_that_misses_something_is_refused(local: FramedRunner) -> None:
    code = "int missing_thing(void); void late(int *x, int begin, int end) { *x = missing_thing(); }"
    with pytest.raises(RunnerError, match="missing_thing"):
        local.load([NATIVE.compiled(code)])
    local.run([Call("note", (0,), 1)])


# ---- Timing


def test_rounds_of_two_passes_with_alternatives_in_turn(local: FramedRunner) -> None:
    a, b, c, d = (Call("note", (0,), n) for n in (1, 2, 3, 4))
    found = local.time([[a, b], [c], [d]], 2, 5.0)
    first, second = [1, 3, 4] * 2, [2, 3, 4] * 2
    called = local.read(0, (64,), "int32").tolist()
    assert called[:25] == [24, *first, *second, *first, *second]
    assert [[len(s) for s in step] for step in found] == [[2, 2], [4], [4]]
    assert all(0 < s < 0.5 for step in found for alternative in step for s in alternative)


def test_a_short_kernel_alone_is_repeated_within_a_sample(local: FramedRunner) -> None:
    [[found]] = local.time([[Call("count", (0,), 1)]], 4, 5.0)
    calls = local.read(0, (), "int64")
    assert len(found) == 4 and (found < 1e-6).all()
    assert calls > 4 * 50e-6 / found.max() * 0.9
    [[_], [_]] = local.time([[Call("count", (8,), 1)], [Call("nothing", (0,), 1)]], 4, 5.0)
    assert local.read(8, (), "int64") == 8      # among others: two passes a round, one call each


# ---- Its process


def test_it_stays_on_its_cpu(device: Device) -> None:
    for cpu in sorted(os.sched_getaffinity(0))[-2:]:
        with LocalRunner(device, cpu=cpu) as r:
            r.load([NATIVE.kernels])
            r.allocate(64)
            for _ in range(20):
                r.run([Call("where", (0,), 1)])
                assert r.read(0, (), "int32") == cpu
    with pytest.raises(RunnerError, match="CPU 1023"):
        LocalRunner(device, cpu=1023)


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
def test_the_same_through_a_wrapper(device: Device, words: tuple[str, ...]) -> None:
    with LocalRunner(device, command=words, limit=1.0) as r:
        r.load([NATIVE.kernels])
        r.allocate(1 << 16)
        for symbol in ("null", "forever"):
            with pytest.raises(RunnerDied, match=f"in {symbol}|status 0"):
                r.run([Call(symbol, (0,), 1)])
            r.load([NATIVE.kernels])
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
