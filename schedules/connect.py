"""How a database of records is reached, and what it says when it is not: SQLite by its path, others by their URL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from .records import RecordsError

FOLDER, FILE = ".local/share/burnish", "records.sqlite"     # in the user's home


def located(url: str | None) -> URL:
    if url is None:
        try:
            return URL.create("sqlite", database=str(Path.home() / FOLDER / FILE))
        except RuntimeError as e:
            raise RecordsError(f"this user has no home folder ({e}); name a file with --records") from e
    if "://" not in url:
        return URL.create("sqlite", database=url)
    try:
        made = make_url(url)
    except ArgumentError as e:
        raise RecordsError("--records is neither a path nor a URL such as postgresql://user@host/name") from e
    # SQLAlchemy's first choice of a driver is not the one that burnish is installed with.
    return made.set(drivername="postgresql+psycopg") if made.drivername in ("postgres", "postgresql") else made


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RecordsError(f"{folder}: {e.strerror}; name a file elsewhere with --records") from e


def engine(where: URL, name: str, patience: float) -> Engine:
    """Sessions that wait for other writers for `patience` seconds."""
    dialect = where.get_backend_name()
    arguments: dict[str, Any] = {}
    if dialect == "sqlite":
        arguments = {"timeout": patience}
    elif dialect == "postgresql":
        arguments = {"connect_timeout": max(2, round(patience)), "options": f"-c lock_timeout={round(patience * 1000)}"}
    try:
        made = create_engine(where, connect_args=arguments, pool_pre_ping=dialect != "sqlite")
    except NoSuchModuleError as e:
        raise RecordsError(f"{name}: SQLAlchemy knows no database {where.drivername!r}") from e
    except ModuleNotFoundError as e:
        hint = ': pip install "burnish[postgres]"' if dialect == "postgresql" else ""
        raise RecordsError(f"{name}: the Python package {e.name} is not installed{hint}") from e
    if dialect == "sqlite":
        event.listen(made, "connect", _configure)
        event.listen(made, "begin", _begin)
    return made


def _configure(connection: Any, record: object) -> None:
    """An SQLite session: transactions begin where we say, references hold, nothing of the file's own runs."""
    connection.isolation_level = None
    for setting in ("foreign_keys=ON", "synchronous=NORMAL", "trusted_schema=OFF"):
        connection.execute(f"PRAGMA {setting}")


def _begin(c: Connection) -> None:
    """A writer takes the lock at once, for SQLite does not wait where a reader becomes a writer."""
    c.exec_driver_sql("BEGIN IMMEDIATE" if c.get_execution_options().get("burnish_writes") else "BEGIN")


# ---- What goes wrong ---------------------------------------------------------------------------------------------------

_LOCKED = "has been locked by another process for {patience:g} s; try again when it is done, or name another place with --records"
_FULL = "the disk is full; free some space, or name a place elsewhere with --records"

# By SQLite's primary result code <https://www.sqlite.org/rescode.html>, or PostgreSQL's SQLSTATE.
_KNOWN: Mapping[int | str, str] = {
    5: _LOCKED, 6: _LOCKED, "55P03": _LOCKED, 13: _FULL, "53100": _FULL,
    8: "may not be written by you; name another file with --records",
    10: "cannot be read or written: {said}; look at the disk, or name a file elsewhere with --records",
    11: "is damaged; move it away, and import an export of it",
    14: "cannot be opened; is its folder there, and may you write to it? Else name a file elsewhere with --records",
    26: "is no SQLite database, or damaged; name another file with --records",
}
_COLLISIONS = ("40001", "40P01", "23505")       # PostgreSQL: serialization failure, deadlock, the same row inserted twice


def collides(e: DBAPIError) -> bool:
    """May the transaction go well when it is tried again?"""
    state = getattr(e.orig, "sqlstate", None)
    return state in _COLLISIONS if state else isinstance(e, IntegrityError)


def explain(e: SQLAlchemyError, patience: float) -> str:
    cause = e.orig if isinstance(e, DBAPIError) else e
    said = " ".join(str(cause).split())[:300]
    code: int | str = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorcode", 0) & 0xFF
    return _KNOWN[code].format(patience=patience, said=said) if code in _KNOWN else said
