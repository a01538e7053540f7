"""Links a model's kernels and driver to one WebAssembly module that imports its memory and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..cpu import toolchain

RUNTIME = Path(__file__).parent / "runtime"
STACK = 1 << 16     # bytes, at the bottom of the memory: what runs over it traps

_COMPILE = ("-target", "wasm32-freestanding", "-std=c11", "-O2", "-ffreestanding", "-fno-builtin", "-fno-ident",
            "-ffunction-sections", "-fdata-sections", "-fno-sanitize=undefined", "-mbulk-memory", "-Wall", "-Wextra",
            "-Werror", "-c")
_LINK = ("--no-entry", "--gc-sections", "--strip-all", "--import-memory", "--stack-first", "-z", f"stack-size={STACK}")


def link(driver: str, objects: Mapping[str, bytes], exports: Sequence[str]) -> bytes:
    """The module's bytes. driver: C source; objects: kernels' object files by name; exports: functions and linker symbols. Raises
    ToolchainError, also for a kernel that calls what is not there."""
    with tempfile.TemporaryDirectory(prefix="burnish-wasm-") as name:
        folder = Path(name)
        files = {"driver.c": driver.encode(), **{p.name: p.read_bytes() for p in sorted(RUNTIME.iterdir())}}
        for file, content in (files | dict(objects)).items():
            (folder / file).write_bytes(content)
        compiled = []
        for source in (x for x in files if x.endswith(".c")):
            compiled.append(f"{source}.o")
            toolchain.cc(*_COMPILE, "-o", compiled[-1], source, folder=folder)
        shown = [f"--export={e}" for e in exports]
        toolchain.ld("wasm-ld", *_LINK, *shown, "-o", "result", *compiled, *objects, folder=folder)
        return (folder / "result").read_bytes()
