"""Builds kernels in worker processes, each with a time limit: when TVM crashes or hangs, one kernel fails, not the compile."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from .jobs import Built, Job, receive, send

TIMEOUT = 120.0     # seconds for one kernel; the first of a worker also pays for loading TVM


class Worker:
    """One worker process, restarted when it dies."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.process: subprocess.Popen[bytes] | None = None

    def build(self, job: Job) -> Built:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen([sys.executable, "-m", "burnish.schedules.worker"], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            threading.Thread(target=self._drain, args=(self.process,), daemon=True).start()
        process, late = self.process, threading.Event()
        assert process.stdin is not None and process.stdout is not None

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.timeout, kill)
        timer.start()
        try:
            send(process.stdin, job)
            answer: Built = receive(process.stdout)
            return answer
        except (EOFError, OSError):
            process.kill()
            code = process.wait()
            why = f"no answer within {self.timeout:.0f} s" if late.is_set() else f"the worker died with status {code}"
            return Built(job.symbol, error=f"{why}: {self.last_words}" if self.last_words else why)
        finally:
            timer.cancel()

    last_words = ""

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        """Keeps the last line that the worker wrote to standard error."""
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip():
                self.last_words = line.decode(errors="replace").strip()[-300:]

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Builder:
    """A pool of workers; a context manager. `build` may be called many times and keeps the workers warm."""

    def __init__(self, workers: int, timeout: float = TIMEOUT) -> None:
        self.workers = [Worker(timeout) for _ in range(max(1, workers))]

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *exc: object) -> None:
        for w in self.workers:
            w.close()

    def build(self, jobs: Sequence[Job], progress: Callable[[Built], None] = lambda built: None) -> list[Built]:
        """Every job's result, in the order of the jobs. `progress` is called as each ends, from the worker's thread."""
        queue: SimpleQueue[tuple[int, Job]] = SimpleQueue()
        for n, job in enumerate(jobs):
            queue.put((n, job))
        results: dict[int, Built] = {}

        def serve(worker: Worker) -> None:
            while True:
                try:
                    n, job = queue.get_nowait()
                except Empty:
                    return
                results[n] = worker.build(job)
                progress(results[n])

        threads = [threading.Thread(target=serve, args=(w,), daemon=True) for w in self.workers[:len(jobs)]]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return [results[n] for n in range(len(jobs))]
