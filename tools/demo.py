"""Compiles EfficientNet-Lite0 for this CPU and shows it a photo of a cat: `make demo`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from .. import compile, models
from ..models.data import imagenet
from .peers import burnish_runner, onnxruntime_runner
from .timing import BUSY, interleave

MODEL = "efficientnet_lite0"
ARTIFACT = Path("out") / MODEL
ROUNDS = 20


def top5(logits: np.ndarray) -> Table:
    """The five likeliest classes of [1,1000] logits."""
    shares = np.exp(logits[0] - logits[0].max())
    shares /= shares.sum()
    table = Table("scikit-image's cat is a", "probability")
    for index in shares.argsort()[::-1][:5]:
        table.add_row(imagenet.class_names()[index], f"{shares[index]:.1%}")
    return table


def main() -> None:
    console = Console()
    with console.status("downloading EfficientNet-Lite0 and exporting it to ONNX"):
        onnx_file = models.build(MODEL)
    with console.status("compiling it for this CPU") as status:
        start = time.perf_counter()
        compile(onnx_file, ARTIFACT, progress=lambda step, done, total: status.update(f"compiling: {step} {done}/{total}"))
        seconds = time.perf_counter() - start
    console.print(f"{onnx_file} compiled and verified in {seconds:.1f} s")

    inputs = {"image": imagenet.preprocess(imagenet.cat())}
    threads = len(os.sched_getaffinity(0))
    ours, theirs = burnish_runner(ARTIFACT, threads), onnxruntime_runner(onnx_file, threads)
    console.print(top5(ours(inputs)[0]))

    with console.status("timing"):
        timings = interleave({"burnish": lambda: ours(inputs), "onnxruntime": lambda: theirs(inputs)}, ROUNDS)
    table = Table("latency", "p10, ms", "median, ms", title=f"{threads} threads, interleaved")
    for name, timing in timings.items():
        table.add_row(name, f"{timing.p10 * 1e3:.2f}", f"{timing.median * 1e3:.2f}")
    console.print(table)
    console.print(f"burnish is {timings['burnish'].faster_than(timings['onnxruntime']):.2f} times as fast as onnxruntime.")
    if any(timing.noisy for timing in timings.values()):
        console.print(f"[yellow]{BUSY}")

    console.print(f"\nThe artifact is the folder {ARTIFACT}:")
    for file in sorted(p for p in ARTIFACT.iterdir() if p.is_file()):
        console.print(f"  {file.name}  {file.stat().st_size / 1e3:,.0f} KB", highlight=False)
    console.print(f"""
From Python:   import burnish, numpy
               model = burnish.load("{ARTIFACT}")
               logits = model(numpy.zeros((1, 3, 224, 224), "float32"))
From C:        see the header and the example in that folder; nothing but libc is needed.""", highlight=False)


if __name__ == "__main__":
    main()
