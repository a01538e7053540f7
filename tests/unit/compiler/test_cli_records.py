"""`burnish records`, as a user types it."""

from __future__ import annotations

import json
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from burnish.schedules import exchange
from burnish.schedules.database import Database
from burnish.targets.cpu import profile
from burnish.targets.cpu.fingerprint import fingerprint
from schedules.trials import PER_TASK, PHONE, candidates, failed, record

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(say: Say) -> Say:
    """Runs `burnish records …`."""
    return lambda *words: say("records", *words)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A database of 24 records of two tasks and two devices, one a failure."""
    path = tmp_path / "filled.sqlite"
    with Database.open(str(path)) as database:
        database.add([record(n) for n in range(PER_TASK + 2)] + [failed(PER_TASK + 2), record(0, fingerprint=PHONE)])
    return path


def test_from_one_machine_to_another(filled: Path, tmp_path: Path, say: Say) -> None:
    file, mine = tmp_path / "theirs.jsonl", tmp_path / "mine.sqlite"
    assert say("export", file, "--records", filled) == (0, f"{file}: 24 records\n", "")
    assert say("import", file, "--records", mine) == (0, f"{mine}: 24 new records, 0 known before\n", "")
    assert say("import", file, file, "--records", mine) == (0, f"{mine}: 0 new records, 48 known before\n", "")
    with Database.open(str(mine)) as database:
        assert not any(r.verified for r in database.records())
        assert {repr(replace(r, verified=True)) for r in database.records() if r.status == "ok"} == {
            repr(record(n)) for n in range(PER_TASK + 2)} | {repr(record(0, fingerprint=PHONE))}
        database.add([record(500)])
    other = tmp_path / "other.sqlite"
    assert say("merge", filled, f"sqlite:///{mine}", "--records", other) == (0, f"{other}: 25 new records, 24 known before\n", "")
    assert say("merge", other, "--records", mine)[1] == f"{mine}: 0 new records, 25 known before\n"


def test_the_users_own_records(filled: Path, tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    path = tmp_path / "home/.local/share/burnish/records.sqlite"
    code, out, err = say("stats")
    assert (code, out) == (2, "") and err == f"error: {path}: there are no records: no such file\n"
    assert say("merge", filled)[:2] == (0, f"{path}: 24 new records, 0 known before\n")
    assert "24 records of 2 devices" in say("stats")[1]


def test_stats(filled: Path, say: Say) -> None:
    code, out, err = say("stats", "--records", filled)
    assert code == 0 and err == "" and out.splitlines()[-1].startswith(f"{filled}: 24 records of 2 devices; best: all tasks")
    rows = [line.split() for line in out.splitlines() if "gemm" in line]
    assert sorted(r[:3] for r in rows) == [["1", "1", "0"], ["2", "23", "1"]]
    assert any("znver5" in r for r in rows) and any("cortex-a76" in r for r in rows)
    code, out, _ = say("stats", "--records", filled, "--json")
    found = json.loads(out)
    assert code == 0 and found["records"] == str(filled)
    assert sorted((s["fingerprint"]["core"], s["family"], s["tasks"], s["trials"], s["failures"]) for s in found["stats"]) == [
        ("cortex-a76", "gemm", 1, 1, 0), ("znver5", "gemm", 2, 23, 1)]


def test_a_broken_line_imports_nothing(filled: Path, tmp_path: Path, say: Say) -> None:
    file, mine = tmp_path / "theirs.jsonl", tmp_path / "mine.sqlite"
    say("export", file, "--records", filled)
    lines = file.read_text().splitlines()
    lines[7] = lines[7].replace('"status":"ok"', '"status":"\\u001b[31mfine"')
    file.write_text("\n".join(lines) + "\n")
    code, out, err = say("import", file, "--records", mine)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {file}, line 8: status: Input should be")
    with Database.open(str(mine)) as database:
        assert database.count() == 0
    assert "\x1b" not in err


def test_a_candidate_of_this_device_is_checked_against_its_space(tmp_path: Path, say: Say) -> None:
    device = profile.detect()
    choice = replace(candidates()[0], knobs=type(candidates()[0].knobs).of(**dict(candidates()[0].knobs) | {"rows": 999}))
    file = tmp_path / "theirs.jsonl"
    exchange.write(file, [record(0, fingerprint=fingerprint(device), candidate=choice)])
    code, _, err = say("import", file, "--records", tmp_path / "mine.sqlite")
    assert code == 2 and f"{file}, line 2: candidate: rows=999 is none of" in err


@pytest.mark.parametrize("words, said", [
    ("export out.jsonl --records none.sqlite", "none.sqlite: there are no records: no such file"),
    ("merge none.sqlite --records mine.sqlite", "none.sqlite: there are no records: no such file"),
    ("import none.jsonl --records mine.sqlite", "none.jsonl: No such file or directory"),
    ("stats --records other.sqlite", "other.sqlite: has no tuning records; name another database with --records"),
    ("merge other.sqlite --records mine.sqlite", "other.sqlite: has no tuning records"),
    ("import a.jsonl --records other.sqlite", "other.sqlite: is an SQLite database of something else"),
    ("export other.sqlite --records filled.sqlite", "other.sqlite: is there already, and is no export of records"),
    ("stats --records oddbase://x", "oddbase://x: SQLAlchemy knows no database 'oddbase'"),
    ("export", "Missing argument 'FILE.jsonl'. See burnish records export --help."),
    ("import", "See burnish records import --help."), ("export a.jsonl --force", "See burnish records export --help."),
    ("frobnicate", "No such command 'frobnicate'. See burnish records --help.")])
def test_mistakes_are_one_line_and_exit_code_2(words: str, said: str, filled: Path, tmp_path: Path, say: Say,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    c = sqlite3.connect("other.sqlite")
    c.execute("CREATE TABLE bookmarks (url TEXT)")
    c.commit()
    c.close()
    before = Path("other.sqlite").read_bytes()
    code, out, err = say(*shlex.split(words))
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ") and said in err, err
    assert Path("other.sqlite").read_bytes() == before and not Path("none.sqlite").exists()
    if words.startswith("stats"):
        code, out, err = say(*shlex.split(words), "--json")
        assert code == 2 and said in json.loads(out)["error"] and err == ""


def test_every_command_has_help_and_an_example() -> None:
    burnish = Path(sys.executable).with_name("burnish")
    for verb in ("export", "import", "merge", "stats"):
        done = subprocess.run([burnish, "records", verb, "--help"], capture_output=True, text=True, check=True)
        assert f"burnish records {verb}" in done.stdout.split("Example")[1] and "--records" in done.stdout
