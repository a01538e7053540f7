"""What every runner owes the tuner (schedules/measure.py): to compute, to time, to refuse, to rise again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from burnish.schedules.device import Device
from burnish.schedules.jobs import Job
from burnish.schedules.measure import Call, Runner, RunnerDied
from burnish.schedules.templates.gemm import Gemm
from burnish.schedules.worker import build
from burnish.targets import runner as framed
from burnish.targets.cpu import profile
from burnish.targets.cpu.errors import RunnerError, ToolchainError
from burnish.targets.web import profile as web
from runners import NATIVE, NODE, Kind
from schedules.test_gemm import close, gemm
from web_model import needs_node

UNKNOWN = "no loaded (library|module) has a kernel"


@pytest.fixture(params=[NATIVE, pytest.param(NODE, marks=needs_node)], ids=lambda k: k.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def runner(kind: Kind) -> Iterator[Runner]:
    with kind.ready() as r:
        yield r


# ---- Memory and calls


@pytest.mark.parametrize("kind, device", [
    pytest.param(NATIVE, profile.detect, id="native"),
    *(pytest.param(NODE, lambda d=device: d, id=name, marks=needs_node) for name, device in web.devices().items())],
    indirect=["kind"])
def test_a_real_kernel_computes_and_is_timed(kind: Kind, device: Callable[[], Device]) -> None:
    task, arrays, want = gemm(1, 197, 166, 64, "bias relu")
    template, target = Gemm(), device()
    choices = [template.default(task, target), next(iter(template.space(task, target).candidates()))]
    with kind.open(20.0) as r:
        contract: Runner = r
        contract.allocate(8 << 20)
        for n, knobs in enumerate(choices):
            built = build(Job(f"k{n}", template.name, task, knobs, target))
            assert not built.error
            contract.load([built.code])
            packs = template.pack(task, knobs, target)
            for number, a in arrays.items():
                contract.write(number << 20, packs[number](a) if number in packs else a)
            call = Call(f"k{n}", tuple(b << 20 for b in range(len(task.buffers))), template.tiles(task, knobs, target))
            contract.run([call])
            close(contract.read(3 << 20, want.shape, "float32"), want)
            [[alone]] = contract.time([[call]], 5, 5.0)
            [[among], _] = contract.time([[call], [call]], 5, 5.0)
            flops = 2 * 197 * 166 * 64
            assert len(alone) == len(among) == 5
            assert all(flops / 1e12 < s < 0.1 for s in (*alone, *among))     # no core does 1 TFLOP/s


@pytest.mark.parametrize("data", [np.arange(24.0).reshape(2, 3, 4), np.array([True, False]), np.float16(3),
                                  np.zeros((0, 4), "f4"), np.arange(60, dtype="i8").reshape(6, 10)[::2, ::-3]], ids=str)
def test_what_is_written_is_read(runner: Runner, data: np.ndarray) -> None:
    data = np.asarray(data)
    runner.write(24, data)
    np.testing.assert_array_equal(runner.read(24, data.shape, str(data.dtype)), data)
    assert not runner.read(24 + data.nbytes, (1024,), "uint8").any() and not runner.read(0, (24,), "uint8").any()


def test_arrays_larger_than_a_frame_and_memory_that_grows_and_shrinks(runner: Runner) -> None:
    data = np.random.default_rng(0).integers(0, 255, framed.PIECE * 2 + 77, np.uint8)
    runner.allocate(data.nbytes + 3)
    runner.write(3, data)
    np.testing.assert_array_equal(runner.read(3, data.shape, "uint8"), data)
    runner.allocate(data.nbytes)
    assert not runner.read(0, data.shape, "uint8").any()
    runner.write(0, data)
    runner.allocate(64)
    with pytest.raises(RunnerError, match="do not lie in the memory, which has 64"):
        runner.read(0, (65,), "uint8")
    runner.allocate(data.nbytes)
    assert not runner.read(0, data.shape, "uint8").any()
    runner.run([Call("note", (0,), 9)])        # what was loaded before is there
    assert runner.read(0, (2,), "int32").tolist() == [1, 9]


def test_every_number_of_arguments(kind: Kind) -> None:
    """Each kernel writes its number of tiles to the place of each argument, times the argument's number."""
    code = ["#include <stdint.h>"]
    for count in range(1, 33):
        pointers = ", ".join(f"int32_t *p{n}" for n in range(count))
        code.append(f"void k{count}({pointers}, int32_t begin, int32_t end) {{"
                    + " ".join(f"*p{n} = {n + 1} * end + begin;" for n in range(count)) + "}")
    with kind.open(20.0) as r:
        r.load([kind.compiled("\n".join(code))])
        for count in range(1, 33):
            r.allocate(4 * 33)
            r.run([Call(f"k{count}", tuple(4 * n for n in range(count)), 7)])
            assert r.read(0, (33,), "int32").tolist() == [7 * n for n in range(1, count + 1)] + [0] * (33 - count)


def test_objects_come_one_after_the_other_or_together_and_each_has_its_own_constants(kind: Kind, runner: Runner) -> None:
    def add(name: str, value: int) -> bytes:
        """A kernel with a table in memory, which it changes."""
        return kind.compiled(f"static volatile int table[999] = {{ [7] = {value} }};"
                             f"void {name}(int *x, int begin, int end) {{ *x = table[7]++; }}")

    for n in range(3):
        runner.load([add(f"one{n}", 100 * n), add(f"two{n}", 100 * n + 50)])
    for again in range(2):
        for n in range(3):
            runner.run([Call(f"one{n}", (0,), 1), Call(f"two{n}", (4,), 1), Call("note", (8,), 5)])
            assert runner.read(0, (2,), "int32").tolist() == [100 * n + again, 100 * n + 50 + again]
    assert runner.read(8, (7,), "int32").tolist() == [6, 5, 5, 5, 5, 5, 5]
    with pytest.raises(ToolchainError, match="duplicate symbol"):
        runner.load([add("same", 1), add("same", 2)])
    runner.run([Call("one0", (0,), 1)])
    assert runner.read(0, (), "int32") == 2


# ---- Refusals


def test_the_runner_says_no_and_goes_on(runner: Runner) -> None:
    runner.write(0, np.int32(5))
    inside = 1 << 16
    for call, why in [(Call("unknown", (0,), 1), f"{UNKNOWN} unknown"),
                      (Call("note", (inside + 1,), 1), "argument 0 of note lies at 65537, the memory has 65536"),
                      (Call("note", (0,) * 33, 1), "33 arguments"), (Call("note", (), 1), "0 arguments"),
                      (Call("note", (0,), -1), "-1 tiles"), (Call("n" * 300, (0,), 1), "300 characters")]:
        for attempt in (lambda c=call: runner.run([Call("note", (4,), 1), c]), lambda c=call: runner.time([[c]], 1, 1.0)):
            with pytest.raises(RunnerError, match=why):
                attempt()
    for attempt in (lambda: runner.write(inside - 3, np.int32(1)), lambda: runner.write(2**64 - 1, np.int32(1)),
                    lambda: runner.read(inside, (1,), "uint8"), lambda: runner.read(2**64 - 1, (4,), "float32")):
        with pytest.raises(RunnerError, match="do not lie in the memory"):
            attempt()
    for steps, rounds, seconds, give_up in [([], 1, 1.0, 0.0), ([[]], 1, 1.0, 0.0), ([[Call("note", (0,), 1)]], 1, -1.0, 0.0),
                                            ([[Call("note", (0,), 1)]], 1, 1.0, 0.5)]:
        with pytest.raises(RunnerError, match="refuses"):
            runner.time(steps, rounds, seconds, give_up)
    assert runner.read(0, (2,), "int32").tolist() == [5, 0]      # alive, and nothing of all this was run
    with pytest.raises(RunnerError, match="no memory"):
        runner.allocate(2**60)
    with pytest.raises(RunnerError, match="do not lie in the memory, which has 0"):
        runner.read(0, (1,), "uint8")


# ---- Timing


def test_a_slow_alternative_is_given_up_after_three_samples(runner: Runner) -> None:
    fast, slow = Call("work", (0,), 20_000), Call("work", (0,), 400_000)
    [[x, y, z]] = runner.time([[slow, fast, fast]], 9, 20.0, give_up=3.0)
    assert len(x) == 3 and len(y) >= 9 and len(z) >= 9
    assert 5 < x.min() / min(y.min(), z.min()) < 80
    [[x, y], [z]] = runner.time([[fast, slow], [slow]], 5, 20.0, give_up=3.0)
    assert len(x) >= 5 and len(y) == 3 and len(z) == len(x) + 3
    [[x, y]] = runner.time([[fast, slow]], 5, 20.0)
    assert len(x) == len(y) == 5


def test_it_ends_when_the_time_is_over(runner: Runner) -> None:
    start = time.monotonic()
    [[x, y]] = runner.time([[Call("work", (0,), 100_000)] * 2], 1_000_000, 0.3)
    assert 0.3 <= time.monotonic() - start < 2 and 0 < len(y) <= len(x) < 1_000_000
    assert runner.time([[Call("nothing", (0,), 1)]], 5, 0.0)[0][0].size == 0


# ---- Death


DEATHS = {"null": "SIGSEGV", "deep": "SIGSEGV", "gives_up": "SIGABRT", "illegal": "SIG(ILL|TRAP)",
          "forever": r"did not answer within 2[.\d]* s"}
TRAPS = {"wild": "memory access out of bounds", "deep": "memory access out of bounds", "illegal": "unreachable",
         "divides": "divide by zero"}


@pytest.mark.parametrize("kind, symbol, why", [
    *(pytest.param(NATIVE, *death, id=f"native-{death[0]}") for death in DEATHS.items()),
    *(pytest.param(NODE, *trap, id=f"node-{trap[0]}", marks=needs_node) for trap in TRAPS.items())], indirect=["kind"])
@pytest.mark.parametrize("how", ["run", "time"])
def test_it_works_again_after_a_kernel_has_killed_it(kind: Kind, runner: Runner, symbol: str, why: str, how: str) -> None:
    calls = [Call("nothing", (0,), 1), Call(symbol, (0,), 1)]
    with pytest.raises(RunnerDied, match=rf"{why} \(?in {symbol}"):
        runner.run(calls) if how == "run" else runner.time([[c] for c in calls], 3, 0.01)
    with pytest.raises(RunnerError, match=UNKNOWN):     # it is empty
        runner.run(calls)
    runner.load([kind.kernels])
    runner.allocate(64)
    runner.run([Call("note", (0,), 9)])
    assert runner.read(0, (2,), "int32").tolist() == [1, 9]
