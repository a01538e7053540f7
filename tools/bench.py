"""Latency of artifacts beside onnxruntime, OpenVINO and LiteRT, in one interleaved run: `python -m burnish.tools.bench`."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from .. import compile, models, tune
from ..compiler import importer
from ..compiler.sample import oracle
from ..compiler.verify import NOISE
from ..schedules.candidate import BY_NAME
from ..schedules.numerics import relative_error
from ..targets.cpu import manifest
from .peers import ONNXRUNTIME, PEERS, Runner, Unavailable, burnish_runner
from .timing import BUSY, TURN_S, Timing, interleave, pin

OURS, EXACT = "burnish", "burnish --exact"
DEFAULT = ("lenet5,efficientnet_lite0,minilm,mobilenetv1,mobilenetv2,resnet18,resnet50,convnext_tiny,inceptionnext_tiny,"
           "deit_tiny,deit_small")
ERROR = 1e-4        # of the output's scale: a runner past it is not computing the same model

console = Console(stderr=True)


@dataclass
class Row:
    """One model: timings by runner, why the others are missing, and what compiling gave."""

    model: str
    timings: dict[str, Timing]
    missing: dict[str, str] = field(default_factory=dict)
    compile_s: float | None = None
    library_kb: float | None = None

    def as_json(self) -> dict:
        runners = {}
        for name, t in self.timings.items():
            runners[name] = {"p10_ms": t.p10 * 1e3, "median_ms": t.median * 1e3, "spread": t.spread}
            if OURS in self.timings and name != OURS:
                runners[name]["burnish_faster"] = self.timings[OURS].faster_than(t)
        return {"model": self.model, "runners": runners, "missing": self.missing, "compile_s": self.compile_s,
                "library_kb": self.library_kb}


def sample(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of the model's shapes and dtypes; a text's mask and ids are those of a full line."""
    import onnx

    graph = onnx.load(models.build(name), load_external_data=False).graph
    dtypes = {i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in graph.input}
    rng = np.random.default_rng(seed)
    return {key: rng.random(shape, np.float32) if dtypes[key] == np.float32 else np.ones(shape, dtypes[key])
            for key, shape in models.ZOO[name].inputs.items()}


@dataclass(frozen=True)
class Ours:
    """The artifacts of a model: the best one, and that of exact kernels alone where the best has others; and the seconds that
    compiling the best took (None when it was there already)."""

    best: Path
    exact: Path | None
    seconds: float | None


def compiled(name: str, folder: Path, reuse: bool, budget: float | None, records: str | None) -> Ours:
    """budget: seconds to tune for first; records: where what was tuned is found and kept."""
    path, exact = folder / name, folder / f"{name}-exact"
    if reuse and (path / "manifest.json").exists():
        return Ours(path, exact if exact.exists() else None, None)
    model, shapes = models.build(name), models.ZOO[name].inputs
    if budget is not None:
        tune(model, shapes=shapes, budget=budget, records=records)
    start = time.perf_counter()
    compile(model, path, shapes=shapes, records=records)
    seconds = time.perf_counter() - start
    if all(BY_NAME[k.template].exact for k in manifest.read(path).kernels):
        shutil.rmtree(exact, ignore_errors=True)
        return Ours(path, None, seconds)
    compile(model, exact, shapes=shapes, records=records, exact=True)
    return Ours(path, exact, seconds)


def runners(name: str, ours: Ours | None, threads: int) -> tuple[dict[str, Runner], dict[str, str]]:
    """Every runner that can run the model, ours first, and why the others cannot."""
    found: dict[str, Runner] = {OURS: burnish_runner(ours.best, threads)} if ours else {}
    if ours and ours.exact:
        found[EXACT] = burnish_runner(ours.exact, threads)
    missing = {}
    for peer in PEERS:
        try:
            found[peer.name] = peer.load(name, threads)
        except Unavailable as reason:
            missing[peer.name] = str(reason)
    return found, missing


def allowance(name: str, inputs: dict[str, np.ndarray]) -> float:
    """By how much an output may differ from onnxruntime's: its own rounding is known, and no comparison can be finer."""
    return max(ERROR, NOISE * max(oracle(importer.load(models.build(name), models.ZOO[name].inputs), inputs).noise, default=0.0))


def check(outputs: dict[str, list[np.ndarray]], allowed: float) -> dict[str, str]:
    """What is wrong with the runners whose outputs are not onnxruntime's."""
    expected = outputs[ONNXRUNTIME.name]
    wrong = {}
    for name, got in outputs.items():
        error = distance(got, expected)
        if not error <= allowed:
            wrong[name] = f"its output differs from onnxruntime's by {error:.1e} of the scale, {allowed:.1e} is allowed"
    return wrong


def distance(got: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Of the output that differs most."""
    return max((relative_error(g, e) for g, e in zip(got, expected, strict=True)), default=0.0)


def measure(name: str, ours: Ours | None, threads: int, rounds: int) -> Row:
    inputs = sample(name)
    found, missing = runners(name, ours, threads)
    wrong = check({key: [np.array(o) for o in run(inputs)] for key, run in found.items()}, allowance(name, inputs))
    calls = {key: partial(run, inputs) for key, run in found.items() if key not in wrong}
    with Progress(TextColumn("[bold]{task.description}"), BarColumn(), console=console, transient=True) as bar:
        task = bar.add_task(name, total=rounds)
        return Row(name, interleave(calls, rounds, lambda: bar.advance(task)), {**missing, **wrong})


def cpu() -> str:
    """The processor's name and the vector units that matter here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    units = [unit for unit in ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16") if unit in facts.get("flags", "").split()]
    family = f"family {facts['cpu family']} model {facts['model']}" if "cpu family" in facts else ""
    return ", ".join(filter(None, (facts.get("model name", platform.processor() or platform.machine()), family, " ".join(units))))


def cells(row: Row) -> Iterable[tuple[str, str, str, str, str]]:
    """Runner, p10, median, spread, and how many times as fast as it we are."""
    for name, t in row.timings.items():
        ours = row.timings.get(OURS)
        ratio = f"{ours.faster_than(t):.2f}x" if ours and name != OURS else ""
        yield name, f"{t.p10 * 1e3:.3f}", f"{t.median * 1e3:.3f}", f"{t.spread:.0%}", ratio


def busy(rows: list[Row]) -> bool:
    return any(t.noisy for row in rows for t in row.timings.values())


def table(rows: list[Row]) -> Table:
    out = Table("model", "runner", title="Latency in ms; ratio: how many times as fast burnish is")
    for heading in ("p10", "median", "spread", "ratio"):
        out.add_column(heading, justify="right")
    for row in rows:
        for i, line in enumerate(cells(row)):
            out.add_row(row.model if i == 0 else "", *line)
        out.add_section()
    return out


def page(rows: list[Row], threads: int, rounds: int) -> str:
    """docs/benchmarks.md."""
    command = shlex.join(["python", "-m", "burnish.tools.bench", *sys.argv[1:]])
    versions = ", ".join(f"{p.name} {p.version}" for p in PEERS)
    lines = [
        "# Benchmarks", "",
        f"Written by `{command}` on {datetime.date.today()}.", "",
        f"CPU: {cpu()}; {threads} thread{'s' * (threads > 1)}, {os.cpu_count()} CPUs in the machine. {versions}; "
        f"Python {platform.python_version()}, numpy {np.__version__}.", "",
        "All in float32 at the shapes of `models.ZOO`, but for models named int8: those run the same file of "
        "onnxruntime.quantization (QDQ, uint8 activations, int8 weights by channel). The runners take turns of about "
        f"{TURN_S * 1e3:.0f} ms in one pinned process, {rounds} rounds in rotating order, after a warm-up; every output was "
        "compared with onnxruntime's (1e-4 of the scale, or four times what onnxruntime differs from itself without its "
        "optimisations and, where values are quantised, with all of them a few units in the last place larger or smaller). "
        "Times are in milliseconds per call from Python; the spread is the distance between the "
        "quartiles over the median. The ratio says how many times as fast as that runner burnish is: the median over rounds of "
        "the ratio within a round. burnish may use algorithms that round differently (Winograd); where it does, "
        "`burnish --exact` is the same model without them.", "",
        "| model | runner | p10 | median | spread | ratio |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        lines += [f"| {' | '.join((row.model if i == 0 else '', *line))} |" for i, line in enumerate(cells(row))]
    made = [row for row in rows if row.library_kb is not None]
    if made:
        lines += ["", "| model | compile, s | library without weights, KB |", "|---|---:|---:|"]
        lines += [f"| {r.model} | {'' if r.compile_s is None else f'{r.compile_s:.1f}'} | {r.library_kb:.0f} |" for r in made]
    if busy(rows):
        lines += ["", BUSY]
    missing = [f"- {row.model}: {name}: {reason}" for row in rows for name, reason in row.missing.items()]
    if missing:
        lines += ["", "Not measured:", "", *missing]
    return "\n".join(lines) + "\n"


def main(
    names: Annotated[str, typer.Option("--models", help="Models of the zoo, separated by commas.")] = DEFAULT,
    threads: Annotated[int, typer.Option(min=1, help="Threads per runner, and CPUs to keep to.")] = 1,
    rounds: Annotated[int, typer.Option(min=3, help="Turns of each runner.")] = 30,
    budget: Annotated[float | None, typer.Option("--tune", min=1, help="Seconds to tune each model for first.")] = None,
    records: Annotated[str | None, typer.Option(help="Database of tuning records; by default the user's own.")] = None,
    peers_only: Annotated[bool, typer.Option("--peers-only", help="Time the peers alone: a baseline.")] = False,
    artifacts: Annotated[Path, typer.Option(help="Where the compiled models go.")] = Path("out/bench"),
    reuse: Annotated[bool, typer.Option("--reuse", help="Take artifacts that are there instead of compiling anew.")] = False,
    output: Annotated[Path | None, typer.Option("-o", help="Also write the page, such as docs/benchmarks.md.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Times models of the zoo: burnish, onnxruntime, OpenVINO, LiteRT, interleaved in one pinned process.

    Example: python -m burnish.tools.bench --models mobilenetv2,resnet50 -o docs/benchmarks.md
    """
    unknown = set(names.split(",")) - set(models.ZOO)
    if unknown:
        raise typer.BadParameter(f"not in the zoo: {', '.join(sorted(unknown))}; there are {', '.join(models.ZOO)}")
    built: dict[str, Ours] = {}
    if not peers_only:
        for name in names.split(","):
            with console.status(f"{'tuning and ' if budget else ''}compiling {name}"):
                built[name] = compiled(name, artifacts, reuse, budget, records)
    pin(threads)        # after compiling, which may use every CPU
    rows = []
    for name in names.split(","):
        ours = built.get(name)
        row = measure(name, ours, threads, rounds)
        if ours:
            row.compile_s, row.library_kb = ours.seconds, sum(f.stat().st_size for f in ours.best.glob("*.so")) / 1e3
        rows.append(row)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(rows, threads, rounds))
    if as_json:
        print(json.dumps({"cpu": cpu(), "threads": threads, "rows": [row.as_json() for row in rows]}, indent=2))
    else:
        Console().print(table(rows))
        if busy(rows):
            console.print(f"[yellow]{BUSY}")


if __name__ == "__main__":
    typer.run(main)
