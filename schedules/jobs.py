"""What the compiler and its build workers say to each other, over a pipe."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import IO, Any

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


def send(pipe: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message)
    pipe.write(struct.pack("<Q", len(data)) + data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """The next message; EOFError where the other side is gone."""
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError("the other side closed the pipe")
    size = struct.unpack("<Q", head)[0]
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError("the other side died in mid-message")
    return pickle.loads(data)
