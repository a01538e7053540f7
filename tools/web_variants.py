"""What `tune` of a web package recovers on the visitor's device: `python -m burnish.tools.web_variants`.

A package with variants of its heavy kernels, in Chromium on one thread: every way of every kernel is timed inside the model, then
the package tunes itself, from the worst ways and from the compiler's; all are then timed in one interleaved run.
"""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import brotli
import numpy as np
import typer
from rich.console import Console

from .. import compile, models
from ..targets.web import manifest
from ..targets.web.chromium import launched
from ..targets.web.server import Server, files
from .bench import cpu
from .timing import BUSY, Timing, pin, rotate

if TYPE_CHECKING:
    from playwright.sync_api import Page

console = Console(stderr=True)
DEFAULT = "mobilenetv2"
WORST, COMPILED, BEST = "the worst ways", "as compiled", "the best ways"
TUNED, AGAIN = "tuned from the worst", "tuned as compiled"
TURN_S = 0.1


@dataclass(frozen=True)
class Found:
    """A model. kernels: that have variants, of how many; tunes: seconds that each took; code: bytes of brotli that a browser
    loads before `tune`, without variants and with them."""

    name: str
    kernels: int
    of: int
    timings: dict[str, Timing]
    tunes: dict[str, float]
    code: tuple[int, int]

    @property
    def recovered(self) -> float:
        """How fast the model is that was tuned from the worst ways, of the best."""
        return self.timings[TUNED].faster_than(self.timings[BEST])


def package(name: str, variants: int, folder: Path, reuse: bool) -> Path:
    place = folder / f"{name}-{variants}"
    if not (reuse and place.exists()):
        with console.status(f"compiling {name} with {variants} ways"):
            compile(models.build(name), place, target="wasm", shapes=models.ZOO[name].inputs, variants=variants, records="none")
    return place


def loaded(package: Path) -> int:
    """Bytes of brotli of what a browser loads of the best build for one thread, but for the weights."""
    code = manifest.read(package).builds["relaxed-simd"].file
    return sum(len(brotli.compress(p.read_bytes())) for p in (package / n for n in (code, "index.js", "ways.js")) if p.exists())


@contextmanager
def opened(package: Path) -> Iterator[Page]:
    """A page beside a package."""
    with tempfile.TemporaryDirectory() as name, launched() as browser:
        site = Path(name)
        shutil.copytree(package, site / "model")
        shutil.copy(Path(__file__).parent / "web" / "variants.js", site)
        (site / "index.html").write_text("<!doctype html><title>variants</title>")
        with Server(files(site)) as server:
            page = browser.new_page()
            page.goto(server.url)
            yield page


def ask(page: Page, function: str, *arguments: Any) -> Any:
    return page.evaluate(f"async (given) => (await import('/variants.js')).{function}(...given)", arguments)


def measure(name: str, packages: tuple[Path, Path], budget: float, rounds: int) -> Found:
    about = manifest.read(packages[1])
    with opened(packages[1]) as page, console.status(f"measuring {name}"):
        ways: list[list[float]] = ask(page, "exhaustive")
        choices = {WORST: [int(np.argmax(w)) for w in ways], COMPILED: [0] * len(ways), BEST: [int(np.argmin(w)) for w in ways]}
        opened_as = {kind: ask(page, "open", c) for kind, c in choices.items()}
        tunes = {}
        for kind, start in ((TUNED, WORST), (AGAIN, COMPILED)):
            opened_as[kind] = ask(page, "open", choices[start])
            result = ask(page, "tune", opened_as[kind], 1000 * budget)
            tunes[kind] = result["seconds"]
            console.print(f"{name}, {kind}: {result}", highlight=False)
        turns = {kind: partial(turn, page, number) for kind, number in opened_as.items()}
        for _ in range(2):
            for call in turns.values():
                call()
        timings = rotate(turns, rounds)
    return Found(name, len(ways), len({k.task for k in about.builds["relaxed-simd"].kernels}), timings, tunes,
                 (loaded(packages[0]), loaded(packages[1])))


def turn(page: Page, model: int) -> np.ndarray:
    """Seconds per run."""
    once = ask(page, "turn", model, 1)[0]
    return np.array(ask(page, "turn", model, max(1, int(TURN_S / once))))


def table(rows: list[Found], variants: int) -> str:
    head = ("model", "kernels tuned", *(f"{kind}, ms" for kind in (WORST, COMPILED, TUNED, AGAIN, BEST)), "recovered", "tune, s",
            f"code, KB brotli: 1 way / {variants}")
    lines = [head, ["---"] * len(head)]
    for r in rows:
        times = [f"{1000 * r.timings[kind].median:.2f}" for kind in (WORST, COMPILED, TUNED, AGAIN, BEST)]
        lines.append([r.name, f"{r.kernels} of {r.of}", *times, f"{r.recovered:.1%}", f"{r.tunes[TUNED]:.1f}",
                      " / ".join(f"{n / 1000:.1f}" for n in r.code)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page_of(rows: list[Found], variants: int, budget: float, rounds: int) -> str:
    busy = f"\n{BUSY}\n" if any(t.noisy for r in rows for t in r.timings.values()) else ""
    return f"""\
# What a package's own tune recovers

Written by `python -m burnish.tools.web_variants` on {datetime.date.today()}.

CPU: {cpu()}; Chromium without a window, one thread.

Packages ship up to {variants} ways of each heavy kernel. Every way was timed inside whole runs of the model. The package then
tuned itself ([how](tuning.md#on-the-visitors-device)), within {budget:.0f} s, from the worst way of every kernel and from the
compiler's choice. Afterwards all took turns, {rounds} rounds. Times in ms, medians; recovered: the speed that tuning from the
worst ways reached, of that of the best.

{table(rows, variants)}
{busy}"""


def main(
    names: Annotated[str, typer.Option("--models", help="Models of the zoo, separated by commas.")] = DEFAULT,
    variants: Annotated[int, typer.Option(min=2, max=8, help="Ways to make each heavy kernel.")] = 4,
    budget: Annotated[float, typer.Option(help="Seconds for each tune.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=3, help="Turns of each, in the end.")] = 30,
    packages: Annotated[Path, typer.Option(help="Where packages go.")] = Path("out/web-variants"),
    reuse: Annotated[bool, typer.Option("--reuse", help="Take packages that are there instead of compiling anew.")] = False,
    output: Annotated[Path | None, typer.Option("-o", help="Also write the page, such as docs/variants-web.md.")] = None,
) -> None:
    """Times packages with variants in a headless Chromium, before and after they tuned themselves.

    Example: python -m burnish.tools.web_variants --models mobilenetv2,deit_tiny -o docs/variants-web.md
    """
    made = {name: (package(name, 1, packages, reuse), package(name, variants, packages, reuse)) for name in names.split(",")}
    pin(1)
    rows = [measure(name, each, budget, rounds) for name, each in made.items()]
    text = page_of(rows, variants, budget, rounds)
    print(text)
    if output is not None:
        output.write_text(text)


if __name__ == "__main__":
    typer.run(main)
