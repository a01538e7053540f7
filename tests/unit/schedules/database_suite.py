"""What every database of records must do. A subclass's fixture `url` says where an empty one is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from burnish.schedules.database import Added, Database
from burnish.schedules.exchange import Checker
from burnish.schedules.records import RecordsError
from sqlalchemy import text

from .harness import ZEN5
from .trials import HASWELL, HERE, PER_TASK, PHONE, TOOLS, candidates, failed, record, task

UNIT = Path(__file__).parents[1]


def writer(url: str, first: int, end: int, **options: object) -> subprocess.Popen[str]:
    """Another process that adds the records first … end - 1, one by one."""
    return subprocess.Popen([sys.executable, "-m", "schedules.trials", url, str(first), str(end)], cwd=UNIT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


class DatabaseSuite:
    @pytest.fixture
    def database(self, url: str) -> Iterator[Database]:
        with Database.open(url, patience=2) as made:
            yield made

    def test_what_goes_in_comes_out(self, database: Database, url: str) -> None:
        given = [record(0), record(1, situ=(2e-5, 3e-5), samples=tuple(1e-9 * k for k in range(1, 2000))),
                 record(2, verified=False), failed(3, "wrong", "off by 1e9: ≠ µ"), record(4, tools={"tvm": "0.28"}),
                 record(5, fingerprint=PHONE)]
        assert database.add(given) == Added(6, 0)
        with Database.open(url, create=False) as again:
            found = list(again.records())
            assert again.count() == 6 and sorted(map(repr, found)) == sorted(map(repr, given))
            assert all(r in given for r in found)
            assert [r.candidate for r in again.trials(task(0).key, HERE, TOOLS) if r.candidate in candidates()]   # knobs in order

    def test_messages_that_no_database_takes(self, database: Database) -> None:
        database.add([failed(0, message="a\0b\udc80c" + "x" * 10_000)])
        (found,) = database.records()
        assert found.message.startswith("ab?cxx") and len(found.message) <= 2000

    def test_measured_again(self, database: Database) -> None:
        database.add([record(0, situ=(7e-5,)), record(1)])
        assert database.add([record(0, samples=(9e-4,), created="later"), record(2)]) == Added(1, 1)
        first = database.trials(task(0).key, HERE, TOOLS)
        again = next(r for r in first if r.candidate == candidates()[0])
        assert len(first) == 3 and (again.samples, again.situ, again.created) == ((9e-4,), (7e-5,), "later")
        database.add([record(0, situ=(1e-5, 2e-5))])
        again = next(r for r in database.records() if r.candidate == candidates()[0])
        assert again.situ == (1e-5, 2e-5) and again.samples == record(0).samples
        assert database.add([record(0, situ=(3e-5,)), record(0, samples=(1.0,))]) == Added(0, 2)      # twice in one batch
        again = next(r for r in database.records() if r.candidate == candidates()[0])
        assert again.samples == (1.0,) and again.situ == (3e-5,) and database.count() == 3

    def test_a_candidate_is_the_same_in_any_order_of_its_knobs(self, database: Database) -> None:
        knobs = candidates()[0].knobs
        turned = replace(candidates()[0], knobs=type(knobs)(tuple(reversed(knobs.items_))))
        assert len(knobs) > 1
        assert database.add([record(0)]) == Added(1, 0) and database.add([record(0, candidate=turned)]) == Added(0, 1)

    def test_lookup_finds_the_nearest(self, database: Database) -> None:
        cousin = replace(HERE, caches=(32, 512, 8192))                  # the same micro-architecture
        kin = replace(HERE, core="sapphirerapids")                      # the same instructions
        stranger = replace(HERE, core="skylake-avx512", isa=("avx512f", "more"))
        given = [
            failed(0), record(1, samples=(3e-4,)), record(2, samples=(2e-4,)), record(3, samples=(9e-4,), situ=(4e-4,)),
            record(4, samples=(8e-4,), situ=(5e-4,)), record(5, fingerprint=cousin, samples=(1e-5,)),
            record(6, fingerprint=kin, samples=(1e-6,)), record(7, fingerprint=stranger), record(8, fingerprint=HASWELL),
            record(9, fingerprint=PHONE), record(PER_TASK), record(3 * PER_TASK, fingerprint=kin)]
        database.add(given)
        found = database.lookup([task(n).key for n in (0, 1, 2, 3)] + ["0" * 16], HERE)
        assert set(found) == {task(n).key for n in (0, 1, 3)}
        order = [given.index(r) for _, r in found[task(0).key]]
        assert order == [3, 4, 2, 1, 0, 5, 6]           # finalists, others by their time, failures; the cousin's; the kin's
        assert [d for d, _ in found[task(0).key]] == [0, 0, 0, 0, 0, 1, 2]
        assert [d for d, _ in found[task(3).key]] == [2]
        assert database.lookup([], HERE) == {}

    def test_the_ratio_to_the_untuned_kernel_counts_before_the_seconds(self, database: Database) -> None:
        database.add([record(0, samples=(2e-4,), baseline=2e-4), record(1, samples=(3e-4,), baseline=6e-4)])
        assert [r.ratio for _, r in database.lookup([task(0).key], HERE)[task(0).key]] == [0.5, 1.0]

    def test_trials_are_of_this_device_and_these_tools(self, database: Database) -> None:
        database.add([record(0, created="2"), record(1, created="1"), failed(2), record(3, tools={"tvm": "9"}),
                      record(4, fingerprint=replace(HERE, os="android")), record(PER_TASK)])
        assert [candidates().index(r.candidate) for r in database.trials(task(0).key, HERE, TOOLS)] == [1, 0, 2]

    def test_records_of_others_are_unverified_and_replace_nothing(self, database: Database) -> None:
        database.add([record(0)])
        assert database.adopt([record(0, samples=(1e-9,)), record(1), record(1, samples=(1.0,))]) == Added(1, 2)
        ours, theirs = database.trials(task(0).key, HERE, TOOLS)[0], database.trials(task(0).key, HERE, TOOLS)[1]
        if ours.candidate != candidates()[0]:
            ours, theirs = theirs, ours
        assert ours == record(0) and theirs == record(1, verified=False)
        database.mark_verified(theirs)
        assert all(r.verified for r in database.records())

    def test_stats(self, database: Database) -> None:
        database.add([record(n) for n in range(2 * PER_TASK)] + [failed(2 * PER_TASK), record(0, fingerprint=PHONE)])
        here, phone = sorted(database.stats(), key=lambda s: -s.trials)
        assert (here.fingerprint, here.family, here.tasks, here.trials, here.failures) == (HERE, "gemm", 3, 2 * PER_TASK + 1, 1)
        assert here.best == pytest.approx(2 * record(PER_TASK - 1).seconds)
        assert (phone.fingerprint, phone.trials, phone.failures) == (PHONE, 1, 0)

    def test_many_records_in_batches(self, database: Database) -> None:
        count = 100 * PER_TASK
        assert database.add(record(n) for n in range(count)) == Added(count, 0)
        assert sum(1 for _ in database.records()) == count
        keys = [task(n).key for n in range(100)]
        assert sum(map(len, database.lookup(keys, HERE).values())) == count

    def test_merge(self, database: Database, tmp_path: Path) -> None:
        database.add([record(0)])
        with Database.open(str(tmp_path / "other.sqlite")) as other:
            other.add([record(0, samples=(1.0,)), record(1), failed(2), record(3, fingerprint=PHONE)])
            assert database.merge(other, Checker((ZEN5, HERE))) == Added(3, 1)
            assert database.merge(other, Checker((ZEN5, HERE))) == Added(0, 4)
            assert other.merge(database, Checker()) == Added(0, 4)
        assert [r.verified for r in database.trials(task(0).key, HERE, TOOLS)].count(True) == 1

    def test_a_merge_of_what_cannot_be_brings_nothing(self, database: Database, tmp_path: Path) -> None:
        with Database.open(str(tmp_path / "other.sqlite")) as other:
            template = replace(candidates()[0], template="f32-gemm-magic")
            other.add([record(n) for n in range(30)] + [record(31, candidate=template)])
            with pytest.raises(RecordsError, match=r"other.sqlite, a record of task \w+: .*no template 'f32-gemm-magic'"):
                database.merge(other, Checker())
        assert database.count() == 0

    def test_two_processes_at_once(self, url: str) -> None:
        """They make the tables, the tasks, the device and half of the records together: none is lost, none is there twice."""
        writers = [writer(url, 0, 120), writer(url, 60, 180)]
        for w in writers:
            out, err = w.communicate(timeout=120)
            assert w.returncode == 0 and len(out.split()) == 120, err
        with Database.open(url, create=False) as database:
            found = list(database.records())
        assert len(found) == 180 and {repr(r) for r in found} == {repr(record(n)) for n in range(180)}

    def test_threads_share_one(self, database: Database) -> None:
        def add(first: int) -> int:
            return sum(database.add([record(n)]).new for n in range(first, first + 25))

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(add, (0, 10, 20, 30))) == 55
        assert {repr(r) for r in database.records()} == {repr(record(n)) for n in range(55)}

    def test_many_find_nothing_there_and_make_it(self, url: str) -> None:
        def make(_: int) -> Added:
            with Database.open(url) as database:
                return database.add([record(0)])

        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(make, range(6))) == [Added(0, 1)] * 5 + [Added(1, 0)]

    def test_a_killed_writer_leaves_what_it_committed(self, url: str) -> None:
        w = writer(url, 0, 100_000)
        assert w.stdout is not None
        said = [w.stdout.readline() for _ in range(60)]
        w.kill()
        said += w.stdout.read().splitlines()
        assert w.wait() == -9
        whole = [int(s) for s in said if s.strip()]
        with Database.open(url, create=False) as database:
            found = {repr(r) for r in database.records()}
            assert {repr(record(n)) for n in whole} <= found and len(found) <= len(whole) + 2
            database.add([record(n) for n in range(len(whole) + 50)])

    def test_another_version(self, url: str) -> None:
        with (Database.open(url) as database,
              database.engine.connect().execution_options(burnish_writes=True) as c, c.begin()):
            c.execute(text("UPDATE burnish_records SET version = 2"))
        with pytest.raises(RecordsError, match="version 2, this burnish reads 1: export them with"):
            Database.open(url)

    def test_a_damaged_row(self, url: str) -> None:
        with Database.open(url) as database:
            database.add([record(0), record(PER_TASK)])
            with database.engine.connect().execution_options(burnish_writes=True) as c, c.begin():
                c.execute(text("UPDATE trials SET candidate = '{\"template\": 3}' WHERE task = :task"), {"task": task(0).key})
            with pytest.raises(RecordsError, match=r"is damaged .*is no candidate.*; move it away"):
                list(database.records())
            assert len(database.lookup([task(1).key], HERE)) == 1       # the others are as they were
