"""`burnish.compress`: an ONNX file becomes a smaller one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from .. import importer, targets
from ..driver import Progress, silent
from ..planner import signature
from ..tune import existing
from .account import account, plot
from .compress import Compressed
from .compress import compress as compress_graph
from .evaluate import judge
from .request import Request, RequestRefused
from .sources import Pixels, calibration


def compress(model: str | Path, output: str | Path, *, calibration_data: str | Path | Callable[[], Any],
             evaluate: str | Path | Callable[[Any], float] | None = None, target: str = "native",
             shapes: Mapping[str, Sequence[int]] | None = None, mean: str = "0", std: str = "1", records: str | None = None,
             workers: int | None = None, progress: Progress | None = None, request: Request | None = None,
             **asked: Any) -> Compressed:
    """Compresses the ONNX file `model` into the ONNX file `output`, with its account (.json, and .svg of a search) beside it.

    asked: what to do: quantize="int8" ("integer-only", "w8", "w4"), sparsity="block:75%" ("2:4"), low_rank="0.5" ("auto"),
    shift=1 (2), slice="0.25", and budgets: max_drop="1%", max_size="4MB", max_latency="3ms"; prefer="speed" ("size");
    recover=False; as on the command line; or a Request. calibration_data: a folder of pictures or arrays, an .npy or .npz file,
    or a function that yields samples, also as "module:function"; evaluate: what scores the model, a folder of labelled samples or
    a function; without it the compressed model is compared with the original. mean, std: of pictures. target: whose kernels are
    timed: a compressed kernel is used only where it is faster there.

    Raises RequestRefused, DataRefused, BudgetMissed, and what `compile` raises; then nothing is written.
    """
    say = progress or silent
    wanted = request or Request.parse(**asked)
    if not wanted.compresses:
        raise RequestRefused("nothing was asked for: say what to do (quantize, sparsity, low-rank, shift, slice) or what the "
                             "budget is (max-drop, max-size, max-latency)")
    place = Path(output)
    if place.suffix != ".onnx":
        raise RequestRefused(f"{place} is where an ONNX file is to be written: give it the ending .onnx")
    say("import", 0, 1)
    graph = importer.load(Path(model), {k: tuple(v) for k, v in (shapes or {}).items()})
    signatures, pixels = [signature(v) for v in graph.graph.inputs], Pixels(mean, std)
    samples = calibration(calibration_data, signatures, pixels)
    scored = judge(evaluate, signatures, pixels) if evaluate is not None else None
    say("import", 1, 1)
    with existing(records) or nullcontext() as database:
        done = compress_graph(graph, wanted, samples, targets.find(target), judge=scored, database=database, workers=workers,
                              progress=say)
    save(done, place)
    return done


def save(done: Compressed, place: Path) -> None:
    """The model and its account, each put in place whole."""
    files = {place: ir.to_proto(done.model).SerializeToString(),
             **{place.with_suffix(ending): content for ending, content in accounts(done).items()}}
    place.parent.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{path.name}-", delete=False) as fresh:
            fresh.write(content)
        Path(fresh.name).chmod(0o644)
        Path(fresh.name).rename(path)


def accounts(done: Compressed) -> dict[str, bytes]:
    """The account by the endings of its files."""
    text = json.dumps(account(done), indent=1, default=_plain) + "\n"
    picture = plot(done)
    return {".json": text.encode(), **({".svg": picture} if picture is not None else {})}


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else str(value)

