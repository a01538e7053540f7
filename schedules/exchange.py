"""Tuning records as text that people send each other: a line that says what the file is, then one record a line, each JSON.

What comes in is anybody's: every line is checked for its size, its form and its numbers; the task is rebuilt and its key made
anew; the candidate is a known template's, with plain values. Whether it lies in the template's space is asked where it is used,
and here, too, where the record is of this very device. Whether it computes the right output is never taken on trust.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .candidate import Candidate, misplaced, why_not
from .device import Device
from .records import Fingerprint, RecordsError, Status, TuningRecord
from .space import Knobs
from .task import Task

FORMAT: Literal["burnish-records"] = "burnish-records"
FILE_BYTES, LINE_BYTES = 1 << 30, 1 << 20
SAMPLES = 10_000        # of one record

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.+-]+$")]
Version = Annotated[str, Field(max_length=64, pattern=r"^[\w.+ -]*$")]
KnobName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
KnobValue = Annotated[int, Field(ge=-1 << 31, lt=1 << 31)] | Annotated[str, Field(max_length=64, pattern=r"^[\w.,x+-]*$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0, lt=1 << 31)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Header(_Strict):
    format: Literal["burnish-records"]
    version: Literal[1]


class _Device(_Strict):
    """As Fingerprint."""

    arch: Name
    core: Name
    isa: tuple[Name, ...] = Field(max_length=256)
    lanes: Annotated[int, Field(ge=1, le=1024)]
    caches: tuple[Size, Size, Size]
    os: Name


class _Candidate(_Strict):
    template: Name
    knobs: dict[KnobName, KnobValue] = Field(max_length=64)


class _Line(_Strict):
    """As TuningRecord, without what only the one who measured can say of it. error: null where it is not finite."""

    task: dict[str, Any]
    candidate: _Candidate
    device: _Device
    tools: dict[Name, Version] = Field(max_length=32)
    status: Status
    samples: tuple[Seconds, ...] = Field(max_length=SAMPLES)
    baseline: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    situ: tuple[Seconds, ...] = Field(max_length=SAMPLES)
    error: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    message: str = Field(max_length=4000)
    created: str = Field(max_length=40, pattern=r"^[0-9T:.+Z-]*$")


# ---- Out ---------------------------------------------------------------------------------------------------------------


def line(record: TuningRecord) -> str:
    """The record as one line of JSON, without the end of the line."""
    return json.dumps({
        "task": record.task.data, "candidate": record.candidate.data, "device": record.fingerprint.data,
        "tools": dict(record.tools), "status": record.status, "samples": record.samples, "baseline": record.baseline,
        "situ": record.situ, "error": record.error if math.isfinite(record.error) else None, "message": record.message,
        "created": record.created}, separators=(",", ":"))


def write(path: Path, records: Iterable[TuningRecord], seen: Callable[[int], None] = lambda records: None) -> int:
    """A file of the records, in place of an earlier one of this format; how many there are. It appears when it is whole. seen: is
    told how many were written."""
    if path.exists() and not _is_ours(path):
        raise RecordsError(f"{path}: is there already, and is no export of records; name another file")
    count = 0
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False) as file:
            try:
                file.write(json.dumps({"format": FORMAT, "version": 1}) + "\n")
                for count, record in enumerate(records, 1):
                    file.write(line(record) + "\n")
                    seen(count)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.replace(file.name, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(file.name)
                raise
    except OSError as e:
        raise RecordsError(f"{path}: {e.strerror}; name a file elsewhere") from e
    return count


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            _Header.model_validate_json(file.readline(LINE_BYTES))
    except (OSError, ValidationError):
        return False
    return True


# ---- In ----------------------------------------------------------------------------------------------------------------


@dataclass
class Checker:
    """Checks records, one by one. here: this machine, and how its records are marked."""

    here: tuple[Device, Fingerprint] | None = None
    _last: tuple[str, Task] = field(default=("", Task("", (), ())), init=False)     # records of one task come together

    def record(self, text: str | bytes) -> TuningRecord:
        """The record of a line, unverified. Raises ValueError with what is wrong."""
        try:
            x = _Line.model_validate_json(text)
        except ValidationError as e:
            first = e.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))[:100]
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from e
        d = x.device
        made = TuningRecord(
            self._task(x.task), Candidate(x.candidate.template, Knobs(tuple(x.candidate.knobs.items()))),
            Fingerprint(d.arch, d.core, tuple(sorted(set(d.isa))), d.lanes, d.caches, d.os), x.tools, x.status, x.samples,
            x.baseline, x.situ, math.inf if x.error is None else x.error, False, x.message, x.created)
        if x.status == "ok" and not x.samples:
            raise ValueError("samples: there are none, though its status is ok")
        if (why := self._why_not(made)) is not None:
            raise ValueError(f"candidate: {why}")
        return made

    def _task(self, data: dict[str, Any]) -> Task:
        text = json.dumps(data)     # not `data` itself, in which 0 == False and 0.0 == -0.0
        if self._last[0] != text:
            self._last = text, Task.of(data)
        return self._last[1]

    def _why_not(self, record: TuningRecord) -> str | None:
        if self.here is None or record.fingerprint != self.here[1]:
            return misplaced(record.candidate, record.task)
        try:
            return why_not(record.candidate, record.task, self.here[0])
        except Exception as e:      # a template that is handed a task which no compiler made
            return f"{record.candidate.template} cannot make the task ({type(e).__name__}: {e})"


def read(path: Path, checker: Checker, seen: Callable[[int], None] = lambda lines: None) -> Iterator[TuningRecord]:
    """The records of a file. Raises RecordsError with the line that is wrong. seen: is told how many were read."""
    try:
        with path.open("rb") as file:
            total = number = 0
            while data := file.readline(LINE_BYTES + 1):
                total, number = total + len(data), number + 1
                if len(data) > LINE_BYTES:
                    raise RecordsError(f"{path}, line {number}: is longer than {LINE_BYTES >> 20} MiB, as no record is")
                if total > FILE_BYTES:
                    raise RecordsError(f"{path}: is larger than {FILE_BYTES >> 30} GiB; split it, each part with the first line")
                if number == 1:
                    _header(path, data)
                    continue
                try:
                    yield checker.record(data)
                except ValueError as e:
                    raise RecordsError(f"{path}, line {number}: {e}") from e
                seen(number - 1)
            if number == 0:
                raise RecordsError(f"{path}: is empty")
    except OSError as e:
        raise RecordsError(f"{path}: {e.strerror}") from e


def _header(path: Path, data: bytes) -> None:
    try:
        _Header.model_validate_json(data)
    except ValidationError as e:
        raise RecordsError(f"{path}, line 1: is not that of an export of records of version 1; `burnish records export` writes "
                           "such files") from e
