"""Where units of work are done: in this process, in many of this machine, or on a cluster through Ray Data."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, Literal, TypeVar

Engine = Literal["processes", "ray"]
Job = TypeVar("Job")
Result = TypeVar("Result")
OnProgress = Callable[[int], None]
"""Called with how many more items of the work are done."""

_EVERY = 0.25
"""Seconds between looks at what workers have counted."""


class EngineError(RuntimeError):
    """The workers could not do the work; the message says what to do."""


@dataclass
class _Here:
    """What this process is, as a worker."""

    tell: OnProgress
    device: str | None = None
    """Where it computes, if that is decided."""
    place: int = 0
    """Its number among the workers of its machine."""


_here = _Here(lambda count: None)


def tell(count: int = 1) -> None:
    """Say, from within work, that so many more items of it are done."""
    _here.tell(count)


def worker_device() -> str:
    """Where this worker's networks run: on Ray the GPU it is given, else the machine's GPUs in turn, or `cpu`."""
    if _here.device is None:
        import torch

        count = torch.cuda.device_count()
        _here.device = f"cuda:{_here.place % count}" if count else "cpu"
    return _here.device


def run(
    engine: Engine,
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    *,
    gpus: float = 0.0,
    on_progress: OnProgress | None = None,
) -> Iterator[Result]:
    """Results as they come, in any order. `work` and the jobs are sent to the workers, so both must pickle.

    jobs: asked for as workers get free; those of Ray all at the start, into its own memory. gpus: how many
    (a share of one, too) each worker of Ray is given. on_progress: called as the work tells, in this process.

    Raises:
        EngineError: a worker died, or Ray is asked for and not installed.
    """
    on_progress = on_progress or (lambda count: None)
    if engine == "ray":
        yield from _on_ray(work, jobs, workers, gpus, on_progress)
    elif workers == 1:
        before, _here.tell = _here.tell, on_progress
        try:
            yield from map(work, jobs)
        finally:
            _here.tell = before
    else:
        yield from _in_processes(work, jobs, workers, on_progress)


def _in_processes(work: Callable[[Job], Result], jobs: Iterable[Job], workers: int, on_progress: OnProgress) -> Iterator[Result]:
    # Not forked: detectors and torch hold threads and locks that a fork would copy in the middle of things.
    context = multiprocessing.get_context("spawn")
    # Each counts in a place of its own, so that one that is killed leaves no lock behind.
    counts, started = context.RawArray("q", workers), context.Value("i", 0)
    known = 0
    waiting = iter(jobs)
    with ProcessPoolExecutor(workers, context, initializer=_become_worker, initargs=(counts, started)) as pool:
        pending: set[Future[Result]] = set()
        try:
            while pending := pending | {pool.submit(work, job) for job in islice(waiting, 2 * workers - len(pending))}:
                done, pending = wait_for(pending, _EVERY, FIRST_COMPLETED)
                if new := sum(counts) - known:
                    known += new
                    on_progress(new)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise EngineError(
                "A worker process died, most likely for want of memory. Run the same command again: it goes on with what is "
                f"missing. Fewer --workers (now {workers}) need less memory."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """Have this process end as soon as the one that started it has, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _become_worker(counts: Any, started: Any) -> None:
    """Count in a place of one's own, and end with the run: a killed one must not leave workers behind that would
    write beside the run that resumes it."""
    with started.get_lock():
        _here.place = started.value
        started.value += 1

    def count(number: int) -> None:
        counts[_here.place] += number

    _here.tell = count
    end_with_parent()


def _on_ray(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int, gpus: float, on_progress: OnProgress
) -> Iterator[Result]:
    try:
        import pyarrow
        import ray
        import ray.data
    except ImportError as error:
        raise EngineError('Ray is not installed. Run: pip install "faceclip[ray]"') from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if gpus and (there := ray.cluster_resources().get("GPU", 0)) < gpus * workers:
        raise EngineError(
            f"{workers} workers with {gpus:g} GPUs each are asked for, and the Ray cluster has {there:g} GPUs. Lower --workers "
            "or --gpus-per-worker (a share of one, 0.5, will do, too)."
        )
    counter = ray.remote(num_cpus=0)(_Counter).remote()
    # One block per job: a unit is minutes of work, and each is placed where a worker is free. Ray keeps them, on disk at need.
    blocks: Any = [ray.put(pyarrow.table({"job": [pickle.dumps(job)]})) for job in jobs]
    worker: Any = _RayWorker
    done = ray.data.from_arrow_refs(blocks).map(
        worker,
        fn_constructor_args=(pickle.dumps(work), counter, gpus > 0),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=gpus or None,
    )
    over = threading.Event()

    def poll() -> None:
        while not over.wait(2 * _EVERY):
            on_progress(ray.get(counter.take.remote()))

    watch = threading.Thread(target=poll, daemon=True)
    watch.start()
    try:
        for row in done.iter_rows():
            yield pickle.loads(row["result"])
    finally:
        over.set()
        watch.join()
    on_progress(ray.get(counter.take.remote()))


class _Counter:
    """What Ray's workers have counted and nobody took yet."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, number: int) -> None:
        self._count += number

    def take(self) -> int:
        found, self._count = self._count, 0
        return found


class _RayWorker:
    """An actor: what the work loads, a detector or a captioner, it loads once."""

    def __init__(self, work: bytes, counter: Any, has_gpu: bool):
        self._work = pickle.loads(work)
        _here.tell = lambda number: counter.add.remote(number)
        _here.device = "cuda:0" if has_gpu else "cpu"  # Ray shows an actor its own GPUs alone

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": pickle.dumps(self._work(pickle.loads(row["job"])))}
