"""The database of records on a PostgreSQL server that many tuners share: a real one, started here."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from burnish.schedules.database import Database
from burnish.schedules.records import RecordsError
from schedules.database_suite import DatabaseSuite
from schedules.trials import record
from sqlalchemy import text

# Debian keeps the server's programs off the path.
PLACES = [str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]


def program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([*PLACES, os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"no PostgreSQL server here: there is no {name}")
    return found


def call(*command: str | Path) -> None:
    """As nobody where this is root, as whom the server does not run."""
    user = None if os.geteuid() else pwd.getpwnam("nobody")
    extra = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=120, **extra)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def start(folder: Path) -> None:
    call(program("pg_ctl"), "-D", folder / "data", "-l", folder / "log", "-w",
         "-o", f"-k {folder} -c listen_addresses= -c fsync=off", "start")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Of a running server, which answers on a socket in it and on no network. (A socket's path has at most 107 characters.)"""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
    data = folder / "data"
    call(initdb, "-D", data, "-U", "burnish", "-A", "trust", "-E", "UTF8", "--no-sync")
    start(folder)
    yield folder
    call(pg_ctl, "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def ask(url: str, *statements: str) -> list[str]:
    """What the server answers to the last."""
    with psycopg.connect(url, autocommit=True) as c:
        for s in statements:
            answer = c.execute(s)       # type: ignore[call-overload]
        return [str(row[0]) for row in answer] if answer.description else []


@pytest.fixture
def url(folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new database for each test."""
    name = f"test{abs(hash(request.node.name)) % 10**9}"
    admin = f"postgresql://burnish@/postgres?host={folder}"
    ask(admin, f"CREATE DATABASE {name}")
    yield f"postgresql://burnish@/{name}?host={folder}"
    ask(admin, f"DROP DATABASE {name} WITH (FORCE)")


class TestPostgres(DatabaseSuite):
    pass


def test_lookup_uses_the_index(url: str) -> None:
    with Database.open(url) as database:
        database.add(record(n) for n in range(20_000))
        query = str(Database.query(["a", "b"], ["c"]).compile(database.engine, compile_kwargs={"literal_binds": True}))
    plan = "\n".join(ask(url, "ANALYZE", f"EXPLAIN {query}"))
    assert "Scan using trials_pkey" in plan or "Index Scan on trials_pkey" in plan, plan
    assert "Seq Scan" not in plan, plan


def test_a_row_that_another_holds_for_longer_than_one_waits(url: str) -> None:
    with Database.open(url, patience=0.5) as database:
        database.add([record(0)])
        with database.engine.connect() as other, other.begin():
            other.execute(text("LOCK TABLE trials"))
            with pytest.raises(RecordsError, match=r"has been locked by another process for 0.5 s; try again"):
                database.add([record(1)])
        database.add([record(1)])
        assert database.count() == 2


def test_a_server_that_restarts(folder: Path, url: str) -> None:
    with Database.open(url) as database:
        database.add([record(0)])
        call(program("pg_ctl"), "-D", folder / "data", "-m", "fast", "-w", "stop")
        with pytest.raises(RecordsError, match=r"postgresql\S*burnish@/test\d+\S*: .*connection"):
            database.add([record(1)])
        start(folder)
        database.add([record(1)])
        assert database.count() == 2


def test_one_who_may_not_write(url: str) -> None:
    ask(url, "DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN")
    try:
        with pytest.raises(RecordsError, match="permission denied"):
            Database.open(url.replace("burnish@", "guest@"))
    finally:
        ask(url, "DROP ROLE guest")


def test_a_database_that_is_not_there(folder: Path) -> None:
    with pytest.raises(RecordsError, match='database "nobodys" does not exist'):
        Database.open(f"postgresql://burnish@/nobodys?host={folder}")
