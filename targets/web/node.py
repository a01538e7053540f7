"""Runs a web package in Node, where there is one: how a compile is verified without a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..cpu.errors import ArtifactError
from . import manifest
from .text import ARRAYS, FILES

OLDEST = (20, 16)       # has process.getBuiltinModule
RELAXED = 22            # the first Node whose V8 has relaxed SIMD without being asked for it
LIMIT_S = 600.0


def program() -> tuple[str, tuple[int, int, int]] | None:
    """Path and version of the `node` on the PATH; None where there is none that is new enough."""
    path = shutil.which("node")
    if path is None:
        return None
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"v(\d+)\.(\d+)\.(\d+)", said)
    version = (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)
    return (path, version) if version >= OLDEST else None


def flags(version: tuple[int, int, int]) -> list[str]:
    """What makes Node run every build."""
    return ["--experimental-wasm-relaxed-simd"] if version[0] < RELAXED else []


def run(folder: Path, inputs: Sequence[np.ndarray], build: str | None = None, limit: float = LIMIT_S,
        threads: int = 1, way: int = 0) -> list[np.ndarray] | None:
    """The package's outputs for these inputs, in the order of its manifest; None where there is no Node. build: by default the
    one that the loader takes; limit: seconds; threads: how many work on it; way: number of the variant that makes each kernel, or
    its last. Raises ArtifactError where the package cannot be run."""
    node = program()
    if node is None:
        return None
    path, version = node
    about = manifest.read(folder)
    with tempfile.TemporaryDirectory(prefix="burnish-node-") as name:
        place = Path(name)
        given = [{"name": t.name, "array": ARRAYS[t.dtype], "file": str(place / f"input_{n}")}
                 for n, t in enumerate(about.inputs)]
        made = [{"name": t.name, "file": str(place / f"output_{n}")} for n, t in enumerate(about.outputs)]
        for entry, array in zip(given, inputs, strict=True):
            Path(entry["file"]).write_bytes(np.ascontiguousarray(array).tobytes())
        request = place / "request.json"
        choices = [min(way, n) for n in {x.kernel: len(x.variants) for x in about.launches if x.variants}.values()]
        request.write_text(json.dumps({"index": str(Path(folder).resolve() / "index.js"), "build": build, "threads": threads,
                                       "choices": choices, "inputs": given, "outputs": made}))
        try:
            done = subprocess.run([path, *flags(version), str(FILES / "run.mjs"), str(request)], capture_output=True, text=True,
                                  errors="replace", stdin=subprocess.DEVNULL, timeout=limit, check=False)
        except subprocess.TimeoutExpired as e:
            raise ArtifactError(f"{folder}: the package did not end within {limit:.0f} s in Node") from e
        if done.returncode != 0:
            raise ArtifactError(f"{folder}: the package does not run in Node: {reason(done.stderr)}")
        return [np.fromfile(x["file"], t.dtype).reshape(t.shape) for x, t in zip(made, about.outputs, strict=True)]


def reason(log: str) -> str:
    """The line of Node's log that says what was thrown."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if re.match(r"\w*Error\b", line)), lines[-1] if lines else "no message")
