"""The process that `runner.py` talks to: frames over its standard input and output, each command under a time limit."""

from __future__ import annotations

import math
import os
import select
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from typing import IO

from ..runner import Broken, Part
from .errors import RunnerError

GREETING = b"burnish runner 1"
HEAD = struct.Struct("<IIQ")    # what, limit in seconds, size of the body: as runner_c/main.c says
MOST_WORDS = 4096               # bytes of an answer that says why not
LARGEST = 65 << 20              # bytes of a command
GRACE = 5.0                     # seconds that a runner has to end itself (SIGALRM) before it is killed
NICE = -5                       # asked for, not insisted on


class Nonsense(Exception):
    """What came is no answer to what was asked."""


class Process:
    """A Channel. words: what starts it; cpu: the one that it and all it starts are kept on, None for any; limit: seconds for the
    start. Raises RunnerError where no runner answers."""

    def __init__(self, words: Sequence[str], cpu: int | None, limit: float) -> None:
        self._errors = tempfile.TemporaryFile()     # noqa: SIM115 - closed by `end`
        try:
            # In a session of its own: what it starts ends with it, and Ctrl-C reaches only us.
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0,
                                             start_new_session=True)
        except OSError as e:
            self._errors.close()
            raise RunnerError(f"{words[0]} cannot be started: {e.strerror}") from e
        self._to, self._from = raw(self._process.stdin), raw(self._process.stdout)
        try:
            self._settle(cpu)
            greeting = self._within(limit, (), len(GREETING))
        except Broken as e:
            raise RunnerError(f"no runner starts with `{' '.join(words)}`: it {e}") from e
        except OSError as e:
            self.end()
            raise RunnerError(f"the runner cannot be kept on CPU {cpu}: {e.strerror}") from e
        if greeting != (False, GREETING):
            self.end()
            raise RunnerError(f"`{' '.join(words)}` starts something else than our runner: it says {bytes(greeting[1])!r}")

    def _settle(self, cpu: int | None) -> None:
        if cpu is not None:
            with suppress(ProcessLookupError):      # ended already: the greeting that is missing tells why
                os.sched_setaffinity(self._process.pid, {cpu})
        with suppress(OSError):                     # only a matter of noise
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICE)

    def ask(self, what: int, parts: Sequence[Part], limit: float, most: int = 0) -> bytearray:
        """As Channel says."""
        size = sum(map(len, parts))
        if size > LARGEST:
            raise RunnerError(f"a command of {size} bytes; the most is {LARGEST}")
        if self._to.closed:
            raise Broken("had ended")
        refused, body = self._within(limit, (HEAD.pack(what, max(1, math.ceil(limit)), size), *parts), most)
        if refused:
            raise RunnerError(f"the runner refuses: {body.decode(errors='replace')}")
        return body

    def _within(self, limit: float, parts: Sequence[Part], most: int) -> tuple[bool, bytearray]:
        end = time.monotonic() + limit + GRACE
        try:
            for part in parts:
                self._send(part, end)
            what, _, size = HEAD.unpack(self._receive(HEAD.size, end))
            if what not in (0, 1) or size > (MOST_WORDS if what else most):
                raise Nonsense(f"a frame of kind {what} with {size} bytes")
            return bool(what), self._receive(size, end)
        except (OSError, EOFError, Nonsense) as e:
            raise self._broken(e, limit) from e
        except BaseException:       # Ctrl-C in mid-command: the streams are no longer in step
            self.end()
            raise

    def _send(self, part: Part, end: float) -> None:
        view = memoryview(part)
        while view:
            wait(self._to, select.POLLOUT, end)
            view = view[self._to.write(view) or 0:]

    def _receive(self, size: int, end: float) -> bytearray:
        body = bytearray(size)
        view = memoryview(body)
        while view:
            wait(self._from, select.POLLIN, end)
            count = self._from.readinto(view)
            if count == 0:
                raise EOFError
            view = view[count or 0:]
        return body

    def _broken(self, error: Exception, limit: float) -> Broken:
        """Why it is of no more use. It is gone afterwards."""
        if isinstance(error, (Nonsense, TimeoutError)):
            self._kill()
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            code = 0        # it has closed its output, and lives on
        words = self._last_words()
        self.end()
        if isinstance(error, Nonsense):
            return Broken(f"answered nonsense: {error}")
        if isinstance(error, TimeoutError) or code == -signal.SIGALRM:
            return Broken(f"did not answer within {limit:g} s{words}", hung=True)
        return Broken(f"died with {signal.Signals(-code).name if code < 0 else f'status {code}'}{words}")

    def _last_words(self) -> str:
        """The end of what it wrote to standard error. pread, because the file's position is the process's as well."""
        file = self._errors.fileno()
        text = os.pread(file, 300, max(0, os.fstat(file).st_size - 300)).decode(errors="replace").strip()
        return f" ({text.splitlines()[-1]})" if text else ""

    def _kill(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """May be called again."""
        self._kill()
        self._process.wait()
        for stream in (self._to, self._from, self._errors):
            stream.close()


def raw(stream: IO[bytes] | None) -> FileIO:
    """Our end of a pipe, made such that no call blocks; the other end is not touched."""
    assert isinstance(stream, FileIO)
    os.set_blocking(stream.fileno(), False)
    return stream


def wait(stream: FileIO, event: int, end: float) -> None:
    """Returns when the stream is ready or broken. Raises TimeoutError at `end`."""
    poll = select.poll()
    poll.register(stream, event)
    if not poll.poll(max(0.0, 1000 * (end - time.monotonic()))):
        raise TimeoutError
