"""The web target's Runner: kernels in V8, behind any channel to our engine (runner_js/), and in Node as a process of its own."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...schedules.device import Device
from ...schedules.records import Fingerprint
from ..cpu import profile
from ..cpu.errors import DeviceError
from ..cpu.runner_process import Process
from ..runner import Channel, FramedRunner
from ..target import Rig
from . import node, toolchain

ENGINE = Path(__file__).parent / "runner_js"
OPTIMIZE = "--no-liftoff"       # V8's optimizing compiler at once: Node's alone can be told so
# The first Node whose V8 leaves instructions in their order, as today's browsers do (schedules/clang.py): a tile of 6x2 runs at
# 62 GFLOP/s there, at 28 in Node 20 and 22.
CURRENT = 24


class WebRunner(FramedRunner):
    """open: a channel to a new life of the engine, whose memory is empty again; limit: seconds that a command may take."""

    def __init__(self, open: Callable[[], Channel], limit: float = 60.0) -> None:
        self._begin = open
        super().__init__(self._anew, self._linked, limit)

    def _anew(self) -> Channel:
        self._room = toolchain.STACK
        return self._begin()

    def _linked(self, objects: Sequence[bytes]) -> bytes:
        module, self._room = toolchain.kernel_module(objects, self._room)
        return module


def rig(build: Device) -> Rig:
    """Node on this machine. Raises DeviceError where there is none."""
    found = node.program()
    if found is None:
        oldest = ".".join(map(str, node.OLDEST))
        raise DeviceError(f"tuning for wasm here takes Node {oldest} or newer on the PATH: install it, or use --browser")
    path, version = found
    words = (path, *node.flags(version), OPTIMIZE, str(ENGINE / "node.mjs"))

    def open(cpu: int | None, limit: float) -> WebRunner:
        return WebRunner(partial(Process, words, cpu, limit), limit)

    old = f"Node {version[0]} compiles kernels differently from today's browsers: measure with Node {CURRENT} or --browser"
    return Rig(build, fingerprint(build), open, {"node": ".".join(map(str, version))}, note=old if version[0] < CURRENT else "")


def fingerprint(build: Device) -> Fingerprint:
    """V8 on this machine."""
    made = Fingerprint.of(build, platform.system().lower())
    with suppress(DeviceError):     # a machine that burnish has no CPU target for
        here = Fingerprint.of(profile.detect(), made.os)
        return replace(made, core=f"v8-{here.core}", caches=here.caches)
    return replace(made, core="v8")
