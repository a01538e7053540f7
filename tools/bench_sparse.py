"""What skipping zeros gains over our own dense kernels, of matrix products and of models: `python -m burnish.tools.bench_sparse`.

Kernels: the best few by predicted cost of the dense task and of each pattern of zeros are timed, then the fastest of each take
turns in one run on one thread. Models: the blocks of least magnitude are zero in every layer but a convolutional network's first
and last; dense and sparse model are tuned, compiled and verified, then take turns.
"""

from __future__ import annotations

import datetime
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx_ir as ir
import typer
from rich.console import Console

from .. import compile, models, passes, tune
from ..compiler import importer, targets
from ..compiler.lower.registry import LOWERINGS
from ..compiler.tune import evaluator
from ..passes.compress.layers import Layer, layers
from ..passes.compress.treatment import GROUP, Sparsity
from ..schedules import expr as x
from ..schedules.board import Board, parts
from ..schedules.candidate import Candidate, makers
from ..schedules.evaluate import Batch, Evaluator
from ..schedules.task import Buffer, Store, Task
from ..schedules.templates.sparse import thinned
from .bench import cpu, sample
from .peers import burnish_runner
from .timing import Timing, interleave

SHAPES = "128x768x3072,128x3072x768,197x384x1536,196x512x512,49x2048x512,784x128x512,3136x64x256"
SCATTERED_SHAPES = "784x128x256,784x256x256,196x96x576,196x512x512,49x960x320,49x1024x1024"       # 1x1 layers of MobileNets
PATTERNS = ("block:50%", "block:75%", "block:90%", "2:4", "1:4")
SCATTERED = ("block:80%/1", "block:90%/1", "block:95%/1")
TRIED = 12          # candidates of a task
SECONDS, ROUNDS = 3.0, 60

TEXT = """\
Zeros are skipped in blocks: for a group of neighbouring output channels, one step of the reduction (float32) or four
(int8) are kept or zero as a whole. `block:75%/32` keeps a quarter of the blocks of every 32 channels; N:M keeps N of every
M blocks in a row, and runs on the same kernels. burnish finds such blocks in the weights, whoever put them there, and
takes the kernel that skips them where it is the faster one: as measured where the model was tuned, else as predicted.

With AVX-512 32 channels should share their zeros: each value of the input then meets two vectors of weights. With 16 every
product takes a load of its own, which costs a fifth. WebAssembly does as well with 16. At 90 % zeros a short reduction
leaves so little to multiply that storing the results shows.

Zeros that are scattered are skipped one by one in products and 1x1 convolutions of float32, with the rows of the input as
lanes. That takes more for each weight that is left: it pays from 80 % zeros on, in WebAssembly from 65 % on.

Speed-ups are over our own dense kernels, tuned alike, in one interleaved run on one thread: the median over rounds, and in
brackets the share of what the number of kept weights promises. Spread: the distance between the ratio's quartiles over
its median, the largest of a row.
"""

console = Console(stderr=True)


@dataclass(frozen=True)
class Gain:
    """A kernel that skips zeros: seconds of the dense kernel and of this one, sample by sample in the same rounds."""

    shape: tuple[int, int, int]
    pattern: Sparsity
    dense: np.ndarray
    sparse: np.ndarray
    candidate: Candidate

    @property
    def ratios(self) -> np.ndarray:
        return self.dense / self.sparse

    @property
    def speedup(self) -> float:
        return float(np.median(self.ratios))

    @property
    def spread(self) -> float:
        low, high = np.percentile(self.ratios, (25, 75))
        return float((high - low) / self.speedup)

    @property
    def reached(self) -> float:
        """Of what the number of weights promises."""
        return self.speedup * self.pattern.density


# ---- Kernels -----------------------------------------------------------------------------------------------------------


def product_of(m: int, k: int, n: int, integer: bool) -> Task:
    """A matrix product of float32, or of uint8 by int8 into int32."""
    b, row, column, r = x.var("i0"), x.var("i1"), x.var("i2"), x.var("r0")
    x_type, w_type, result = ("uint8", "int8", "int32") if integer else ("float32", "float32", "float32")
    buffers = (Buffer((1, m, k), x_type, "input"), Buffer((k, n), w_type, "constant"), Buffer((1, m, n), result, "output"))
    params = {"batch": 1, "m": m, "n": n, "k": k, "x": 0, "w": 1, **({"zero": 0, "top": 127} if integer else {})}
    store = Store(2, (1, m, n), (b, row, column), x.var("acc", result))
    return Task("gemm", buffers, (store,), params, {"x": x.load(0, (b, row, r), x_type)})


def with_zeros(task: Task, pattern: Sparsity) -> Task:
    return replace(task, params={**task.params, "group": pattern.group, "kept": pattern.units(task.params["k"])})


def best(task: Task, evaluated: Evaluator, skips_zeros: bool) -> Candidate:
    """The fastest of the TRIED whose predicted cost is least."""
    device, found = evaluated.device, []
    for t in makers(task, device):
        if t.skips_zeros == skips_zeros:
            found += [(t.cost(task, k, device), Candidate(t.name, k)) for k in t.space(task, device).candidates()]
    if not found:
        raise RuntimeError(f"no template makes this task:\n{task}")
    tried = [c for _, c in sorted(found, key=lambda f: f[0])[:TRIED]]
    (trials,) = evaluated.evaluate([Batch(task, tuple(tried))])
    good = [t for t in trials if t.status == "ok"]
    if not good:
        raise RuntimeError(f"no candidate works: {trials[0].message}")
    return min(good, key=lambda t: t.ratio).candidate


def gains(shape: tuple[int, int, int], integer: bool, patterns: Sequence[Sparsity], evaluated: Evaluator) -> list[Gain]:
    """The dense kernel and those of all patterns, in one run."""
    dense = product_of(*shape, integer)
    made = [(dense, best(dense, evaluated, False))]
    made += [(t, best(t, evaluated, True)) for t in (with_zeros(dense, p) for p in patterns)]
    evaluated.build(made)
    evaluated.load(made)
    board = Board(evaluated.device, [p for kernel in made for p in parts(*kernel, evaluated.device)])
    rng = np.random.default_rng(0)
    given, weights, output = dense.buffers
    at = board.reserve(given.bytes), board.reserve(output.bytes)
    values = rng.integers(0, 128, given.shape) if integer else rng.standard_normal(given.shape)
    board.data.append((at[0], values.astype(given.dtype).reshape(-1).view(np.uint8)))
    full = rng.integers(1, 128, weights.shape) if integer else rng.standard_normal(weights.shape)
    full = full.astype(weights.dtype)
    calls = [board.call(t, c, [at[0], thinned(t, full, rng) if "kept" in t.params else full, at[1]]) for t, c in made]
    evaluated.install(board, made)
    (taken,) = evaluated.runner.time([calls], ROUNDS, SECONDS)
    rounds = min(len(t) for t in taken)
    return [Gain(shape, p, taken[0][:rounds], t[:rounds], c)
            for p, t, (_, c) in zip(patterns, taken[1:], made[1:], strict=True)]


def patterns(kind: str, groups: Sequence[int]) -> list[Sparsity]:
    if kind == "scattered":
        return [Sparsity.parse(text) for text in SCATTERED]
    return [replace(Sparsity.parse(text), group=g, step=4 if kind == "int8" else 1) for g in groups for text in PATTERNS]


def kernels(target: str, kind: str, groups: Sequence[int], shapes: Sequence[Sequence[int]]) -> Iterator[Gain]:
    """kind: fp32, int8 or scattered."""
    rig = targets.find(target).rig()
    for m, k, n in shapes:
        with evaluator(rig, 1, 0) as evaluated:
            found = gains((m, k, n), kind == "int8", patterns(kind, groups), evaluated)
        for g in found:
            console.print(f"{kind} {m}x{k}x{n} {g.pattern}: {g.speedup:.2f}x, {g.reached:.2f} of it, ±{g.spread:.0%}, "
                          f"{g.candidate}", highlight=False, soft_wrap=True)
        yield from found


def kernel_table(found: Sequence[Gain], target: str, kind: str) -> list[str]:
    """A row for each shape and group, a column for each pattern: the speed-up, and in brackets the share of what it could be."""
    columns = list(dict.fromkeys(str(replace(g.pattern, group=GROUP)) for g in found))
    lines = [f"### {kind}, {target}", "", f"| product | group | dense, µs | {' | '.join(columns)} | spread |",
             f"|---|---:|---:|{'---:|' * len(columns)}---:|"]
    for shape, group in dict.fromkeys((g.shape, g.pattern.group) for g in found):
        row = [g for g in found if (g.shape, g.pattern.group) == (shape, group)]
        cells = [f"{g.speedup:.2f}x ({g.reached:.2f})" for g in row]
        lines.append(f"| {'x'.join(map(str, shape))} | {group} | {np.median(row[0].dense) * 1e6:.0f} | {' | '.join(cells)} | "
                     f"{max(g.spread for g in row):.0%} |")
    return [*lines, ""]


# ---- Models ------------------------------------------------------------------------------------------------------------


def pruned(name: str, pattern: Sparsity, path: Path) -> Path:
    """A model of the zoo, with the blocks of least magnitude zero in every layer that is not the first or the last."""
    model = importer.load(models.build(name), models.ZOO[name].inputs)
    passes.canonicalize(model, frozenset(LOWERINGS))
    every = [layer for layer in layers(model) if layer.groups == 1]
    for layer in every[1:-1] if every[0].is_conv else every:
        layer.replaced(model, masked(layer, pattern))
    ir.save(model, path)
    return path


def masked(layer: Layer, pattern: Sparsity) -> np.ndarray:
    matrix = layer.matrix.copy()
    k, n = matrix.shape[1:]
    for at in range(0, n, pattern.group):
        group = matrix[0, :, at:at + pattern.group]
        group[np.argsort(np.linalg.norm(group, axis=1), kind="stable")[:k - pattern.units(k)]] = 0
    return matrix


def model_gain(name: str, pattern: Sparsity, folder: Path, budget: float, records: str, rounds: int) -> dict[str, Timing]:
    """Dense and sparse, in turns."""
    folder.mkdir(parents=True, exist_ok=True)
    sparse = pruned(name, pattern, folder / f"{name}.onnx")
    runs = {}
    for kind, model in (("dense", models.build(name)), ("sparse", sparse)):
        shapes = models.ZOO[name].inputs
        tune(model, shapes=shapes, budget=budget, records=records, workers=1)
        place = folder / f"{name}-{kind}"
        shutil.rmtree(place, ignore_errors=True)
        compile(model, place, shapes=shapes, records=records, workers=1)
        runs[kind] = burnish_runner(place, 1)
    inputs = sample(name)
    return interleave({kind: partial(run, inputs) for kind, run in runs.items()}, rounds)


def model_table(found: Mapping[str, Mapping[str, Timing]], pattern: Sparsity) -> list[str]:
    lines = [f"### Models, {pattern} of all weights but the first and last layer's zero", "",
             "| model | dense, ms | sparse, ms | speed-up | spread |", "|---|---:|---:|---:|---:|"]
    for name, t in found.items():
        dense, sparse = t["dense"], t["sparse"]
        lines.append(f"| {name} | {dense.median * 1e3:.2f} | {sparse.median * 1e3:.2f} | {sparse.faster_than(dense):.2f}x | "
                     f"{max(dense.spread, sparse.spread):.0%} |")
    return [*lines, ""]


def main(
    shapes: Annotated[str, typer.Option(help="Products MxKxN, separated by commas.")] = SHAPES,
    groups: Annotated[str, typer.Option(help="Channels that share their zeros.")] = "16,32",
    kinds: Annotated[str, typer.Option(help="fp32, int8, scattered (of fp32); \"\" for none.")] = "fp32,int8,scattered",
    on: Annotated[str, typer.Option("--target", help="Of the products: native, wasm or both.")] = "native",
    names: Annotated[str, typer.Option("--models", help="Models of the zoo, separated by commas.")] = "",
    zeros: Annotated[str, typer.Option(help="Pattern of the models' zeros.")] = "block:75%/32",
    budget: Annotated[float, typer.Option("--tune", min=1, help="Seconds to tune each model for.")] = 60,
    records: Annotated[Path, typer.Option(help="Database of the models' tuning records.")] = Path("out/sparse/records.sqlite"),
    artifacts: Annotated[Path, typer.Option(help="Where pruned and compiled models go.")] = Path("out/sparse"),
    output: Annotated[Path | None, typer.Option("-o", help="Also write the page, such as docs/sparsity.md.")] = None,
) -> None:
    """Speed-ups of kernels and models that skip zeros over our own dense ones, on one thread."""
    command = shlex.join(["python", "-m", "burnish.tools.bench_sparse", *sys.argv[1:]])
    lines = ["# What skipping zeros gains", "", f"Written by `{command}` on {datetime.date.today()}.", "",
             f"CPU: {cpu()}; one thread.", "", TEXT]
    for target, kind in product(names_of(on), names_of(kinds)):
        wanted = SCATTERED_SHAPES if kind == "scattered" and shapes == SHAPES else shapes
        every = list(kernels(target, kind, numbers(groups, ","), [numbers(s, "x") for s in wanted.split(",")]))
        lines += kernel_table(every, target, kind)
    pattern = Sparsity.parse(zeros)
    timed = {name: model_gain(name, pattern, artifacts, budget, str(records), 20) for name in names_of(names)}
    if timed:
        lines += model_table(timed, pattern)
    text = "\n".join(lines)
    print(text)
    if output:
        output.write_text(text + "\n")


def names_of(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def numbers(text: str, between: str) -> list[int]:
    return [int(part) for part in text.split(between)]


if __name__ == "__main__":
    typer.run(main)
