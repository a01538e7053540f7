"""Runs ONNX's backend test suite on the native target: `python -m burnish.tools.conformance`.

Outcomes: pass; refused, with the reason that a user would read; wrong (an output differs from the suite's by more than the
suite's own tolerance, or than one unit of rounding of the output's largest element: where sums cancel, the suite's absolute
tolerance of 1e-7 is below the noise of its own reference); crash (an error that is not a refusal, a dead process, a time limit).
Nothing but the compiled library computes: there is no fallback.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import TimeoutError
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pebble import ProcessExpired, ProcessPool
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .suite import Case, load, with_constants

DOCS = Path(__file__).parents[1] / "docs"
LIMIT = 300.0       # seconds for one case, on a machine that may be busy
RECYCLE = 200       # cases after which a worker process is replaced: TVM and the loaded libraries keep memory
OUTCOMES = ("pass", "refused", "wrong", "crash")


@dataclass(frozen=True)
class Result:
    """What became of a case."""

    name: str
    kind: str
    ops: tuple[str, ...]
    outcome: str
    reason: str = ""


# ---- One case, in a worker process -------------------------------------------------------------------------------------


def attempt(case: Case) -> Result:
    """Compiles the case, runs its data sets and compares."""
    from ..compiler.errors import ImportRefused, Refused

    outcome, reason = "pass", ""
    try:
        for inputs, expected in case.data_sets:
            difference = differs(case, compiled_outputs(case, inputs, expected), expected)
            if difference:
                outcome, reason = "wrong", difference
                break
    except Refused as e:
        outcome, reason = "refused", f"{e.refusals[0].op}: {e.refusals[0].reason}"
    except ImportRefused as e:
        outcome, reason = "refused", str(e).partition(": ")[2]      # without the path
    except Exception as e:
        outcome, reason = "crash", f"{type(e).__name__}: {e}"
    return Result(case.name, case.kind, case.ops, outcome, " ".join(reason.split())[:300])


def compiled_outputs(case: Case, inputs: list[Any], expected: list[Any]) -> list[np.ndarray]:
    """What the compiled library computes. Kernels are built in this process, which is a worker already."""
    from ..compiler import driver, importer, planner
    from ..schedules import worker
    from ..schedules.jobs import Job
    from ..targets.cpu import artifact, loader, profile
    from ..targets.plan import KernelCode

    model, given = with_constants(case, inputs)
    with tempfile.TemporaryDirectory(prefix="burnish-conformance-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        graph = importer.load(path, {n: tuple(a.shape) for n, a in given.items() if isinstance(a, np.ndarray)},
                              isolated=False)     # this process may crash
        device = profile.find("native")
        graph, _ = driver.prepare(graph)
        _, lowered = driver.lower(graph)
        choices = driver.decide([low.task for low in lowered], device, "case", {})
        kernels = []
        for key, choice in choices.items():
            job = Job(choice.symbol, choice.template.name, choice.task, choice.knobs, device)
            built = worker.build(job)
            if built.error:
                raise RuntimeError(f"{built.symbol}: {built.error}")
            kernels.append(KernelCode(built.symbol, built.code, job.template, job.knobs.items_, key))
        plan, weights = planner.plan("case", graph, lowered, choices, device)
        arrays = [np.asarray(given[s.name], order="C") for s in plan.inputs]
        blank = [np.zeros(s.shape, s.dtype) for s in plan.outputs]
        artifact.write(plan, kernels, weights, arrays, blank, device, Path(folder) / "artifact")
        with loader.load(Path(folder) / "artifact", threads=1, verify=False) as loaded:
            outputs = loaded(*arrays)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def differs(case: Case, outputs: Sequence[np.ndarray], expected: Sequence[Any]) -> str:
    """How the outputs differ from the expected ones; empty where they do not."""
    if len(outputs) != len(expected):
        return f"{len(outputs)} outputs instead of {len(expected)}"
    for n, (got, want) in enumerate(zip(outputs, map(np.asarray, expected), strict=True)):
        if got.shape != want.shape or got.dtype != want.dtype:
            return f"output {n} is {got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
        try:
            np.testing.assert_allclose(got, want, rtol=case.rtol, atol=max(case.atol, rounding(want)))
        except AssertionError as e:
            return f"output {n}: {' '.join(str(e).split()[:60])}"
    return ""


def rounding(values: np.ndarray) -> float:
    """One unit of rounding of the largest element; 0 for integers."""
    if values.dtype.kind != "f":
        return 0.0
    finite = values[np.isfinite(values)].astype(np.float64)
    return float(np.finfo(values.dtype).eps * np.abs(finite).max(initial=0))


# ---- All cases ---------------------------------------------------------------------------------------------------------


def run(cases: Iterable[Case], jobs: int, seen: Callable[[Result], None] = lambda result: None) -> list[Result]:
    """The results, in order. A case that kills its process or passes the time limit is a crash, and the others go on."""
    cases, results = list(cases), []
    fresh = multiprocessing.get_context("spawn")    # a fork would inherit the threads of whoever calls
    with ProcessPool(max_workers=jobs, max_tasks=RECYCLE, context=fresh) as pool:
        futures = [pool.schedule(attempt, args=[case], timeout=LIMIT) for case in cases]
        for case, future in zip(cases, futures, strict=True):
            try:
                result = future.result()
            except TimeoutError:
                result = Result(case.name, case.kind, case.ops, "crash", f"no result within {LIMIT:.0f} s")
            except ProcessExpired as e:
                result = Result(case.name, case.kind, case.ops, "crash", f"the process died with status {e.exitcode}")
            results.append(result)
            seen(result)
    return results


def table(results: Sequence[Result]) -> str:
    """The page of docs/."""
    count = Counter(r.outcome for r in results)
    kinds = dict.fromkeys(r.kind for r in results)
    by_kind = [f"| {k} | {sum(r.kind == k for r in results)} | " + " | ".join(
        str(sum(r.kind == k and r.outcome == o for r in results)) for o in OUTCOMES) + " |" for k in kinds]
    by_op: dict[str, Counter[str]] = {}
    for r in results:
        if r.kind == "node" and r.ops:
            by_op.setdefault(subject(r), Counter())[r.outcome] += 1
    ops = [f"| {op} | " + " | ".join(str(c[o] or "") for o in OUTCOMES) + " |" for op, c in sorted(by_op.items())]
    names = re.compile(r"'[^']*'|(?<=: output )\S+(?= has no )|\b\d+\b")      # of values, and numbers
    reasons = Counter(names.sub("…", r.reason) for r in results if r.outcome == "refused")
    head = f"| {{}} | {' | '.join(OUTCOMES)} |"
    lines = [
        "# Conformance", "",
        "What `python -m burnish.tools.conformance` found: the backend test suite of the onnx package, compiled for the native",
        "target, run, and compared with the suite's outputs at the suite's relative tolerance (and an absolute one of at least a",
        "unit of rounding of the output's largest element). There is no fallback: what is not compiled is refused and says why.",
        "Inputs that decide a shape or a place (the `starts` of Slice, the `axes` of a reduction; the list is in",
        "`tools/suite.py`) are given to the compiler as constants.", "",
        f"**{count['pass']} of {len(results)} pass**, {count['refused']} are refused, {count['wrong']} are wrong, "
        f"{count['crash']} crash.", "",
        head.format("kind | cases"), "|---|---|---|---|---|---|", *by_kind, "",
        "## By operator", "", "The node cases, by the operator they are about.", "",
        head.format("operator"), "|---|---|---|---|---|", *ops, "",
        "## Why cases are refused", "", "| cases | reason |", "|---|---|",
        *(f"| {n} | {reason.replace('|', '/')} |" for reason, n in reasons.most_common()), ""]
    return "\n".join(lines)


def subject(result: Result) -> str:
    """The operator that a node case is about: the only one, or the one in its name."""
    if len(result.ops) == 1:
        return result.ops[0]
    name = result.name.removeprefix("test_").replace("_", "").lower()
    return max((op for op in result.ops if name.startswith(op.lower())), key=len, default="several ops")


def main(
    only: Annotated[str, typer.Option(help="a regular expression of case names")] = "",
    jobs: Annotated[int, typer.Option(help="processes")] = 2,
    output: Annotated[Path | None, typer.Option(help="folder of conformance.json and conformance.md")] = DOCS,
    verbose: Annotated[bool, typer.Option(help="print every case that does not pass")] = False,
) -> None:
    """Runs the suite and writes the results; exit code 1 if a case is wrong or crashes."""
    console = Console(stderr=True)
    with console.status("loading the suite"):
        cases = [c for c in load() if re.search(only, c.name)]
    count: Counter[str] = Counter()
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("", total=len(cases))

        def seen(result: Result) -> None:
            count[result.outcome] += 1
            progress.update(bar, advance=1, description=" ".join(f"{count[o]} {o}" for o in OUTCOMES))
            if result.outcome in ("wrong", "crash") or (verbose and result.outcome != "pass"):
                console.print(f"{result.outcome} {result.name}: {result.reason}", markup=False, highlight=False, soft_wrap=True)
        results = run(cases, jobs, seen)
    print(json.dumps(dict(count)))
    if output is not None and not only:
        output.mkdir(exist_ok=True)
        (output / "conformance.json").write_text(json.dumps([asdict(r) for r in results], indent=0) + "\n")
        (output / "conformance.md").write_text(table(results))
    raise typer.Exit(1 if count["wrong"] or count["crash"] else 0)


if __name__ == "__main__":
    typer.run(main)
