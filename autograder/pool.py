"""Runs jobs on this machine's cores or on a Dask cluster, and lives through the death of the processes that do them.

Jobs come as pairs (name, arguments), each asked for only when a worker is free for it; what comes back, in the order
of finishing, is (name, outcome), where an outcome is the function's result or the exception that stood in its way. One
job's failure is never another's.
"""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait

from course_utils.plain_error import PlainError

SPARE = 1  # jobs in line beside those that run, so that no process idles until the next is given out

CONNECT_SECONDS = 20
SILENT_SECONDS = 60  # without a finished job, before the cluster is asked whether it has workers


class WorkerDied(Exception):
    """The process that did this job was killed, and when nothing else was being done the next one was killed too."""


class NoCluster(PlainError):
    """The Dask scheduler cannot be reached, has no workers or none left, or went away."""


def run_on_cores(function: Callable, jobs: Iterable[tuple[str, tuple]], workers: int) -> Iterator[tuple[str, object]]:
    """Runs function(*arguments) in `workers` processes.

    When a process dies, nobody can tell which of the jobs in flight killed it. So each of those is done again by a
    process of its own at the end, and only the one that kills that too has the outcome WorkerDied.
    """
    jobs, suspects = iter(jobs), []
    for first in jobs:  # once, and once more after each death
        with _processes(workers) as pool:
            for job, future in _finished(pool, function, itertools.chain([first], jobs), workers + SPARE):
                if future.exception():
                    suspects.append(job)
                else:
                    yield job[0], future.result()
    for name, arguments in suspects:
        with _processes(1) as pool:
            yield name, _last_word(pool.submit(_outcome, function, *arguments))


def run_on_dask(function: Callable, jobs: Iterable[tuple[str, tuple]], scheduler: str) -> Iterator[tuple[str, object]]:
    """The same on the workers of the Dask scheduler at this address (tcp://host:8786), through its Executor.

    Dask gives the jobs of a dead worker to the others by itself, and gives up one that was there four times when a
    worker died, the killer or not. So each of those is done again at the end, one at a time. NoCluster: see there;
    what was yielded before stays valid.
    """
    try:
        from distributed import Client, TimeoutError
    except ImportError as error:
        raise NoCluster("--scheduler needs Dask: pip install -c constraints.txt -e '.[cluster]'") from error
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise NoCluster(f"no Dask scheduler answers at {scheduler}: {error}") from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise NoCluster(f"the Dask scheduler at {scheduler} has no workers: start some with 'dask worker'")

        def require_workers() -> None:
            try:
                client.wait_for_workers(1, CONNECT_SECONDS)
            except (OSError, TimeoutError) as error:
                raise NoCluster(
                    f"the Dask scheduler at {scheduler} has no workers left ({error}): start some, under a nanny, "
                    "which starts a killed one again, and grade again. Every finished verdict is kept."
                ) from error

        executor, suspects = client.get_executor(pure=False), []  # not shut down: that waits for jobs without a worker
        for job, future in _finished(executor, function, iter(jobs), 2 * threads, require_workers):
            if _went_on(future, scheduler).exception():
                suspects.append(job)
            else:
                yield job[0], future.result()
        for job, future in _finished(executor, function, iter(suspects), 1, require_workers):
            yield job[0], _last_word(_went_on(future, scheduler))


def _went_on(future: Future, scheduler: str) -> Future:
    if future.cancelled():
        raise NoCluster(f"the Dask scheduler at {scheduler} went away")
    return future


def _processes(workers: int) -> ProcessPoolExecutor:
    # spawn: a fork of a process that has threads, as torch's, may hang.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_process)


def _start_process() -> None:
    """One thread for each of many processes, none of which may outlive the one that started it."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))  # Ctrl-C: without a traceback from each

    def end_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _finished(
    executor: Executor,
    function: Callable,
    jobs: Iterator[tuple[str, tuple]],
    window: int,
    in_silence: Callable[[], None] = lambda: None,
) -> Iterator[tuple[tuple, Future]]:
    """Each job with its finished future, at most `window` of them started at a time: 100,000 would not fit into
    memory. Once the executor is broken no more are taken. Where nothing finishes for long, `in_silence` may end it."""
    running = {}
    while True:
        for job in itertools.islice(jobs, max(0, window - len(running))):
            running[_submit(executor, function, job[1])] = job
        if not running:
            return
        while not (done := wait(running, SILENT_SECONDS, FIRST_COMPLETED).done):
            in_silence()
        for future in done:
            if not future.cancelled() and isinstance(future.exception(), BrokenExecutor):
                window = 0
            yield running.pop(future), future


def _submit(executor: Executor, function: Callable, arguments: tuple) -> Future:
    try:
        return executor.submit(_outcome, function, *arguments)
    except BrokenExecutor as error:  # since the last look at it
        future = Future()
        future.set_exception(error)
        return future


def _outcome(function: Callable, *arguments: object) -> object:
    """In the worker: what the function returns or raises. So an exception of the future's own tells of the worker."""
    try:
        return function(*arguments)
    except SystemExit:  # Ctrl-C: the pool would take it for this job's outcome, and begin the next
        os._exit(1)
    except Exception as error:
        return error


def _last_word(future: Future) -> object:
    return WorkerDied("its process was killed twice") if future.exception() else future.result()
