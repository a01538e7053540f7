"""The way through, from an ONNX file to a verified artifact. Each step is one function of the module that it is named after."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from .. import passes
from ..schedules.builder import Builder
from ..schedules.candidate import default
from ..schedules.device import Device
from ..schedules.jobs import Built, Job
from ..schedules.select import Pick
from ..schedules.task import ITEMSIZE, Task
from ..targets.plan import KernelCode, Plan
from .errors import BuildError, Refusal, Refused
from .limits import Limits, gib
from .lower import group as lowering
from .lower.group import LoweredGroup
from .lower.registry import LOWERINGS, dtype_of, refusal
from .partition import FusedGroup, Partition, partition
from .planner import Choice, bytes_of
from .planner import plan as make_plan

Progress = Callable[[str, int, int], None]      # step, done, total
LIMITS = Limits()
PREFIX = 32     # characters of the model's name in the symbols of its kernels
NO_LOWERING = "burnish has no lowering for this op", "express it with other ops, or ask for it"


def silent(step: str, done: int, total: int) -> None:
    """The progress of a compile that nobody watches."""


@dataclass(frozen=True)
class Lowered:
    """A model as tasks: burnish can compile it, but nothing is built yet."""

    model: ir.Model
    passes: tuple[str, ...]
    groups: tuple[LoweredGroup, ...]


@dataclass(frozen=True)
class Compiled:
    """A model as kernels and a plan, before a target writes its artifact. builds: the kernels for each of the devices."""

    model: ir.Model
    passes: tuple[str, ...]
    lowered: tuple[LoweredGroup, ...]
    plan: Plan
    builds: tuple[tuple[KernelCode, ...], ...]
    weights: np.ndarray
    devices: tuple[Device, ...]


def prepare(model: ir.Model, progress: Progress = silent) -> tuple[ir.Model, tuple[str, ...]]:
    """The exact passes; every op that has a lowering is kept whole. Raises Refused where static shapes end."""
    count = 0

    def one(name: str) -> None:
        nonlocal count
        count += 1
        progress(f"pass {name}", count, 0)

    try:
        applied = passes.run(model, frozenset(LOWERINGS), one)
    except passes.Unsupported as e:
        raise Refused([_refusal(e)]) from None
    except ExceptionGroup as group:
        raise Refused([_refusal(e) for e in group.exceptions if isinstance(e, passes.Unsupported)]) from None
    separate_outputs(model)
    return model, tuple(applied)


def _refusal(e: passes.Unsupported) -> Refusal:
    domain, _, op = e.op.rpartition("::")
    if (domain, op) not in LOWERINGS and not onnx.defs.has(op, domain):
        return Refusal(e.node, e.op, e.version, *NO_LOWERING)       # and so nobody could tell its output's shape
    return Refusal(e.node, e.op, e.version, e.reason, e.hint)


def separate_outputs(model: ir.Model) -> None:
    """Gives every output of the graph a node of its own to write it: an output may otherwise be an input, a constant, or
    another output."""
    seen: set[ir.Value] = set()
    for n, value in enumerate(list(model.graph.outputs)):
        if value.producer() is None or value in seen:
            output = ir.Value(name=value.name, shape=value.shape, type=value.type)
            if value.const_value is not None:       # names stay unique: onnxruntime runs the graph at every stage
                value.name = f"{value.name}_constant"
            copy = ir.node("Identity", [value], name=f"output_{n}", outputs=[output])
            model.graph.append(copy)
            model.graph.outputs[n] = copy.outputs[0]
        seen.add(value)


def lower(model: ir.Model) -> tuple[Partition, list[LoweredGroup]]:
    """The partition and each group's task; raises Refused with everything that cannot be compiled."""
    missing = [refusal(n, *NO_LOWERING)
               for n in model.graph if (n.domain, n.op_type) not in LOWERINGS]
    strange = [refusal(n, f"values of type {kind}", "burnish computes tensors of numpy's booleans, integers and floats")
               for n in model.graph if (n.domain, n.op_type) in LOWERINGS and (kind := _strange_type(n))]
    if strange:
        raise Refused(missing + strange)
    large = [refusal(n, f"its output takes {gib(bytes_of(v))}", f"at most {gib(LIMITS.tensor)} are allowed")
             for n in model.graph for v in n.outputs if _static(v) and bytes_of(v) > LIMITS.tensor]
    if large:
        raise Refused(missing + large)
    if missing:
        raise Refused(missing + list(_other_refusals(model)))
    parts = partition(model)
    results = [lowering.lower(g, parts) for g in parts.groups]
    refusals = [r for x in results if isinstance(x, list) for r in x]
    if refusals:
        raise Refused(refusals)
    return parts, [x for x in results if isinstance(x, LoweredGroup)]


def _static(value: ir.Value) -> bool:
    return value.dtype is not None and value.shape is not None and value.shape.is_static()


def _strange_type(node: ir.Node) -> str | None:
    """The first type among the node's values that no kernel can hold; None where there is none."""
    for v in (*node.inputs, *node.outputs):
        if v is not None and not isinstance(v.type, ir.TensorType):
            return str(v.type)
        if v is not None and dtype_of(v) not in ITEMSIZE:
            return str(v.dtype)
    return None


def _other_refusals(model: ir.Model) -> Sequence[Refusal]:
    """What else would be refused, were the ops without a lowering there: each remaining node is tried by itself."""
    found: list[Refusal] = []
    alone = Partition((), {})
    for node in model.graph:
        if (node.domain, node.op_type) in LOWERINGS:
            result = lowering.lower(FusedGroup((node,), node, tuple(node.outputs)), alone)
            found += result if isinstance(result, list) else []
    return found


def decide(tasks: Iterable[Task], device: Device, name: str, picks: Mapping[str, Pick],
           variants: Mapping[str, Sequence[Pick]] | None = None) -> dict[str, Choice]:
    """Template, knobs and symbol by key, of every different task, then of those that prepare their constants when the model is
    loaded. A task without a pick gets its default."""
    choices: dict[str, Choice] = {}
    waiting = deque(tasks)
    while waiting:
        task = waiting.popleft()
        if task.key in choices:
            continue
        picked = picks.get(task.key) or untuned(task, device)
        symbol = f"{name[:PREFIX]}_{len(choices)}_{task.family}"
        others = tuple(choice_of(f"{symbol}_{n}", task, p) for n, p in enumerate((variants or {}).get(task.key, ()), 1))
        choice = choices[task.key] = replace(choice_of(symbol, task, picked), variants=others)
        waiting += choice.template.prepare(task, choice.knobs, device).values()
    return choices


def choice_of(symbol: str, task: Task, picked: Pick) -> Choice:
    return Choice(symbol, task, picked.candidate.maker, picked.candidate.knobs, picked.origin)


def untuned(task: Task, device: Device) -> Pick:
    """Raises BuildError."""
    made = default(task, device)
    if made is None:
        raise BuildError(f"no template makes this task:\n{task}")
    return Pick(made, "default")


def build(choices: Mapping[str, Choice], device: Device, workers: int, progress: Progress = silent) -> list[KernelCode]:
    """Object code of every kernel, made in worker processes; raises BuildError with every kernel that failed."""
    wanted = [x for c in choices.values() for x in (c, *c.variants)]
    jobs = [Job(c.symbol, c.template.name, c.task, c.knobs, device) for c in wanted]
    done: list[Built] = []

    def one(built: Built) -> None:
        done.append(built)
        progress("build kernels", len(done), len(jobs))

    progress("build kernels", 0, len(jobs))
    with Builder(workers) as builder:
        results = builder.build(jobs, one)
    failed = [f"{b.symbol} ({j.template}, {j.knobs}): {b.error}" for b, j in zip(results, jobs, strict=True) if b.error]
    if failed:
        raise BuildError("these kernels could not be built (a bug of burnish, not of your model):\n" + "\n".join(failed))
    return [KernelCode(b.symbol, b.code, j.template, j.knobs.items_, c.task.key, c.origin)
            for b, j, c in zip(results, jobs, wanted, strict=True)]


def lower_model(model: ir.Model, progress: Progress = silent) -> Lowered:
    """From an imported model (static shapes), which is changed in place, to tasks; raises Refused."""
    model, applied = prepare(model, progress)
    progress("lower", 0, 1)
    _, groups = lower(model)
    progress("lower", 1, 1)
    return Lowered(model, applied, tuple(groups))


def build_model(lowered: Lowered, devices: Sequence[Device], name: str, progress: Progress = silent,
                workers: int | None = None, picks: Mapping[str, Pick] | None = None,
                variants: Mapping[str, Sequence[Pick]] | None = None) -> Compiled:
    """From tasks to kernels for each of the devices, and one plan for all, which is the first's; raises BuildError. picks: what
    tasks are made with, by key, where not with their default; variants: what else they are made with, for the same constants."""
    device = devices[0]
    choices = decide((low.task for low in lowered.groups), device, name, picks or {}, variants)
    workers = workers or len(os.sched_getaffinity(0))
    builds = tuple(tuple(build(choices, d, workers, progress)) for d in devices)
    plan, weights = make_plan(name, lowered.model, lowered.groups, choices, device)
    return Compiled(lowered.model, lowered.passes, lowered.groups, plan, builds, weights, tuple(devices))


def compile_model(model: ir.Model, device: Device, name: str, progress: Progress = silent,
                  workers: int | None = None) -> Compiled:
    """Both."""
    return build_model(lower_model(model, progress), [device], name, progress, workers)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
