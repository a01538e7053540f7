"""What an untrusted model may cost before it is refused."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .errors import ImportRefused

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """total: bytes of the file and of all external data that it names (protobuf ends there, too); tensor: bytes of one tensor,
    stored or computed; decoded: bytes that the protobuf takes in memory; fields: of the protobuf, so that its scan ends; nodes:
    with subgraphs, and with functions expanded at each call; nesting: protobuf messages inside each other (three for a subgraph),
    and functions that call functions; rank: dimensions of a tensor; seconds: of the import."""

    total: int = 2 * GIB
    tensor: int = 2 * GIB
    decoded: int = 4 * GIB
    fields: int = 20_000_000
    nodes: int = 100_000
    nesting: int = 64
    rank: int = 32
    seconds: float = 60.0


class Deadline:
    """Ends an import that takes too long."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.end = seconds, time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self.end - time.monotonic())

    def check(self) -> None:
        if self.left() == 0.0:
            raise ImportRefused(f"reading the model takes more than {self.seconds:g} s")


def gib(count: int) -> str:
    return f"{count / GIB:.3g} GiB" if count >= GIB // 100 else f"{count} bytes"


def quoted(text: str, longest: int = 60) -> str:
    """A name from an untrusted file, fit for one line of a message."""
    shown = text if len(text) <= longest else text[:longest - 1] + "…"
    return repr(shown) if shown.isprintable() else ascii(shown)
