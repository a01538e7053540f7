"""A build worker: `python -m burnish.schedules.worker`. Reads pickled jobs on standard input, answers object code on standard output.

It is the only process in which TVM runs: TVM can crash its process or hang, and then only this one is lost.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .device import Device
from .space import Knobs
from .task import Task


@dataclass(frozen=True)
class Job:
    """One kernel to build: under `symbol`, by the template called `template`."""

    symbol: str
    template: str
    task: Task
    knobs: Knobs
    device: Device


@dataclass(frozen=True)
class Built:
    """The object file's bytes, or why there is none."""

    symbol: str
    code: bytes = b""
    error: str = ""


def send(pipe: BinaryIO, message: Any) -> None:
    data = pickle.dumps(message)
    pipe.write(struct.pack("<Q", len(data)) + data)
    pipe.flush()


def receive(pipe: BinaryIO) -> Any:
    """The next message; EOFError where the other side is gone."""
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError("the other side closed the pipe")
    size = struct.unpack("<Q", head)[0]
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("the other side died in mid-message")
    return pickle.loads(data)


def build(job: Job) -> Built:
    from . import tir
    from .templates import TEMPLATES

    template = next(t for t in TEMPLATES if t.name == job.template)
    try:
        func = template.emit(job.task, job.knobs, job.device)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.o"
            tir.build({job.symbol: func}, job.device, path)
            return Built(job.symbol, path.read_bytes())
    except Exception as e:
        return Built(job.symbol, error=f"{type(e).__name__}: {' '.join(str(e).split())[-400:]}")


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)       # whatever TVM prints must not end up between the answers
    jobs = sys.stdin.buffer
    while True:
        try:
            job = receive(jobs)
        except EOFError:
            return
        send(answers, build(job))


if __name__ == "__main__":
    main()
