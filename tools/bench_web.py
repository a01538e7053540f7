"""Web packages beside LiteRT.js and onnxruntime-web in one Chromium: `python -m burnish.tools.bench_web`.

Latency, download, time to the first result, memory after many runs."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from .. import BurnishError, compile, models, tune
from ..models.packages import CACHE, DownloadError, cached
from ..targets.cpu.errors import TargetError
from ..targets.web import manifest
from ..targets.web.chromium import launched
from . import npm
from .bench import Row, allowance, cells, check, cpu, sample, table
from .peers import ONNXRUNTIME, Unavailable, onnxruntime_runner
from .timing import BUSY, pin, rotate
from .web_memory import Growth, grown
from .web_runtimes import OURS, RUNTIMES, Runtime, Site, Tab

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DEFAULT = "mobilenetv2,resnet18,resnet50,deit_tiny,efficientnet_lite0"
FIRST = 1.5, 0.15       # what a first result may take: so many times the weights' own load, and so many seconds

console = Console(stderr=True)


@dataclass(frozen=True)
class Effort:
    """turn_s: how long a runtime keeps its turn. Its warm-up lasts from warm_up_s[0] seconds, until no turn is faster than the
    best before, but not longer than warm_up_s[1]. starts: cold starts of each runtime."""

    rounds: int
    turn_s: float
    warm_up_s: tuple[float, float]
    starts: int


FULL = Effort(30, 0.06, (1.5, 8.0), 5)
QUICK = Effort(3, 0.01, (0.1, 0.5), 1)
KNOWN = {runtime.module: runtime for runtime in RUNTIMES}
STALE = 4               # turns without a faster one, after which a warm-up may end


@dataclass(frozen=True)
class Start:
    """From a cold cache. navigated, seconds: to the first outputs, from the start of the navigation and from that of the page's
    script; raw, brotli: bytes of the runtime's own files that the browser asked for, without the model."""

    navigated: float
    seconds: float
    raw: int
    brotli: int


@dataclass
class WebRow:
    """One model. weights_s: what fetching our weights takes by itself; growth: of our page, where it was asked for."""

    latency: Row
    starts: dict[str, Start] = field(default_factory=dict)
    weights_s: float = 0.0
    growth: Growth | None = None

    @property
    def allowed_s(self) -> float:
        return FIRST[0] * self.weights_s + FIRST[1]

    def as_json(self) -> dict[str, Any]:
        return {**self.latency.as_json(), "starts": {name: asdict(s) for name, s in self.starts.items()},
                "weights_s": self.weights_s, "growth": asdict(self.growth) if self.growth else None}


def compiled(name: str, folder: Path, reuse: bool, budget: float | None, records: str | None) -> None:
    """Our package of a model. budget: seconds to tune for first."""
    if reuse and (folder / name / manifest.FILE).exists():
        return
    model, shapes = models.build(name), models.ZOO[name].inputs
    if budget is not None:
        tune(model, target="wasm", shapes=shapes, budget=budget, records=records)
    compile(model, folder / name, target="wasm", shapes=shapes, records=records)


def compressed(file: Path) -> int:
    """Bytes of a file by brotli at its best, as a server would keep it; kept by content, as the peers' take half a minute."""
    import brotli

    content = file.read_bytes()

    def write(path: Path) -> None:
        path.write_bytes(brotli.compress(content, quality=11))
    return cached(CACHE / "brotli" / f"{hashlib.sha256(content).hexdigest()}.br", "quality 11", write).stat().st_size


def warmed(tab: Tab, effort: Effort) -> int:
    """Runs a page until V8 has compiled its code for good; the calls that fill a turn."""
    start, best, calls, stale = time.perf_counter(), float("inf"), 1, 0
    least, most = effort.warm_up_s
    while (elapsed := time.perf_counter() - start) < least or (stale < STALE and elapsed < most):
        seconds = float(np.median(tab.turn(calls)))
        stale = 0 if seconds < best else stale + 1
        best = min(best, seconds)
        calls = max(1, round(effort.turn_s / seconds))
    return calls


@dataclass
class Case:
    """A model on its way: what the pages of the runtimes are asked for, and what is known of it."""

    name: str
    row: WebRow
    inputs: dict[str, np.ndarray]
    requests: dict[str, dict[str, Any]]

    @property
    def absent(self) -> dict[str, str]:
        return self.row.latency.missing


def case(name: str, runtimes: Sequence[Runtime], site: Site, threads: int) -> Case:
    made = Case(name, WebRow(Row(name, {})), sample(name), {})
    for runtime in runtimes:
        try:
            made.requests[runtime.name] = {"module": runtime.module, "model": runtime.model(name), "threads": threads,
                                           "inputs": site.inputs(name, runtime, made.inputs)}
        except Unavailable as reason:
            made.absent[runtime.name] = str(reason)
    return made


def start(case: Case, site: Site, effort: Effort) -> None:
    """Times the cold starts; a runtime that does not start is out."""
    with launched() as browser:
        for key, request in case.requests.items():
            try:
                case.row.starts[key] = cold(browser, site, request, effort.starts)
            except Unavailable as reason:
                case.absent[key] = str(reason)
        if OURS.name in case.row.starts:
            case.row.weights_s = weights_load(browser, site, site.weights(case.name), effort.starts)


def measure(case: Case, site: Site, effort: Effort, runs: int | None) -> None:
    """Times the runtimes that started. runs: after how many of our package's runs to look whether its memory grew."""
    expected = onnxruntime_runner(models.build(case.name))(case.inputs)
    with launched() as browser, contextlib.ExitStack() as tabs:
        ready = {key: tabs.enter_context(Tab(browser, site, **case.requests[key])) for key in case.row.starts}
        outputs = {key: [o.astype(e.dtype).reshape(e.shape) for o, e in zip(tab.first().outputs, expected, strict=True)]
                   for key, tab in ready.items()}
        case.absent.update(check({ONNXRUNTIME.name: expected, **outputs}, allowance(case.name, case.inputs)))
        turns = {key: partial(tab.turn, warmed(tab, effort)) for key, tab in ready.items() if key not in case.absent}
        case.row.latency.timings = rotate(turns, effort.rounds)
    if runs and OURS.name in case.row.latency.timings:
        with launched() as browser, Tab(browser, site, **case.requests[OURS.name]) as tab:
            case.row.growth = grown(browser, tab, runs)


def cold(browser: Browser, site: Site, request: dict[str, Any], times: int) -> Start:
    """Raises Unavailable."""
    seconds, code = [], []
    for _ in range(times):
        site.asked()
        with Tab(browser, site, **request) as tab:
            seconds.append(tab.first().seconds)
        code = site.code(site.asked())
    navigated, scripted = np.median(seconds, axis=0)
    return Start(float(navigated), float(scripted), sum(f.stat().st_size for f in code), sum(compressed(f) for f in code))


def weights_load(browser: Browser, site: Site, path: str, times: int) -> float:
    """Seconds that a page takes to fetch this file from a cold cache."""
    seconds = []
    for _ in range(times):
        with Tab(browser, site, "weights", model=path, threads=1, inputs=[]) as tab:
            seconds.append(float(tab.first().outputs[0][0]) / 1e3)
    return float(np.median(seconds))


# ---- What is said of it ------------------------------------------------------------------------------------------------


STARTS = "model", "runtime", "raw, KB", "brotli, KB", "from navigation, ms", "from script, ms", "weights alone", "allowed"
GROWTH = "model", "runs", "page before, MB", "after", "private before", "after", "flat"


def start_cells(row: WebRow) -> Iterable[tuple[str, ...]]:
    """As `STARTS` says, without the model."""
    for name, start in row.starts.items():
        own = (row.weights_s, row.allowed_s) if name == OURS.name else (None, None)
        ms = ("" if s is None else f"{s * 1e3:.0f}" for s in (start.navigated, start.seconds, *own))
        yield name, f"{start.raw / 1e3:,.1f}", f"{start.brotli / 1e3:,.1f}", *ms


def growth_cells(name: str, growth: Growth) -> tuple[str, ...]:
    mb = (f"{b / 1e6:.2f}" for b in (*growth.page, *growth.private))
    return name, f"{growth.runs:,}", *mb, "yes" if growth.flat else "no"


def tables(rows: Sequence[WebRow]) -> list[Table]:
    starts = Table(title="From a cold cache: the code, the first result")
    for n, heading in enumerate(STARTS):
        starts.add_column(heading, justify="right" if n > 1 else "left")
    for row in rows:
        for i, line in enumerate(start_cells(row)):
            starts.add_row(row.latency.model if i == 0 else "", *line)
        starts.add_section()
    memory = Table(*GROWTH, title="Memory of our page")
    for row in rows:
        if row.growth:
            memory.add_row(*growth_cells(row.latency.model, row.growth))
    return [table([row.latency for row in rows]), starts, *([memory] if memory.row_count else [])]


def page(rows: Sequence[WebRow], about: str, cpus: int, effort: Effort) -> str:
    """docs/benchmarks-web.md. about: where it was measured; cpus: for the cold starts."""
    lines = [
        "# Benchmarks in the browser", "",
        f"Written by `{shlex.join(['python', '-m', 'burnish.tools.bench_web', *sys.argv[1:]])}` on {datetime.date.today()}.", "",
        about, "",
        "All in float32 at the shapes of `models.ZOO`. Each runtime has a page, hence a process, of its own in one headless "
        "browser and runs in the page's main thread: LiteRT.js in its relaxed-SIMD build on the CPU (XNNPACK), onnxruntime-web "
        f"on its wasm provider with all graph optimisations. They take turns of about {effort.turn_s * 1e3:.0f} ms, "
        f"{effort.rounds} rounds in rotating order, after at least {effort.warm_up_s[0]} s of warm-up each; every output was "
        "compared with native onnxruntime's. A call takes typed arrays and gives typed arrays. Times are in milliseconds per "
        "call; the spread is the distance between the quartiles over the median. The ratio says how many times as fast burnish "
        "is: the median over rounds of the ratio within a round.", "",
        "| model | runtime | p10 | median | spread | ratio |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        lines += [f"| {' | '.join((row.latency.model if i == 0 else '', *line))} |" for i, line in enumerate(cells(row.latency))]
    if busy(rows):
        lines += ["", BUSY]
    lines += [
        "", "## Download and first result", "",
        f"From a cold cache, the median of {effort.starts}. The code is all that the browser asked for but the model and the "
        "page itself, raw and by brotli 11. The first outputs are timed from the start of the navigation, and from that of the "
        "page's script, with which everything that depends on the runtime begins. The browser and the server shared "
        f"{cpus} CPU{'s' * (cpus > 1)}. Allowed are {FIRST[0]} times what fetching the weights takes alone, plus "
        f"{FIRST[1] * 1e3:.0f} ms.", "",
        f"| {' | '.join(STARTS)} |", f"|---|---|{'---:|' * (len(STARTS) - 2)}"]
    for row in rows:
        lines += [f"| {' | '.join((row.latency.model if i == 0 else '', *line))} |" for i, line in enumerate(start_cells(row))]
    grown = [growth_cells(row.latency.model, row.growth) for row in rows if row.growth]
    if grown:
        lines += [
            "", "## Memory", "",
            "Of a page with our package, before and after so many runs: what `measureUserAgentSpecificMemory` says, and what the "
            "renderers have to themselves.", "",
            f"| {' | '.join(GROWTH)} |", f"|---|{'---:|' * (len(GROWTH) - 2)}---|",
            *(f"| {' | '.join(line)} |" for line in grown)]
    if absent := missing(rows):
        lines += ["", "Not measured:", "", *(f"- {line}" for line in absent)]
    return "\n".join(lines) + "\n"


def missing(rows: Sequence[WebRow]) -> list[str]:
    return [f"{row.latency.model}: {name}: {why}" for row in rows for name, why in row.latency.missing.items()]


def busy(rows: Sequence[WebRow]) -> bool:
    return any(t.noisy for row in rows for t in row.latency.timings.values())


def where(threads: int, versions: dict[str, str]) -> str:
    """Where it was measured, and what."""
    with launched() as browser:
        chromium = browser.version
    said = "; ".join(f"{name} {version}" for name, version in versions.items())
    return (f"CPU: {cpu()}; {threads} thread{'s' * (threads > 1)}, the browser kept to as many CPUs; "
            f"{os.cpu_count()} CPUs in the machine. Chromium {chromium}; {said or 'no peers'}.")


def main(
    names: Annotated[str, typer.Option("--models", help="Models of the zoo, separated by commas.")] = DEFAULT,
    chosen: Annotated[str, typer.Option("--runtimes", help="Which take part, separated by commas.")] = ",".join(KNOWN),
    threads: Annotated[int, typer.Option(min=1, help="Threads per runtime, and CPUs for the browser.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="A few turns only: does it run at all?")] = False,
    memory: Annotated[int | None, typer.Option(min=1, help="Look whether our page's memory grows in so many runs.")] = None,
    litert: Annotated[str | None, typer.Option(help="Version of LiteRT.js; by default the newest.")] = None,
    ort: Annotated[str | None, typer.Option(help="Version of onnxruntime-web; by default the newest.")] = None,
    budget: Annotated[float | None, typer.Option("--tune", min=1, help="Seconds to tune each model for first.")] = None,
    records: Annotated[str | None, typer.Option(help="Database of tuning records; by default the user's own.")] = None,
    artifacts: Annotated[Path, typer.Option(help="Where our packages go.")] = Path("out/bench-web"),
    reuse: Annotated[bool, typer.Option("--reuse", help="Take packages that are there instead of compiling anew.")] = False,
    output: Annotated[Path | None, typer.Option("-o", help="Also write the page, such as docs/benchmarks-web.md.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Times models of the zoo in a headless Chromium: burnish, LiteRT.js, onnxruntime-web, in turns.

    Example: python -m burnish.tools.bench_web --models mobilenetv2,resnet50 -o docs/benchmarks-web.md
    """
    for kind, given, known in (("models", names, models.ZOO), ("runtimes", chosen, KNOWN)):
        if unknown := set(given.split(",")) - set(known):
            raise typer.BadParameter(f"unknown {kind}: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    runtimes = [KNOWN[key] for key in chosen.split(",")]
    effort = QUICK if quick else FULL
    wanted = {"litert": litert, "ort": ort}
    try:
        packages = {r.package: wanted[r.module] or npm.newest(r.package) for r in runtimes if r.package}
        folder = npm.install(packages) if packages else None
        if OURS in runtimes:
            for name in names.split(","):
                with console.status(f"{'tuning and ' if budget else ''}compiling {name}"):
                    compiled(name, artifacts, reuse, budget, records)
        cpus = len(os.sched_getaffinity(0))
        with tempfile.TemporaryDirectory() as scratch, Site(folder, artifacts, Path(scratch)) as site:
            cases = [case(name, runtimes, site, threads) for name in names.split(",")]
            for each in cases:
                with console.status(f"starting {each.name}"):
                    start(each, site, effort)
            pin(threads)        # after what may use every CPU; the browsers from here on inherit it
            about = where(threads, packages)
            for each in cases:
                with console.status(f"measuring {each.name}"):
                    measure(each, site, effort, memory)
            rows = [each.row for each in cases]
    except (npm.NpmError, DownloadError, BurnishError, TargetError) as e:
        console.print(f"[red]bench_web: {e}", highlight=False)
        raise typer.Exit(1) from None
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page(rows, about, cpus, effort))
    if as_json:
        print(json.dumps({"about": about, "threads": threads, "rows": [row.as_json() for row in rows]}, indent=2))
    else:
        for made in tables(rows):
            Console().print(made)
        for line in missing(rows):
            console.print(line, style="yellow", highlight=False, markup=False)
        if busy(rows):
            console.print(f"[yellow]{BUSY}")
    if any(OURS.name in row.latency.missing for row in rows):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
