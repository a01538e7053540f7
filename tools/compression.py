"""What compression costs and gains on trained models and real data, for docs/: `python -m burnish.tools.compression`.

Each case is compressed by `burnish.compress` with samples that its score never sees, compiled, and timed beside our own float
artifact in one interleaved run.
"""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .. import compile, compress, models, tune
from ..compiler.compress.compress import Compressed
from ..compiler.compress.evaluate import fidelity
from ..compiler.tune import to_keep
from . import compression_data as data
from .bench import cpu, sample
from .peers import burnish_runner, onnxruntime_runner
from .timing import BUSY, Timing, interleave, pin

console = Console(stderr=True)


@dataclass(frozen=True)
class Data:
    """seen: what a compression is given; unseen: other samples, to be faithful on; score: of a model, in place of them."""

    seen: Callable[[], Any]
    unseen: Callable[[], Any] | None = None
    score: Callable[[Any], float] | None = None


@dataclass(frozen=True)
class Case:
    """asked: of `compress`; goal: what is asked for, in words."""

    name: str
    model: str
    asked: dict[str, Any]
    data: Data
    goal: str = ""


GROCERY, TEXT = Data(data.grocery_seen, data.grocery_unseen), Data(data.texts_seen, score=data.word_similarity)
DIGITS, PHOTOS = Data(data.digits_seen, score=data.digits), Data(data.photos_seen, data.photos_unseen)
LINES = Data(data.lines_seen, data.lines_unseen)
ALL = {"prefer": "size"}        # every layer that can be, whether faster or not: what a method does to accuracy
CASES = (
    Case("EfficientNet-Lite0 int8", "efficientnet_lite0", {"quantize": "int8"}, GROCERY, "agreement >= 95 %"),
    Case("EfficientNet-Lite0 2-term shift", "efficientnet_lite0", {"shift": 2}, GROCERY, "agreement >= 93 %"),
    Case("EfficientNet-Lite0 integer-only", "efficientnet_lite0", {"quantize": "integer-only"}, GROCERY),
    Case("MiniLM int8", "minilm", {"quantize": "int8"}, TEXT, "loses <= 0.005"),
    Case("MiniLM 50 % block-sparse", "minilm", {"sparsity": "block:50%", **ALL}, TEXT, "loses <= 0.03"),
    Case("MiniLM integer-only", "minilm", {"quantize": "integer-only"}, TEXT),
    Case("LeNet5 90 % sparse int8", "lenet5", {"quantize": "int8", "sparsity": "block:90%", **ALL}, DIGITS, ">= 98.5 %"),
    Case("EfficientNet-Lite0, budget", "efficientnet_lite0", {"max_drop": "8%"}, GROCERY, "drop <= 8 %"),
    Case("MiniLM, budget", "minilm", {"max_drop": "10%"}, TEXT, "drop <= 10 %"),
    Case("PP-OCRv4 recognition, budget", "ppocr_rec", {"max_drop": "10%"}, LINES, "drop <= 10 %"),
    Case("U2Net-p, budget", "u2netp", {"max_drop": "5%"}, PHOTOS, "drop <= 5 %"),
)


@dataclass
class Row:
    """scores: before and after, by name; bytes: of the weights files; faster: than our float artifact; points: of a search."""

    case: str
    goal: str
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)
    bytes: tuple[int, int] = (0, 0)
    faster: float = 0.0
    spread: float = 0.0
    onnxruntime: float = 0.0
    loss: float = 0.0
    layers: dict[str, int] = field(default_factory=dict)
    points: list[tuple[str, float, int, float]] = field(default_factory=list)


def judged(case: Case, small: Path) -> dict[str, tuple[float, float]]:
    """Scores of both models in onnxruntime, which runs what the artifact computes."""
    before = _predict(models.build(case.model))
    after = _predict(small)
    if case.data.score is not None:
        return {case.data.score.__name__: (case.data.score(before), case.data.score(after))}
    assert case.data.unseen is not None
    found = fidelity(before, after, [_feed(case.model, x) for x in case.data.unseen()])
    return {s.name: (1.0 if s.name != "SNR dB" else float("inf"), s.value) for s in found.scores}


def _predict(model: Path) -> Callable[[Any], list[Any]]:
    return onnxruntime_runner(model, 1)


def _feed(model: str, x: Any) -> dict[str, Any]:
    return x if isinstance(x, dict) else {next(iter(models.ZOO[model].inputs)): x}


def artifacts(case: Case, small: Path, folder: Path, budget: float, records: str) -> tuple[Path, Path]:
    """Our float artifact and the compressed one, both tuned for as long."""
    made = []
    for label, model in (("float", models.build(case.model)), ("small", small)):
        place = folder / f"{case.model if label == 'float' else small.stem}-{label}"
        shapes = models.ZOO[case.model].inputs
        if label == "small" or not (place / "manifest.json").exists():
            tuned = tune(model, shapes=shapes, budget=budget, records=records) if budget else None
            compile(model, place, shapes=shapes, tuned=tuned, records=records)
        made.append(place)
    return made[0], made[1]


def measure(case: Case, folder: Path, budget: float, records: str, rounds: int, reuse: bool) -> Row:
    small = folder / f"{case.name.lower().replace(' ', '-').replace(',', '').replace('%', '')}.onnx"
    row = Row(case.name, case.goal)
    if not (reuse and small.exists()):
        with console.status(case.name) as status:
            def report(step: str, done: int, total: int) -> None:
                status.update(f"{case.name}: {step} {done}/{total}")

            made = compress(models.build(case.model), small, calibration_data=case.data.seen,
                            shapes=models.ZOO[case.model].inputs, records=records, progress=report, **case.asked)
        _account(made, row)
    row.scores = judged(case, small)
    dense, compressed = artifacts(case, small, folder, budget, records)
    row.bytes = weights(dense), weights(compressed)
    inputs = sample(case.model)
    runs = {"burnish": burnish_runner(compressed, 1), "float": burnish_runner(dense, 1),
            "onnxruntime": onnxruntime_runner(models.build(case.model), 1)}
    times: dict[str, Timing] = interleave({name: partial(run, inputs) for name, run in runs.items()}, rounds)
    row.faster, row.onnxruntime = (times["burnish"].faster_than(times[name]) for name in ("float", "onnxruntime"))
    row.spread = max(t.spread for t in times.values())
    return row


def weights(artifact: Path) -> int:
    """Bytes of its weights file."""
    return next(artifact.glob("*.weights")).stat().st_size


def _account(done: Compressed, row: Row) -> None:
    row.loss = done.loss.value
    for t in done.recipe.treatments.values():
        row.layers[str(t)] = row.layers.get(str(t), 0) + 1
    row.points = [(p.name, p.prices.total, p.prices.bytes, p.loss.value) for p in done.points]


def page(rows: list[Row], rounds: int, budget: float) -> str:
    command = shlex.join(["python", "-m", "burnish.tools.compression", *sys.argv[1:]])
    lines = [
        "# Compression on trained models and real data", "",
        f"Written by `{command}` on {datetime.date.today()}.", "",
        f"CPU: {cpu()}; one thread. Scores in onnxruntime on data that compression never saw; artifacts tuned for {budget:.0f} s "
        f"each and timed in one interleaved run of {rounds} rounds. Faster: than our own float artifact, and than onnxruntime "
        "in float32. Weights: of the artifact's file, over those of the float artifact.", "",
        "| case | asked | score, before -> after | weights | faster than ours in float | than onnxruntime | spread |",
        "|---|---|---|---:|---:|---:|---:|"]
    for r in rows:
        scores = "; ".join(f"{name} {a:.4g} -> {b:.4g}" for name, (a, b) in r.scores.items())
        lines.append(f"| {r.case} | {r.goal} | {scores} | {r.bytes[1] / max(1, r.bytes[0]):.2f}x | {r.faster:.2f}x | "
                     f"{r.onnxruntime:.2f}x | {r.spread:.0%} |")
    for r in rows:
        if r.points:
            lines += ["", f"{r.case}: what the search tried; its own half of the samples says what is lost.", "",
                      "| model | time, ms | weights, MB | loss |", "|---|---:|---:|---:|"]
            lines += [f"| {name} | {seconds * 1e3:.3f} | {size / 1e6:.2f} | {loss:.2%} |"
                      for name, seconds, size, loss in sorted(r.points, key=lambda p: p[1])]
    if any(r.spread > 0.2 for r in rows):
        lines += ["", BUSY]
    return "\n".join(lines) + "\n"


def main(
    only: Annotated[str, typer.Option(help="Cases whose names contain this.")] = "",
    budget: Annotated[float, typer.Option("--tune", min=0, help="Seconds to tune each artifact for.")] = 30,
    rounds: Annotated[int, typer.Option(min=3, help="Turns of each runner.")] = 30,
    folder: Annotated[Path, typer.Option(help="Where models and artifacts go.")] = Path("out/compression"),
    reuse: Annotated[bool, typer.Option("--reuse", help="Take compressed models that are there.")] = False,
    output: Annotated[Path, typer.Option("-o", help="The page to write.")] = Path("docs/compression.md"),
) -> None:
    """Compresses, judges and times every case, and writes the page after each; the rows are kept as JSON beside the models."""
    pin(1)
    folder.mkdir(parents=True, exist_ok=True)
    with to_keep(str(folder / "records.sqlite")):       # there are records from the start, if none in it
        pass
    kept = folder / "rows.json"
    rows = {r["case"]: Row(**r) for r in json.loads(kept.read_text())} if kept.exists() else {}
    for case in CASES:
        if only.lower() in case.name.lower():
            rows[case.name] = measure(case, folder, budget, str(folder / "records.sqlite"), rounds, reuse)
            kept.write_text(json.dumps([asdict(r) for r in rows.values()]))
            output.write_text(page([rows[c.name] for c in CASES if c.name in rows], rounds, budget))
            console.print(page([rows[case.name]], rounds, budget).splitlines()[-1])


if __name__ == "__main__":
    typer.run(main)
