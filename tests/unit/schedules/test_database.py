"""The database of records as an SQLite file, with what may happen to a file."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from burnish.schedules.database import Database
from burnish.schedules.records import RecordsError
from sqlalchemy.dialects import sqlite

from .database_suite import DatabaseSuite, writer
from .trials import HERE, PER_TASK, TOOLS, record, task


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "records.sqlite")


class TestSqlite(DatabaseSuite):
    pass


def test_a_path_and_a_url_are_the_same_file(url: str) -> None:
    with Database.open(f"sqlite:///{url}") as database:
        database.add([record(0)])
    with Database.open(url, create=False) as database:
        assert database.count() == 1 and str(database) == url


def test_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(RecordsError, match="no such file"):
        Database.open(create=False)
    with Database.open() as database:
        assert str(database) == str(tmp_path / ".local/share/burnish/records.sqlite")


def test_lookup_of_many_tasks_among_many_trials_reads_only_theirs(url: str) -> None:
    with Database.open(url) as database:
        database.add(record(n) for n in range(20_000))
        query = Database.query([task(n).key for n in range(60)], ["a", "b"])
        compiled = query.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True})
        with database.engine.connect() as c:
            plan = [row[3] for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", tuple(
                compiled.params[name] for name in compiled.positiontup))]
        assert plan == ["SEARCH trials USING PRIMARY KEY (task=? AND device=?)"]    # and no sorting
        assert len(database.lookup([task(n).key for n in range(60)], HERE)) == 60


def test_readers_do_not_wait_for_a_writer(url: str) -> None:
    with Database.open(url, patience=0.2) as database:
        database.add([record(0)])
        other = sqlite3.connect(url, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM trials")
        assert len(database.trials(task(0).key, HERE, TOOLS)) == 1
        other.execute("ROLLBACK")
        other.close()


def test_locked_for_longer_than_one_waits(url: str) -> None:
    with Database.open(url, patience=0.5) as database:
        database.add([record(0)])
        hold = subprocess.Popen([sys.executable, "-c", "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\n"
                                 "c.execute('BEGIN IMMEDIATE')\nprint(1, flush=True)\nsys.stdin.read()", url],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert hold.stdout is not None and hold.stdout.readline()
        with pytest.raises(RecordsError, match=f"{url}: has been locked by another process for 0.5 s; try again"):
            database.add([record(1)])
        assert database.count() == 1
        hold.communicate()
        database.add([record(1)])
        assert database.count() == 2


@pytest.mark.parametrize("content, said", [
    (b"no database at all, but text that is longer than a header is" * 100, "no SQLite database"),
    (b"SQLite format 3\0" + b"\xff" * 5000, "no SQLite database|damaged")])
def test_a_file_of_something_else(url: str, content: bytes, said: str) -> None:
    Path(url).write_bytes(content)
    with pytest.raises(RecordsError, match=said):
        Database.open(url)
    assert Path(url).read_bytes() == content


def test_a_damaged_file(url: str) -> None:
    with Database.open(url) as database:
        database.add(record(n) for n in range(2000))
    data = bytearray(Path(url).read_bytes())
    for page in range(12, len(data) // 4096):
        data[page * 4096:page * 4096 + 512] = bytes(512)
    Path(url).write_bytes(data)
    with Database.open(url) as database, pytest.raises(RecordsError, match=f"{url}: is damaged; move it away"):
        list(database.records())


def test_a_database_of_another_program(url: str) -> None:
    c = sqlite3.connect(url)
    c.execute("CREATE TABLE bookmarks (url TEXT)")
    c.commit()
    with pytest.raises(RecordsError, match="something else; name another file with --records"):
        Database.open(url)
    assert c.execute("SELECT name FROM sqlite_master").fetchall() == [("bookmarks",)]
    c.close()


def test_an_empty_file_has_no_records(url: str) -> None:
    Path(url).touch()
    with pytest.raises(RecordsError, match="has no tuning records"):
        Database.open(url, create=False)
    Database.open(url).close()


@pytest.mark.parametrize("where, said", [
    ("/proc/self/records.sqlite", "cannot be opened; is its folder there"),
    ("/no/such/folder/records.sqlite", "cannot be opened"), ("/tmp", "cannot be opened"),
    ("oddbase://x/y", "knows no database 'oddbase'"), ("://x", "neither a path nor a URL"),
    ("postgresql://nobody:secret@127.0.0.1:9/x", r"nobody:\*\*\*@127.0.0.1:9/x: .*refused")])
def test_what_cannot_be_opened(where: str, said: str) -> None:
    with pytest.raises(RecordsError, match=said) as e:
        Database.open(where, patience=1)
    assert "secret" not in str(e.value) and "\n" not in str(e.value)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users reach, as they do not reach tmp_path."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def somebody_else() -> Iterator[None]:
    """As a user without rights, where the tests are run by one with all of them."""
    before = os.geteuid()
    os.seteuid(before or 65534)
    yield
    os.seteuid(before)


def test_a_folder_that_one_may_not_write_to(open_folder: Path) -> None:
    path = open_folder / "records.sqlite"
    with Database.open(str(path)) as database:
        database.add([record(0)])
    before = path.read_bytes()
    if os.geteuid():
        open_folder.chmod(0o555)
        path.chmod(0o444)
    for name in (path, open_folder / "new.sqlite"):
        with somebody_else(), pytest.raises(RecordsError, match=f"^{name}: .* with --records$"):
            Database.open(str(name))
    open_folder.chmod(0o755)
    assert path.read_bytes() == before and [p.name for p in open_folder.iterdir()] == ["records.sqlite"]


# ---- No room -----------------------------------------------------------------------------------------------------------


def fill(database: Database) -> tuple[int, str]:
    """Adds records until there is no more room: how many were committed, and what was said then."""
    for n in range(10_000):
        try:
            database.add([record(n, samples=(1e-3,) * 200)])
        except RecordsError as e:
            return n, str(e)
    raise AssertionError("the disk never was full")


def test_a_full_disk(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        path = tmp_path / "records.sqlite"
        with Database.open(str(path)) as database:
            kept, said = fill(database)
            assert kept > PER_TASK
            assert said == f"{path}: the disk is full; free some space, or name a place elsewhere with --records"
            assert database.count() == kept
            with pytest.raises(RecordsError, match="the disk is full"):
                database.add([record(n, samples=(1e-3,) * 200) for n in range(1000, 1100)])
            assert [len(r.samples) for r in database.records()] == [200] * kept
        with Database.open(str(path)) as database:
            assert database.count() == kept
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_file_that_may_not_grow(url: str) -> None:
    limit = 500_000
    w = writer(url, 0, 10_000, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    out, err = w.communicate(timeout=120)
    assert w.returncode == 1 and f"RecordsError: {url}: " in err.splitlines()[-1] and "with --records" in err, err
    with Database.open(url) as database:
        assert database.count() == len(out.split()) > 20
        database.add([record(20_000)])


