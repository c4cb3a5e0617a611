"""Shared fixtures. One thread per process: the suite itself runs in parallel."""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ["ONNXC_CACHE"] = "off"  # what is tested is compiled

from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
TRAINED = {
    "resnet20": ROOT / "onnxc/data/resnet20_fashion.onnx",
    "vggslim": ROOT / "tests/data/vggslim_fashion.onnx",
    "binary": ROOT / "tests/data/binary_fashion.onnx",
}
LIGHT = sorted(Path(find_spec("onnx").origin).parent.glob("backend/test/data/light/light_*.onnx"))

# The same examples in every run; a slow machine is no failure.
settings.register_profile(
    "onnxc", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("onnxc")


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files that tests/golden/ compares with"
    )


@pytest.fixture
def update_golden(request) -> bool:
    """Whether golden files are written anew."""
    return request.config.getoption("--update-golden")


@pytest.fixture(params=TRAINED, ids=str)
def trained_path(request) -> Path:
    """Each of the trained networks."""
    return TRAINED[request.param]


@pytest.fixture(params=LIGHT, ids=lambda path: path.stem)
def light_path(request) -> Path:
    """Each of the nine topologies that the onnx package brings."""
    return request.param


@pytest.fixture
def resnet20_path() -> Path:
    return TRAINED["resnet20"]


@pytest.fixture
def test_data_path() -> Path:
    """1,000 labelled test images for the trained networks."""
    return ROOT / "onnxc/data/fashion_test.npz"


@pytest.fixture
def calib_data_path() -> Path:
    """256 labelled training images for the trained networks."""
    return ROOT / "onnxc/data/fashion_calib.npz"
