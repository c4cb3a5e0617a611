"""Where jobs run: threads here, processes here, or a cluster of Dask or Ray. Answers come in the jobs' order, so that all give the same.

A spec travels to each process once; a cluster's worker that died is replaced by another, which does its jobs again. Where time is up,
what is done is handed over, and what is under way is left alone: jobs end at their next look (`Worker.check`), and no process waits for
one that does not look up (`lingering`).
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ..ir.errors import BadOption
from ..runtime.code import allow, allowed
from .work import Job, Spec, Worker

FORMS = "threads[:N], processes[:N], dask://HOST:PORT or ray://HOST:PORT"
TRIES, CONNECT = 3, 10
"""Times that jobs are sent again; seconds within which a scheduler answers."""
THREADS = "onnxc-search"
_workers: dict[str, Worker] = {}
_left: set[threading.Thread] = set()


class Executor(Protocol):
    """Runs jobs."""

    def map(self, jobs: Iterable[Job], until: float | None = None) -> Iterator[tuple[Job, Any]]:
        """Each job with what comes of it, in order; from `until` on, by the monotonic clock, only those that are done."""


def lingering() -> bool:
    """Whether a job that nobody waits for is still under way in a thread of this process."""
    return any(thread.is_alive() for thread in _left)


@contextmanager
def opened(name: str, local: Worker) -> Iterator[Executor]:
    """The executor of that name. Raises BadOption."""
    kind, _, rest = name.partition(":")
    if kind in CLUSTERS and rest.startswith("//"):
        with CLUSTERS[kind](rest.removeprefix("//"), local.spec) as executor:
            yield executor
        return
    if kind not in ("threads", "processes") or not (rest == "" or (rest.isascii() and rest.isdigit() and int(rest))):
        raise BadOption("--executor does not fit", expected=FORMS, found=name)
    count = int(rest or min(4, os.cpu_count() or 1))
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    if kind == "threads":
        pool: Any = ThreadPoolExecutor(count, thread_name_prefix=THREADS)
        run = local.do
    else:
        from multiprocessing import get_context

        # forked processes would share locks that threads of ONNX Runtime hold
        pool = ProcessPoolExecutor(
            count, get_context("spawn"), initializer=_begin, initargs=(pickle.dumps(local.spec), allowed())
        )
        run = _do
    jobs = _Pool(pool, run)
    try:
        yield jobs
    finally:
        busy = jobs.is_busy()
        working = list((getattr(pool, "_processes", None) or {}).values()) if busy else []
        pool.shutdown(wait=not busy, cancel_futures=True)
        if busy:
            local.ended.set()
            _left.update(getattr(pool, "_threads", ()))
        for process in working:
            process.terminate()


class _Pool:
    def __init__(self, pool: Any, run: Any) -> None:
        self._pool, self._run = pool, run
        self._sent: list[Any] = []

    def map(self, jobs: Iterable[Job], until: float | None = None) -> Iterator[tuple[Job, Any]]:
        from concurrent.futures import TimeoutError as Late  # Python 3.10's is not the built-in one

        sent = [(job, self._pool.submit(self._run, job)) for job in jobs]
        self._sent = [f for f in self._sent if not f.done()] + [future for _, future in sent]
        try:
            yield from _answers(sent, _of_future, until, Late)
        finally:
            for _, future in sent:
                future.cancel()

    def is_busy(self) -> bool:
        """Whether a job is under way."""
        return not all(future.done() for future in self._sent)


def _of_future(future: Any, seconds: float | None) -> Any:
    return future.result(seconds)


def _answers(
    sent: Sequence[tuple[Job, Any]],
    result: Callable[[Any, float | None], Any],
    until: float | None,
    late: type[Exception],
) -> Iterator[tuple[Job, Any]]:
    """Each job with what comes of it, in order; from `until` on only those that are done.

    sent: jobs with what stands for their results; result(it, seconds) waits for one so long, and raises `late` after that.
    """
    for job, waiting in sent:
        seconds = None if until is None else max(until - time.monotonic(), 0)
        try:
            found = result(waiting, seconds)
        except late:
            if until is None or time.monotonic() < until:  # the job's own
                raise
            continue
        yield job, found


def _begin(spec: bytes, trusting: bool) -> None:
    allow(trusting)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _workers[""] = Worker(pickle.loads(spec))


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for jobs for ever: both ends of their queue are its own."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(job: Job) -> Any:
    return _workers[""].do(job)


@contextmanager
def _dask(address: str, spec: Spec) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise BadOption("--executor dask:// needs distributed", remedy="pip install 'onnxc[dask]'") from None
    try:
        client = Client(f"tcp://{address}", timeout=CONNECT)
    except OSError as error:
        raise BadOption(f"no Dask scheduler answers at {address}", found=str(error)) from None
    with client:
        packed = pickle.dumps(spec)
        yield _Dask(client, hashlib.sha256(packed).hexdigest(), client.scatter(packed, broadcast=True), packed)


class _Dask:
    """Jobs on a cluster. Where a worker died with what it held, its jobs are done by the others."""

    def __init__(self, client: Any, key: str, spec: Any, packed: bytes) -> None:
        self._client, self._key, self._spec, self._packed = client, key, spec, packed

    def map(self, jobs: Iterable[Job], until: float | None = None) -> Iterator[tuple[Job, Any]]:
        from concurrent.futures import CancelledError

        from distributed import KilledWorker
        from distributed import TimeoutError as Late

        left = list(jobs)
        for _ in range(TRIES):
            futures = [self._client.submit(_remote, job, self._key, self._spec, pure=False, retries=2) for job in left]
            sent = list(zip(left, futures, strict=True))
            try:
                for pair in _answers(sent, _of_future, until, Late):
                    left = left[left.index(pair[0]) + 1 :]
                    yield pair
                return
            except (KilledWorker, CancelledError):
                self._spec = self._client.scatter(self._packed, broadcast=True)
            finally:
                self._client.cancel(futures)
        raise BadOption("the Dask cluster loses its workers", found=f"{len(left)} jobs undone after {TRIES} tries")


def _remote(job: Job, key: str, spec: bytes) -> Any:
    if key not in _workers:
        _workers[key] = Worker(pickle.loads(spec))
    return _workers[key].do(job)


@contextmanager
def _ray(address: str, spec: Spec) -> Iterator[Executor]:
    try:
        import ray
    except ImportError:
        raise BadOption("--executor ray:// needs ray", remedy="pip install 'onnxc[ray]'") from None
    try:
        client = ray.init(f"ray://{address}")
    except (ConnectionError, ValueError) as error:
        raise BadOption(f"no Ray cluster answers at {address}", found=" ".join(str(error).split())[:200]) from None
    with client:
        packed = pickle.dumps(spec)
        yield _Ray(ray, hashlib.sha256(packed).hexdigest(), ray.put(packed))


class _Ray:
    """Jobs on a cluster, which does those of a worker that died again by itself."""

    def __init__(self, ray: Any, key: str, spec: Any) -> None:
        self._ray, self._key, self._spec = ray, key, spec
        self._run = ray.remote(max_retries=TRIES)(_remote)

    def map(self, jobs: Iterable[Job], until: float | None = None) -> Iterator[tuple[Job, Any]]:
        sent = [(job, self._run.remote(job, self._key, self._spec)) for job in jobs]
        errors = self._ray.exceptions

        def result(reference: Any, seconds: float | None) -> Any:
            return self._ray.get(reference, timeout=seconds)

        try:
            yield from _answers(sent, result, until, errors.GetTimeoutError)
        except (errors.WorkerCrashedError, errors.ObjectLostError) as error:
            lost = " ".join(str(error).split())[:200]
            raise BadOption("the Ray cluster loses its workers", found=lost) from None
        finally:
            for _, reference in sent:
                self._ray.cancel(reference)


CLUSTERS = {"dask": _dask, "ray": _ray}
