"""The programs `burnish` and `compile`: a small process that watches the one that works.

onnx, onnxruntime and compiled kernels are native code, which a broken model may crash. The watcher loads none of it (forking a
process with threads would not be safe, either) and turns a crash into one line.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1        # <linux/prctl.h>: the signal to receive when the parent dies


def main() -> None:
    watch(sys.argv[1:])


def compile_main() -> None:
    watch(["compile", *sys.argv[1:]])


def watch(arguments: list[str]) -> None:
    """Runs the command line in a child process and exits with its code: 2 where native code crashed, for what it was given is
    the likely cause."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        work(arguments)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # a terminal sends it to both; the child says what there is to say
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code >= 0:
        sys.exit(code)
    if -code not in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        print(f"error: {crash(signal.Signals(-code))}", file=sys.stderr)
        sys.exit(2)
    sys.exit(128 - code)


def work(arguments: list[str]) -> None:
    try:
        from .cli import run_app
    except KeyboardInterrupt:
        sys.exit(130)
    run_app(arguments)


def crash(by: signal.Signals) -> str:
    if by == signal.SIGKILL:
        return "the process was killed (SIGKILL): perhaps there is not enough memory"
    return f"native code of onnx, onnxruntime or burnish crashed ({by.name}): is the input broken? If not, please report it"
