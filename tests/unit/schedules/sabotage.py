"""Real kernels that misbehave: a Builder whose chosen candidates are wrapped in C, so that they compute what they should and then
crash, hang, lie, or take a planted time. Wrapping is patching names in two object files and linking them to one.

An order is one of ORDERS, such as "late crash", or a time in seconds, or both.
"""

from __future__ import annotations

import signal
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from burnish.schedules.builder import Builder
from burnish.schedules.candidate import Candidate
from burnish.schedules.device import Device
from burnish.schedules.jobs import Built, Job
from burnish.schedules.task import Task
from burnish.schedules.templates import TEMPLATES
from burnish.targets.cpu import toolchain

Order = str | float | tuple[str, float] | None
Plan = Callable[[Task, Candidate], Order]
NAME = 40       # characters of a placeholder, which a symbol padded to that length replaces
TOLD = struct.pack("<5Q", *(0x5EC04D5A11AB1E00 + n for n in range(5)))      # a placeholder for: mode, nanoseconds, …

ORDERS = {
    "crash": "*(volatile int *)(intptr_t)begin = 1;",
    "late crash": "if (calls > 3) __builtin_trap();",
    "crash in the finals": "if (calls > 32) __builtin_trap();",     # behind a check and SAMPLES rounds of two calls
    "hang": "for (volatile int n = 0;;) n++;",
    "late hang": "if (calls > 3) for (volatile int n = 0;;) n++;",
    "wrong": "((float *)out)[bytes / 8] += 1e-2f;",
    "a little wrong": "((float *)out)[bytes / 8] += 5e-5f * largest((const float *)out, bytes / 4);",
    "nan": "((float *)out)[0] = __builtin_nanf(\"\");",
    "one more": "out[0] += 1;",
    "beside": "out[bytes] = 7;",
    "before": "out[-1] = 7;",
    "spoil": "((float *)in)[0] += 1;",
    "missing": "",
}
CODE = """
#include <stdint.h>
#include <time.h>
void there_is_no_such_function(void);
void {real}({pointers}, int32_t begin, int32_t end);
static volatile const uint64_t told[5] = {{ {told} }};
static float largest(const float *x, uint64_t count) {{
    float found = 0;
    for (uint64_t n = 0; n < count; n++)
        found = x[n] > found ? x[n] : -x[n] > found ? -x[n] : found;
    return found;
}}
static int64_t now(void) {{ struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ll + t.tv_nsec; }}
void {wrap}({pointers}, int32_t begin, int32_t end) {{
    static int calls;
    calls++;
    uint64_t mode = told[0], bytes = told[4];
    int64_t until = now() + (int64_t)told[1];
    void *all[] = {{ {names} }};
    char *in = all[told[2]], *out = all[told[3]];
    {real}({names}, begin, end);
    switch (mode) {{ {cases} }}
    while (told[1] && now() < until) {{}}
    {missing}
}}
"""


class Saboteur(Builder):
    """A real Builder. plan: what becomes of a candidate's kernel, None to leave it as it is; built: every job that came."""

    def __init__(self, plan: Plan = lambda task, candidate: None, workers: int = 2, timeout: float = 60.0) -> None:
        super().__init__(workers, timeout)
        self.plan = plan
        self.jobs: list[Job] = []
        self.calls: list[int] = []      # how many jobs came at a time

    def build(self, jobs: Sequence[Job], progress: Callable[[Built], None] = lambda built: None) -> list[Built]:
        self.jobs += jobs
        self.calls.append(len(jobs))
        orders = [self.plan(j.task, Candidate(j.template, j.knobs)) for j in jobs]
        real = [j if o is None else replace(j, symbol=padded(j.symbol, "_")) for j, o in zip(jobs, orders, strict=True)]
        found = super().build(real, progress)
        return [b if o is None or b.error else Built(j.symbol, wrapped(j, b.code, o))
                for j, b, o in zip(jobs, found, orders, strict=True)]

    @contextmanager
    def dying(self) -> Iterator[None]:
        """The workers, stopped now, are killed by SIGKILL while they have a job."""
        alive = [w.process for w in self.workers if w.process is not None and w.process.poll() is None]
        for process in alive:
            process.send_signal(signal.SIGSTOP)
        timer = threading.Timer(0.3, lambda: [process.kill() for process in alive])
        timer.start()
        try:
            yield
        finally:
            timer.join()


def padded(symbol: str, by: str) -> str:
    return symbol + by * (NAME - len(symbol))


def wrapped(job: Job, code: bytes, order: str | float | tuple[str, float]) -> bytes:
    """The object file of a job whose kernel `code` has under its padded name."""
    template = next(t for t in TEMPLATES if t.name == job.template)
    count = len(job.task.buffers) + (template.scratch(job.task, job.knobs, job.device) > 0)
    output = job.task.outputs[0]
    first = next((n for n, b in enumerate(job.task.buffers) if b.role == "input"), output)
    what, seconds = order if isinstance(order, tuple) else (order, 0.0) if isinstance(order, str) else ("", order)
    mode = list(ORDERS).index(what) if what else len(ORDERS)
    told = struct.pack("<5Q", mode, round(seconds * 1e9), first, output, job.task.buffers[output].bytes)
    made = wrapper(count, what == "missing", job.device).replace(TOLD, told)
    made = made.replace(b"W" * NAME, job.symbol.encode() + bytes(NAME - len(job.symbol)))
    made = made.replace(b"R" * NAME, padded(job.symbol, "_").encode())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "real.o").write_bytes(code)
        (folder / "wrap.o").write_bytes(made)
        subprocess.run([toolchain.zig(), "ld.lld", "-r", "-o", "both.o", "real.o", "wrap.o"], cwd=folder, check=True)
        return (folder / "both.o").read_bytes()


@cache
def wrapper(count: int, missing: bool, device: Device) -> bytes:
    """Compiled once for each number of arguments, with placeholders."""
    code = CODE.format(real="R" * NAME, wrap="W" * NAME, pointers=", ".join(f"void *p{n}" for n in range(count)),
                       names=", ".join(f"p{n}" for n in range(count)), told=", ".join(map(str, struct.unpack("<5Q", TOLD))),
                       cases=" ".join(f"case {n}: {what} break;" for n, what in enumerate(ORDERS.values())),
                       missing="there_is_no_such_function();" if missing else "")
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "k.c").write_text(code)
        toolchain.cc("-target", toolchain.triple(device), "-c", "-O1", "-fPIC", "-fno-sanitize=undefined", "-w", "-o", "k.o",
                     "k.c", folder=Path(name))
        return (Path(name) / "k.o").read_bytes()
