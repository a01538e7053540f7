"""A build worker, `python -m burnish.schedules.worker`: reads pickled jobs on standard input, answers with object code.

It is the only process in which TVM runs: TVM can crash its process or hang, and then only this one is lost.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from .jobs import Built, Job, receive, send


def build(job: Job) -> Built:
    from . import tir
    from .templates import TEMPLATES

    template = next(t for t in TEMPLATES if t.name == job.template)
    try:
        func = template.emit(job.task, job.knobs, job.device)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.o"
            tir.build({job.symbol: func}, job.device, path)
            return Built(job.symbol, path.read_bytes())
    except Exception as e:
        return Built(job.symbol, error=f"{type(e).__name__}: {' '.join(str(e).split())[-400:]}")


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)       # whatever TVM prints must not end up between the answers
    jobs = sys.stdin.buffer
    while True:
        try:
            job = receive(jobs)
        except EOFError:
            return
        send(answers, build(job))


if __name__ == "__main__":
    main()
