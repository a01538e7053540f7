"""Options of the command line that ask for compression; `compress` and `compile` share them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

WHAT, BUDGET, DATA = "What to do to every layer that gains by it", "Budget: the best treatment for each layer", "Sample data"


def _option(name: str, metavar: str, text: str, panel: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=panel, show_default=False)


Quantize = Annotated[str | None, _option("--quantize", "int8|integer-only|w8|w4", (
    "Integers: weights and activations (int8), every op (integer-only), weights alone (w8, w4)."), WHAT)]
Sparsity = Annotated[str | None, _option("--sparsity", "block:75%|2:4|1:4", (
    "Zeros in blocks of 16 output channels, a share of all or N kept of every M."), WHAT)]
LowRank = Annotated[str | None, _option("--low-rank", "0.5|auto", "Two thin layers for each, of this share of its rank.", WHAT)]
Shift = Annotated[int, _option("--shift", "1|2", "Weights as one or two powers of two, 4 bits each.", WHAT)]
Slice = Annotated[str | None, _option("--slice", "0.25", "Cut this share of a transformer's hidden dimensions off.", WHAT)]
MaxDrop = Annotated[str | None, _option("--max-drop", "1%", "Lose at most so much of the score, on samples not calibrated on.",
                                        BUDGET)]
MaxSize = Annotated[str | None, _option("--max-size", "4MB", "At most so many bytes of weights.", BUDGET)]
MaxLatency = Annotated[str | None, _option("--max-latency", "3ms", "One run, on one thread, takes at most so long.", BUDGET)]
Prefer = Annotated[str | None, _option("--prefer", "speed|size", (
    "What a compressed layer must gain to be kept. Default: speed, for w8, w4 and shift size."), BUDGET)]
Recover = Annotated[bool, typer.Option("--recover/--no-recover", help=(
    "Train what pruning leaves (with burnish[compress]), and set rounded layers anew, on the samples."), rich_help_panel=WHAT)]
Calib = Annotated[str | None, _option("--calib", "FOLDER|FILE|MODULE:FUNCTION", (
    "Sample inputs: pictures, .npy or .npz files, one such file of many samples, or a function that yields them. One half "
    "calibrates, the other judges."), DATA)]
Eval = Annotated[str | None, _option("--eval", "FOLDER|MODULE:FUNCTION", (
    "What scores a model: pictures in folders named by their class, or a function. Without it, agreement with the original."),
    DATA)]
Mean = Annotated[str, typer.Option("--mean", metavar="A,B,C", help="Of pictures, for each channel, in units of 0..1.",
                                   rich_help_panel=DATA)]
Std = Annotated[str, typer.Option("--std", metavar="A,B,C", help="Likewise.", rich_help_panel=DATA)]
SmallFile = Annotated[Path, typer.Option("-o", "--output", metavar="FILE.onnx", help=(
    "The model to write; its account lies beside it."))]
