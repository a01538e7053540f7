"""Builds, checks and times candidates. A candidate fails alone: it may crash, hang or compute something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .board import Board, parts, symbol
from .builder import Builder
from .candidate import Candidate, default
from .device import Device
from .jobs import Built, Job
from .measure import Call, Runner, RunnerDied, RunnerLost, RunnerRefused
from .numerics import relative_error, typical
from .records import Status
from .task import Buffer, Task
from .templates.sparse import thinned

# How far an output may be from the untuned kernel's, of its scale: where only the order of sums differs, and for algorithms that
# round differently. Ours: the largest seen are 3e-6 and 2e-5.
TOLERANCE, ALGORITHM_TOLERANCE = 2e-5, 1e-4
HALF = 2e-3             # for float16
SAMPLES = 12            # of each candidate
SECONDS = 0.5           # for timing a batch, where these do not come together earlier
GIVE_UP = 3.0           # times the best: such a candidate is not timed further
LIVES = 3               # of the runner in a batch, where it dies of no candidate
GUARD = 4096            # bytes before and behind each output that nobody may write
EDGES = np.array([0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 50.0, -50.0], np.float32)    # 1e-40 is a denormal
UNTOUCHED = 0xA5


@dataclass(frozen=True)
class Batch:
    """Candidates of one task that are timed together."""

    task: Task
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Trial:
    """What became of a candidate. samples: seconds; baseline: the untuned kernel's typical seconds in the same run; error: as
    relative_error to the untuned kernel's outputs; message: what went wrong; guilty: False where that was the untuned kernel's
    doing."""

    candidate: Candidate
    status: Status
    samples: tuple[float, ...] = ()
    baseline: float = 0.0
    error: float = 0.0
    message: str = ""
    guilty: bool = True

    @cached_property
    def ratio(self) -> float:
        return typical(self.samples) / self.baseline if self.samples else float("inf")


class Unbuildable(RuntimeError):
    """A kernel that the model cannot do without cannot be built: which, and why."""


class Evaluator:
    """Evaluates candidates with one builder and one runner; built kernels are kept until `close`."""

    def __init__(self, device: Device, builder: Builder, runner: Runner, seed: int = 0) -> None:
        self.device, self.builder, self.runner, self.seed = device, builder, runner, seed
        self._built: dict[str, Built] = {}
        self._begun: dict[str, Future[None]] = {}       # symbol -> when it will be built, of what `prepare` was told
        self._background = ThreadPoolExecutor(1)
        self._loaded: set[str] = set()

    def trials(self, batches: Sequence[Batch], seconds: float = SECONDS) -> Iterator[tuple[Batch, list[Trial]]]:
        """Each batch with its candidates' trials. seconds: for timing each batch."""
        if not self._begun:
            self.build([k for b in batches for k in self._needs(b)])
        for b in batches:
            self.build(self._needs(b))
            yield b, self._batch(b, seconds)

    def evaluate(self, batches: Sequence[Batch], seconds: float = SECONDS) -> list[list[Trial]]:
        """The same as a list."""
        return [trials for _, trials in self.trials(batches, seconds)]

    def prepare(self, batches: Sequence[Batch]) -> None:
        """Begins to build what these batches need, batch by batch, and returns; until `close`. `trials` then waits for no more
        than its next batch. For a runner that this does not disturb."""
        for b in batches:
            missing = self._missing(self._needs(b))
            future = self._background.submit(self._make, missing)
            self._begun |= dict.fromkeys(missing, future)

    def close(self) -> None:
        """Gives up what is not built yet. Before the builder ends."""
        self._background.shutdown(cancel_futures=True)

    def build(self, kernels: Sequence[tuple[Task, Candidate]]) -> None:
        """Builds all these kernels, and what they consist of, that are not there yet."""
        missing = self._missing(kernels)
        if missing:
            wait(self._begun.values())      # there is one builder
            self._make(missing)
        for s in self._consist(kernels).keys() & self._begun.keys():
            self._begun.pop(s).result()
        # A worker may also die of something else, and without the untuned kernel nothing of its task can be judged: once more.
        self._make({s: (t, c) for s, (t, c) in missing.items() if self._built[s].error and [c] == self._untuned(t)})

    def _needs(self, batch: Batch) -> list[tuple[Task, Candidate]]:
        return [(batch.task, c) for c in (*self._untuned(batch.task), *batch.candidates)]

    def _consist(self, kernels: Sequence[tuple[Task, Candidate]]) -> dict[str, tuple[Task, Candidate]]:
        return {symbol(t, c): (t, c) for kernel in kernels for t, c in parts(*kernel, self.device)}

    def _missing(self, kernels: Sequence[tuple[Task, Candidate]]) -> dict[str, tuple[Task, Candidate]]:
        """Those that are neither built nor begun."""
        return {s: k for s, k in self._consist(kernels).items() if s not in self._built and s not in self._begun}

    def _make(self, kernels: Mapping[str, tuple[Task, Candidate]]) -> None:
        jobs = [Job(s, c.template, t, c.knobs, self.device) for s, (t, c) in kernels.items()]
        for built in self.builder.build(jobs) if jobs else ():
            self._built[built.symbol] = built

    def failure(self, task: Task, candidate: Candidate) -> str | None:
        """Why the kernel could not be built; None where it was."""
        return next((b.error for p in parts(task, candidate, self.device) if (b := self._built[symbol(*p)]).error), None)

    def load(self, kernels: Sequence[tuple[Task, Candidate]]) -> list[tuple[Task, Candidate]]:
        """Loads these kernels, which have been built; those that were built and could be loaded. Raises RunnerDied."""
        good = [k for k in kernels if self.failure(*k) is None]
        wanted = sorted({symbol(*p) for k in good for p in parts(*k, self.device)} - self._loaded)
        if not self._link(wanted):
            for s in wanted:
                self._link([s])
        return [k for k in good if self.failure(*k) is None]

    def _link(self, symbols: Sequence[str]) -> bool:
        try:
            if symbols:
                self.runner.load([self._built[s].code for s in symbols])
            self._loaded |= set(symbols)
        except RunnerRefused as e:
            if len(symbols) == 1:
                self._built[symbols[0]] = Built(symbols[0], error=f"it cannot be loaded: {e}")
            return False
        except RunnerDied:
            self.lost()
            raise
        return True

    def install(self, board: Board, kernels: Sequence[tuple[Task, Candidate]]) -> None:
        """Loads the kernels, which have been loaded before, where the runner has lost them, and lays out the board. Raises
        RunnerDied."""
        self.load(kernels)
        try:
            board.install(self.runner)
        except RunnerDied:
            self.lost()
            raise

    def lost(self) -> None:
        """To be told when the runner died: what it had loaded is gone."""
        self._loaded.clear()

    def _untuned(self, task: Task) -> list[Candidate]:
        made = default(task, self.device)
        return [made] if made else []

    # ---- one batch

    def _batch(self, batch: Batch, seconds: float) -> list[Trial]:
        for left in reversed(range(LIVES)):
            try:
                return self._judged(batch, seconds)
            except RunnerDied as e:     # of the untuned kernel; or somebody killed it
                self.lost()
                if not left or e.hung:
                    return [Trial(c, fate(e), message=f"the untuned kernel: {e}", guilty=False) for c in batch.candidates]
        raise AssertionError

    def _judged(self, batch: Batch, seconds: float) -> list[Trial]:
        """Raises RunnerDied where that is no candidate's fault."""
        reference, = self._untuned(batch.task)
        kernels = [(batch.task, c) for c in dict.fromkeys((reference, *batch.candidates))]
        alive = [c for _, c in self.load(kernels)]
        failed = {c: Trial(c, "timeout" if "no answer" in why else "build", message=why)
                  for _, c in kernels if (why := self.failure(batch.task, c))}
        if reference in failed:
            return [Trial(c, "build", message=f"the untuned kernel could not be built: {failed[reference].message}", guilty=False)
                    for c in batch.candidates]
        bench = _Bench(self, batch.task, reference, alive)
        errors = bench.check(failed)
        if bench.expected is None:
            return [Trial(c, "wrong", message="the untuned kernel writes beside its outputs", guilty=False)
                    for c in batch.candidates]
        timed = bench.time([c for c in alive if c not in failed], seconds, failed)
        return [failed.get(c) or Trial(c, "ok", *timed[c], errors[c]) for c in batch.candidates]


def fate(death: RunnerDied) -> Status:
    return "timeout" if death.hung else "crash"


class _Bench:
    """A task laid out with random and edge values, and the candidates to compare on it."""

    def __init__(self, evaluator: Evaluator, task: Task, reference: Candidate, candidates: Sequence[Candidate]) -> None:
        self.evaluator, self.task, self.reference = evaluator, task, reference
        self.kernels = [(task, c) for c in dict.fromkeys((reference, *candidates))]
        self.board = Board(evaluator.device, [p for k in self.kernels for p in parts(*k, evaluator.device)])
        rng = np.random.default_rng(evaluator.seed)
        bindings: list[int | np.ndarray] = []
        self.outputs: dict[int, Buffer] = {}
        for n, b in enumerate(task.buffers):
            if b.role == "constant":
                sparse = "kept" in task.params and n == task.params["w"]
                bindings.append(thinned(task, values(b, rng), rng) if sparse else values(b, rng))
                continue
            at = self.board.reserve(b.bytes + 2 * GUARD) + GUARD
            bindings.append(at)
            if b.role == "output":
                self.outputs[at] = b
            else:
                self.board.data.append((at, values(b, rng).reshape(-1).view(np.uint8)))
        self.expected: list[np.ndarray] | None = None
        self.calls: dict[Candidate, Call] = {c: self.board.call(task, c, bindings) for _, c in self.kernels}

    def install(self) -> None:
        self.evaluator.install(self.board, self.kernels)

    def check(self, failed: dict[Candidate, Trial]) -> dict[Candidate, float]:
        """Runs every candidate once and notes those that fail; the errors of the others. Raises RunnerDied where that is not
        their doing."""
        self.install()
        self.expected = self._run(self.reference)
        errors = {self.reference: 0.0}
        others = [c for c in self.calls if c != self.reference]
        for c in others if self.expected is not None else ():
            self._look(c, failed, errors)
        if not self._unspoilt():
            for c in others:
                if c in failed and failed[c].status != "wrong":
                    continue
                failed.pop(c, None)
                self.install()
                self._look(c, failed, errors)
                if c not in failed and not self._unspoilt():
                    failed[c] = Trial(c, "wrong", message="it writes into its inputs")
            self.install()
        return errors

    def _look(self, c: Candidate, failed: dict[Candidate, Trial], errors: dict[Candidate, float]) -> None:
        try:
            got = self._survived(c)
        except RunnerLost:
            raise
        except RunnerDied as e:
            failed[c] = Trial(c, fate(e), message=str(e))
            self._recover()
            return
        if got is None or self.expected is None:
            failed[c] = Trial(c, "wrong", message="it writes beside its outputs")
            self.install()      # what it wrote may be another's input
            return
        errors[c] = max((0.0 if np.array_equal(g, e) else relative_error(g, e))
                        for g, e in zip(got, self.expected, strict=True))
        allowed = min(tolerance(c, b) for b in self.outputs.values())
        if errors[c] > allowed:
            failed[c] = Trial(c, "wrong", error=errors[c], message=(
                f"its output differs from the untuned kernel's by {errors[c]:.1e} of the scale, {allowed:.0e} is allowed"))

    def _survived(self, c: Candidate) -> list[np.ndarray] | None:
        """As _run. A runner that hung or names the kernel died of it; else it is run once more."""
        try:
            return self._run(c)
        except RunnerDied as e:
            if isinstance(e, RunnerLost) or e.hung or self._names(e, c):
                raise
        self._recover()
        return self._run(c)

    def _unspoilt(self) -> bool:
        """Does the untuned kernel still make the very same of its inputs?"""
        got = self._run(self.reference)
        return got is None or self.expected is None or all(
            g.tobytes() == e.tobytes() for g, e in zip(got, self.expected, strict=True))

    def _names(self, death: RunnerDied, c: Candidate) -> bool:
        return any(symbol(*p) in str(death) for p in parts(self.task, c, self.evaluator.device))

    def _recover(self) -> None:
        self.evaluator.lost()
        self.install()

    def _run(self, candidate: Candidate) -> list[np.ndarray] | None:
        """The outputs; None where something beside them was written."""
        runner = self.evaluator.runner
        for at, b in self.outputs.items():
            runner.write(at - GUARD, np.full(b.bytes + 2 * GUARD, UNTOUCHED, np.uint8))
        runner.run([self.calls[candidate]])
        found = []
        for at, b in self.outputs.items():
            raw = runner.read(at - GUARD, (b.bytes + 2 * GUARD,), "uint8")
            if (raw[:GUARD] != UNTOUCHED).any() or (raw[GUARD + b.bytes:] != UNTOUCHED).any():
                return None
            found.append(raw[GUARD:GUARD + b.bytes].view(b.dtype).reshape(b.shape))
        return found

    def time(self, candidates: Sequence[Candidate], seconds: float,
             failed: dict[Candidate, Trial]) -> dict[Candidate, tuple[tuple[float, ...], float]]:
        """(samples, the untuned kernel's typical time beside them) of those that do not fail. Raises RunnerDied where that is not
        their doing."""
        if not candidates:
            return {}
        left = list(candidates)
        try:
            return self._together(left, seconds)
        except RunnerDied as e:
            if isinstance(e, RunnerLost) or self._names(e, self.reference):
                raise
            guilty = [c for c in left if self._names(e, c)]
            for c in guilty:
                failed[c] = Trial(c, fate(e), message=str(e))
                left.remove(c)
            self._recover()
            if guilty:
                return self.time(left, seconds, failed)
        found: dict[Candidate, tuple[tuple[float, ...], float]] = {}
        for c in left:      # any of them, or none: each by itself
            try:
                found |= self._together([c], seconds / len(left))
            except RunnerDied as e:
                if isinstance(e, RunnerLost) or self._names(e, self.reference) or c == self.reference:
                    raise
                failed[c] = Trial(c, fate(e), message=str(e))
                self._recover()
        return found

    def _together(self, candidates: Sequence[Candidate], seconds: float) -> dict[Candidate, tuple[tuple[float, ...], float]]:
        found: dict[Candidate, tuple[float, ...]] = {}
        left = list(dict.fromkeys((self.reference, *candidates)))
        while left:         # what is slower than `seconds` allows gets its turn in the end
            samples, = self.evaluator.runner.time([[self.calls[c] for c in left]], SAMPLES, seconds, GIVE_UP)
            found |= {c: tuple(s.tolist()) for c, s in zip(left, samples, strict=True)}
            left, seconds = [c for c in left if not found[c]], 2 * seconds
        baseline = typical(found[self.reference])
        return {c: (found[c], baseline) for c in candidates}


def tolerance(candidate: Candidate, output: Buffer) -> float:
    """Of the output's scale; integers and booleans must be equal."""
    if output.dtype == "float16":
        return HALF
    if not output.dtype.startswith("float"):
        return 0.0
    return TOLERANCE if candidate.maker.exact else ALGORITHM_TOLERANCE


def values(buffer: Buffer, rng: np.random.Generator) -> np.ndarray:
    """Floats: standard normal with one in fifty an edge case (constants: scaled as trained weights are); integers 0 or 1."""
    if not buffer.dtype.startswith("float"):
        return rng.integers(0, 2, buffer.shape).astype(buffer.dtype)
    x = rng.standard_normal(buffer.shape, np.float32)
    if buffer.role == "constant":
        return (x / max(1.0, np.sqrt(buffer.size / max(1, buffer.shape[-1] if buffer.shape else 1)))).astype(buffer.dtype)
    flat = x.reshape(-1)
    at = rng.integers(0, max(1, flat.size), flat.size // 50)
    flat[at] = rng.choice(EDGES, at.size)
    return x.astype(buffer.dtype)
