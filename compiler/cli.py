"""The command line: `burnish VERB …`."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..schedules.cost_model import ModelFileError
from ..schedules.records import RecordsError
from ..targets.cpu import loader
from ..targets.cpu.errors import TargetError, ToolchainError
from . import api, cli_compare, cli_compress, cli_demo, cli_inspect, cli_records, cli_worker, importer, ui, ui_tune
from . import options_compress as ask
from .arrays import read_input, save_outputs, top
from .cli_tune import seconds
from .cli_tune import tune as tune_command
from .compress.account import account
from .compress.api import accounts
from .compress.request import Request
from .errors import BuildError, BurnishError
from .measure import measure as measure_artifact
from .options import ArtifactDir, Exact, Json, ModelFile, Records, Rows, Seed, Shapes, Target, Threads, Variants, Workers
from .planner import signature
from .sample import sample_inputs
from .shapes import parse_shapes

app = typer.Typer(name="burnish", add_completion=False, rich_markup_mode="markdown",
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Compiles a trained ONNX model into a small, self-contained, tuned library.")

InputFiles = Annotated[list[Path], typer.Argument(metavar="INPUT…", show_default=False, help=(
    "One file for each input, or one .npz with them all: .npy, .npz, or an image."))]
OutputDir = Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="The folder to write.")]
OutputFile = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", show_default=False,
                                                 help="Save the outputs as .npy or .npz.")]
PerChannel = Annotated[str, typer.Option(metavar="A,B,C", help="Of images, for each channel, in units of 0..1.")]
Rounds = Annotated[int, typer.Option(metavar="N", min=3, help="Runs to time.")]
Tune = Annotated[str | None, typer.Option(metavar="60s", show_default=False, help=(
    "Tune first, for so long: 90, 60s, 10m or 1h. What was tuned before is used in any case."))]


@app.command("compile", epilog="Examples:\n\n`burnish compile model.onnx -o out`\n\n"
                               "`burnish compile model.onnx -o out --tune 60s`\n\n"
                               "`burnish compile model.onnx -o out --quantize int8 --calib pictures/`\n\n"
                               "`burnish compile ocr.onnx --shape x=1x3x48x320 -o out --target linux-arm64`")
def compile_command(
    model: ModelFile, output: OutputDir = Path("out"), target: Target = "native", shape: Shapes = None, tune: Tune = None,
    exact: Exact = False, records: Records = None, threads: Workers = None, seed: Seed = 0, variants: Variants = 1,
    json: Json = False, quantize: ask.Quantize = None, sparsity: ask.Sparsity = None, low_rank: ask.LowRank = None,
    shift: ask.Shift = 0, slice: ask.Slice = None, recover: ask.Recover = True, max_drop: ask.MaxDrop = None,
    max_size: ask.MaxSize = None, max_latency: ask.MaxLatency = None, prefer: ask.Prefer = None, calib: ask.Calib = None,
    evaluate: ask.Eval = None, mean: ask.Mean = "0", std: ask.Std = "1",
) -> None:
    """Compile a model into a folder: library, weights, C header, example, manifest.

    The folder appears only once the library has run its sample and its output equals onnxruntime's. Where compression is asked
    for, that is the output of the compressed model, and the account of what was lost lies in the folder."""
    request = Request.parse(quantize=quantize, sparsity=sparsity, low_rank=low_rank, shift=shift, slice=slice, max_drop=max_drop,
                            max_size=max_size, max_latency=max_latency, prefer=prefer, recover=recover)
    shapes, tuned = parse_shapes(shape), None
    with cli_compress.smaller(model, request, calib, evaluate, target, shapes, mean, std, records, threads) as (source, smaller):
        if tune is not None:
            with ui_tune.live(model.name) as watch:
                tuned = api.tune(source, budget=seconds(tune), target=target, shapes=shapes, workers=threads, seed=seed,
                                 exact=exact, records=records, watch=watch)
            ui_tune.tell(tuned)
        beside = {f"compression{ending}": content for ending, content in accounts(smaller).items()} if smaller else {}
        with ui.progress(f"compile {model.name}") as report:
            done = api.compile(source, output, target=target, shapes=shapes, workers=threads, seed=seed, tuned=tuned, exact=exact,
                               records=records, variants=variants, beside=beside, progress=report)
    if json:
        ui.print_json({**asdict(done), **({"compression": account(smaller)} if smaller else {})})
        return
    if smaller:
        cli_compress.show(smaller)
    ui.say(str(done.path), "bold green")
    ui.say(f"  code     {ui.size(done.code)} ({ui.count(done.kernels, 'kernel')}, {ui.count(done.launches, 'launch')})")
    ui.say(f"  weights  {ui.size(done.weights)}")
    ui.say("  output   " + ("not run: nothing here can run it" if done.error is None else
                            f"equals onnxruntime's to {done.error:.1e} of its scale"))
    if done.note:
        ui.say(f"  made     {done.note}")
    following = {"native": f"burnish measure {output}, burnish run {output} INPUT, or ",
                 "wasm": f"npm install {os.path.join('.', output)}, or "}
    ui.say(f"Next: {following.get(target, '')}read {output / 'README.md'}")


app.command("compress", epilog="Examples:\n\n`burnish compress model.onnx --quantize int8 --calib pictures/`\n\n"
                               "`burnish compress model.onnx --max-drop 1% --calib data.npz --eval mymodule:accuracy`")(
    cli_compress.compress)


app.command("tune", epilog="Examples:\n\n`burnish tune model.onnx --budget 60s`\n\n"
                           "`burnish tune model.onnx --farm tcp://10.0.0.5:8786 --records postgresql://tuner@db/records`")(
    tune_command)


@app.command(epilog="Example: `burnish check model.onnx --shape x=1x3x48x320`")
def check(model: ModelFile, shape: Shapes = None, json: Json = False) -> None:
    """Say whether the model can be compiled, and how each op would be, without compiling it.

    Exit code 2 if not, with every node that cannot, the reason, and what to do."""
    graph = importer.load(model, parse_shapes(shape))
    lowered = api.front(graph, graph.clone(), sample_inputs([signature(v) for v in graph.graph.inputs]))
    families = Counter((str(g.group), g.task.family) for g in lowered.groups)
    kernels = len({g.task.key for g in lowered.groups})
    if json:
        ui.print_json({"model": str(model), "passes": lowered.passes, "kernels": kernels, "groups": [
            {"nodes": nodes, "family": family, "count": n} for (nodes, family), n in families.items()]})
        return
    table = ui.table("count", "nodes", "made as", numbers=1)
    for (nodes, family), n in families.most_common():
        ui.row(table, str(n), nodes, family)
    ui.out.print(table)
    ui.say(f"{model.name} can be compiled: {ui.count(kernels, 'kernel')}, {ui.count(len(lowered.groups), 'launch')}")


@app.command(epilog="Examples:\n\n`burnish run out cat.png --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225`\n\n"
                    "`burnish run out ids.npy mask.npy -o result.npz`")
def run(artifact: ArtifactDir, inputs: InputFiles, output: OutputFile = None, mean: PerChannel = "0", std: PerChannel = "1",
        threads: Threads = None, json: Json = False) -> None:
    """Run an artifact on arrays or images.

    A vector of scores is shown as its five largest."""
    with loader.load(artifact, threads) as model:
        arrays = read_input(inputs, model.inputs, mean, std)
        result = model(*arrays)
        outputs = result if isinstance(result, tuple) else (result,)
        names = [s.name for s in model.outputs]
    if output is not None:
        save_outputs(output, names, outputs)
    if json:
        ui.print_json({n: {"shape": o.shape, "dtype": str(o.dtype), "top": top(o)} for n, o in zip(names, outputs, strict=True)})
        return
    for name, o in zip(names, outputs, strict=True):
        ui.say(f"{name}: {o.dtype}[{', '.join(map(str, o.shape))}]", "bold")
        for index, value in top(o):
            ui.say(f"  {index:6d}  {value:.6g}")
        if not top(o):
            ui.say(np.array2string(o, threshold=16, precision=5, edgeitems=2))
    if output is not None:
        ui.say(f"saved to {output}")


@app.command(epilog="Example: `burnish measure out --threads 1`")
def measure(artifact: ArtifactDir, threads: Threads = None, rounds: Rounds = 50, kernels: Rows = 20, seed: Seed = 0,
            json: Json = False) -> None:
    """Time an artifact on its kind of input: latency with its spread, and where the time goes.

    Each launch stands beside what the threads' cores could do; over 100% of memory's bandwidth, its data was in their caches."""
    with ui.progress("measure") as report:
        found = measure_artifact(artifact, threads, rounds, seed, report)
    if json:
        ui.print_json(asdict(found))
        return
    ui.say(f"median {ui.seconds(found.median)}", "bold")
    ui.say(f"10th percentile {ui.seconds(found.p10)}, 90th {ui.seconds(found.p90)} "
           f"({ui.count(found.rounds, 'run')}, {ui.count(found.threads, 'thread')})")
    ui.say(f"one core's ceilings: {found.peak_flops / 1e9:.0f} GFLOP/s, {found.peak_bandwidth / 1e9:.0f} GB/s from memory")
    table = ui.table("time", "share", "rate", "of peak", "kernel", "nodes", numbers=4)
    for k in sorted(found.launches, key=lambda k: -k.seconds)[:kernels]:
        rate = f"{k.rate / 1e9:.0f} GFLOP/s" if k.compute_bound else f"{k.rate / 1e9:.1f} GB/s"
        ui.row(table, ui.seconds(k.seconds), f"{k.share:.1%}", rate, f"{k.of_peak:.0%}", k.kernel, ", ".join(k.nodes))
    ui.out.print(table)
    if len(found.launches) > kernels:
        ui.say(f"… and {len(found.launches) - kernels} more (--kernels)")


app.command("compare", epilog="Examples:\n\n`burnish compare model.onnx`\n\n"
                              "`burnish compare model.onnx --account small.json --calib pictures/`")(cli_compare.compare)
app.command(epilog="Example: `burnish inspect out`")(cli_inspect.inspect)
app.command(epilog="Examples:\n\n`burnish demo out`\n\n`burnish demo out --labels labels.txt --mean 0.5`")(cli_demo.demo)
app.add_typer(cli_records.app)
app.command(epilog="Example: `burnish worker tcp://192.168.0.7:8786`")(cli_worker.worker)


# ---- The program -------------------------------------------------------------------------------------------------------


def run_app(arguments: list[str]) -> None:
    """Expected errors, and others, are one line and an exit code, never a traceback."""
    as_json = "--json" in arguments
    try:
        with warnings.catch_warnings():     # numpy's, of odd constants that passes fold
            warnings.simplefilter("ignore", RuntimeWarning)
            app(arguments or ["--help"], standalone_mode=False)
    except (BurnishError, TargetError, RecordsError, ModelFileError) as e:
        ui.fail(BuildError(str(e)) if isinstance(e, ToolchainError) else e, as_json)
    except (typer.Abort, KeyboardInterrupt):
        ui.complain("interrupted")
        sys.exit(130)
    except BrokenPipeError:     # `burnish … | head`; nothing can be said any more, not even when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as e:
        ui.fail(BurnishError(f"{e.filename or 'the system'}: {e.strerror or e}"), as_json)
    except MemoryError:
        ui.fail(BurnishError("this machine has not enough memory for it"), as_json)
    except Exception as e:
        if hasattr(e, "format_message"):        # a usage error of click's
            ui.fail(BurnishError(f"{e.format_message()} See {' '.join(['burnish', *verbs(e)])} --help."), as_json)
        ui.fail(BuildError(unexpected(e)), as_json)


def verbs(e: Exception) -> list[str]:
    """The command that a usage error is of: "records import", say."""
    context, found = getattr(e, "ctx", None), list[str]()
    while context is not None and context.parent is not None:
        context, found = context.parent, [context.info_name, *found]
    return found


def unexpected(e: Exception) -> str:
    """A bug of burnish on one line, with its place."""
    place = traceback.extract_tb(e.__traceback__)[-1]
    what = " ".join(str(e).split())[:300]
    where = f"{Path(place.filename).name}:{place.lineno}, {place.name}"
    return f"a bug of burnish, please report it: {type(e).__name__}: {what} ({where})"


__all__ = ["app", "run_app"]
