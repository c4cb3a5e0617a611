"""`ray://` against a small stand-in for Ray's client, as Ray itself is a large package: what is sent once, what comes back, what is told.
`test_cluster` runs it on a cluster of two workers, where Ray is installed."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from onnxc.ir.errors import BadOption
from onnxc.search import auto, executor

from .test_search import place  # noqa: F401


class WorkerCrashedError(Exception):
    pass


class GetTimeoutError(TimeoutError):
    pass


class Ray:
    """What the search uses of Ray's client: objects that are put once, functions that run elsewhere, answers that may not be there yet."""

    exceptions = SimpleNamespace(
        GetTimeoutError=GetTimeoutError,
        WorkerCrashedError=WorkerCrashedError,
        ObjectLostError=type("L", (Exception,), {}),
    )

    def __init__(self, there: bool = True, fails: tuple = ()) -> None:
        self.there, self.fails = there, fails
        self.puts, self.cancelled, self.asked = [], [], []
        self.pool = ThreadPoolExecutor(2)

    def init(self, address):
        self.asked.append(address)
        if not self.there:
            raise ConnectionError("ray client connection\ntimeout")
        return nullcontext()

    def put(self, value):
        self.puts.append(value)
        return ("object", len(self.puts) - 1)

    def remote(self, max_retries):
        assert max_retries == executor.TRIES

        def wrapped(function):
            def run(job, key, reference):
                if job in self.fails:
                    raise WorkerCrashedError("The worker died\nunexpectedly")
                return function(job, key, self.puts[reference[1]])

            return SimpleNamespace(remote=lambda *given: self.pool.submit(run, *given))

        return wrapped

    def get(self, reference, timeout):
        try:
            return reference.result(timeout)
        except Late:
            raise GetTimeoutError from None

    def cancel(self, reference):
        self.cancelled.append(reference)
        reference.cancel()


@pytest.fixture
def ray(monkeypatch):
    """What puts a stand-in in the place of Ray."""

    def made(**how):
        fake = Ray(**how)
        monkeypatch.setitem(sys.modules, "ray", fake)
        return fake

    yield made
    executor._workers.clear()


def test_jobs_run_elsewhere_and_the_model_travels_once(ray, place):  # noqa: F811
    fake, search = ray(), auto(place / "net.onnx", place / "data.npz")
    jobs = [("bits", name, 2) for name in search.local.stored] + [("channels", 0, 0.5)]
    with executor.opened("ray://head:10001", search.local) as opened:
        found = list(opened.map(jobs))
    assert fake.asked == ["ray://head:10001"] and len(fake.puts) == 1 and len(fake.cancelled) == len(jobs)
    assert found == [(job, search.local.do(job)) for job in jobs]


def test_what_is_not_done_in_time_is_left_out(ray, place, monkeypatch):  # noqa: F811
    ray()
    search, go = auto(place / "net.onnx", place / "data.npz"), threading.Event()
    monkeypatch.setattr(executor, "_remote", lambda job, *_: go.wait(20) if job[1] == "b" else job[1])
    jobs = [("x", name) for name in "abc"]
    with executor.opened("ray://head:10001", search.local) as opened:
        found = list(opened.map(jobs, time.monotonic() + 0.3))
    go.set()
    assert found == [(("x", "a"), "a"), (("x", "c"), "c")]


def test_a_cluster_that_loses_its_workers_is_told(ray, place):  # noqa: F811
    job = ("channels", 0, 0.5)
    fake, search = ray(fails=(job,)), auto(place / "net.onnx", place / "data.npz")
    with (
        pytest.raises(BadOption, match="the Ray cluster loses its workers, found The worker died unexpectedly"),
        executor.opened("ray://head:10001", search.local) as opened,
    ):
        list(opened.map([job]))
    assert len(fake.cancelled) == 1


@pytest.mark.parametrize(
    "there, said",
    [(False, "no Ray cluster answers at head:1, found ray client connection timeout"), (None, "needs ray")],
)
def test_no_cluster_or_no_ray_is_told(ray, place, monkeypatch, there, said):  # noqa: F811
    if there is None:
        monkeypatch.setitem(sys.modules, "ray", None)
    else:
        ray(there=there)
    search = auto(place / "net.onnx", place / "data.npz")
    with pytest.raises(BadOption, match=said), executor.opened("ray://head:1", search.local):
        pass
