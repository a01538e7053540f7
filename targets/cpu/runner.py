"""The CPU target's Runner: a small program of ours (runner_c/), on this machine or behind any pipe, that runs and times kernels.

It is a process of its own because kernels that are being tried crash and hang.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...schedules.device import Device
from ..runner import FramedRunner
from . import toolchain
from .runner_process import Process

SOURCES = Path(__file__).parent / "runner_c"
CACHE = Path.home() / ".cache" / "burnish" / "runner"


class LocalRunner(FramedRunner):
    """Kernels in a process of their own.

    device: what the program is built for; cpu: the one that it is kept on; limit: seconds that a command may take; command: the
    words that start the program, whose path is put after them: ("nice", "-n", "-10").
    """

    def __init__(self, device: Device, cpu: int | None = None, limit: float = 60.0, command: Sequence[str] = ()) -> None:
        words = (*command, str(program(device)))
        super().__init__(partial(Process, words, cpu, limit), toolchain.kernel_library, limit)


def program(device: Device) -> Path:
    """The runner's program for the device, built at first use. Two processes that build it at once write the same file."""
    sources = b"".join(path.name.encode() + path.read_bytes() for path in sorted(SOURCES.iterdir()))
    told = f"{toolchain.versions()} {toolchain.triple(device)}".encode()
    path = CACHE / hashlib.sha256(sources + told).hexdigest()
    if not path.exists():
        content = toolchain.executable(device, SOURCES)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=CACHE) as folder:
            fresh = Path(folder) / "runner"
            fresh.write_bytes(content)
            fresh.chmod(0o755)
            os.replace(fresh, path)
    return path
