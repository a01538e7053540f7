"""`burnish tune` among real faults: SIGKILL, full disks, locks, two at once. Whole processes, a small model."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import tune_model
from burnish.compiler import api, driver, importer, tune
from burnish.compiler.driver import Lowered
from burnish.compiler.planner import signature
from burnish.compiler.sample import sample_inputs
from burnish.schedules.candidate import Candidate, default, options
from burnish.schedules.database import Database
from burnish.schedules.evaluate import Evaluator
from burnish.schedules.local import Local
from burnish.schedules.records import TuningRecord
from burnish.schedules.tuner import Result, Settings, State
from burnish.targets.cpu import profile
from burnish.targets.cpu.errors import DeviceError
from burnish.targets.cpu.fingerprint import fingerprint
from burnish.targets.cpu.runner import LocalRunner
from burnish.targets.cpu.target import CpuTarget
from burnish.targets.target import Rig
from onnx import TensorProto, helper, numpy_helper
from schedules.sabotage import Saboteur

DEVICE = profile.detect()
RIG = CpuTarget("native").rig()
PROGRAM = [sys.executable, "-c", "from burnish.compiler.program import main; main()"]
Key = tuple[str, Candidate]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune_model.save(tmp_path_factory.mktemp("model") / "small.onnx")


def lowered(path: Path) -> tuple[Lowered, dict[str, np.ndarray]]:
    graph = importer.load(path)
    return driver.lower_model(graph), sample_inputs([signature(v) for v in graph.graph.inputs], 0)


@contextmanager
def started(model: Path, records: Path, budget: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """`burnish tune … --json`."""
    words = [*PROGRAM, "tune", str(model), "--budget", budget, "--records", str(records), "--json", "--threads", "1", *more]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def stored(path: Path) -> dict[Key, TuningRecord]:
    if not path.exists():
        return {}
    with Database.open(str(path)) as database:
        return {(r.task.key, r.candidate): r for r in database.records()}


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All that it has started."""
    return psutil.Process(process.pid).children(recursive=True)


def ends(processes: list[psutil.Process], within: float) -> None:
    _, alive = psutil.wait_procs(processes, within)
    assert not alive, f"{alive} live on"


# ---- Killed at any point


def test_killed_at_any_moment_nothing_is_lost_or_done_twice(model: Path, tmp_path: Path) -> None:
    """The tuner's process is killed by SIGKILL twice, when there are some records more; then a run goes to its end. Its
    workers and its runner end by themselves."""
    path, rng, before = tmp_path / "records.sqlite", random.Random(1), dict[Key, TuningRecord]()
    for _ in range(2):
        with started(model, path, "60s") as process:
            end = time.monotonic() + 40
            while (count := rows(path)) <= len(before) + rng.randrange(6):
                assert time.monotonic() < end and process.poll() is None, f"no more than {count} records come"
                time.sleep(0.02)
            time.sleep(rng.random() * 0.3)
            tuner, *others = family(process)
            assert len(others) >= 2, "a runner and workers"
            os.kill(tuner.pid, signal.SIGKILL)
            ends(others, 8.0)
            assert process.wait(10) == 2 and "SIGKILL" in process.stderr.read()       # type: ignore[union-attr]
        after = stored(path)
        assert set(before) < set(after), "what was there is there, and more"
        for key, old in before.items():
            assert after[key].samples == old.samples and after[key].status == old.status, "nothing is measured again"
        before = after
    with started(model, path, "11s") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not err
    found, after = json.loads(out), stored(path)
    assert set(before) < set(after) and all(after[k].samples == old.samples for k, old in before.items())
    assert found["trials"] == len(after) and not found["notes"], "what is known counts"
    with sqlite3.connect(path) as c:
        assert c.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def rows(path: Path) -> int:
    with suppress(sqlite3.Error), sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1) as c:
        return int(c.execute("SELECT count(*) FROM trials").fetchone()[0])
    return 0


def test_a_killed_worker_and_a_killed_runner_cost_little(model: Path, tmp_path: Path) -> None:
    """One after the other, from outside, while a whole tune runs."""
    path = tmp_path / "records.sqlite"
    with started(model, path, "22s") as process:
        while rows(path) < 4:
            assert process.poll() is None
            time.sleep(0.05)
        worker, = (p for p in family(process) if "burnish.schedules.worker" in " ".join(p.cmdline()))
        runner, = (p for p in family(process) if "/runner/" in " ".join(p.cmdline()))
        worker.kill()
        time.sleep(1.0)
        runner.kill()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not err, err
    found = json.loads(out)
    assert found["tuned_s"] <= found["untuned_s"] * 1.01 and found["trials"] > 8
    assert set(found["failures"]) <= {"build"} and sum(found["failures"].values()) <= 2, found["failures"]
    assert all("SIGKILL" in note for note in found["notes"]) and len(found["notes"]) <= 1


def test_two_tuners_share_one_file(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with started(model, path, "14s", "--seed", "1") as one, started(model, path, "14s", "--seed", "2") as two:
        outputs = [p.communicate(timeout=90) for p in (one, two)]
        assert [p.returncode for p in (one, two)] == [0, 0], outputs
    a, b = (json.loads(out) for out, _ in outputs)
    assert a["notes"] == b["notes"] == []
    count = len(stored(path))
    assert max(a["trials"], b["trials"]) <= count <= a["trials"] + b["trials"] and min(a["trials"], b["trials"]) >= 4


# ---- Records that cannot be kept


LOCK = ("import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE'); "
        "print('locked', flush=True); sys.stdin.read()")


@contextmanager
def locked(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", LOCK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout is not None and p.stdout.readline() == "locked\n"
        try:
            yield p
        finally:
            p.kill()


@pytest.fixture(scope="module")
def builder() -> Iterator[Saboteur]:
    with Saboteur() as b:
        yield b


@pytest.fixture
def local(builder: Saboteur) -> Iterator[Local]:
    """This machine, with workers that are warm from the test before."""
    builder.plan = lambda task, candidate: None
    with LocalRunner(DEVICE, limit=5.0) as runner:
        made = Evaluator(DEVICE, builder, runner)
        untuned = Local(made)
        yield untuned


@pytest.mark.parametrize("forever", [True, False])
def test_a_database_that_another_process_holds(model: Path, local: Local, tmp_path: Path, forever: bool) -> None:
    path = tmp_path / "records.sqlite"
    made, inputs = lowered(model)
    local.evaluator.build([(g.task, c) for g in made.groups if (c := default(g.task, DEVICE))])
    with Database.open(str(path), patience=0.2) as database:
        with locked(path) as other:
            def watch(state: State) -> None:
                if state.trials >= 8 and not forever:
                    other.kill()

            found = tune.tune(made, inputs, RIG, Settings(4.0), database, measurer=local, watch=watch)
        assert found.trials >= 8 and len(found.chosen) == len(found.goals) and found.elapsed < 10
        tried = {(g.task.key, c) for g in found.goals for c in g.tried}
        (note,) = found.notes
        assert f"{path}: has been locked by another process for 0.2 s" in note
        assert re.match(r"\d+ records are not kept: " if forever else "records could not be kept for a while, but all are ", note)
        other.wait()
        assert {(r.task.key, r.candidate) for r in database.records()} == (set() if forever else tried)


def test_a_full_disk(model: Path, local: Local, tmp_path: Path) -> None:
    """Of a size that holds some records, and not all."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        made, inputs = lowered(model)
        local.evaluator.build([(g.task, c) for g in made.groups if (c := default(g.task, DEVICE))])
        with Database.open(str(disk / "records.sqlite")) as database:
            database.count()
            free = os.statvfs(disk)
            (disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_bsize - 64 * 1024))
            found = tune.tune(made, inputs, RIG, Settings(4.0), database, measurer=local)
            there = database.count()
            assert found.trials >= 8 and set(found.chosen) == {g.task.key for g in made.groups} and found.latency > 0
            (note,) = found.notes
            assert "records are not kept: " in note and "the disk is full; free some space" in note and there < found.trials
            (disk / "ballast").unlink()
            found = tune.tune(made, inputs, RIG, Settings(1.5), database, measurer=local)
            assert not found.notes and database.count() == found.trials >= there
    finally:
        subprocess.run(["umount", disk], check=True)


# ---- What `compile` makes of records


def test_a_bad_record_that_was_imported_is_not_used(model: Path, tmp_path: Path, builder: Saboteur,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Two imported records, each the best of its task: one computes something else here, which is noted. The other is believed
    from now on."""
    made, _ = lowered(model)
    tasks = {g.task.family: g.task for g in made.groups}
    good, bad = (next(c for c in options(tasks[f], DEVICE) if c != default(tasks[f], DEVICE) and c.maker.exact)
                 for f in ("depthwise", "conv"))
    mark = fingerprint(DEVICE)
    records = [TuningRecord(tasks[f], c, mark, tune.tools(RIG), "ok", (1e-9,) * 5, 1e-3, created="2026-11-20T12:00:00+00:00")
               for f, c in (("depthwise", good), ("conv", bad))]
    monkeypatch.setattr(tune, "Builder", lambda workers, timeout: Saboteur(lambda task, c: "wrong" if c == bad else None, 1))
    with Database.open(str(tmp_path / "records.sqlite")) as database:
        database.adopt(records)
        picks = tune.choose(made, CpuTarget("native"), database=database)
        assert picks[tasks["depthwise"].key].candidate == good and picks[tasks["conv"].key].candidate != bad
        assert {r.candidate: (r.status, r.verified) for r in database.records()} == {good: ("ok", True), bad: ("wrong", True)}

        def nothing(target: CpuTarget) -> Rig:
            raise DeviceError("nothing can be compared")

        monkeypatch.setattr(CpuTarget, "rig", nothing)
        picks = tune.choose(made, CpuTarget("native"), database=database)
        assert picks[tasks["depthwise"].key].candidate == good and picks[tasks["conv"].key].record is None


def spiked(path: Path) -> Path:
    """A 3x3 convolution of a map with one large value, whose results are then cleared where the window met it: Winograd spreads
    the rounding of that value over a whole tile."""
    rng, c, n = np.random.default_rng(0), 16, 12
    spike, mask = np.zeros((1, 1, n, n)), np.ones((1, 1, n, n))
    spike[..., 5, 5], mask[..., 4:7, 4:7] = 1e4, 0
    nodes = [helper.make_node("Add", ["x", "spike"], ["p"]), helper.make_node("Conv", ["p", "w"], ["q"], pads=[1, 1, 1, 1]),
             helper.make_node("Mul", ["q", "mask"], ["y"])]
    weights = {"spike": spike, "mask": mask, "w": rng.standard_normal((c, c, 3, 3)) / 12}
    graph = helper.make_graph(nodes, "spiked", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, c, n, n])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, c, n, n])],
                              [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_compile_makes_exactly_what_winograd_rounds_too_much(tmp_path: Path) -> None:
    path = spiked(tmp_path / "spiked.onnx")
    made, _ = lowered(path)
    chosen = {g.task.key: next(c for c in options(g.task, DEVICE) if not c.maker.exact and c.knobs.m == 4)
              for g in made.groups if g.task.family == "conv"}
    assert len(chosen) == 1
    steps: list[str] = []
    done = api.compile(path, tmp_path / "out", tuned=Result(chosen, {}, (), 0, 0, 0, ()), records="none",
                       progress=lambda step, n, total: steps.append(step))
    templates = {k["template"] for k in json.loads((tmp_path / "out" / "manifest.json").read_text())["kernels"]}
    assert not any("winograd" in t for t in templates) and done.error is not None and done.error < 1e-4
    assert steps.count("link") == steps.count("verify") == 3, "the first was linked, and failed when it was verified"
    assert done.note == api.INEXACT
