"""The command line: `burnish VERB …`, and `compile` for `burnish compile`."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..targets.cpu import loader, profile
from ..targets.cpu.errors import TargetError, ToolchainError
from . import api, importer, ui
from .arrays import read_input, save_outputs, top
from .compare import compare as compare_layers
from .driver import lower, prepare
from .errors import BuildError, BurnishError, Refused
from .measure import measure as measure_artifact
from .planner import signature
from .sample import sample_inputs
from .shapes import parse_shapes

app = typer.Typer(name="burnish", no_args_is_help=True, add_completion=False, rich_markup_mode="markdown",
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Compiles a trained ONNX model into a small, self-contained, tuned library.")

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX model.", show_default=False)]
ArtifactDir = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A folder that `burnish compile` wrote.", show_default=False)]
Shapes = Annotated[list[str] | None, typer.Option("--shape", metavar="NAME=1x3x224x224", show_default=False,
                                                  help="Fixes an input with free dimensions. Repeat for several inputs.")]
Target = Annotated[str, typer.Option(help=f"{', '.join(api.TARGETS)}, or a device of targets/cpu/devices.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Seed = Annotated[int, typer.Option(help="Of the random sample input.")]
Threads = Annotated[int | None, typer.Option(help="Default: as many as CPUs that this process may use.", min=1, show_default=False)]


@app.command("compile", epilog="Examples:\n\n`burnish compile model.onnx -o out`\n\n"
                               "`burnish compile ocr.onnx --shape x=1x3x48x320 -o out --target linux-arm64`")
def compile_command(model: ModelFile, output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")] = Path("out"),
                    target: Target = "native", shape: Shapes = None, threads: Annotated[int | None, typer.Option(
                        help="Processes that build kernels. Default: one for each CPU.", min=1, show_default=False)] = None,
                    seed: Seed = 0, json: Json = False) -> None:
    """Compile a model into a folder: library, weights, C header, example, manifest. The folder appears only once the library has
    run its sample and its output equals onnxruntime's."""
    with ui.progress(f"compile {model.name}") as report:
        done = api.compile(model, output, target=target, shapes=parse_shapes(shape), workers=threads, seed=seed, progress=report)
    if json:
        return ui.print_json(asdict(done))
    checked = "not run: there is no emulator for it here" if done.error is None else f"equals onnxruntime's to {done.error:.1e} of its scale"
    ui.out.print(f"[bold green]{done.path}[/]")
    ui.out.print(f"  library  {ui.size(done.library)} ({done.kernels} kernels, {done.launches} launches)")
    ui.out.print(f"  weights  {ui.size(done.weights)}")
    ui.out.print(f"  output   {checked}")
    if target == "native":
        ui.out.print(f"Next: burnish measure {output}    burnish run {output} INPUT    or see {output}/README.md")
    return None


@app.command(epilog="Example: `burnish check model.onnx --shape x=1x3x48x320`")
def check(model: ModelFile, shape: Shapes = None, json: Json = False) -> None:
    """Say whether the model can be compiled, and how each op would be, without compiling it. Exit code 2 if not."""
    graph, applied = prepare(importer.load(model, parse_shapes(shape)))
    _, lowered = lower(graph)
    families = Counter((str(g.group), g.task.family) for g in lowered)
    if json:
        return ui.print_json({"model": str(model), "passes": applied, "kernels": len({g.task.key for g in lowered}), "groups": [
            {"nodes": nodes, "family": family, "count": n} for (nodes, family), n in families.items()]})
    table = ui.Table("count", "nodes", "made as", title=f"{model.name} can be compiled: {len(lowered)} kernel launches", title_justify="left")
    for (nodes, family), n in families.most_common():
        table.add_row(str(n), nodes, family)
    ui.out.print(table)
    return None


@app.command(epilog="Examples:\n\n`burnish run out cat.png --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225`\n\n"
                    "`burnish run out ids.npy mask.npy -o result.npz`")
def run(artifact: ArtifactDir, inputs: Annotated[list[Path], typer.Argument(help="One file for each input, or one .npz with them all: .npy, "
                                                                                 ".npz, or an image.", show_default=False)],
        output: Annotated[Path | None, typer.Option("-o", "--output", help="Save the outputs as .npy or .npz.", show_default=False)] = None,
        mean: Annotated[str, typer.Option(help="Of images, for each channel, in units of 0..1.")] = "0",
        std: Annotated[str, typer.Option(help="Of images, for each channel, in units of 0..1.")] = "1",
        threads: Threads = None, json: Json = False) -> None:
    """Run an artifact on arrays or images. A vector of scores is shown as its five largest."""
    with loader.load(artifact, threads) as model:
        arrays = read_input(inputs, model.inputs, mean, std)
        result = model(*arrays)
        outputs = result if isinstance(result, tuple) else (result,)
        names = [s.name for s in model.outputs]
    if output is not None:
        save_outputs(output, names, outputs)
    if json:
        return ui.print_json({n: {"shape": o.shape, "dtype": str(o.dtype), "top": top(o)} for n, o in zip(names, outputs, strict=True)})
    for name, o in zip(names, outputs, strict=True):
        ui.out.print(f"[bold]{name}[/]  {o.dtype}\\[{', '.join(map(str, o.shape))}]")
        for index, value in top(o):
            ui.out.print(f"  {index:6d}  {value:.6g}")
        if not top(o):
            ui.out.print(np.array2string(o, threshold=16, precision=5, edgeitems=2), markup=False)
    if output is not None:
        ui.out.print(f"saved to {output}")
    return None


@app.command(epilog="Example: `burnish measure out --threads 1`")
def measure(artifact: ArtifactDir, threads: Threads = None, rounds: Annotated[int, typer.Option(help="Runs to time.", min=3)] = 50,
            kernels: Annotated[int, typer.Option(help="Rows of the table of kernels.", min=0)] = 20, seed: Seed = 0, json: Json = False) -> None:
    """Time an artifact on its kind of input: latency with its spread, and where the time goes, launch by launch, beside what this
    machine's core could do."""
    with ui.progress("measure") as report:
        found = measure_artifact(artifact, threads, rounds, seed, report)
    if json:
        return ui.print_json(asdict(found))
    ui.out.print(f"{artifact}: median [bold]{ui.seconds(found.median)}[/], 10th percentile {ui.seconds(found.p10)}, "
                 f"90th {ui.seconds(found.p90)}  ({found.rounds} runs, {found.threads} threads)")
    ui.out.print(f"one core's ceilings: {found.peak_flops / 1e9:.0f} GFLOP/s, {found.peak_bandwidth / 1e9:.0f} GB/s from memory")
    table = ui.Table("time", "share", "rate", "of peak", "kernel", "nodes")
    for k in sorted(found.launches, key=lambda k: -k.seconds)[:kernels]:
        rate = f"{k.flops / k.seconds / 1e9:.0f} GFLOP/s" if k.compute_bound else f"{k.bytes / k.seconds / 1e9:.1f} GB/s"
        table.add_row(ui.seconds(k.seconds), f"{k.share:.1%}", rate, f"{k.of_peak:.0%}", k.kernel, ", ".join(k.nodes), style=None)
    ui.out.print(table)
    return None


@app.command(epilog="Example: `burnish compare model.onnx`")
def compare(model: ModelFile, shape: Shapes = None, seed: Seed = 0, every: Annotated[bool, typer.Option(
        "--all", help="Show every kernel, not just the worst ten.")] = False, json: Json = False) -> None:
    """Compile with every kernel's output exposed and compare each with onnxruntime: which pass, which layer differs first? Exit
    code 1 if one does."""
    shapes = parse_shapes(shape)
    graph = importer.load(model, shapes)
    inputs = sample_inputs([signature(v) for v in graph.graph.inputs], seed)
    with ui.progress(f"compare {model.name}") as report:
        found = compare_layers(lambda: importer.load(model, shapes), inputs, profile.detect(), report)
    bad = found.first is not None or found.guilty_passes
    if json:
        ui.print_json({"passes": [asdict(d) for d in found.passes], "layers": [asdict(x) for x in found.layers],
                       "first": asdict(found.first) if found.first else None})
        sys.exit(int(bad))
    shown = found.layers if every else sorted(found.layers, key=lambda x: -x.difference.error)[:10]
    table = ui.Table("error", "allowed", "value", "nodes", title="kernels against onnxruntime" + ("" if every else ", the worst ten"))
    for x in shown:
        table.add_row(f"{x.difference.error:.1e}", f"{x.difference.tolerance:.0e}", x.difference.name, ", ".join(x.nodes),
                      style="" if x.difference.ok else "red")
    ui.out.print(table)
    ui.out.print("passes: " + ("[red]change the output[/]" if found.guilty_passes else "exact"))
    ui.out.print(f"first kernel that differs: {', '.join(found.first.nodes) if found.first else 'none'}")
    sys.exit(int(bad))


@app.command(epilog="Example: `burnish inspect out`")
def inspect(artifact: ArtifactDir, json: Json = False) -> None:
    """Show what is in an artifact: inputs, outputs, kernels by size, and whether every file is what the compiler wrote."""
    from ..targets.cpu import manifest

    record = manifest.read(artifact.resolve())
    manifest.verify(artifact.resolve(), record)
    if json:
        return ui.print_json(record.model_dump())
    ui.out.print(f"[bold]{record.name}[/] for {record.device.name} ({record.device.arch}), made by "
                 + ", ".join(f"{k} {v}" for k, v in record.tools.items()))
    for kind, tensors in (("input", record.inputs), ("output", record.outputs)):
        for t in tensors:
            ui.out.print(f"  {kind:6s} {t}", markup=False)
    ui.out.print(f"  arena {ui.size(record.arena)}, weights {ui.size(record.weights)}, {len(record.launches)} launches")
    uses = Counter(x.kernel for x in record.launches)
    table = ui.Table("code", "launches", "kernel", "template", "knobs")
    for k in sorted(record.kernels, key=lambda k: -k.code_bytes):
        table.add_row(ui.size(k.code_bytes), str(uses[k.symbol]), k.symbol, k.template, " ".join(f"{n}={v}" for n, v in k.knobs.items()))
    ui.out.print(table)
    ui.out.print(f"every one of {len(record.files)} files has its SHA-256")
    return None


def run_app(arguments: list[str]) -> None:
    """The program: expected errors are one line and an exit code, never a traceback."""
    as_json = "--json" in arguments
    try:
        app(arguments, standalone_mode=False)
    except (BurnishError, TargetError) as e:
        ui.fail(BuildError(str(e)) if isinstance(e, ToolchainError) else e, as_json)
    except (typer.Abort, KeyboardInterrupt):
        ui.err.print("interrupted")
        sys.exit(130)
    except Exception as e:
        if hasattr(e, "format_message"):        # a usage error of click's
            ui.fail(BurnishError(e.format_message()), as_json)
        raise


def main() -> None:
    run_app(sys.argv[1:])


def compile_main() -> None:
    run_app(["compile", *sys.argv[1:]])


__all__ = ["Refused", "app", "compile_main", "main", "run_app"]
