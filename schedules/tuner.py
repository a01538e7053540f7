"""The tuner: spends a budget of time where a model's time is, and ends with the fastest candidate of every task.

Rounds of trials: the tasks that promise most get their next candidates, in the order of the cost model's scores (some at random),
each timed by itself beside the untuned kernel. At the end the best few of every task take turns inside the model, and the fastest
there is chosen. Every trial is kept at once, so that nothing is lost and a later run goes on from there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from .board import symbol
from .candidate import Candidate, default, imbalance, options
from .cost_model import CostModel, Group
from .device import Device
from .evaluate import Batch, Trial, fate
from .measure import RunnerDied, RunnerGone, RunnerRefused
from .numerics import typical
from .records import Fingerprint, RecordsError, TuningRecord
from .scene import Scene, Situ
from .task import Task

ROUND = 24              # candidates in a round: a few seconds of building
FIRST, NEXT = 4, 4      # candidates of one task in its first round, and in later ones
RANDOM = 4              # one candidate in so many is taken at random, not by its score
PATIENCE = 6            # trials without a gain that halve what a task promises
NEGLIGIBLE = 0.002      # of the model's time: a task that promises less is left alone
FINALISTS, MARGIN = 3, 1.25     # candidates of a task that go to the finals, if at most this many times the best's time
FINAL_SAMPLES, DUEL_SAMPLES = 8, 16
FINAL_SHARE = 0.3       # of the budget, at most, for the finals
GAIN = 0.005            # by less than this share of its time the untuned kernel is not replaced
LIVES = 3               # of the runner, while one and the same is timed inside the model
STORE_AGAIN = 0.25      # of the budget, after which records that could not be stored are tried again


Finalists = Mapping[str, Sequence[Candidate]]       # task key -> those that are timed inside the model


class Measurer(Protocol):
    """What trials are made with: this machine, or a farm."""

    def trials(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, list[Trial]]]: ...

    def situ(self, scene: Scene, finalists: Mapping[str, Sequence[Candidate]], samples: int, seconds: float) -> Situ: ...


@dataclass
class Goal:
    """A task while it is tuned. seconds: of all its calls in one pass of the model, by the untuned kernel."""

    task: Task
    device: Device
    count: int
    options: list[Candidate]
    untuned: Candidate
    seconds: float = 0.0
    tried: dict[Candidate, Trial] = field(default_factory=dict)
    asked: set[Candidate] = field(default_factory=set)      # tried, or about to be
    misses: int = 0

    def merit(self, candidate: Candidate, time: float) -> float:
        """What a time is worth on all cores, in proportion to the untuned kernel's: the less, the better."""
        return time * imbalance(self.task, candidate, self.device) / imbalance(self.task, self.untuned, self.device)

    @property
    def good(self) -> list[Trial]:
        """The trials that went well, best first."""
        return sorted((t for t in self.tried.values() if t.status == "ok"), key=lambda t: self.merit(t.candidate, t.ratio))

    def alive(self, candidate: Candidate) -> bool:
        return candidate not in self.tried or self.tried[candidate].status == "ok"

    @property
    def best(self) -> float:
        """The time of the best so far, of the untuned kernel's."""
        return min(1.0, self.good[0].ratio) if self.good else 1.0

    @property
    def failures(self) -> int:
        return sum(t.status != "ok" for t in self.tried.values())

    @property
    def promise(self) -> float:
        """Seconds that further trials may still save, roughly: a tenth of what it takes, halved with every few misses."""
        left = len(self.options) > len(self.asked)
        return left * 0.1 * self.seconds * self.best * 0.5 ** (self.misses / PATIENCE)

    def note(self, trials: Iterable[Trial]) -> None:
        for t in trials:
            before = self.best
            self.tried[t.candidate] = t
            self.asked.add(t.candidate)
            self.misses = 0 if self.best < before * 0.99 else self.misses + 1


@dataclass(frozen=True)
class State:
    """What a watcher is shown. latency: seconds of one pass, at first and as far as it is known now."""

    phase: str
    elapsed: float
    budget: float
    goals: tuple[Goal, ...]
    first: float
    latency: float
    trials: int
    failures: int


@dataclass(frozen=True)
class Result:
    """chosen: candidate of every task; gain: its time in the model over the untuned kernel's; goals: the tasks as they ended;
    first, latency: seconds of one pass before and after, timed in turns; notes: what went wrong on the way."""

    chosen: Mapping[str, Candidate]
    gain: Mapping[str, float]
    goals: tuple[Goal, ...]
    first: float
    latency: float
    elapsed: float
    notes: tuple[str, ...]

    @property
    def found(self) -> Mapping[str, Candidate]:
        """The choices that rest on trials. Of other tasks nothing was found out."""
        untried = {g.task.key for g in self.goals if not g.tried}
        return {key: c for key, c in self.chosen.items() if key not in untried}

    @property
    def trials(self) -> int:
        return sum(len(g.tried) for g in self.goals)

    @property
    def failures(self) -> Mapping[str, int]:
        """How many candidates failed, by how."""
        return Counter(t.status for g in self.goals for t in g.tried.values() if t.status != "ok")


@dataclass(frozen=True)
class Settings:
    """budget: seconds of wall time; exact: only candidates that round as the definition does."""

    budget: float
    seed: int = 0
    exact: bool = False


class Tuner:
    """known: what is already recorded of this device and toolchain; keep: stores records, at once; watch: is shown each State;
    clock: by whose seconds the budget goes; one that is the device's may stand still while the device is away; prepare: begins
    to build what batches need, where that disturbs no measuring: then a round is chosen while the one before is measured."""

    def __init__(self, scene: Scene, measurer: Measurer, ranker: CostModel, device: Device, fingerprint: Fingerprint,
                 tools: Mapping[str, str], settings: Settings, known: Iterable[TuningRecord] = (),
                 keep: Callable[[Sequence[TuningRecord]], object] = lambda records: None,
                 watch: Callable[[State], None] = lambda state: None, clock: Callable[[], float] = time.monotonic,
                 prepare: Callable[[Sequence[Batch]], None] | None = None) -> None:
        self.scene, self.measurer, self.ranker, self.device = scene, measurer, ranker, device
        self.fingerprint, self.tools, self.settings = fingerprint, tools, settings
        self._keep, self.watch, self._clock, self._prepare = keep, watch, clock, prepare
        self.start = clock()
        self.rng = np.random.default_rng(settings.seed)
        self.notes: list[str] = []
        self._unkept: list[TuningRecord] = []
        self._trouble, self._store_at = "", 0.0
        self.first = 0.0
        self.goals = {key: self._goal(task) for key, task in scene.tasks.items()}
        for r in known:
            goal = self.goals.get(r.task.key)
            if goal is not None and r.verified and r.candidate in goal.options:
                goal.note([Trial(r.candidate, r.status, r.samples, r.baseline, r.error, r.message)])

    def _goal(self, task: Task) -> Goal:
        choices = options(task, self.device, self.settings.exact)
        untuned = default(task, self.device)
        assert untuned is not None, f"no template makes this task:\n{task}"
        return Goal(task, self.device, self.scene.counts[task.key], choices, untuned)

    @property
    def elapsed(self) -> float:
        return self._clock() - self.start

    # ---- the run

    def run(self) -> Result:
        """Raises RunnerDied, RunnerGone or Unbuildable only where not even the untuned model can be run."""
        self._show("start")
        untuned = self._timed(lambda: {k: [g.untuned] for k, g in self.goals.items()}, FINAL_SAMPLES, self._share(0.1))
        for key, goal in self.goals.items():
            goal.seconds = typical(untuned[key][goal.untuned])
        self.first = sum(g.seconds for g in self.goals.values())
        passes = 2 * (FINAL_SAMPLES * (FINALISTS + 1) + 2 * DUEL_SAMPLES)
        finals = min(FINAL_SHARE * self.settings.budget, passes * self.first + 0.02 * self.settings.budget)
        try:
            following: list[Batch] = []
            while self.elapsed < self.settings.budget - finals and (batches := following or self._round()):
                self._show("trials")
                following = self._round() if self._prepare else []
                self._try(batches, self.settings.budget - finals)
        except (RunnerDied, RunnerGone, RunnerRefused) as e:     # not of a candidate: a farm has nobody left
            self.notes.append(f"the trials were given up: {e}")
        return self._finals()

    def _share(self, share: float) -> float:
        return share * self.settings.budget

    def _round(self) -> list[Batch]:
        """The next candidates of the tasks that promise most; empty when nothing promises anything."""
        worth = sorted((g for g in self.goals.values() if len(g.options) > 1), key=lambda g: -g.promise)
        batches, room = [], ROUND
        for goal in worth:
            if room <= 0 or goal.promise < NEGLIGIBLE * 0.1 * self.first:
                break
            picked = self._next(goal, NEXT if goal.asked else FIRST)
            batches.append(Batch(goal.task, tuple(picked)))
            goal.asked.update(picked)
            room -= len(picked)
        if self._prepare:
            self._prepare(batches)
        return batches

    def _next(self, goal: Goal, count: int) -> list[Candidate]:
        """The untried candidates of the highest scores, some at random; at first also the best of every template."""
        left = [c for c in goal.options if c not in goal.asked]
        scores = self.ranker.scores(goal.task, left, self.device)
        order = [left[n] for n in np.argsort(-scores, kind="stable")]
        picked: list[Candidate] = []
        if not goal.asked:      # the untuned kernel's own record says where nothing was faster
            picked = list(dict.fromkeys([goal.untuned, *{c.template: c for c in reversed(order)}.values()]))
        while len(picked) < min(count, len(order)):
            rest = [c for c in order if c not in picked]
            picked.append(rest[int(self.rng.integers(len(rest)))] if len(picked) % RANDOM == RANDOM - 1 else rest[0])
        return picked

    def _try(self, batches: Sequence[Batch], until: float) -> None:
        for batch, trials in self.measurer.trials(batches):
            self.goals[batch.task.key].note(trials)
            self.keep([self._record(batch.task, t) for t in trials if t.guilty])
            self._show("trials")
            if self.elapsed > until:
                break
        self.ranker.update([Group(g.task, self.device, tuple(g.tried), tuple(t.ratio for t in g.tried.values()))
                            for g in self.goals.values() if g.tried])

    def keep(self, records: Sequence[TuningRecord]) -> None:
        """Storing may fail (a full disk, a locked database), and waiting for that takes long: tuning goes on, what could not be
        stored is tried again now and then, and the result says so."""
        self._unkept += records
        if self.elapsed >= self._store_at:
            self._store()

    def _store(self) -> None:
        try:
            if self._unkept:
                self._keep(self._unkept)
            self._unkept = []
        except RecordsError as e:
            self._trouble, self._store_at = str(e), self.elapsed + self._share(STORE_AGAIN)

    # ---- the finals

    def _finals(self) -> Result:
        self._show("finals")
        times = self._situ(lambda: {k: self._finalists(g) for k, g in self.goals.items()}, FINAL_SAMPLES, {})

        def duels(first: Situ = times) -> dict[str, list[Candidate]]:
            return {key: self._duel(first[key], goal) for key, goal in self.goals.items()}

        times = self._situ(duels, DUEL_SAMPLES, times) if any(len(d) > 1 for d in duels().values()) else times
        chosen, gain, latency, before = {}, {}, 0.0, 0.0
        for key, goal in self.goals.items():
            taken = {c: typical(s) for c, s in times[key].items() if s and goal.alive(c)}
            taken = taken or {t.candidate: t.ratio * goal.seconds for t in goal.good}
            untuned = taken.get(goal.untuned, goal.seconds)
            best = min(taken, key=lambda c: goal.merit(c, taken[c]), default=goal.untuned)
            if best != goal.untuned and goal.merit(best, taken[best]) > (1 - GAIN) * untuned:
                best = goal.untuned
            chosen[key], gain[key] = best, taken.get(best, untuned) / untuned if untuned else 1.0
            before, latency = before + untuned, latency + taken.get(best, untuned)
            self._unkept += [self._record(goal.task, goal.tried[c], [x / goal.count for x in s])
                             for c, s in times[key].items() if s and c in goal.tried and goal.alive(c)]
        self._store()
        if self._unkept:
            self.notes.append(f"{len(self._unkept)} records are not kept: {self._trouble}")
        elif self._trouble:
            self.notes.append(f"records could not be kept for a while, but all are now: {self._trouble}")
        self._show("done", latency)
        return Result(chosen, gain, tuple(self.goals.values()), before, latency, self.elapsed, tuple(self.notes))

    def _finalists(self, goal: Goal) -> list[Candidate]:
        near = [t.candidate for t in goal.good if t.ratio <= MARGIN * goal.best][:FINALISTS]
        return list(dict.fromkeys([goal.untuned, *near]))

    def _duel(self, times: Mapping[Candidate, Sequence[float]], goal: Goal) -> list[Candidate]:
        """The two best, and the untuned kernel, which the gain is measured against."""
        first = sorted((c for c in times if times[c] and goal.alive(c)), key=lambda c: goal.merit(c, typical(times[c])))[:2]
        return list(dict.fromkeys([goal.untuned, *first]))

    def _situ(self, finalists: Callable[[], Finalists], samples: int, before: Situ) -> Situ:
        """Timed in the model; where the runner dies of it, what was known before."""
        left = max(self.settings.budget - self.elapsed, self._share(0.05))
        try:
            return self._timed(finalists, samples, left / 2)
        except (RunnerDied, RunnerGone, RunnerRefused) as e:
            self.notes.append(f"the finals inside the model were given up: {e}")
            return before or {key: {} for key in self.goals}

    def _timed(self, finalists: Callable[[], Finalists], samples: int, seconds: float) -> Situ:
        """Timed in the model, without the candidates that the runner dies of. Raises RunnerDied where it is none of these."""
        for left in reversed(range(LIVES)):
            try:
                return self.measurer.situ(self.scene, finalists(), samples, seconds)
            except RunnerDied as e:
                guilty = [(g, t) for g in self.goals.values() for c, t in g.tried.items()
                          if c != g.untuned and symbol(g.task, c) in str(e)]
                if not left or (e.hung and not guilty):
                    raise
                self.notes.append(f"inside the model, {e}; it was timed again")
                for goal, trial in guilty:
                    goal.tried[trial.candidate] = replace(trial, status=fate(e), message=f"inside the model: {e}")
                self.keep([self._record(g.task, g.tried[t.candidate]) for g, t in guilty])
        raise AssertionError

    # ---- what is told

    def _record(self, task: Task, t: Trial, situ: Sequence[float] = ()) -> TuningRecord:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return TuningRecord(task, t.candidate, self.fingerprint, self.tools, t.status, t.samples, t.baseline, tuple(situ),
                            t.error, True, t.message, now)

    def _show(self, phase: str, latency: float | None = None) -> None:
        goals = tuple(self.goals.values())
        now = sum(g.seconds * g.best for g in goals) if latency is None else latency
        self.watch(State(phase, self.elapsed, self.settings.budget, goals, self.first, now, sum(len(g.tried) for g in goals),
                         sum(g.failures for g in goals)))
