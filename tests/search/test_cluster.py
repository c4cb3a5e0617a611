"""Jobs on a cluster of two workers, Dask's or Ray's, of which one is killed on the way: the same answers as here."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from onnxc.ir.errors import BadOption
from onnxc.search import auto
from onnxc.search.executor import opened

from .test_search import place  # noqa: F401

pytestmark = pytest.mark.slow


def answered(executor, jobs: list, worker) -> list:
    """What the executor gives, the process that `worker` names being killed after the second answer."""
    found = []
    for k, pair in enumerate(executor.map(jobs)):
        found.append(pair)
        if k == 1:
            os.kill(worker(), signal.SIGKILL)
    return found


def test_a_cluster_that_loses_a_worker_gives_the_same(place):  # noqa: F811
    distributed = pytest.importorskip("distributed")
    search = auto(place / "net.onnx", place / "data.npz")
    jobs = wanted_of(search)
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        opened(f"dask://{cluster.scheduler_address.removeprefix('tcp://')}", search.local) as executor,
        distributed.Client(cluster) as client,
    ):
        found = answered(executor, jobs, lambda: next(iter(client.run(os.getpid).values())))
    assert found == [(job, search.local.do(job)) for job in jobs]


@pytest.mark.parametrize(
    "kind, package, what", [("dask", "distributed", "Dask scheduler"), ("ray", "ray", "Ray cluster")]
)
def test_a_cluster_that_is_not_there_is_told(place, kind, package, what):  # noqa: F811
    pytest.importorskip(package)
    search = auto(place / "net.onnx", place / "data.npz")
    with (
        pytest.raises(BadOption, match=rf"no {what} answers at 127\.0\.0\.1:9"),
        opened(f"{kind}://127.0.0.1:9", search.local),
    ):
        pass


def wanted_of(search) -> list:
    return [("channels", 0, r) for r in (0.25, 0.5)] + [
        ("bits", name, b) for name in search.local.stored for b in (2, 4)
    ]


@pytest.fixture
def ray_address(tmp_path):
    """A Ray cluster of this machine, with two workers."""
    pytest.importorskip("ray")
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
    start = ["start", "--head", f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}", "--num-cpus=2",
             "--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1", "--block"]  # fmt: skip
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)])
    with subprocess.Popen(
        [*ray, *start], env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True
    ) as head:
        for line in head.stdout:
            if "--block" in line:
                break
        yield f"ray://127.0.0.1:{ports[1]}"
        head.terminate()


def test_a_ray_cluster_that_loses_a_worker_gives_the_same(place, ray_address):  # noqa: F811
    import ray

    search = auto(place / "net.onnx", place / "data.npz")
    jobs = wanted_of(search)
    with opened(ray_address, search.local) as executor:
        found = answered(executor, jobs, lambda: ray.get(ray.remote(lambda: os.getpid()).remote()))
    assert found == [(job, search.local.do(job)) for job in jobs]
