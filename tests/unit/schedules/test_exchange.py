"""Records as text: what is written is read back, and what anybody else wrote is checked line by line."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from burnish.schedules import exchange
from burnish.schedules.candidate import Candidate
from burnish.schedules.database import Added, Database
from burnish.schedules.exchange import Checker
from burnish.schedules.expr import indices, load, var
from burnish.schedules.records import RecordsError, TuningRecord
from burnish.schedules.space import Knobs
from burnish.schedules.task import Buffer, Store, Task

from .harness import ZEN5
from .trials import HERE, PER_TASK, PHONE, candidates, failed, record

HEADER = '{"format": "burnish-records", "version": 1}'
BEYOND = dict(candidates()[0].knobs) | {next(iter(candidates()[0].knobs)): 999}     # no value of the space


def written(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def line(changes: dict[str, Any] | None = None, at: str = "", **more: Any) -> str:
    """A good line, but for what is changed in it, or in one of its parts."""
    data = json.loads(exchange.line(record(0)))
    (data[at] if at else data).update((changes or {}) | more)
    return json.dumps(data)


def read(path: Path, here: bool = True) -> list[TuningRecord]:
    return list(exchange.read(path, Checker((ZEN5, HERE) if here else None)))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    given = [record(0), record(1, situ=(1e-5,), created="2026-11-20T12:00:00.5+00:00"), failed(2, message="ö\n\x1b[31m"),
             record(PER_TASK, fingerprint=PHONE), record(3, error=math.nan)]
    path = tmp_path / "records.jsonl"
    assert exchange.write(path, given) == 5
    found = read(path)
    assert [repr(r) for r in found] == [repr(replace(r, verified=False, error=r.error if r.error == r.error else math.inf))
                                        for r in given]
    assert found[0].candidate == candidates()[0]                            # knobs in their order
    assert len(path.read_text().splitlines()) == 6 and path.read_text().splitlines()[0] == HEADER
    assert path.stat().st_mode & 0o777 == 0o644 and [p.name for p in tmp_path.iterdir()] == ["records.jsonl"]
    assert exchange.write(path, given[:1]) == 1 and len(read(path)) == 1     # an earlier export is replaced


def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("years of work")
    with pytest.raises(RecordsError, match=r"thesis.txt: is there already, and is no export of records; name another file"):
        exchange.write(path, [record(0)])
    assert path.read_text() == "years of work"


def test_an_export_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    def failing() -> Any:
        yield record(0)
        raise RecordsError("the server is gone")

    path = tmp_path / "records.jsonl"
    exchange.write(path, [record(0), record(1)])
    with pytest.raises(RecordsError, match="the server is gone"):
        exchange.write(path, failing())
    assert len(read(path)) == 2 and [p.name for p in tmp_path.iterdir()] == ["records.jsonl"]
    with pytest.raises(RecordsError, match="No such file or directory; name a file elsewhere"):
        exchange.write(tmp_path / "no" / "such.jsonl", [record(0)])


BAD_LINES = {
    "not json": ("{", "EOF while parsing"), "no object": ("[]", "should be an object"), "empty": ("", "EOF while parsing"),
    "more": (line(pickle="gASV"), "pickle: Extra inputs are not permitted"),
    "less": (json.dumps({k: v for k, v in json.loads(line()).items() if k != "tools"}), "tools: Field required"),
    "verified": (line(verified=True), "verified: Extra inputs"), "key": (line(key="0" * 16), "key: Extra inputs"),
    "status": (line(status="fine"), "status: Input should be 'ok'"), "ok": (line(samples=[]), "samples: there are none"),
    "zero": (line(samples=[0]), "samples.0: Input should be greater than 0"), "negative": (line(situ=[-1.0]), "situ.0: Input"),
    "infinite": (line(samples=[math.inf]), "samples.0: Input should be a finite"),
    "nan": (line(baseline=math.nan), "baseline: Input should be"),
    "overflow": (line().replace('"baseline": 0.001', '"baseline": 1e999'), "baseline: Input should be a finite"),
    "words": (line(samples=["1"]), "samples.0: Input should be a valid number"),
    "many": (line(samples=[1.0] * 10_001), "samples: Tuple should have at most 10000"),
    "device": (line(at="device", lanes="16"), "device.lanes: Input should be a valid integer"),
    "caches": (line(at="device", caches=[1, 2]), "device.caches.2: Field required"),
    "isa": (line(at="device", isa=["a b"]), "device.isa.0: String should match"),
    "template": (line(at="candidate", template="../../evil"), "candidate.template: String should match"),
    "unknown": (line(at="candidate", template="f32-gemm-magic"), "candidate: this burnish has no template 'f32-gemm-magic'"),
    "family": (line(at="candidate", template="rows"), "candidate: "),
    "knob": (line(at="candidate", knobs={"rows": 1.5}), "candidate.knobs.rows"),
    "bool knob": (line(at="candidate", knobs={"rows": True}), "candidate.knobs.rows"),
    "nested knob": (line(at="candidate", knobs={"rows": [1]}), "candidate.knobs.rows"),
    "large knob": (line(at="candidate", knobs={"rows": 1 << 40}), "candidate.knobs.rows"),
    "code knob": (line(at="candidate", knobs={"rows": "__import__('os')"}), "candidate.knobs.rows"),
    "knob name": (line(at="candidate", knobs=BEYOND | {"__class__": 1}), "candidate.knobs.__class__"),
    "task": (line(task={"family": "gemm"}), "a task has family"),
    "params": (line(at="task", params={"m": {"a": 1}}), "the task's parameter m cannot be"),
    "params of no compiler": (line(at="task", params={}), "candidate: "),
    "expression": (line(at="task", expressions=[["eval", "int32", "1", []]]), "there is no op 'eval'"),
    "another knob": (line(at="candidate", knobs=dict(candidates()[0].knobs) | {"turbo": 1}), "there is no knob turbo"),
    "out of the space": (line(at="candidate", knobs=BEYOND), "999 is none of"),
    "deep": (line().replace('"tools": {', '"tools": {"a": ' + "[" * 500 + "]" * 500 + ", "), "recursion|invalid|limit"),
    "surrogate": (line(message="x").replace('"message": "x"', '"message": "\\udc80"'), "surrogate"),
    "created": (line(created="yesterday\x1b[31m"), "created: String should match"), "time": (line(message=3), "message: Input"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_broken_line_stops_everything(name: str, tmp_path: Path) -> None:
    bad, said = BAD_LINES[name]
    path = written(tmp_path / "theirs.jsonl", exchange.line(record(1)), bad, exchange.line(record(2)))
    with Database.open(str(tmp_path / "records.sqlite")) as database:
        good = written(tmp_path / "good.jsonl", *(exchange.line(record(n)) for n in range(3, 9)))
        with pytest.raises(RecordsError, match=f"^{re.escape(str(path))}, line 3: ") as e:
            database.import_files([good, path], Checker((ZEN5, HERE)))
        assert re.search(said, str(e.value)) and len(str(e.value)) < 500, str(e.value)
        assert database.count() == 0
        assert database.import_files([good], Checker((ZEN5, HERE))) == Added(6, 0)
        assert database.import_files([good, good], Checker((ZEN5, HERE))) == Added(0, 12)


def test_a_record_of_another_device_is_looked_at_where_it_is_used(tmp_path: Path) -> None:
    """Only this device's space is known here."""
    other = replace(HERE, os="android")
    data = json.loads(exchange.line(record(0, fingerprint=other)))
    data["candidate"]["knobs"] = BEYOND
    path = written(tmp_path / "theirs.jsonl", json.dumps(data))
    assert read(path)[0].fingerprint == other
    data["device"]["os"] = "linux"
    path = written(tmp_path / "theirs.jsonl", json.dumps(data))
    with pytest.raises(RecordsError, match="999 is none of"):
        read(path)
    assert len(read(path, here=False)) == 1


def test_sizes_that_no_model_has() -> None:
    """Are not counted out one by one to say whether a candidate is legal (a space is built from the sizes of its task)."""
    x = [load(n, indices(4), "float32") for n in range(3)]
    sizes = {"batch": 1, "heads": 1, "nq": 1 << 40, "nk": 1 << 40, "d": 1 << 40, "dv": 1 << 47, "scale": 0.5, "causal": 0}
    shape = (1, 1, 1 << 40, 1 << 47)
    buffers = (*(Buffer(shape, "float32", "input") for _ in x), Buffer(shape, "float32", "output"))
    store = Store(3, shape, indices(4), var("acc", "float32"))
    task = Task("attention", buffers, (store,), sizes, dict(zip("qkv", x, strict=True)))
    huge = record(0, task=task, candidate=Candidate("f32-attention", Knobs.of(rows=999)))
    start = time.monotonic()
    with pytest.raises(ValueError, match="rows=999 is none of"):
        Checker((ZEN5, HERE)).record(exchange.line(huge))
    assert time.monotonic() - start < 5


def test_tasks_that_differ_by_the_sign_of_zero_are_two(tmp_path: Path) -> None:
    one = json.loads(line())
    other = json.loads(line())
    (zero,) = (row for row in other["task"]["expressions"] if str(row[2]) == "-0.0")
    zero[2] = 0.0
    found = read(written(tmp_path / "theirs.jsonl", json.dumps(one), json.dumps(other), json.dumps(one)))
    assert found[0].task == found[2].task == record(0).task != found[1].task


@pytest.mark.parametrize("header, said", [
    ("", "line 1: is not that of an export"), ('{"format": "burnish-records", "version": 2}', "line 1: is not that of"),
    ('{"format": "burnish-records", "version": 1, "exec": 1}', "line 1: is not that of"), (line(), "line 1: is not that of")])
def test_files_of_something_else(header: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=said):
        read(written(tmp_path / "theirs.jsonl", header=header))


def test_an_empty_file_one_that_is_not_there_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, said in ((tmp_path / "empty", "is empty"), (tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(RecordsError, match=f"{re.escape(str(path))}: {said}"):
            read(path)
    assert read(written(tmp_path / "none")) == []


def test_a_line_without_an_end(tmp_path: Path) -> None:
    """Nothing of it is held in memory."""
    path = written(tmp_path / "theirs.jsonl", "x" * (2 << 20))
    with pytest.raises(RecordsError, match="line 2: is longer than 1 MiB"):
        read(path)
    with pytest.raises(RecordsError, match="line 1: is longer than 1 MiB"):
        read(Path("/dev/zero"))


def test_a_file_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "FILE_BYTES", 10_000)
    path = written(tmp_path / "theirs.jsonl", *[line()] * 20)
    with pytest.raises(RecordsError, match=r"theirs.jsonl: is larger than"):
        read(path)
