"""The runners of this machine, alike to their tests: each is opened, and has kernels written in C compiled for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from burnish.targets.cpu import profile, toolchain
from burnish.targets.cpu.runner import LocalRunner
from burnish.targets.runner import FramedRunner
from burnish.targets.web import profile as web
from burnish.targets.web.runner import WebRunner, rig

# `note` appends its last tile to the list whose length comes first; `work` takes time in proportion to its tiles.
KERNELS = """
#include <stdint.h>
#include <stddef.h>
void *memcpy(void *, const void *, size_t);
void note(int32_t *list, int32_t begin, int32_t end) { list[++list[0]] = end; }
void work(char *unused, int32_t begin, int32_t end) { for (volatile int64_t n = 0; n < end; n++) {} }
void nothing(char *unused, int32_t begin, int32_t end) {}
void count(int64_t *calls, int32_t begin, int32_t end) { ++*calls; }
void illegal(char *unused, int32_t begin, int32_t end) { __builtin_trap(); }
void forever(char *unused, int32_t begin, int32_t end) { for (volatile int n = 0;;) n++; }
void deep(volatile char *x, int32_t begin, int32_t end) { volatile char y[4096]; y[0] = *x; deep(y, begin, end); *x = y[1]; }
"""

NATIVE_KERNELS = """
void abort(void); int sched_getcpu(void); float fmodf(float, float);
void where(int32_t *out, int32_t begin, int32_t end) { *out = sched_getcpu(); }
void outside(float *x, float *y, int32_t begin, int32_t end) { memcpy(y, x, 4 * end); y[0] = fmodf(x[0], x[1]); }
void null(char *unused, int32_t begin, int32_t end) { *(volatile int *)(intptr_t)begin = 1; }
void gives_up(char *unused, int32_t begin, int32_t end) { abort(); }
"""

WEB_KERNELS = """
float __extendhfsf2(uint16_t);
void outside(float *x, float *y, int32_t begin, int32_t end) { memcpy(y, x, 4 * end); }
void widen(uint16_t *x, float *y, int32_t begin, int32_t end) { for (; begin < end; begin++) y[begin] = __extendhfsf2(x[begin]); }
void wild(int *x, int32_t begin, int32_t end) { *(volatile int *)0xfffffff0u = begin; }
void divides(int32_t *x, int32_t begin, int32_t end) { *x = end / begin; }
"""


@dataclass(frozen=True)
class Kind:
    """open: a runner with a limit of so many seconds; target: zig's name of what it runs, flags: the compiler's for that; source:
    its kernels; limit: seconds, for `ready`."""

    name: str
    open: Callable[[float], FramedRunner]
    target: Callable[[], str]
    flags: tuple[str, ...]
    source: str
    limit: float

    def compiled(self, code: str) -> bytes:
        """An object file."""
        return toolchain.build(self.target(), ("-c", "-O1", "-fno-sanitize=undefined", "-w", *self.flags), {"k.c": code}, {}, ())

    @cached_property
    def kernels(self) -> bytes:
        return self.compiled(self.source)

    @contextmanager
    def ready(self) -> Iterator[FramedRunner]:
        """With its kernels, and 64 KiB."""
        with self.open(self.limit) as runner:
            runner.load([self.kernels])
            runner.allocate(1 << 16)
            yield runner


def in_node(limit: float) -> WebRunner:
    found = rig(web.devices()["relaxed-simd"]).open(None, limit)
    assert isinstance(found, WebRunner)
    return found


NATIVE = Kind("native", lambda limit: LocalRunner(profile.detect(), limit=limit), lambda: toolchain.triple(profile.detect()),
              ("-fPIC",), KERNELS + NATIVE_KERNELS, 2.0)
NODE = Kind("node", in_node, lambda: "wasm32-freestanding", ("-fno-builtin",), KERNELS + WEB_KERNELS, 20.0)
