"""The tables that tuning records lie in, and a record as a row of them.

Tasks, devices and toolchains are kept once each, under a hash of their JSON: rows never change, so that two writers can only
ever agree. A trial is found by the four hashes of what it is of.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any, cast, get_args

from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, LargeBinary, MetaData, Row, String, Table, Text

from .candidate import Candidate
from .records import Fingerprint, Status, TuningRecord
from .space import Knobs
from .task import Task

VERSION = 1             # of these tables
MESSAGE = 2000          # characters that are kept of what went wrong
SCHEMA = MetaData()

about = Table("burnish_records", SCHEMA, Column("version", Integer, primary_key=True, autoincrement=False))

tasks = Table("tasks", SCHEMA, Column("key", String(16), primary_key=True),
              Column("family", String(64), nullable=False), Column("data", Text, nullable=False))
devices = Table("devices", SCHEMA, Column("key", String(16), primary_key=True), Column("data", Text, nullable=False))
toolchains = Table("toolchains", SCHEMA, Column("key", String(16), primary_key=True), Column("data", Text, nullable=False))

# The order of the primary key is the order of the questions: many tasks on some devices, one task with one toolchain. In SQLite
# it is the order of the rows, too.
trials = Table(
    "trials", SCHEMA,
    Column("task", String(16), ForeignKey("tasks.key"), primary_key=True),
    Column("device", String(16), ForeignKey("devices.key"), primary_key=True),
    Column("tools", String(16), ForeignKey("toolchains.key"), primary_key=True),
    Column("choice", String(16), primary_key=True),         # hash of the candidate
    Column("candidate", Text, nullable=False),              # its JSON, with the knobs in the order of their space
    Column("status", String(16), nullable=False),
    Column("seconds", Float(53)),                           # of `samples`, as TuningRecord.seconds; null where it failed
    Column("samples", LargeBinary, nullable=False),         # little-endian float64
    Column("baseline", Float(53), nullable=False),
    Column("situ", LargeBinary, nullable=False),
    Column("error", Float(53)),                             # null where it is not finite
    Column("verified", Boolean, nullable=False),
    Column("message", Text, nullable=False),
    Column("created", String(40), nullable=False),
    sqlite_with_rowid=False)

STATUSES = frozenset(get_args(Status))
KEYS = ("task", "device", "tools", "choice")


def key_of(data: object) -> str:
    """As Task.key: of equal JSON, equal."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def parents(record: TuningRecord) -> dict[Table, dict[str, str]]:
    """The rows that the record's trial refers to."""
    task, device, tools = record.task, record.fingerprint.data, dict(record.tools)
    return {tasks: {"key": task.key, "family": task.family, "data": json.dumps(task.data)},
            devices: {"key": key_of(device), "data": json.dumps(device)},
            toolchains: {"key": key_of(tools), "data": json.dumps(tools)}}


def keys(record: TuningRecord) -> dict[str, str]:
    """The primary key of the record's trial."""
    return {"task": record.task.key, "device": key_of(record.fingerprint.data), "tools": key_of(dict(record.tools)),
            "choice": key_of(record.candidate.data)}


def trial(record: TuningRecord) -> dict[str, Any]:
    """The record's row in `trials`."""
    return {
        **keys(record), "candidate": json.dumps(record.candidate.data), "status": record.status,
        "seconds": record.seconds if math.isfinite(record.seconds) else None, "samples": pack(record.samples),
        "baseline": record.baseline, "situ": pack(record.situ), "error": record.error if math.isfinite(record.error) else None,
        "verified": record.verified, "message": storable(record.message), "created": record.created}


def record_of(row: Row[Any], task: Task, fingerprint: Fingerprint, tools: Mapping[str, str],
              candidate: Candidate) -> TuningRecord:
    """Raises ValueError where the row is not one that `trial` made."""
    if row.status not in STATUSES:
        raise ValueError(f"there is no status {row.status!r}")
    return TuningRecord(task, candidate, fingerprint, tools, cast(Status, row.status), unpack(row.samples), row.baseline,
                        unpack(row.situ), math.inf if row.error is None else row.error, row.verified, row.message, row.created)


def candidate_of(text: str) -> Candidate:
    """Raises ValueError where the text is not a candidate's JSON."""
    data = json.loads(text)
    if not (isinstance(data, dict) and isinstance(data.get("template"), str) and isinstance(data.get("knobs"), dict)
            and all(isinstance(v, int | str) for v in data["knobs"].values())):
        raise ValueError(f"{text[:80]} is no candidate")
    return Candidate(data["template"], Knobs(tuple(data["knobs"].items())))


def pack(values: tuple[float, ...]) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def unpack(data: bytes) -> tuple[float, ...]:
    if len(data) % 8:
        raise ValueError("the samples are cut off")
    return struct.unpack(f"<{len(data) // 8}d", data)


def storable(text: str) -> str:
    """What any database takes as text: no zero byte, no half of a surrogate pair."""
    return text[:MESSAGE].replace("\0", "").encode("utf-8", "replace").decode()
