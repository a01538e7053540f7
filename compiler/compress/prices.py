"""What each layer of a model costs on a device: seconds inside the running model, and bytes of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir

from ...schedules.candidate import Candidate
from ...schedules.database import Database
from ...schedules.evaluate import Evaluator, Unbuildable
from ...schedules.measure import RunnerDied, RunnerGone
from ...schedules.numerics import typical
from ...schedules.scene import situ
from ...schedules.select import Pick
from ...targets.cpu.errors import DeviceError
from ...targets.target import Target
from ..driver import Lowered, Progress, decide, lower_model, silent
from ..errors import BuildError, TuningRefused
from ..lower.group import LoweredGroup
from ..planner import plan, signature
from ..sample import sample_inputs
from ..scene import scene_of
from ..tune import choose, evaluator

SAMPLES, SECONDS = 12, 3.0      # of each kernel inside the model
MODELLED = 1e-9                 # seconds for a unit of analytic cost, where nothing can be measured: only ratios mean anything


@dataclass(frozen=True)
class Prices:
    """seconds: of one run, by layer (the kernel that the layer became, with what was fused to it); rest: of all other kernels;
    bytes: of the packed weights of the whole model; measured: on the device, or by the templates' analytic costs."""

    seconds: Mapping[str, float]
    rest: float
    bytes: int
    measured: bool

    @property
    def total(self) -> float:
        return sum(self.seconds.values()) + self.rest


class Pricer:
    """Prices models for one target; kernels that several models share are built once."""

    def __init__(self, target: Target, evaluator: Evaluator | None, database: Database | None) -> None:
        self._target, self._evaluator, self._database = target, evaluator, database

    @property
    def measures(self) -> bool:
        return self._evaluator is not None

    def price(self, model: ir.Model, layers: Sequence[str], what: str = "time kernels", progress: Progress = silent) -> Prices:
        """model: as `passes.canonicalize` leaves it, or compressed; it is not changed. layers: names of nodes. Raises Refused,
        BuildError, TuningRefused."""
        progress(what, 0, 1)
        lowered = lower_model(model.clone())
        picks = choose(lowered, self._target, database=self._database)
        seconds = self._seconds(lowered, picks)
        found = dict.fromkeys(layers, 0.0)
        rest = 0.0
        for g in lowered.groups:
            name = owner(g, layers)
            if name is None:
                rest += seconds[g.task.key]
            else:
                found[name] += seconds[g.task.key]
        progress(what, 1, 1)
        return Prices(found, rest, self._bytes(lowered, picks), self.measures)

    def _seconds(self, lowered: Lowered, picks: Mapping[str, Pick]) -> Mapping[str, float]:
        """Of one call of each task."""
        device = self._target.devices[0]
        if self._evaluator is None:
            return {key: p.candidate.maker.cost(task, p.candidate.knobs, device) * MODELLED
                    for g in lowered.groups for key, task in [(g.task.key, g.task)] if (p := picks[key])}
        inputs = sample_inputs([signature(v) for v in lowered.model.graph.inputs])
        scene = scene_of(lowered, inputs)
        finalists: dict[str, list[Candidate]] = {key: [p.candidate] for key, p in picks.items()}
        try:
            found = situ(scene, finalists, self._evaluator, SAMPLES, SECONDS)
        except Unbuildable as e:
            raise BuildError(f"a kernel could not be built (a bug of burnish, not of your model): {e}") from e
        except (RunnerDied, RunnerGone) as e:
            raise TuningRefused(f"the model cannot be timed: {e}") from e
        return {key: typical(samples) / scene.counts[key] for key, made in found.items() for samples in made.values()}

    def _bytes(self, lowered: Lowered, picks: Mapping[str, Pick]) -> int:
        device = self._target.devices[0]
        choices = decide((g.task for g in lowered.groups), device, "price", picks)
        _, weights = plan("price", lowered.model, lowered.groups, choices, device)
        return int(weights.nbytes)


@contextmanager
def pricer(target: Target, database: Database | None, workers: int | None = None) -> Iterator[Pricer]:
    """Measures where kernels of the target can run here, else goes by their analytic costs."""
    try:
        rig = target.rig()
    except DeviceError:
        yield Pricer(target, None, database)
        return
    with evaluator(rig, workers, 0) as e:
        yield Pricer(target, e, database)


def owner(low: LoweredGroup, layers: Sequence[str]) -> str | None:
    """The layer that a kernel belongs to: by the name of its anchor, which passes keep or only add to."""
    known = set(layers)
    for node in (low.group.root, *low.group.nodes):
        if node.name in known:
            return node.name
    for node in (low.group.root, *low.group.nodes):
        parts = (node.name or "").split("_")
        for n in range(len(parts) - 1, 0, -1):
            if (name := "_".join(parts[:n])) in known:
                return name
    return None


__all__ = ["Pricer", "Prices", "owner", "pricer"]
