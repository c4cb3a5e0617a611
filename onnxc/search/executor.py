"""Where jobs run: threads here, processes here, or a Dask cluster. Answers come in the jobs' order, so that all give the same.

A spec travels to each process once; a worker of Dask's that died is replaced by another, which does its jobs again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ..ir.errors import BadOption
from .work import Job, Spec, Worker

FORMS = "threads[:N], processes[:N] or dask://HOST:PORT"
TRIES, CONNECT = 3, 10
"""Times that jobs are sent again; seconds within which a scheduler answers."""
_workers: dict[str, Worker] = {}


class Executor(Protocol):
    """Runs jobs."""

    def map(self, jobs: Iterable[Job]) -> Iterator[Any]:
        """What comes of each job, in order."""


@contextmanager
def opened(name: str, local: Worker) -> Iterator[Executor]:
    """The executor of that name. Raises BadOption."""
    kind, _, rest = name.partition(":")
    if kind == "dask":
        with _dask(name.removeprefix("dask://"), local.spec) as executor:
            yield executor
        return
    if kind not in ("threads", "processes") or not (rest == "" or (rest.isascii() and rest.isdigit() and int(rest))):
        raise BadOption("--executor does not fit", expected=FORMS, found=name)
    count = int(rest or min(4, os.cpu_count() or 1))
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    if kind == "threads":
        pool: Any = ThreadPoolExecutor(count)
        run = local.do
    else:
        from multiprocessing import get_context

        # forked processes would share locks that threads of ONNX Runtime hold
        pool = ProcessPoolExecutor(
            count, get_context("spawn"), initializer=_begin, initargs=(pickle.dumps(local.spec),)
        )
        run = _do
    try:
        yield _Pool(pool, run)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Pool:
    def __init__(self, pool: Any, run: Any) -> None:
        self._pool, self._run = pool, run

    def map(self, jobs: Iterable[Job]) -> Iterator[Any]:
        futures = [self._pool.submit(self._run, job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _begin(spec: bytes) -> None:
    _workers[""] = Worker(pickle.loads(spec))


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

    def map(self, jobs: Iterable[Job]) -> Iterator[Any]:
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        left = list(jobs)
        for _ in range(TRIES):
            futures = [self._client.submit(_remote, job, self._key, self._spec, pure=False, retries=2) for job in left]
            try:
                for future in futures:
                    yield future.result()
                    left.pop(0)
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
