"""Where units of work are done: in this process, in many of this machine, or on a cluster through Ray Data."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, Literal, TypeVar

Engine = Literal["processes", "ray"]
Job = TypeVar("Job")
Result = TypeVar("Result")


class EngineError(RuntimeError):
    """The workers could not do the work; the message says what to do."""


def run(engine: Engine, work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Results as they come, in any order. `work` and the jobs are sent to the workers, so both must pickle.

    Raises:
        EngineError: a worker died, or Ray is asked for and not installed.
    """
    if engine == "ray":
        yield from _on_ray(work, jobs, workers)
    elif workers == 1:
        yield from map(work, jobs)
    else:
        yield from _in_processes(work, jobs, workers)


def _in_processes(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    # Not forked: detectors and torch hold threads and locks that a fork would copy in the middle of things.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_die_with_parent) as pool:
        try:
            for future in as_completed([pool.submit(work, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise EngineError(
                "A worker process died, most likely for want of memory. Run the same command again: it goes on with what is "
                f"missing. Fewer --workers (now {workers}) need less memory."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _die_with_parent() -> None:
    """A killed run must not leave workers behind that would write beside the run that resumes it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EngineError('Ray is not installed. Run: pip install "faceclip[ray]"') from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def apply(row: dict[str, Any]) -> dict[str, Any]:
        return {"result": pickle.dumps(work(pickle.loads(row["job"])))}

    # One block per job: a unit is minutes of work, and each is placed where a worker is free.
    dataset = ray.data.from_items([{"job": pickle.dumps(job)} for job in jobs], override_num_blocks=len(jobs))
    for row in dataset.map(apply, compute=ray.data.TaskPoolStrategy(size=workers)).iter_rows():
        yield pickle.loads(row["result"])
