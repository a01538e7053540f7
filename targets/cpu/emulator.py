"""Runs the artifact of another machine under qemu-user, through the static program that it holds."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import manifest
from .errors import ArtifactError

TIMEOUT = 600   # seconds: an emulated CPU is some fifty times slower


def available(arch: str) -> bool:
    """Can programs for `arch` be run here?"""
    return arch == platform.machine() or shutil.which(f"qemu-{arch}") is not None


def run(folder: str | Path, inputs: Sequence[np.ndarray], threads: int = 1) -> tuple[np.ndarray, ...]:
    """The outputs for inputs of the right shapes and dtypes. Raises ArtifactError where there is no emulator (Debian's package
    qemu-user), the artifact holds no program, or the program fails."""
    path = Path(folder).resolve()
    record = manifest.read(path)
    program, arch = path / record.identifier, record.device.arch
    if not program.exists():
        raise ArtifactError(f"{path} holds no static program: write it with program=True")
    if not available(arch):
        raise ArtifactError(f"no emulator for {arch}: install qemu-user, which has qemu-{arch}")
    emulator = [] if arch == platform.machine() else [f"qemu-{arch}"]
    with tempfile.TemporaryDirectory(prefix="burnish-run-") as name:
        work = Path(name)
        for n, (tensor, x) in enumerate(zip(record.inputs, inputs, strict=True)):
            if (x.shape, str(x.dtype)) != (tensor.shape, tensor.dtype):
                raise ArtifactError(f"input {tensor}: {x.dtype}{list(x.shape)} came")
            (work / f"in{n}").write_bytes(x.tobytes())
        names = [*(f"in{n}" for n in range(len(record.inputs))), *(f"out{n}" for n in range(len(record.outputs)))]
        command = [*emulator, str(program), str(path / f"{record.identifier}.weights"), str(threads), *names]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False)
        if done.returncode != 0:
            raise ArtifactError(f"{program.name} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return tuple(np.fromfile(work / f"out{n}", t.dtype).reshape(t.shape) for n, t in enumerate(record.outputs))
