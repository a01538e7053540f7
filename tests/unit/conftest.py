"""What the tests of every command share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from burnish.compiler.cli import run_app


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line; returns the exit code, standard output, standard error."""
    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            run_app([str(w) for w in words])
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err
    return run
