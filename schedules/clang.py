"""LLVM IR to object code by ziglang's clang, where TVM's own copy of LLVM cannot be told what matters."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

# V8 keeps the order of a kernel's instructions, and so the number of values that live at a time: 15 fit into its registers. LLVM
# by itself gathers what multiplies one weight and holds a broadcast of each row for that. In the order in which templates write,
# a tile of 6x2 runs at 60 GFLOP/s in place of 30, where 4x2, the best that fits otherwise, has 57 (Zen 5, V8 of Node 24).
WASM = ("--target=wasm32-unknown-unknown", "-O2", "-mllvm", "-pre-RA-sched=source")
LIMIT_S = 60.0      # less than a build worker has, whose end would leave clang behind


@cache
def zig() -> Path:
    """zig's program. `python -m ziglang` would start Python first."""
    return Path(str(distribution("ziglang").locate_file("ziglang/zig")))


def wasm_object(ir: str, path: Path) -> None:
    """Writes the object file of a module for wasm32, in some 30 ms. Raises RuntimeError with clang's complaint."""
    source = path.with_suffix(".ll")
    source.write_text(ir)
    try:
        done = subprocess.run([str(zig()), "clang", *WASM, "-c", str(source), "-o", str(path)], capture_output=True, text=True,
                              errors="replace", stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"clang did not end within {LIMIT_S:.0f} s") from None
    if done.returncode != 0:
        raise RuntimeError(f"clang does not take TVM's LLVM IR: {done.stderr.strip()[-400:]}")
