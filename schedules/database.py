"""The database of tuning records: SQLite in the user's folder, or any that SQLAlchemy knows, shared by many tuners at once."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    Table,
    bindparam,
    case,
    func,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from . import tables as t
from .candidate import Candidate
from .connect import collides, engine, explain, located, make_folder
from .exchange import Checker, line, read
from .numerics import typical
from .records import Fingerprint, RecordsError, TuningRecord
from .task import Task

PATIENCE = 10.0     # seconds that another writer is waited for
TRIES = 8           # of a transaction that collides with another's
CHUNK = 400         # records in one transaction, names in one list of a query
Known = dict[str, list[tuple[int, TuningRecord]]]
Result = TypeVar("Result")


class Added(NamedTuple):
    """How many records were new, and how many were known before."""

    new: int
    known: int


@dataclass(frozen=True)
class Stat:
    """What is known of one family on one device. best: seconds that its tasks take together, each by its fastest candidate."""

    fingerprint: Fingerprint
    family: str
    tasks: int
    trials: int
    failures: int
    best: float


class Database:
    """Every method but `close` raises RecordsError where the database cannot do it. Threads may share one; processes each open
    their own."""

    def __init__(self, engine: Engine, name: str, patience: float) -> None:
        self.engine, self.name, self.patience = engine, name, patience

    @classmethod
    def open(cls, url: str | None = None, create: bool = True, patience: float = PATIENCE) -> Self:
        """url: of SQLAlchemy, or the path of an SQLite file; None: the user's own. create: make what is not there. patience:
        seconds to wait for another writer."""
        where = located(url)
        sqlite = where.get_backend_name() == "sqlite"
        name = (where.database or ":memory:") if sqlite else where.render_as_string()
        if sqlite and where.database and not Path(where.database).exists() and where.database != ":memory:":
            if not create:
                raise RecordsError(f"{name}: there are no records: no such file")
            if url is None:
                make_folder(Path(where.database).parent)
        database = cls(engine(where, name, patience), name, patience)
        try:
            database._prepare(create)
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __str__(self) -> str:
        return self.name

    # ---- writing

    def add(self, records: Iterable[TuningRecord]) -> Added:
        """Keeps what was measured here; committed on return. A candidate that was measured before has its samples replaced, and
        keeps its times inside a model where there are no new ones."""
        return self._store(records, replace=True)

    def adopt(self, records: Iterable[TuningRecord]) -> Added:
        """Keeps what others measured, unverified. What is known here stays as it is."""
        return self._store(records, replace=False)

    def import_files(self, paths: Sequence[Path], checker: Checker, seen: Callable[[int], None] = lambda records: None) -> Added:
        """Adopts the records of files that `exchange.write` made, or that anybody wrote: all of them, or none where a line is
        broken."""
        for path in paths:
            for _ in read(path, checker, seen):
                pass
        return self.adopt(record for path in paths for record in read(path, checker, seen))

    def merge(self, other: Database, checker: Checker) -> Added:
        """Adopts the records of another database, which is believed no more than a file."""
        def checked() -> Iterator[TuningRecord]:
            for record in other.records():
                try:
                    yield checker.record(line(record))
                except ValueError as e:
                    raise RecordsError(f"{other}, a record of task {record.task.key}: {e}") from e

        for _ in checked():
            pass
        return self.adopt(checked())

    def mark_verified(self, record: TuningRecord) -> None:
        """This installation has seen the record's candidate compute the right output."""
        place = [t.trials.c[name] == value for name, value in t.keys(record).items()]
        self._write(lambda c: c.execute(update(t.trials).where(*place).values(verified=True)))

    def _store(self, records: Iterable[TuningRecord], replace: bool) -> Added:
        new = known = 0
        rest = iter(records)
        while chunk := list(itertools.islice(rest, CHUNK)):
            parents: dict[Table, dict[str, dict[str, str]]] = {t.tasks: {}, t.devices: {}, t.toolchains: {}}
            rows: dict[tuple[str, ...], dict[str, Any]] = {}
            for record in chunk:
                for table, row in t.parents(record).items():
                    parents[table][row["key"]] = row
                trial = t.trial(record)
                place = tuple(trial[name] for name in t.KEYS)
                before = rows.get(place)
                if before and not replace:
                    continue
                rows[place] = trial | {"situ": trial["situ"] or (before["situ"] if before else b""),
                                       "verified": trial["verified"] and replace}
            found = self._write(lambda c, rows=rows, parents=parents: _merge(c, parents, rows, replace))    # type: ignore[misc]
            new, known = new + len(rows) - found, known + found + len(chunk) - len(rows)
        return Added(new, known)

    # ---- reading

    def lookup(self, task_keys: Iterable[str], fingerprint: Fingerprint) -> Known:
        """For each task what is known of it on this device and on those like it: (Fingerprint.distance, record), nearest first;
        of one distance the finalists first, by their time inside a model, then the others by their ratio to the untuned kernel
        and their seconds, and what failed at last."""
        with self._told(), self.engine.connect() as c:
            near = {key: d for key, f in self._devices(c).items() if (d := fingerprint.distance(f)) is not None}
            found: Known = {}
            for chunk in _chunks(sorted(set(task_keys))):
                for row, record in self._fetch(c, chunk, list(near)):
                    found.setdefault(row.task, []).append((near[row.device], record))
        for known in found.values():
            known.sort(key=_rank)
        return found

    def trials(self, task_key: str, fingerprint: Fingerprint, tools: Mapping[str, str]) -> list[TuningRecord]:
        """What is known of a task on exactly this device, built by exactly these tools: oldest first."""
        device, built = t.key_of(fingerprint.data), t.key_of(dict(tools))
        with self._told(), self.engine.connect() as c:
            return sorted((r for _, r in self._fetch(c, [task_key], [device], built)), key=lambda r: r.created)

    def records(self) -> Iterator[TuningRecord]:
        """Every record, some tasks at a time, in an order that depends on nothing but the records."""
        with self._told(), self.engine.connect() as c:
            keys = list(c.scalars(select(t.tasks.c.key).order_by(t.tasks.c.key)))
        for chunk in _chunks(keys, 50):
            with self._told(), self.engine.connect() as c:
                found = [r for _, r in self._fetch(c, chunk)]
            yield from found

    def count(self) -> int:
        with self._told(), self.engine.connect() as c:
            return c.scalar(select(func.count()).select_from(t.trials)) or 0

    def stats(self) -> list[Stat]:
        """By device and family."""
        n = t.trials.c
        each = select(n.device, n.task, func.count().label("trials"), func.min(n.seconds).label("best"),
                      func.sum(case((n.status == "ok", 0), else_=1)).label("failures")).group_by(n.device, n.task).subquery()
        family = t.tasks.c.family
        query = (select(each.c.device, family, func.count().label("tasks"), func.sum(each.c.trials).label("trials"),
                        func.sum(each.c.failures).label("failures"), func.sum(each.c.best).label("best"))
                 .join(t.tasks, t.tasks.c.key == each.c.task).group_by(each.c.device, family).order_by(each.c.device, family))
        with self._told(), self.engine.connect() as c:
            known = self._devices(c)
            return [Stat(known[r.device], r.family, r.tasks, int(r.trials), int(r.failures), r.best or 0.0)
                    for r in c.execute(query)]

    @staticmethod
    def query(task_keys: Sequence[str], devices: Sequence[str] | None = None, tools: str | None = None) -> Select[Any]:
        """Trials of these tasks, on these devices (None: any), built by these tools (None: any)."""
        n = t.trials.c
        wanted = select(t.trials).where(n.task.in_(task_keys))
        if devices is not None:
            wanted = wanted.where(n.device.in_(devices))
        if tools is not None:
            wanted = wanted.where(n.tools == tools)
        return wanted.order_by(n.task, n.device, n.tools, n.choice)

    def _fetch(self, c: Connection, task_keys: Sequence[str], devices: Sequence[str] | None = None,
               tools: str | None = None) -> list[tuple[Row[Any], TuningRecord]]:
        rows = c.execute(self.query(task_keys, devices, tools)).all()
        used = {row.task for row in rows}
        made = {key: Task.of(json.loads(data)) for key, data in c.execute(
            select(t.tasks.c.key, t.tasks.c.data).where(t.tasks.c.key.in_(used)))}
        built = {key: json.loads(data) for key, data in c.execute(select(t.toolchains.c.key, t.toolchains.c.data))}
        known = self._devices(c)
        candidates: dict[str, Candidate] = {}       # the same ones come back with every task of a family
        for row in rows:
            if row.candidate not in candidates:
                candidates[row.candidate] = t.candidate_of(row.candidate)
        return [(row, t.record_of(row, made[row.task], known[row.device], built[row.tools], candidates[row.candidate]))
                for row in rows]

    def _devices(self, c: Connection) -> dict[str, Fingerprint]:
        return {key: Fingerprint.of_data(json.loads(data)) for key, data in c.execute(select(t.devices.c.key, t.devices.c.data))}

    # ---- the database itself

    def _prepare(self, create: bool) -> None:
        """Makes the tables where there are none; refuses tables that are not ours."""
        found, failure = self._tables(), None
        if not found & set(t.SCHEMA.tables) and create:
            if found and self.engine.dialect.name == "sqlite":
                raise RecordsError(f"{self}: is an SQLite database of something else; name another file with --records")
            try:
                if self.engine.dialect.name == "sqlite":
                    self._write_ahead()
                self._write(_create)
            except RecordsError as e:       # another process may just have made them
                failure = e
            found = self._tables()
        if t.about.name in found:
            with self._told(), self.engine.connect() as c:
                version = c.scalar(select(func.max(t.about.c.version)))
            if version not in (None, t.VERSION):
                raise RecordsError(f"{self}: has records of version {version}, this burnish reads {t.VERSION}: export them with "
                                   "the burnish that wrote them, or name another database with --records")
        if not set(t.SCHEMA.tables) <= found:
            raise failure or RecordsError(f"{self}: has no tuning records; name another database with --records")

    def _tables(self) -> set[str]:
        with self._told():
            return set(inspect(self.engine).get_table_names())

    def _write_ahead(self) -> None:
        """Readers do not wait for writers, and a killed process leaves every commit. SQLite does not wait for a lock here."""
        end = time.monotonic() + self.patience
        while True:
            try:
                with self._told(), contextlib.closing(self.engine.raw_connection()) as raw:
                    raw.cursor().execute("PRAGMA journal_mode=WAL")     # where the file system cannot, SQLite stays as it is
                    return
            except RecordsError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def _write(self, work: Callable[[Connection], Result]) -> Result:
        """One transaction; anew where another's collides with it."""
        for last in (False,) * (TRIES - 1) + (True,):
            with self._told():
                try:
                    with self.engine.connect().execution_options(burnish_writes=True) as c, c.begin():
                        return work(c)
                except (IntegrityError, OperationalError) as e:
                    if last or not collides(e):
                        raise
        raise AssertionError

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the database or a damaged row says, as RecordsError."""
        try:
            yield
        except SQLAlchemyError as e:
            raise RecordsError(f"{self}: {explain(e, self.patience)}") from e
        except OSError as e:        # of a driver
            raise RecordsError(f"{self}: {e.strerror or e}") from e
        except (ValueError, KeyError, TypeError) as e:
            what = f"{type(e).__name__}: {e}"[:200]
            raise RecordsError(f"{self}: is damaged ({what}); move it away, and import an export of it") from e


# ---- One transaction ---------------------------------------------------------------------------------------------------


def _create(c: Connection) -> None:
    t.SCHEMA.create_all(c)
    if c.scalar(select(func.max(t.about.c.version))) is None:
        c.execute(insert(t.about).values(version=t.VERSION))


def _merge(c: Connection, parents: Mapping[Table, Mapping[str, Mapping[str, str]]],
           rows: Mapping[tuple[str, ...], dict[str, Any]], replace: bool) -> int:
    """Inserts what is new, replaces what is known if asked to; how many rows were known. Everything in the order of its keys, so
    that two writers wait for each other rather than block each other."""
    for table, wanted in parents.items():
        have = set(c.scalars(select(table.c.key).where(table.c.key.in_(wanted))))
        if missing := [wanted[key] for key in sorted(wanted) if key not in have]:
            c.execute(insert(table), missing)
    n = t.trials.c
    query = select(*(n[name] for name in t.KEYS), n.situ).where(
        *(n[name].in_({row[name] for row in rows.values()}) for name in t.KEYS)).order_by(*(n[name] for name in t.KEYS))
    known = {tuple(row[:4]): row.situ for row in c.execute(query.with_for_update() if replace else query)
             if tuple(row[:4]) in rows}
    if known and replace:
        changed = [{f"at_{k}" if k in t.KEYS else k: v for k, v in (rows[p] | {"situ": rows[p]["situ"] or situ}).items()}
                   for p, situ in sorted(known.items())]
        values: dict[str, Any] = {k: bindparam(k) for k in n.keys() if k not in t.KEYS}     # noqa: SIM118 (a collection of columns, no dict)
        c.execute(update(t.trials).where(*(n[k] == bindparam(f"at_{k}") for k in t.KEYS)).values(values), changed)
    if new := [rows[p] for p in sorted(rows) if p not in known]:
        c.execute(insert(t.trials), new)
    return len(known)


def _rank(entry: tuple[int, TuningRecord]) -> tuple[float, ...]:
    distance, r = entry
    return distance, r.status != "ok", not r.situ, typical(r.situ) if r.situ else 0.0, r.ratio, r.seconds


def _chunks(keys: Sequence[str], size: int = CHUNK) -> Iterator[Sequence[str]]:
    return (keys[n:n + size] for n in range(0, len(keys), size))
