"""The house, measured: imports run one way, files stay small, only the workers load TVM."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "compiler": {"compiler", "passes", "schedules", "targets"},
    "passes": {"passes"},
    "schedules": {"schedules"},
    "targets": {"targets", "schedules"},
}
FILES = sorted(p for folder in (*MAY_IMPORT, "models", "tools") for p in (ROOT / folder).rglob("*.py"))


def imported_folders(path: Path) -> set[str]:
    """The top-level folders of burnish that a file imports from, by relative import."""
    here = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            for name in [node.module] if node.module else [a.name for a in node.names]:
                found.add((*base, *name.split("."))[0])
    return found


@pytest.mark.parametrize("path", [p for p in FILES if p.relative_to(ROOT).parts[0] in MAY_IMPORT],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    assert imported_folders(path) <= MAY_IMPORT[folder]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_one_idea_per_file(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450


def test_the_compiler_never_loads_tvm() -> None:
    code = "import burnish, burnish.compiler.cli, burnish.compiler.driver, sys; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_configuration_by_environment_variables() -> None:
    for path in FILES:
        if path.relative_to(ROOT).parts[0] in MAY_IMPORT:
            text = path.read_text()
            assert not re.search(r"os\.environ(\.get|\[)|getenv\(", text), path
