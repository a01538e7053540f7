"""Runs one task as one kernel: builds it for a device, packs its constants, calls it, returns its outputs.

x86 kernels run in this process (ctypes), kernels for wasm32 under wasmtime, for aarch64 under qemu (`emulator.available`). Every
output begins as NaN-like garbage between guard zones, so that a kernel which leaves a hole or writes beside its buffer fails.
"""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from burnish.compiler.lower import group
from burnish.compiler.lower.registry import Anchor, Output
from burnish.compiler.partition import partition
from burnish.schedules.candidate import default
from burnish.schedules.device import Device
from burnish.schedules.space import Knobs
from burnish.schedules.task import Task
from burnish.schedules.template import Template
from burnish.targets.cpu import toolchain
from burnish.targets.web import profile
from burnish.targets.web.toolchain import STACK
from lower.harness import node_model
from lower.interpreter import run_anchor

LINUX = "unknown-linux-gnu"
ZEN5 = Device("zen5", "x86_64", (("mtriple", f"x86_64-{LINUX}"), ("mcpu", "znver5")), ("avx512f",), 16, 32, 48, 1024, 16384)
AVX2 = Device("haswell", "x86_64", (("mtriple", f"x86_64-{LINUX}"), ("mcpu", "haswell")), ("avx2", "fma"), 8, 16, 32, 256, 8192)
NEON = Device("a76", "aarch64", (("mtriple", f"aarch64-{LINUX}"), ("mcpu", "cortex-a76")), ("neon",), 4, 32, 64, 512)
WASM, SIMD = profile.load("relaxed-simd"), profile.load("simd")

ZIG = [sys.executable, "-m", "ziglang"]
GUARD = 1024    # bytes on either side of an array
FILL = 0xFF     # a NaN in every float type, -1 in integers

_serial = itertools.count()


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="burnish-kernels-"))


def run(template: Template, task: Task, arrays: Mapping[int, np.ndarray], device: Device = ZEN5, knobs: Knobs | None = None,
        cuts: Sequence[int] = ()) -> list[np.ndarray]:
    """The outputs of the task, in the order of its buffers. arrays: inputs and constants by buffer number; cuts: tile numbers
    at which the work is split into several calls (as threads would), run last to first."""
    kernel = Built(template, task, device, knobs)
    edges = sorted({0, kernel.tiles, *(min(c, kernel.tiles) for c in cuts)})
    return kernel(arrays, reversed(list(itertools.pairwise(edges))))


class Built:
    """A compiled kernel. Keep it to call it again (benchmarks); `path` is its object file."""

    def __init__(self, template: Template, task: Task, device: Device = ZEN5, knobs: Knobs | None = None) -> None:
        from burnish.schedules.tir import build

        reason = template.refuses(task, device)
        assert reason is None, reason
        self.template, self.task, self.device = template, task, device
        self.knobs = knobs or template.default(task, device)
        assert (why := template.space(task, device).why_not(self.knobs)) is None, why
        self.tiles = template.tiles(task, self.knobs, device)
        self.path = _folder() / f"k{next(_serial)}.o"
        build({"k": template.emit(task, self.knobs, device)}, device, self.path)

    def __call__(self, arrays: Mapping[int, np.ndarray], ranges: Iterable[tuple[int, int]] | None = None) -> list[np.ndarray]:
        call = {"wasm32": _wasm, "aarch64": _emulated}.get(self.device.arch, _native)
        return call(self, self.arguments(arrays), list(ranges or [(0, self.tiles)]))

    def arguments(self, arrays: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """The kernel's buffers as flat arrays, constants packed and prepared, outputs and scratch to be allocated."""
        packs = self.template.pack(self.task, self.knobs, self.device)
        prepare = self.template.prepare(self.task, self.knobs, self.device)
        given = []
        for n, b in enumerate(self.task.buffers):
            if b.role == "output":
                given.append(np.full(b.bytes, FILL, "u1"))
                continue
            a = np.asarray(arrays[n], order="C")
            assert a.shape == b.shape and a.dtype == b.dtype, f"buffer {n} is {b}, given {a.dtype}{a.shape}"
            given.append(np.ascontiguousarray(packs[n](a)) if n in packs else a)
            if n in prepare:
                given[n] = self.prepared(prepare[n], given[n])
        if scratch := self.template.scratch(self.task, self.knobs, self.device):
            given.append(np.full(scratch, FILL, "u1"))
        return given

    def prepared(self, task: Task, shipped: np.ndarray) -> np.ndarray:
        """What the task makes of the constant that is shipped."""
        made = default(task, self.device)
        assert made is not None
        (result,) = run(made.maker, task, {0: shipped}, self.device, made.knobs)
        return result

    def outputs(self, memory: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [memory[n].view("u1").reshape(-1)[:b.bytes].view(b.dtype).reshape(b.shape).copy()
                for n, b in enumerate(self.task.buffers) if b.role == "output"]


# ---- Tasks -------------------------------------------------------------------------------------------------------------


def lowered(op: str, *inputs: Any, outputs: int = 1, shape: Sequence[int] = (),
            **attributes: Any) -> tuple[Task, dict[int, np.ndarray]]:
    """(task of one ONNX node, its arrays by buffer number). inputs: as of `lower.harness.node_model`; shape: of the output, where
    ONNX's own inference does not find it."""
    model, given = node_model(op, inputs, attributes, outputs, "burnish" if op.startswith("Nhwc") else "")
    graph = ir.from_proto(model)
    if shape:
        graph.graph.outputs[0].shape = ir.Shape(shape)
        graph.graph.outputs[0].dtype = graph.graph.inputs[0].dtype
    parts = partition(graph)
    (low,) = (group.lower(g, parts) for g in parts.groups)
    arrays = {n: (b if isinstance(b, np.ndarray) else given[b.root.name]).reshape(buffer.shape)
              for n, (buffer, b) in enumerate(zip(low.task.buffers, low.bindings, strict=True)) if buffer.role != "output"}
    return low.task, arrays


def interpreted(task: Task, arrays: Mapping[int, np.ndarray]) -> list[np.ndarray]:
    """The outputs, by numpy: by the interpreter that the tests of lowerings hold against onnxruntime."""
    memory = [np.zeros(b.shape, b.dtype) if n not in arrays else arrays[n] for n, b in enumerate(task.buffers)]
    for s in task.stores:
        anchor = Anchor(task.family, s.space, (Output(s.index, s.value),), task.params, task.operands, task.stages)
        run_anchor(anchor, memory, [memory[s.buffer]])
    return [memory[n] for n in task.outputs]


# ---- This machine ------------------------------------------------------------------------------------------------------


def aligned(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A copy of `a` at a multiple of 64 bytes, between guard zones: (the copy, the guarded bytes around it)."""
    raw = np.full(a.nbytes + 2 * GUARD + 64, FILL, "u1")
    start = GUARD + (-(raw.ctypes.data + GUARD)) % 64
    whole = raw[start - GUARD:start + a.nbytes + GUARD]
    inner = whole[GUARD:GUARD + a.nbytes]
    inner[:] = a.reshape(-1).view("u1")
    return inner, whole


def load(path: Path) -> ctypes.CDLL:
    """Links the object file and loads it."""
    library = path.with_suffix(".so")
    subprocess.run([*ZIG, "ld.lld", "-shared", "-o", str(library), str(path)], check=True)
    return ctypes.CDLL(str(library))


def _native(kernel: Built, given: list[np.ndarray], ranges: Iterable[tuple[int, int]]) -> list[np.ndarray]:
    memory = [aligned(a) for a in given]
    function = load(kernel.path).k
    for begin, end in ranges:
        function(*(ctypes.c_void_p(inner.ctypes.data) for inner, _ in memory), ctypes.c_int32(begin), ctypes.c_int32(end))
    for n, (_, whole) in enumerate(memory):
        assert (whole[:GUARD] == FILL).all() and (whole[-GUARD:] == FILL).all(), f"the kernel wrote beside argument {n}"
    return kernel.outputs([inner for inner, _ in memory])


# ---- aarch64 -----------------------------------------------------------------------------------------------------------


# Reads its arrays, which lie one behind the other in a file, calls the kernel for each range and writes them back.
_CALLER = """
#include <stdio.h>
#include <stdlib.h>
static _Alignas(64) unsigned char memory[{size}];
void k({types});
int main(int argc, char **argv) {{
    FILE *f = fopen(argv[1], "r+b");
    if (fread(memory, 1, sizeof memory, f) != sizeof memory) return 1;
    for (int n = 2; n + 1 < argc; n += 2) k({pointers}, atoi(argv[n]), atoi(argv[n + 1]));
    rewind(f);
    return fwrite(memory, 1, sizeof memory, f) != sizeof memory || fclose(f);
}}
"""


def _emulated(kernel: Built, given: list[np.ndarray], ranges: Iterable[tuple[int, int]]) -> list[np.ndarray]:
    places, size = [], 0
    for a in given:
        places.append(size + GUARD)
        size += -(-(a.nbytes + 2 * GUARD) // 64) * 64
    raw = np.full(size, FILL, "u1")
    for a, place in zip(given, places, strict=True):
        raw[place:place + a.nbytes] = a.reshape(-1).view("u1")
    source, program, data = (kernel.path.with_suffix(s) for s in (".c", ".elf", ".bin"))
    if not program.exists():
        pointers = ", ".join(f"memory + {place}" for place in places)
        source.write_text(_CALLER.format(size=size, types="void *, " * len(given) + "int, int", pointers=pointers))
        subprocess.run([*ZIG, "cc", "-target", "aarch64-linux-musl", "-static", "-O0", "-o", program, source, kernel.path],
                       check=True)
    raw.tofile(data)
    subprocess.run(["qemu-aarch64", "-cpu", "max", program, data, *(str(edge) for r in ranges for edge in r)], check=True)
    after = np.fromfile(data, "u1")
    for n, (a, place) in enumerate(zip(given, places, strict=True)):
        for edge in (place - GUARD, place + a.nbytes):
            assert (after[edge:edge + GUARD] == FILL).all(), f"the kernel wrote beside argument {n}"
    return kernel.outputs([after[place:place + a.nbytes] for a, place in zip(given, places, strict=True)])


# ---- wasm32 ------------------------------------------------------------------------------------------------------------


@cache
def _engine() -> Any:
    import wasmtime

    config = wasmtime.Config()
    config.wasm_relaxed_simd = True
    return wasmtime.Engine(config)


def _wasm(kernel: Built, given: list[np.ndarray], ranges: Iterable[tuple[int, int]]) -> list[np.ndarray]:
    import wasmtime

    module = kernel.path.with_suffix(".wasm")
    toolchain.ld("wasm-ld", "--no-entry", "--gc-sections", "--strip-all", "--export=k", "--import-memory", "--stack-first",
                 "-z", f"stack-size={STACK}", "-o", module.name, kernel.path.name, folder=kernel.path.parent)
    at, places = 2 * STACK, []      # above the stack and the kernel's constants
    for a in given:
        places.append(at + GUARD)
        at += -(-(a.nbytes + 2 * GUARD) // 64) * 64
    store = wasmtime.Store(_engine())
    memory = wasmtime.Memory(store, wasmtime.MemoryType(wasmtime.Limits((at >> 16) + 1, None)))
    instance = wasmtime.Instance(store, wasmtime.Module(store.engine, module.read_bytes()), [memory])
    memory.write(store, bytes([FILL]) * (at - 2 * STACK), 2 * STACK)
    for a, place in zip(given, places, strict=True):
        memory.write(store, a.tobytes(), place)
    function = instance.exports(store)["k"]
    for begin, end in ranges:
        function(store, *places, begin, end)
    for n, (a, place) in enumerate(zip(given, places, strict=True)):
        for edge in (place - GUARD, place + a.nbytes):
            assert set(memory.read(store, edge, edge + GUARD)) == {FILL}, f"the kernel wrote beside argument {n}"
    return kernel.outputs([np.frombuffer(bytes(memory.read(store, place, place + a.nbytes)), "u1")
                           for a, place in zip(given, places, strict=True)])
