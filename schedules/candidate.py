"""A Candidate is one way to make a task: which template, and its knobs. Plain JSON, replayable without the searcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .device import Device
from .space import Knobs
from .task import Task
from .template import Template
from .templates import TEMPLATES, choose

BY_NAME: Mapping[str, Template] = {t.name: t for t in TEMPLATES}
CLEARLY = 0.8       # times the cost of what multiplies by zeros, too: a prediction errs by less


@dataclass(frozen=True)
class Candidate:
    template: str
    knobs: Knobs

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Candidate:
        """From `data`, which may be anybody's: ask `why_not` before it is used."""
        return cls(str(data["template"]), Knobs.of(**data["knobs"]))

    @property
    def data(self) -> dict[str, Any]:
        return {"template": self.template, "knobs": dict(self.knobs)}

    @property
    def maker(self) -> Template:
        return BY_NAME[self.template]

    def __str__(self) -> str:
        return f"{self.template} {self.knobs}"


def options(task: Task, device: Device, exact: bool = False) -> list[Candidate]:
    """Every legal way to make the task: tens to a few hundred, of every template that does not refuse it. exact: only those that
    round as the definition does."""
    return [Candidate(t.name, knobs) for t in makers(task, device, exact) for knobs in t.space(task, device).candidates()]


def makers(task: Task, device: Device, exact: bool = False) -> tuple[Template, ...]:
    """The first template that does not refuse the task (it is made for it), and those of other algorithms."""
    first = choose(task, device)
    others = (t for t in TEMPLATES if t.family == task.family and t is not first and t.algorithm and (t.exact or not exact))
    return (*([first] if first else []), *(t for t in others if t.refuses(task, device) is None))


def imbalance(task: Task, candidate: Candidate, device: Device) -> float:
    """By how much the device's cores would wait for each other, 1 for not at all: the square root of the time that they take
    together over the time that they work, as an artifact runs on one thread as well as on all."""
    tiles = candidate.maker.tiles(task, candidate.knobs, device)
    return (-(-tiles // device.cores) * device.cores / tiles) ** 0.5 if tiles else 1.0


def default(task: Task, device: Device) -> Candidate | None:
    """What the task is made with where nothing is known of it: the choice of least predicted cost of the first template, or of
    one that skips zeros where that costs clearly less."""
    template = choose(task, device)
    if template is None:
        return None
    made = Candidate(template.name, template.default(task, device))
    for t in makers(task, device):
        other = Candidate(t.name, t.default(task, device)) if t.skips_zeros else made
        if cost(other, task, device) < CLEARLY * cost(made, task, device):
            made = other
    return made


def cost(candidate: Candidate, task: Task, device: Device) -> float:
    """As predicted without measuring."""
    return candidate.maker.cost(task, candidate.knobs, device)


def why_not(candidate: Candidate, task: Task, device: Device) -> str | None:
    """Why the candidate cannot make the task; None where it can."""
    if (why := misplaced(candidate, task)) is not None:
        return why
    return candidate.maker.refuses(task, device) or candidate.maker.space(task, device).why_not(candidate.knobs)


def misplaced(candidate: Candidate, task: Task) -> str | None:
    """Why no device could make the task with the candidate; None where one may."""
    template = BY_NAME.get(candidate.template)
    if template is None:
        return f"this burnish has no template {candidate.template!r}"
    if template.family != task.family:
        return f"{template.name} makes {template.family}, not {task.family}"
    return None
