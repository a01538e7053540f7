"""Convolutions whose constant weights are codes (schedules/codes.py): a small file, and the kernels of floats.

A convolution with a window computes more with each weight than decoding it over and over would leave worth saving, so its codes
become floats once, when a model is loaded, in the layout that the kernel of floats asks for. What is stored of N codes of 4 bits
is N / 2 bytes: the first half of them in their low halves, the second in the high ones, so that both are written in vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..codes import CODES, HALVES, decoded
from ..device import Device
from ..expr import binary, cast, load, var
from ..space import Knobs, Space
from ..task import Buffer, Store, Task
from ..template import Pack, Template
from .conv import DirectConv
from .conv_narrow import NarrowConv
from .depthwise import Depthwise


class Loaded(Template):
    """What `base` makes, of weights that are floats when it runs. Its `pack` must only move them."""

    base: ClassVar[Template]

    def refuses(self, task: Task, device: Device) -> str | None:
        if task.params.get("code") not in CODES:
            return "weights are not codes"
        return "scales within the reduction" if task.params["block"] else self.base.refuses(floats(task), device)

    def space(self, task: Task, device: Device) -> Space:
        return self.base.space(floats(task), device)

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        return self.base.cost(floats(task), knobs, device)

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        return self.base.features(floats(task), knobs, device)

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return self.base.tiles(floats(task), knobs, device)

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return self.base.scratch(floats(task), knobs, device)

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        w, packs = task.params["w"], self.base.pack(floats(task), knobs, device)

        def stored(codes: np.ndarray) -> np.ndarray:
            flat = packs[w](codes).reshape(-1) if w in packs else codes.reshape(-1)
            return _halved(flat) if task.params["code"] in HALVES else flat

        return {**packs, w: stored}

    def prepare(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Task]:
        w = task.params["w"]
        known = self.base.pack(floats(task), knobs, device)
        like = np.broadcast_to(np.uint8(0), task.buffers[w].shape)
        size = known[w](like).size if w in known else like.size
        return {w: decoding(task.params["code"], size)}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        return self.base.emit(floats(task), knobs, device)


class CodedNarrowConv(Loaded):
    name, family, base = "f32-conv-narrow-coded", "conv", NarrowConv()


class CodedConv(Loaded):
    name, family, base = "f32-conv-coded", "conv", DirectConv()


class CodedDepthwise(Loaded):
    name, family, base = "f32-depthwise-coded", "depthwise", Depthwise()


@lru_cache(maxsize=64)      # asked for by every candidate
def floats(task: Task) -> Task:
    """The task as it is once its weights are floats."""
    w = task.params["w"]
    return replace(task, buffers=tuple(replace(b, dtype="float32") if n == w else b for n, b in enumerate(task.buffers)))


def decoding(code: str, size: int) -> Task:
    """What makes `size` floats of what is stored of as many codes."""
    half, i0 = code in HALVES, var("i0")
    stored = Buffer((-(-size // 2) if half else size,), "int8" if code == "int8" else "uint8", "input")
    byte = cast(load(0, (i0,), stored.dtype), "int32")

    def store(first: int, count: int, number: Any) -> Store:
        return Store(1, (count,), (i0 + first,), decoded(code, number))

    if not half:
        stores = [store(0, size, byte)]
    else:
        stores = [store(0, stored.size, binary("bitand", byte, 15)),
                  *([store(stored.size, size - stored.size, binary("shr", byte, 4))] if size > 1 else [])]
    return Task("generic", (stored, Buffer((size,), "float32", "output")), tuple(stores))


def _halved(codes: np.ndarray) -> np.ndarray:
    """Codes of 4 bits [N] as uint8 [ceil(N / 2)]."""
    low, high = np.split(np.pad(codes, (0, len(codes) % 2)).astype(np.uint8) & 15, 2)
    return low | high << 4
