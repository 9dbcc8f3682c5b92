"""How fast, how large and how right networks are in each runtime: processes of their own, measured in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketvit.edge.runtimes import EAGER, Runtime

BATCHES = (1, 32)
CALLS = 10  # of a turn

Json = dict[str, Any]
Tell = Callable[[str, int], None]


@dataclass(frozen=True)
class Contestant:
    """A file of a network.

    Args:
        network: what its rows are called
        runtime: that computes it
        file: that holds it
        macs: multiply-accumulates of one image
        images: file of the test images, (N, H, W, C) of uint8
        labels: file of their classes, (N,)
        count: of them
    """

    network: str
    runtime: Runtime
    file: Path
    macs: int
    images: Path
    labels: Path
    count: int

    def __str__(self) -> str:
        return f"{self.network}, {self.runtime}"


@dataclass(frozen=True)
class Case:
    """What is timed together: a contestant, the threads it has and the images at a time."""

    contestant: Contestant
    threads: int
    batch: int


Seconds = dict[Case, list[list[float]]]  # of each call, by round


def thread_counts() -> list[int]:
    """One, and as many as there are cores for this process."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({1, usable})


def work(contestants: Sequence[Contestant], threads: Sequence[int], rounds: int) -> int:
    """Images that `measured` will compute, for whoever tells how much is left of it."""
    each = sum(CALLS * batch for batch in BATCHES) * len(threads) * rounds
    return sum(each + contestant.count for contestant in contestants)


def measured(
    contestants: Sequence[Contestant], threads: Sequence[int], rounds: int, tell: Tell
) -> tuple[list[Json], list[Json], list[str]]:
    """Examine each file in a process of its own, then time all in turn, round after round.

    In a round each case has one turn of CALLS calls, warmed up, and the next round begins with another of them: what
    else the machine does falls on all alike. The processes that wait for their turn are asleep.

    Args:
        contestants: files.
        threads: numbers of them.
        rounds: turns of each.
        tell: called with what is next, and the images that were computed since the last call.

    Returns:
        The rows, the fastest first; the matmul peaks ("threads", "precision", "flops"); and notes of what did not run.
    """
    notes: list[str] = []
    examined: dict[Contestant, dict[int, Json]] = {contestant: {} for contestant in contestants}
    for contestant, found in examined.items():
        for count in threads:
            tested = not found  # once, on one thread: where others work here too, more may be slower by far
            tell(f"{contestant}: memory{' and accuracy' if tested else ''}", 0)
            try:
                found[count] = _examined(contestant, count, tested)
            except WorkerError as error:
                notes.append(f"{contestant}, {_threads(count)}: did not run here ({error})")
                break
            tell("", contestant.count if tested else 0)
    cases = [Case(one, count, batch) for one, found in examined.items() for count in found for batch in BATCHES]
    seconds, peaks = _timed(cases, rounds, tell, notes)
    rows = [_row(case, seconds, examined[case.contestant], peaks) for case in seconds]
    told = [{"threads": count, "precision": of, "flops": flops} for (count, of), flops in peaks.items()]
    return sorted(rows, key=lambda row: float(row["seconds"]["median"])), told, notes


def _examined(contestant: Contestant, threads: int, tested: bool) -> Json:
    with Worker(contestant.runtime.library, threads) as worker:
        return worker.ask(
            "examine", runtime=str(contestant.runtime), file=str(contestant.file), images=str(contestant.images),
            labels=str(contestant.labels) if tested else None, batches=BATCHES,
        )  # fmt: skip


def _timed(
    cases: Sequence[Case], rounds: int, tell: Tell, notes: list[str]
) -> tuple[Seconds, dict[tuple[int, str], float]]:
    """The seconds of the cases that ran to the end; and the most FLOP/s, by threads and precision."""
    seconds: Seconds = {case: [] for case in cases}
    precisions = sorted({case.contestant.runtime.precision for case in cases})
    peaks = {(count, of): 0.0 for count in sorted({case.threads for case in cases}) for of in precisions}
    with ExitStack() as stack:
        workers: dict[tuple[str, int], Worker] = {}

        def worker(library: str, threads: int) -> Worker:
            if (library, threads) not in workers:
                workers[library, threads] = stack.enter_context(Worker(library, threads))
            return workers[library, threads]

        for number in range(rounds):
            for count, of in peaks:
                peaks[count, of] = max(
                    peaks[count, of], worker(EAGER.library, count).ask("ceiling", precision=of)["flops"]
                )
            for case in _rotated(list(seconds), number):
                one = case.contestant
                tell(f"round {number + 1} of {rounds}: {one}", 0)
                try:
                    took = worker(one.runtime.library, case.threads).ask(
                        "turn", runtime=str(one.runtime), file=str(one.file), images=str(one.images), batch=case.batch,
                        calls=CALLS,
                    )["seconds"]  # fmt: skip
                except WorkerError as error:
                    notes.append(f"{one}, {_threads(case.threads)}, batch {case.batch}: stopped ({error})")
                    del seconds[case]
                    workers.pop((one.runtime.library, case.threads))
                    continue
                seconds[case].append(took)
                tell("", CALLS * case.batch)
    return seconds, peaks


def _rotated(cases: list[Case], number: int) -> Iterator[Case]:
    first = number % max(1, len(cases))
    yield from cases[first:] + cases[:first]


def _row(case: Case, seconds: Seconds, examined: dict[int, Json], peaks: dict[tuple[int, str], float]) -> Json:
    """What was found of a case."""
    one, calls = case.contestant, [value for turn in seconds[case] for value in turn]
    median, about = statistics.median(calls), examined[case.threads]
    flops = 2 * one.macs * case.batch / median  # a MAC is two
    return {
        "network": one.network, "runtime": one.runtime.name, "precision": one.runtime.precision,
        "threads": case.threads, "batch": case.batch,
        "seconds": {"median": median, "p99": float(np.percentile(calls, 99)), "calls": len(calls)},
        "images_per_second": case.batch / median,
        "over_eager": _over(case, EAGER.name, seconds), "over_float32": _over(case, one.runtime.name, seconds),
        "macs": one.macs, "share_of_peak": flops / peaks[case.threads, one.runtime.precision],
        "load_seconds": about["load_seconds"], "peak_bytes": about["peak_bytes"][BATCHES.index(case.batch)],
        "file_bytes": one.file.stat().st_size, "accuracy": examined[min(examined)]["accuracy"],
    }  # fmt: skip


def _over(case: Case, runtime: str, seconds: Seconds) -> float | None:
    """How many times as fast as a runtime's float32 for the same network, threads and batch: the rounds' median."""
    for other, turns in seconds.items():
        theirs, own = other.contestant, case.contestant
        alike = (theirs.network, other.threads, other.batch) == (own.network, case.threads, case.batch)
        if alike and (theirs.runtime.name, theirs.runtime.precision) == (runtime, "float32"):
            pairs = zip(turns, seconds[case], strict=True)
            return statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)
    return None


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


class WorkerError(Exception):
    """A worker could not do what was asked, or is gone; the message says which."""


class Worker:
    """A process of `pocketvit.edge.worker`, with its threads limited from its first moment on."""

    def __init__(self, library: str, threads: int) -> None:
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pocketvit.edge.worker", library, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | limits,
        )  # fmt: skip

    def ask(self, do: str, **about: Any) -> Json:
        """The answer to one of the methods of `pocketvit.edge.worker.Worker`; raises WorkerError."""
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        try:
            asked.write(json.dumps({"do": do, **about}) + "\n")
            asked.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            raise WorkerError(f"its process ended, {'signal' if status < 0 else 'status'} {abs(status)}")
        answer: Json = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
