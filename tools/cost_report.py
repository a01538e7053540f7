"""How good the cost model's picks are on what it was not trained on, in numbers, as a page and as a picture.

Regret of a pick: its time over the best time among the measured candidates of its task. Random: its expected value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..schedules.candidate import default
from ..schedules.cost_model import CostModel, Group
from ..schedules.features import costs
from .cost_data import Measured

FEW = 8
FOLDS = 5
# Networks that share most of their layers: none of a family is trained on where one of it is tested.
KIN = (("mobilenetv1", "mobilenetv2", "efficientnet_lite0"), ("resnet18", "resnet50"), ("deit_tiny", "deit_small"),
       ("ppocr_det", "ppocr_rec"), ("convnext_tiny", "inceptionnext_tiny"))
Train = Callable[[Sequence[Group]], CostModel]
LABELS = {"random": "random, expected", "default": "least analytic cost, default template",
          "cost": "least analytic cost, all templates", "model": "model"}
PICKERS = ("random", "default", "cost", "model")


@dataclass(frozen=True)
class Regret:
    """Of one task: of the first pick, and of the best among the first FEW, by each of PICKERS.

    default: by analytic cost, of the template that the task is made with by default before others; cost: of all templates alike;
    seconds: of the untuned kernel, times how often the network has it; ratio: best time over the untuned kernel's.
    """

    family: str
    device: str
    first: Mapping[str, float]
    few: Mapping[str, float]
    seconds: float
    ratio: float


def regret(m: Measured, model: CostModel, count: int = 1) -> Regret:
    ratios, candidates = np.array(m.group.seconds), m.group.candidates
    best = float(ratios.min())
    known, made = costs(m.task, m.device).of, default(m.task, m.device)
    cost = [known.get(c, math.inf) for c in candidates]
    first = made.template if made else ""
    scores = model.scores(m.task, candidates, m.device)
    orders = {"model": np.argsort(-scores, kind="stable"), "cost": np.argsort(cost, kind="stable"),
              "default": np.lexsort((cost, [c.template != first for c in candidates]))}
    few = {name: float(ratios[order[:FEW]].min()) / best for name, order in orders.items()}
    return Regret(m.task.family, m.device.name,
                  {"random": float(ratios.mean()) / best, **{k: float(ratios[order[0]]) / best for k, order in orders.items()}},
                  {"random": least_of(np.sort(ratios), FEW) / best, **few}, m.baseline * count, best)


def least_of(ascending: np.ndarray, count: int) -> float:
    """Expected value of the least of `count` that are drawn without putting back."""
    n = len(ascending)
    if count >= n:
        return float(ascending[0])
    return float(sum(v * math.comb(n - 1 - i, count - 1) for i, v in enumerate(ascending)) / math.comb(n, count))


def by_workload(measured: Sequence[Measured], train: Train) -> list[Regret]:
    """Each task by a model that was trained without it, on any device."""
    keys = sorted({m.task.key for m in measured})
    np.random.default_rng(0).shuffle(keys)
    fold = {key: n % FOLDS for n, key in enumerate(keys)}
    found = []
    for f in range(FOLDS):
        model = train([m.group for m in measured if fold[m.task.key] != f])
        found += [regret(m, model) for m in measured if fold[m.task.key] == f and not m.validates]
    return found


def by_network(measured: Sequence[Measured], train: Train) -> dict[str, list[Regret]]:
    """Each network's tasks by a model that was trained without any task of it or of its kin."""
    found = {}
    for name in sorted({n for m in measured for n in m.networks}):
        model = train([m.group for m in measured if not kin(name) & set(m.networks)])
        found[name] = [regret(m, model, m.networks[name]) for m in measured if name in m.networks and not m.validates]
    return found


def kin(name: str) -> set[str]:
    return {name, *(n for family in KIN if name in family for n in family)}


def by_validation(measured: Sequence[Measured]) -> dict[str, list[Regret]]:
    """What the runs say that were made to validate: the first FEW candidates are the model's picks of all that are legal."""
    found: dict[str, list[Regret]] = {}
    for m in measured:
        if m.validates:
            ratios, candidates = np.array(m.group.seconds), m.group.candidates
            known, made, best = costs(m.task, m.device).of, default(m.task, m.device), float(ratios.min())
            place = {"model": 0, "cost": int(np.argmin([known.get(c, math.inf) for c in candidates])),
                     "default": candidates.index(made) if made else 0}
            first = {name: float(ratios[n]) / best for name, n in place.items()}
            found.setdefault(m.validates, []).append(Regret(
                m.task.family, m.device.name, first, {"model": float(ratios[:FEW].min()) / best},
                m.baseline * m.networks[m.validates], best))
    return found


def noise(measured: Sequence[Measured]) -> float:
    """How much slower the best candidate of one run is than the best of the same candidates in a second run, where that one
    validates: geometric mean."""
    runs = {(m.task.key, m.device.name): m.group for m in measured if not m.validates}
    found = []
    for m in measured:
        before = runs.get((m.task.key, m.device.name)) if m.validates else None
        now = dict(zip(m.group.candidates, m.group.seconds, strict=True))
        both = {c: s for c, s in zip(before.candidates, before.seconds, strict=True) if c in now} if before else {}
        if len(both) > 1:
            found.append(math.log(now[min(both, key=lambda c: both[c])] / min(now[c] for c in both)))
    return math.exp(float(np.mean(found))) if found else math.nan


def mean(regrets: Sequence[Regret], picker: str, few: bool = False) -> float:
    """Geometric, over tasks."""
    return math.exp(float(np.mean([math.log((r.few if few else r.first)[picker]) for r in regrets])))


def weighted(regrets: Sequence[Regret], picker: str, few: bool = False) -> float:
    """Time of all tasks with these picks, over the time with the best candidates."""
    best = [r.seconds * r.ratio for r in regrets]
    return sum(b * (r.few if few else r.first)[picker] for b, r in zip(best, regrets, strict=True)) / sum(best)


# ---- The page ----------------------------------------------------------------------------------------------------------


def table(rows: Mapping[str, Sequence[Regret]], title: str) -> list[str]:
    heads = [title, "tasks", *PICKERS, *(f"time: {p}" for p in PICKERS[1:]), *(f"{p}, best of {FEW}" for p in PICKERS)]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, r in rows.items():
        cells = [*(mean(r, p) for p in PICKERS), *(weighted(r, p) for p in PICKERS[1:]), *(mean(r, p, True) for p in PICKERS)]
        lines.append(f"| {name} | {len(r)} | " + " | ".join(f"{c:.3f}" for c in cells) + " |")
    return lines


def validation_table(measured: Sequence[Measured]) -> list[str]:
    found = by_validation(measured)
    found["**all**"] = [r for rs in found.values() for r in rs]
    shown = ("default", "cost", "model")
    heads = ["network", "tasks", *shown, *(f"time: {p}" for p in shown), f"model, best of {FEW}", f"time: model, best of {FEW}"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, r in found.items():
        if r:
            few = [f(r, "model", few=True) for f in (mean, weighted)]
            cells = [*(mean(r, p) for p in shown), *(weighted(r, p) for p in shown), *few]
            lines.append(f"| {name} | {len(r)} | " + " | ".join(f"{c:.3f}" for c in cells) + " |")
    return lines


def split(regrets: Sequence[Regret], by: Callable[[Regret], str]) -> dict[str, list[Regret]]:
    return {name: [r for r in regrets if by(r) == name] for name in sorted({by(r) for r in regrets})}


def plot(networks: Mapping[str, Sequence[Regret]], path: Path) -> None:
    """Left: share of tasks whose first pick is within a regret, on networks that were held out; right: regret by network."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.6), width_ratios=(1, 1.25), layout="constrained")
    colours = {"random": "#b0b0b0", "default": "#d98c3f", "cost": "#7a9a4b", "model": "#2f6db3"}
    every = [r for rs in networks.values() for r in rs]
    for picker in PICKERS:
        values = np.sort([(r.first[picker] - 1) * 100 for r in every])
        left.step([0, *values], [0, *(100 * np.arange(1, len(values) + 1) / len(values))], where="post", color=colours[picker],
                  label=LABELS[picker])
    values = np.sort([(r.few["model"] - 1) * 100 for r in every])
    left.step([0, *values], [0, *(100 * np.arange(1, len(values) + 1) / len(values))], where="post", color=colours["model"],
              linestyle=":", label=f"model, best of {FEW}")
    left.set(xlim=(0, 60), ylim=(0, 100), xlabel="slower than the best measured, %", ylabel="tasks within, %",
             title="Networks that were held out: first pick of each task")
    left.legend(loc="lower right", frameon=False)
    names = sorted(networks, key=lambda n: mean(networks[n], "model"))
    for n, picker in enumerate(PICKERS):
        right.bar(np.arange(len(names)) + (n - 1.5) * 0.2, [(mean(networks[k], picker) - 1) * 100 for k in names], 0.2,
                  color=colours[picker], label=LABELS[picker])
    right.axhline(10, color="black", linewidth=0.8, linestyle="--")
    right.set_xticks(range(len(names)), names, rotation=40, ha="right")
    right.set(ylabel="slower than the best measured, %", title="Geometric mean over a network's tasks (dashed: the aim)")
    right.set_ylim(0, 1.15 * max((mean(networks[k], p) - 1) * 100 for k in names for p in PICKERS))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


@dataclass(frozen=True)
class Chapter:
    """One kind's model. measured: what it learned from; workloads, networks: its regrets on what was held out; size: bytes."""

    measured: Sequence[Measured]
    workloads: Sequence[Regret]
    networks: Mapping[str, Sequence[Regret]]
    size: int


TITLES = {"cpu": "CPUs", "wasm": "WebAssembly"}
INTRODUCTION = """\
# The cost models

A cost model ranks the candidates of a task before any is measured: `compile` without records takes its first pick; `tune`
measures in its order and teaches it what comes out. Gradient-boosted trees (XGBoost, pairwise ranking in groups of one task on
one device), a model for each kind of device, learned from what was measured there. What it is told of a candidate is in
`schedules/features.py`.

```
python -m burnish.tools.train_cost_model collect    # measure: tasks of the zoo, and random ones; --on wasm: in Node
python -m burnish.tools.train_cost_model validate   # measure: what a model picks for networks that it does not know
python -m burnish.tools.train_cost_model fit        # train: the same measurements, the same bytes
python -m burnish.tools.train_cost_model report     # this page
```

All was measured on one thread of this machine (Zen 5). Its narrower devices are the same machine restricted to their instructions
and registers; WebAssembly runs in Node's V8. Runs that other work on the machine disturbed are left out. No ARM machine has been
measured: there the model of CPUs goes by what holds on the narrow devices, and by the analytic cost, against which it never
prefers what is merely dearer.

**Regret**: time of a pick over the time of the best candidate that was measured of the task; geometric mean over tasks, 1.000 is
best. Of a *random* pick it is the expected value. *default*: the least analytic cost of the template that makes the task untuned
(no Winograd); *cost*: the least analytic cost of all templates. *time* weighs each task by the time it takes (in a network: times
how often it occurs). *Best of {few}*: after {few} measurements in this order. The measured candidates of a task are the default,
those of least analytic cost and random ones. A task counts once for each device, and in each network that has it.

Held-out networks: the model was trained without any task of the network or of its kin ({kin}), on any device. Held-out workloads:
{folds} folds over tasks; a task is on one side on all devices.

The first pick of all that is legal: for these networks the first {few} picks of a model that was trained without them and their
kin were measured, of *all* legal candidates, beside the best {few} that had been measured before. This is what `compile` without
records chooses. The aim is 1.10.
"""
CHAPTER = """
## {title}

{size:.2f} MB, trained on {trials} trials in {runs} runs of {tasks} tasks ({random} of them random, the rest of the zoo's) on
{devices}: about {each:.0f} candidates of a task, of up to a few hundred.

![Regret of random, default, cost and model]({picture})
"""
VALIDATION = """
### The first pick of all that is legal

The first pick takes **{pick:.3f}** times as long as the best, {pick_time:.3f} weighted by time. Noise alone is worth {noise:.3f}:
so much slower is the best of one run than the best of the same candidates in the next.

{table}
"""
HELD_OUT = """
### Held-out networks, among what was measured

{networks}

### Held-out workloads

{workloads}
"""


def picture(kind: str) -> str:
    return f"cost-model-{kind}.png"


def page(chapters: Mapping[str, Chapter]) -> str:
    """chapters: by kind of device."""
    kinds = "; ".join(" and ".join(family) for family in KIN)
    return INTRODUCTION.format(few=FEW, folds=FOLDS, kin=kinds) + "".join(chapter(k, c) for k, c in chapters.items())


def chapter(kind: str, c: Chapter) -> str:
    valid = [r for rs in by_validation(c.measured).values() for r in rs]
    trials, every = sum(len(m.group.seconds) for m in c.measured), [r for rs in c.networks.values() for r in rs]
    text = CHAPTER.format(
        title=TITLES[kind], size=c.size / 1e6, trials=trials, runs=len(c.measured), tasks=len({m.task.key for m in c.measured}),
        random=len({m.task.key for m in c.measured if not m.networks}), each=trials / len(c.measured), picture=picture(kind),
        devices=", ".join(sorted({m.device.name for m in c.measured})))
    if valid:
        text += VALIDATION.format(noise=noise(c.measured), pick=mean(valid, "model"), pick_time=weighted(valid, "model"),
                                  table="\n".join(validation_table(c.measured)))
    return text + HELD_OUT.format(
        networks="\n".join(table({**c.networks, **by_device("all, ", every), "**all**": every}, "network")),
        workloads="\n".join(table({**split(c.workloads, lambda r: r.family), **by_device("", c.workloads),
                                   "**all**": c.workloads}, "family, device")))


def by_device(words: str, regrets: Sequence[Regret]) -> dict[str, list[Regret]]:
    """Rows of a table, where there is more than one device."""
    found = split(regrets, lambda r: r.device)
    return {f"{words}{name}": rows for name, rows in found.items()} if len(found) > 1 else {}
