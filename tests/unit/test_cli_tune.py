"""`burnish tune`, `compile --tune`, and what `compile` makes of records, as a user types it."""

from __future__ import annotations

import io
import json
import re
import shlex
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tune_model
from burnish.compiler import ui, ui_tune
from burnish.compiler.cli_tune import seconds
from burnish.compiler.errors import BurnishError
from burnish.schedules.candidate import default, options
from burnish.schedules.database import Database
from burnish.schedules.evaluate import Trial
from burnish.schedules.tuner import Goal, Result, State
from burnish.targets.cpu import profile
from rich.console import Console
from schedules.trials import task

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune_model.save(tmp_path_factory.mktemp("cli") / "small.onnx")


# ---- From one command to the next


def test_tune_then_compile(model: Path, tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `tune` has found `compile` uses; --exact does without Winograd; a second `tune` knows what the first has found."""
    records = tmp_path / "records.sqlite"
    code, out, err = say("tune", model, "--budget", "13", "--records", records, "--json", "--threads", 1)
    found = json.loads(out)
    assert (code, err) == (0, "") and found["notes"] == [] and found["failures"] == {}
    assert {"untuned_s", "tuned_s", "trials", "elapsed_s", "tasks"} <= set(found) and 0 < found["elapsed_s"] < 25
    assert 0 < found["tuned_s"] <= found["untuned_s"] * 1.001 and found["trials"] == sum(t["tried"] for t in found["tasks"]) >= 4
    with Database.open(str(records)) as database:
        assert database.count() == found["trials"]
    conv = found["tasks"][0]
    assert conv["title"] == "conv 3x3 16→16 @12x12" and conv["count"] == 2 and conv["tried"] <= conv["options"]

    code, out, err = say("compile", model, "-o", tmp_path / "out", "--records", records)
    assert (code, err) == (0, "") and "equals onnxruntime's" in out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (conv["chosen"]["template"], conv["chosen"]["knobs"]) in [(k["template"], k["knobs"]) for k in manifest["kernels"]]

    code, out, err = say("compile", model, "-o", tmp_path / "exact", "--records", records, "--exact")
    templates = {k["template"] for k in json.loads((tmp_path / "exact" / "manifest.json").read_text())["kernels"]}
    assert code == 0 and not any("winograd" in t for t in templates)

    monkeypatch.setattr(ui.out, "width", 120)
    code, out, err = say("tune", model, "--budget", "5s", "--records", records, "--kernels", 2)
    assert (code, err) == (0, "") and "conv 3x3 16→16 @12x12 (x2)" in out and "more (--kernels)" in out
    told = re.search(r"model [\d.]+ µs → [\d.]+ µs, [\d.]+x \((\d+) trials, \d+ s\)", out)
    assert told is not None and int(told[1]) >= found["trials"] and f"Next: burnish compile {model}" in out


def test_compile_and_tune_at_once(model: Path, tmp_path: Path, say: Say) -> None:
    records = tmp_path / "records.sqlite"
    code, out, err = say("compile", model, "-o", tmp_path / "out", "--tune", "4s", "--exact", "--records", records, "--json")
    assert (code, err) == (0, "") and json.loads(out)["error"] < 1e-4 and records.exists()
    with Database.open(str(records)) as database:
        assert all(r.candidate.maker.exact for r in database.records())


# ---- Mistakes


@pytest.mark.parametrize("words, said", [
    ("tune small.onnx --budget abc", "'abc' is no span of time: write 90, 60s, 10m or 1h"),
    ("tune small.onnx --budget 0s", "'0s' is no span of time"), ("tune small.onnx --budget=-5", "'-5' is no span of time"),
    ("tune small.onnx --budget 1d", "'1d' is no span of time"), ("compile small.onnx --tune soon", "'soon' is no span of time"),
    ("tune small.onnx --target linux-arm64", "linux-arm64 is not this machine"),
    ("compile small.onnx --tune 5s --target linux-arm64", "`burnish records import` what it found"),
    ("tune none.onnx", "none.onnx"), ("tune text.onnx", "text.onnx"),
    ("tune small.onnx --records text.onnx", "text.onnx: is no SQLite database, or damaged; name another file with --records"),
    ("tune small.onnx --records other.sqlite", "other.sqlite: is an SQLite database of something else"),
    ("tune small.onnx --records no/such/folder/x.sqlite", "cannot be opened; is its folder there"),
    ("tune small.onnx --records oddbase://x", "SQLAlchemy knows no database 'oddbase'"),
    ("compile small.onnx --records none.sqlite", "none.sqlite: there are no records: no such file"),
    ("compile small.onnx --records other.sqlite", "other.sqlite: has no tuning records"),
    ("tune small.onnx --farm localhost:8786", "is no address of a Dask scheduler"),
    ("tune small.onnx --browser", "a browser measures what is made for it: add --target wasm"),
    ("tune small.onnx --target wasm --headless", "--headless is for the page of --browser: add that"),
    ("tune small.onnx --target wasm --host", "--host is for the page of --browser: add that"),
    ("tune small.onnx --target wasm --browser --farm tcp://a:1", "--browser and --farm measure in different places"),
    ("tune none.onnx --target wasm --browser --headless", "none.onnx"),
    ("tune small.onnx --shape x=axb", "is not NAME=AxBxC"), ("tune", "See burnish tune --help."),
    ("tune small.onnx --threads 0", "See burnish tune --help."), ("tune small.onnx --speed", "See burnish tune --help.")])
def test_mistakes_are_one_line_and_exit_code_2(words: str, said: str, model: Path, tmp_path: Path, say: Say,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.onnx").write_bytes(model.read_bytes())
    Path("text.onnx").write_text("no model, and no database either")
    with sqlite3.connect("other.sqlite") as c:
        c.execute("CREATE TABLE bookmarks (url TEXT)")
    c.close()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    code, out, err = say(*shlex.split(words))
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ") and said in err, err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before, "nothing is written"
    code, out, err = say(*shlex.split(words), "--json")
    assert code == 2 and said in json.loads(out)["error"] and err == ""


def test_spans_of_time() -> None:
    assert [seconds(t) for t in ("90", "60s", "1.5m", " 2 min ", "1h")] == [90, 60, 90, 120, 3600]
    for text in ("", "s", "1e3", "nan", "inf", "60 seconds", "1h30m"):
        with pytest.raises(BurnishError, match="is no span of time"):
            seconds(text)


# ---- What one sees


def goal() -> Goal:
    device = profile.detect()
    untuned = default(task(0), device)
    assert untuned is not None
    return Goal(task(0), device, 2, options(task(0), device), untuned, 3e-3)


def result(*notes: str) -> Result:
    g = goal()
    fast, broken = [c for c in g.options if c != g.untuned][:2]
    g.note([Trial(fast, "ok", (1e-3,) * 5, 2e-3), Trial(broken, "crash", message="SIGSEGV")])
    return Result({g.task.key: fast}, {g.task.key: 0.5}, (g,), 3e-3, 1.5e-3, 61.0, notes)


def test_the_report_says_what_went_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui.out, "width", 120)
    ui_tune.report(result("records are not kept: the disk is full", "odd\x1b[31m"), 20)
    said = capsys.readouterr()
    assert "1.50 ms 2.00x gemm 5x32x64 (x2)" in " ".join(said.out.split()) and "2 trials, 1 crash, 61 s" in said.out
    assert said.err == "note: records are not kept: the disk is full\nnote: odd\\x1b[31m\n"


def test_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is seen at once, and the clock goes on between two states."""
    seen = io.StringIO()        # rich draws from a thread of its own
    monkeypatch.setattr(ui, "err", Console(file=seen, force_terminal=True, width=120))
    g = goal()
    with ui_tune.live("small.onnx[\x1b]") as watch:
        time.sleep(0.5)
        watch(State("start", 0.0, 60.0, (g,), 0.0, 0.0, 0, 0))
        watch(State("trials", 59.2, 60.0, (g,), 3e-3, 2e-3, 7, 1))
        time.sleep(1.0)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen.getvalue())
    assert "reading the model" in text and "trying candidates" in text and "3.00 ms → 2.00 ms (1.50x), 7 trials, 1 failed" in text
    assert "60 of 60 s" in text and "small.onnx[\\x1b]" in text and "gemm 5x32x64 (x2)" in text
    assert f"0/{len(g.options)}" in text


def test_what_a_page_is_shown() -> None:
    g = goal()
    fast = next(c for c in g.options if c != g.untuned)
    g.note([Trial(fast, "ok", (1e-3,) * 5, 2e-3)])
    shown = json.loads(json.dumps(ui_tune.shown(State("trials", 12.0, 30.0, (g,), 3e-3, 1.5e-3, 7, 1))))
    assert shown == {"phase": "trials", "elapsed": 12.0, "budget": 30.0, "first": 3e-3, "latency": 1.5e-3, "trials": 7,
                     "tasks": [{"title": "gemm 5x32x64 (x2)", "share": 1.0, "gain": 2.0}]}
    assert ui_tune.shown(State("start", 0.0, 30.0, (g,), 0.0, 0.0, 0, 0))["tasks"] == [], "their times are not known yet"


def test_nothing_is_drawn_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with ui_tune.live("small.onnx") as watch:
        watch(State("start", 0.0, 60.0, (goal(),), 0.0, 0.0, 0, 0))
    said = capsys.readouterr()
    assert said.out == said.err == ""
