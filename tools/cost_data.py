"""The measurements that cost models learn from: two parquet files, and a journal of what is not in them yet.

    tasks.parquet      key, networks (of the zoo that have the task) and counts (how often), the task as JSON
    training.parquet   a trial in each row: key of the task, device, candidate as JSON, status, seconds (the lower quartile; of
                       the rows of 2026-11-20 the median), spread (distance of the quartiles over the median), baseline (seconds
                       of the untuned kernel in the same run), validates (the network that the run's first candidates were
                       picked for by a model trained without it; else empty)

The devices themselves are JSON in the metadata of training.parquet. Rows of a task with the same baseline are of one run. Only
times of one run are compared: between runs the machine changes its speed, and memory lies elsewhere.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..schedules.candidate import Candidate
from ..schedules.cost_model import PRETRAINED, Group
from ..schedules.device import Device
from ..schedules.evaluate import Trial
from ..schedules.numerics import typical
from ..schedules.task import Task

TASKS, TRAINING, JOURNAL = "tasks.parquet", "training.parquet", "training.journal"
NOISY_TRIAL, NOISY_RUN = 0.3, 0.1   # spread of a trial; median of a run's
TASK_ROW = pa.schema({"key": pa.string(), "networks": pa.list_(pa.string()), "counts": pa.list_(pa.int32()), "task": pa.string()})
TRIAL_ROW = pa.schema({"task": pa.string(), "device": pa.string(), "candidate": pa.string(), "status": pa.string(),
                       "seconds": pa.float32(), "spread": pa.float32(), "baseline": pa.float32(), "validates": pa.string()})


@dataclass(frozen=True)
class Measured:
    """One run of a task on a device. networks: how often each of the zoo's has it; group: for the cost model, in multiples of the
    baseline; baseline: seconds of the untuned kernel; validates: as in the file."""

    task: Task
    device: Device
    networks: Mapping[str, int]
    group: Group
    baseline: float
    validates: str = ""


class Store:
    """The files in `folder`. What `append` has returned from survives the process and the machine."""

    def __init__(self, folder: Path = PRETRAINED) -> None:
        self.folder = folder
        self.tasks: dict[str, tuple[dict[str, int], str]] = {}      # key -> networks, JSON
        self.devices: dict[str, dict[str, Any]] = {}
        self.rows: list[dict[str, Any]] = []
        if (folder / TRAINING).exists():
            for r in pq.read_table(folder / TASKS).to_pylist():
                self.tasks[r["key"]] = (dict(zip(r["networks"], r["counts"], strict=True)), r["task"])
            table = pq.read_table(folder / TRAINING)
            self.devices = json.loads(table.schema.metadata[b"devices"])
            self.rows = [{**r, "validates": r.get("validates", "")} for r in table.to_pylist()]
        if (folder / JOURNAL).exists():
            for line in (folder / JOURNAL).read_text().splitlines(keepends=True):
                if line.endswith("\n"):     # else the process died in the middle of it
                    self._take(json.loads(line))
        # A process that died between writing the files and forgetting the journal left rows in both.
        self.rows = list({tuple(r[name] for name in TRIAL_ROW.names): r for r in self.rows}.values())

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / JOURNAL
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            path.write_text("".join(s for s in path.read_text().splitlines(keepends=True) if s.endswith("\n")))
        self._journal = path.open("a")
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()
        self.fold()

    def done(self) -> set[tuple[str, str]]:
        """(key of the task, name of the device) of what has been measured."""
        return {(r["task"], r["device"]) for r in self.rows}

    def tried(self, device: Device) -> dict[str, set[Candidate]]:
        """By task's key, the candidates that were measured on the device of this name."""
        found: dict[str, set[Candidate]] = defaultdict(set)
        for r in self.rows:
            if r["device"] == device.name:
                found[r["task"]].add(Candidate.of(json.loads(r["candidate"])))
        return dict(found)

    def validated(self) -> set[tuple[str, str, str]]:
        """(network, key of the task, name of the device) of the runs that validate."""
        return {(r["validates"], r["task"], r["device"]) for r in self.rows if r["validates"]}

    def append(self, task: Task, networks: Mapping[str, int], device: Device, trials: Sequence[Trial],
               validates: str = "") -> None:
        """A batch of trials, which ran together; on disk when this returns."""
        entry = json.dumps({"device": asdict(device), "task": task.data, "networks": dict(networks),
                            "trials": [{**row(t), "validates": validates} for t in trials]})
        self._journal.write(entry + "\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._take(json.loads(entry))

    def _take(self, entry: dict[str, Any]) -> None:
        text, device = json.dumps(entry["task"], sort_keys=True), entry["device"]
        task = Task.of(entry["task"])
        self.tasks[task.key] = (entry["networks"] or self.tasks.get(task.key, ({}, ""))[0], text)
        self.devices[device["name"]] = device
        self.rows += [{"task": task.key, "device": device["name"], "validates": "", **t} for t in entry["trials"]]

    def fold(self) -> None:
        """Writes the parquet files anew, then forgets the journal."""
        tasks = [{"key": key, "networks": list(n), "counts": list(n.values()), "task": text}
                 for key, (n, text) in sorted(self.tasks.items())]
        rows = sorted(self.rows, key=lambda r: (r["device"], r["task"]))
        schema = TRIAL_ROW.with_metadata({"devices": json.dumps(self.devices, sort_keys=True)})
        for name, table in ((TASKS, pa.Table.from_pylist(tasks, TASK_ROW)), (TRAINING, pa.Table.from_pylist(rows, schema))):
            pq.write_table(table, self.folder / f"{name}.new", compression="zstd", compression_level=19)
            os.replace(self.folder / f"{name}.new", self.folder / name)
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def measured(self) -> list[Measured]:
        """Every run with at least two candidates that went well, in a fixed order; without what the machine had other work
        beside: trials, and whole runs, whose samples are too far apart."""
        devices = {name: device_of(data) for name, data in self.devices.items()}
        tasks = {key: Task.of(json.loads(text)) for key, (_, text) in self.tasks.items()}
        runs: dict[tuple[str, str, float, str], dict[Candidate, float]] = defaultdict(dict)
        spreads: dict[tuple[str, str, float, str], list[float]] = defaultdict(list)
        for r in self.rows:
            if r["status"] == "ok":
                spreads[r["device"], r["task"], r["baseline"], r["validates"]].append(r["spread"])
            if r["status"] == "ok" and r["spread"] < NOISY_TRIAL:
                c = Candidate.of(json.loads(r["candidate"]))
                runs[r["device"], r["task"], r["baseline"], r["validates"]][c] = r["seconds"] / r["baseline"]
        found = []
        for (name, key, baseline, network), ratios in sorted(runs.items(), key=lambda item: item[0]):
            if len(ratios) > 1 and median(spreads[name, key, baseline, network]) < NOISY_RUN:
                group = Group(tasks[key], devices[name], tuple(ratios), tuple(ratios.values()))
                found.append(Measured(tasks[key], devices[name], self.tasks[key][0], group, baseline, network))
        return found


def row(trial: Trial) -> dict[str, Any]:
    low, middle, high = np.percentile(trial.samples, (25, 50, 75)) if trial.samples else (0.0, 0.0, 0.0)
    numbers = {"seconds": typical(trial.samples) if trial.samples else 0.0, "baseline": trial.baseline,
               "spread": (high - low) / middle if middle else 0.0}
    return {"candidate": json.dumps(trial.candidate.data), "status": trial.status,
            **{name: float(np.float32(value)) for name, value in numbers.items()}}      # as they come back from the file


def device_of(data: Mapping[str, Any]) -> Device:
    """A Device from its fields as JSON."""
    llvm = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in data["llvm"])
    return Device(**{**data, "llvm": llvm, "isa": tuple(data["isa"])})
