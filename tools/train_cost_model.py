"""From measurements to the cost models that are shipped: `python -m burnish.tools.train_cost_model collect`, `fit`, `report`."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import xgboost as xgb
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .. import models
from ..schedules import features
from ..schedules.builder import Builder
from ..schedules.candidate import Candidate, default, makers, options
from ..schedules.cost_model import KINDS, PRETRAINED, CostModel, Group, save, train
from ..schedules.device import Device
from ..schedules.evaluate import Batch, Evaluator
from ..schedules.task import Task
from ..targets.cpu import profile
from ..targets.cpu.fingerprint import fingerprint
from ..targets.cpu.runner import LocalRunner
from ..targets.target import Rig
from ..targets.web.target import NAME as WEB
from ..targets.web.target import WebTarget
from . import cost_report, workloads
from .cost_data import Measured, Store

RENEWED = 40        # batches after which builder's and runner's memory is let go
TIMED = 3.0         # seconds that a batch is timed, at most
VALIDATED = "mobilenetv2,resnet50,convnext_tiny,deit_small,minilm,yolov8n"
PROFILES = ("native", "x86-64-v3", "x86-64-v2", WEB)
LIMIT = 60.0        # seconds that a runner may take to answer
ROUNDS = 150
SHAPE: dict[str, float] = {"max_depth": 6, "eta": 0.1}

console = Console(stderr=True)
app = typer.Typer(add_completion=False, help=__doc__)


def device(name: str) -> Device:
    """This machine, or as much of it as an older instruction set can use. One core: kernels are timed on one thread."""
    here = replace(profile.detect(), cores=1)
    if name == "native":
        return here
    if name == "x86-64-v2":
        llvm = (("mtriple", dict(here.llvm)["mtriple"]), ("mcpu", name))
        return replace(here, name=name, llvm=llvm, isa=(), lanes=4, vector_registers=16)
    return replace(profile.load(name), cores=1, l1_kib=here.l1_kib, l2_kib=here.l2_kib, l3_kib=here.l3_kib)


def rig(name: str) -> Rig:
    """How the device of this name is measured here. Raises DeviceError."""
    if name == WEB:
        return WebTarget().rig()
    dev = device(name)
    return Rig(dev, fingerprint(dev), partial(LocalRunner, dev))


def sample(task: Task, on: Device, count: int, rng: np.random.Generator) -> list[Candidate]:
    """The default, the best few of every template by analytic cost, and random ones: half of these from the better half."""
    every = options(task, on)
    rng.shuffle(every)        
    cost = features.costs(task, on).of
    ranked = sorted(every, key=lambda c: cost[c])
    chosen: dict[Candidate, None] = {}
    made = default(task, on)
    if made is not None:
        chosen[made] = None
    kinds = makers(task, on)
    for maker in kinds:
        chosen.update(dict.fromkeys([c for c in ranked if c.template == maker.name][:max(2, count // 4 // len(kinds))]))
    better = [c for c in every if cost[c] <= cost[ranked[len(ranked) // 2]]]
    chosen.update(dict.fromkeys(c for c in better[:max(0, count - len(chosen)) // 2]))
    chosen.update(dict.fromkeys(c for c in every if c not in chosen))
    return list(chosen)[:count]


def work(networks: list[str], randoms: int) -> Iterator[tuple[Task, Mapping[str, int]]]:
    """Tasks of the networks in a random order, each followed by as many random tasks as keep their share; then what is left."""
    found: dict[Task, dict[str, int]] = {}
    for name in networks:
        for task, count in workloads.of_network(name).items():
            found.setdefault(task, {})[name] = count
    zoo = sorted(found.items(), key=lambda entry: entry[0].key)
    np.random.default_rng(0).shuffle(zoo)     
    number, step = 0.0, randoms / max(1, len(zoo))
    for n, entry in enumerate(zoo):
        yield entry
        for r in range(int(number), int((n + 1) * step)):
            yield workloads.random(r), {}
        number = (n + 1) * step
    for r in range(int(number), randoms):
        yield workloads.random(r), {}


@app.command()
def collect(on: Annotated[str, typer.Option(help=f"one of {', '.join(PROFILES)}")] = "native",
            seconds: Annotated[float, typer.Option(help="of wall time")] = 1500,
            networks: Annotated[str, typer.Option(help="of the zoo, with commas between")] = ",".join(models.ZOO),
            randoms: Annotated[int, typer.Option(help="random tasks")] = 400,
            candidates: Annotated[int, typer.Option(help="of a task")] = 24,
            folder: Annotated[Path, typer.Option(help="of the measurements")] = PRETRAINED) -> None:
    """Measures candidates. What was measured before is left out; may be stopped at any time and started again."""
    place, stop, outcomes = rig(on), time.monotonic() + seconds, Counter[str]()
    dev = place.device
    todo = list(work([n for n in networks.split(",") if n], randoms))
    with Store(folder) as store, Builder(1) as builder, Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn(),
            console=console) as bar:
        shown = bar.add_task(f"collect on {dev.name}", total=len(todo))
        known = store.tried(dev)
        for n in range(0, len(todo), RENEWED):
            with place.open(max(os.sched_getaffinity(0)), LIMIT) as runner:
                evaluator = Evaluator(dev, builder, runner)
                for m, (task, where) in enumerate(todo[n:n + RENEWED]):
                    batch = chosen(task, dev, candidates, known.get(task.key, set()), n + m)
                    if batch and time.monotonic() < stop:
                        trials, = evaluator.evaluate([Batch(task, tuple(batch))], TIMED)
                        outcomes.update(t.status for t in trials)
                        for t in trials:
                            if t.status != "ok":
                                console.print(f"{t.status}: {t.candidate} of {task.family} {dict(task.params)}: {t.message}")
                        store.append(task, where, dev, trials)
                    bar.advance(shown)
    console.print(f"{dev.name}: {dict(outcomes)}; {len(store.rows)} trials of {len(store.done())} tasks in {folder}")


@app.command()
def fit(folder: Annotated[Path, typer.Option(help="of the measurements and the model")] = PRETRAINED) -> None:
    """Trains each kind's model on what was measured there, and writes it: the same measurements, the same bytes."""
    for kind, measured in kinds(Store(folder).measured()).items():
        path = folder / f"{kind}.json"
        save(boosted([m.group for m in measured]), path, (c.template for m in measured for c in m.group.candidates))
        console.print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, from {sum(len(m.group.seconds) for m in measured)} trials of "
                      f"{len(measured)} tasks on {len({m.device.name for m in measured})} devices")


@app.command()
def validate(networks: Annotated[str, typer.Option(help="of the zoo")] = VALIDATED,
             on: Annotated[str, typer.Option(help=f"one of {', '.join(PROFILES)}")] = "native",
             seconds: Annotated[float, typer.Option(help="of wall time")] = 900,
             folder: Annotated[Path, typer.Option(help="of the measurements")] = PRETRAINED) -> None:
    """Measures what a model that was trained without a network picks for it, of all that is legal and not only of what was
    measured, beside the best that is known. Each is a further run of its task."""
    place, stop = rig(on), time.monotonic() + seconds
    dev = place.device
    with Store(folder) as store, Builder(1) as builder, console.status("") as status:
        measured, done = kinds(store.measured())[KINDS[dev.arch]], store.validated()
        for name in networks.split(","):
            model = learned([m.group for m in measured if not cost_report.kin(name) & set(m.networks)])
            with place.open(max(os.sched_getaffinity(0)), LIMIT) as runner:
                evaluator = Evaluator(dev, builder, runner)
                for m in measured:
                    if name not in m.networks or m.device != dev or m.validates or (name, m.task.key, dev.name) in done:
                        continue
                    if time.monotonic() > stop:
                        break
                    status.update(f"{name}: {m.task.family}")
                    every = options(m.task, dev)
                    picks = [every[n] for n in np.argsort(-model.scores(m.task, every, dev), kind="stable")[:cost_report.FEW]]
                    known = [m.group.candidates[n] for n in np.argsort(m.group.seconds)[:cost_report.FEW]]
                    made = default(m.task, dev)
                    batch = dict.fromkeys([*picks, *known, *([made] if made else []), cheapest(m.task, dev)])
                    trials, = evaluator.evaluate([Batch(m.task, tuple(batch))], TIMED)
                    store.append(m.task, m.networks, dev, trials, validates=name)


def cheapest(task: Task, on: Device) -> Candidate:
    """Of least analytic cost, of all templates."""
    known = features.costs(task, on).of
    return min(known, key=lambda c: known[c])


@app.command()
def report(folder: Annotated[Path, typer.Option(help="of the measurements and the models")] = PRETRAINED,
           docs: Annotated[Path, typer.Option(help="where cost-model.md and its pictures go")] = Path("docs")) -> None:
    """Trains models without some of the tasks, and says how good their picks are on those."""
    chapters = {}
    with console.status("") as status:
        for kind, measured in kinds(Store(folder).measured()).items():
            status.update(f"{kind}: workloads")
            workload = cost_report.by_workload(measured, learned)
            status.update(f"{kind}: networks")
            network = cost_report.by_network(measured, learned)
            chapters[kind] = cost_report.Chapter(measured, workload, network, (folder / f"{kind}.json").stat().st_size)
            cost_report.plot(network, docs / cost_report.picture(kind))
    text = cost_report.page(chapters)
    (docs / "cost-model.md").write_text(text)
    console.print(text, markup=False, soft_wrap=True)


def kinds(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    """What each kind's model learns from."""
    found: dict[str, list[Measured]] = {}
    for m in measured:
        found.setdefault(KINDS[m.device.arch], []).append(m)
    return dict(sorted(found.items()))


def boosted(groups: Sequence[Group]) -> xgb.Booster:
    return train(groups, ROUNDS, 1, 0, **SHAPE)


def learned(groups: Sequence[Group]) -> CostModel:
    return CostModel(boosted(groups))


def chosen(task: Task, dev: Device, count: int, tried: set[Candidate], seed: int) -> list[Candidate]:
    """What to measure of a task: a sample; where there is one already, of templates that are new since."""
    rng = np.random.default_rng([seed, 7])
    if not tried:
        return sample(task, dev, count, rng)
    names = {c.template for c in tried}
    return [c for c in sample(task, dev, 3 * count, rng) if c.template not in names][:count // 2]


if __name__ == "__main__":
    app()
