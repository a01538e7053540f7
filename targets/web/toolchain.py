"""Links kernels to a WebAssembly module that imports its memory and nothing else: a model's with its driver, or a tuner's."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ..cpu import toolchain
from ..cpu.errors import ToolchainError
from .module import exported_address

RUNTIME = Path(__file__).parent / "runtime"
HELPERS = ("half.c", "memory.c")        # of the runtime: what LLVM may call
STACK = 1 << 16     # bytes, at the bottom of the memory: what runs over it traps
BASE = 1 << 24      # bytes that a runner's modules share, as runner_js/engine.js has it

_COMPILE = ("-target", "wasm32-freestanding", "-std=c11", "-O2", "-ffreestanding", "-fno-builtin", "-fno-ident",
            "-ffunction-sections", "-fdata-sections", "-fno-sanitize=undefined", "-mbulk-memory", "-Wall", "-Wextra",
            "-Werror", "-c")
_LINK = ("--no-entry", "--gc-sections", "--strip-all", "--import-memory", "--stack-first", "-z", f"stack-size={STACK}")

_COMPILE_THREADS = ("-matomics",)
# Kernels were not compiled for threads, and need not be: each works on what is its own. The loader says how much memory there is.
_LINK_THREADS = ("--shared-memory", f"--max-memory={1 << 32}", "--no-check-features")


def link(driver: str, objects: Mapping[str, bytes], exports: Sequence[str], threads: bool = False) -> bytes:
    """The module's bytes. driver: C source; objects: kernels' object files by name; exports: functions and linker symbols;
    threads: for a team of them, over shared memory. Raises ToolchainError, also for a kernel that calls what is not there."""
    left_out = {"solo.c" if threads else "team.c", *HELPERS}
    compile_too, link_too = (_COMPILE_THREADS, _LINK_THREADS) if threads else ((), ())
    with tempfile.TemporaryDirectory(prefix="burnish-wasm-") as name:
        folder = Path(name)
        runtime = (path for path in sorted(RUNTIME.iterdir()) if path.name not in left_out)
        objects = {**helpers(), **objects}
        files = {"driver.c": driver.encode(), **{path.name: path.read_bytes() for path in runtime}}
        for file, content in (files | objects).items():
            (folder / file).write_bytes(content)
        compiled = []
        for source in (x for x in files if x.endswith(".c")):
            compiled.append(f"{source}.o")
            toolchain.cc(*_COMPILE, *compile_too, "-o", compiled[-1], source, folder=folder)
        shown = [f"--export={e}" for e in exports]
        toolchain.ld("wasm-ld", *_LINK, *link_too, *shown, "-o", "result", *compiled, *objects, folder=folder)
        return (folder / "result").read_bytes()


def kernel_module(objects: Sequence[bytes], room: int) -> tuple[bytes, int]:
    """The objects as a module that exports all their functions, in milliseconds, and where its constants end, which begin at
    `room`: the next module of the same memory begins there. Raises ToolchainError."""
    with tempfile.TemporaryDirectory(prefix="burnish-ld-") as name:
        folder = Path(name)
        names = [f"k{n}.o" for n in range(len(objects))]
        for file, content in (*zip(names, objects, strict=True), *helpers().items()):
            (folder / file).write_bytes(content)
        toolchain.ld("wasm-ld", *_LINK, "--export-all", f"--global-base={room}", "-o", "result", *names, "--start-lib",
                     *helpers(), "--end-lib", folder=folder)
        module = (folder / "result").read_bytes()
    end = exported_address(module, "__heap_base")
    if end > BASE:
        raise ToolchainError(f"the kernels' constants take {end - room} bytes, and only {BASE - room} are left of {BASE}")
    return module, end


@cache
def helpers() -> Mapping[str, bytes]:
    """The helpers' object files."""
    with tempfile.TemporaryDirectory(prefix="burnish-wasm-") as name:
        folder = Path(name)
        for file in HELPERS:
            toolchain.cc(*_COMPILE, "-o", f"{file}.o", str(RUNTIME / file), folder=folder)
        return {path.name: path.read_bytes() for path in folder.glob("*.o")}
