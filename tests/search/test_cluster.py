"""Jobs on a Dask cluster of two workers, of which one is killed on the way: the same answers as here."""

import os
import signal

import pytest

from onnxc.ir.errors import BadOption
from onnxc.search import auto
from onnxc.search.executor import opened

from .test_search import place  # noqa: F401

pytestmark = pytest.mark.slow


def test_a_cluster_that_loses_a_worker_gives_the_same(place):  # noqa: F811
    distributed = pytest.importorskip("distributed")
    search = auto(place / "net.onnx", place / "data.npz")
    jobs = [("channels", k, r) for k in range(2) for r in (0.25, 0.5)] + [
        ("bits", name, b) for name in search.local.stored for b in (2, 4)
    ]
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        opened(f"dask://{cluster.scheduler_address.removeprefix('tcp://')}", search.local) as executor,
    ):
        found = []
        for k, pair in enumerate(executor.map(jobs)):
            found.append(pair)
            if k == 1:
                with distributed.Client(cluster) as client:
                    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
    assert found == [(job, search.local.do(job)) for job in jobs]


def test_a_scheduler_that_is_not_there_is_told(place):  # noqa: F811
    pytest.importorskip("distributed")
    search = auto(place / "net.onnx", place / "data.npz")
    with (
        pytest.raises(BadOption, match=r"no Dask scheduler answers at 127\.0\.0\.1:9"),
        opened("dask://127.0.0.1:9", search.local),
    ):
        pass
