"""What lies where in a runner's memory: arrays, packed constants (equal ones once), scratch; and the calls that use them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from .candidate import Candidate, default
from .device import Device
from .measure import Call, Runner
from .task import Task

ALIGNMENT = 64      # bytes, as in an artifact


def symbol(task: Task, candidate: Candidate) -> str:
    """The name of a candidate's kernel: the same kernel, the same name."""
    return f"k_{task.key}_{hashlib.sha256(str(candidate).encode()).hexdigest()[:12]}"


def parts(task: Task, candidate: Candidate, device: Device) -> list[tuple[Task, Candidate]]:
    """The kernels that the candidate consists of: its own, and those that prepare its constants."""
    return [(task, candidate), *(p for _, p in preparations(task, candidate, device))]


def preparations(task: Task, candidate: Candidate, device: Device) -> list[tuple[int, tuple[Task, Candidate]]]:
    """(number of the buffer, the kernel that prepares it)."""
    found = []
    for n, t in candidate.maker.prepare(task, candidate.knobs, device).items():
        made = default(t, device)
        assert made is not None, f"{candidate.template} prepares its constants by a task that no template makes"
        found.append((n, (t, made)))
    return found


class Board:
    """Laid out first, installed when complete. Offsets are in bytes."""

    def __init__(self, device: Device, kernels: Sequence[tuple[Task, Candidate]]) -> None:
        """kernels: all that will be called; they take turns with one piece of scratch."""
        self.device = device
        self.size = 0
        self.data: list[tuple[int, np.ndarray]] = []
        self.setup: list[Call] = []
        self._constants: dict[bytes, int] = {}
        self._prepared: dict[tuple[int, str], int] = {}
        self.scratch = self.reserve(max((c.maker.scratch(t, c.knobs, device) for t, c in kernels), default=0))

    def reserve(self, size: int) -> int:
        """Room for `size` bytes, zeros at first."""
        at = self.size
        self.size += -(-size // ALIGNMENT) * ALIGNMENT
        return at

    def constant(self, array: np.ndarray) -> int:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        key = hashlib.sha256(raw.data).digest()
        if key not in self._constants:
            self._constants[key] = self.reserve(len(raw))
            self.data.append((self._constants[key], raw))
        return self._constants[key]

    def call(self, task: Task, candidate: Candidate, bindings: Sequence[int | np.ndarray]) -> Call:
        """The call of a candidate. bindings: for each buffer of the task where it lies, or its content as the task has it."""
        maker, knobs = candidate.maker, candidate.knobs
        pack = maker.pack(task, knobs, self.device)
        prepare = dict(preparations(task, candidate, self.device))
        args = []
        for n, b in enumerate(bindings):
            at = b if isinstance(b, int) else self.constant(pack[n](b) if n in pack else b)
            args.append(self._prepare(at, *prepare[n]) if n in prepare else at)
        if maker.scratch(task, knobs, self.device):
            args.append(self.scratch)
        return Call(symbol(task, candidate), tuple(args), maker.tiles(task, knobs, self.device))

    def _prepare(self, source: int, task: Task, candidate: Candidate) -> int:
        """Where the setup puts what `task` makes of the constant at `source`."""
        if (source, task.key) not in self._prepared:
            output = task.outputs[0]
            at = self._prepared[source, task.key] = self.reserve(task.buffers[output].bytes)
            self.setup.append(self.call(task, candidate, [at if n == output else source for n in range(len(task.buffers))]))
        return self._prepared[source, task.key]

    def install(self, runner: Runner) -> None:
        """Fills the runner's memory; the kernels must have been loaded. Raises RunnerDied."""
        runner.allocate(self.size)
        for at, raw in self.data:
            runner.write(at, raw)
        if self.setup:
            runner.run(self.setup)
