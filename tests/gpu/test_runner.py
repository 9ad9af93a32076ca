"""The runner on a real GPU: pycuda, streams, events, CUDA graphs, DLPack, and torch beside it.

TensorRT itself is not needed: stand_in.py stands for it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from repvgg_deploy import Engine, UserError
from repvgg_deploy.engine.load import read_engine
from repvgg_deploy.optional import available
from repvgg_deploy.runners.tensorrt.runner import EngineRunner

from ..engine_files import Machine, doubling
from ..fake_tensorrt import DataType, FakeNetwork
from .stand_in import machine_with_a_gpu

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    if available("pycuda.driver") is None:
        pytest.skip("pycuda cannot be imported here")
    yield machine_with_a_gpu(monkeypatch)
    assert torch.ones(3, device="cuda").sum() == 3  # torch goes on working


@pytest.fixture
def path(machine: Machine, tmp_path: Path) -> Path:
    return machine.engine(tmp_path / "x.engine", doubling(batches=((1, 2, 4), (4, 8, 8))))


def noise(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, 3), dtype=np.float32)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_inference_and_its_times(path: Path, cuda_graph: bool) -> None:
    with EngineRunner(read_engine(path), cuda_graph=cuda_graph) as runner:
        for batch in (1, 8, 8, 2, 5, 1):
            outputs, times = runner.run(noise(batch))
            np.testing.assert_array_equal(outputs["y"], 2 * noise(batch))
            assert min(times.host_to_device, times.compute, times.device_to_host) > 0
        runner.load(noise(4))
        for _ in range(3):
            runner.step()
        np.testing.assert_array_equal(runner.output(), 2 * noise(4))


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_threads_beside_torch(path: Path, cuda_graph: bool) -> None:
    """Graphs are recorded while torch works in CUDA's default stream, and allocates."""
    done = threading.Event()

    def torch_at_work() -> None:
        count = 0
        while not done.is_set():
            count += 1
            assert torch.ones(count, device="cuda").sum().item() == count

    def calls(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            x = rng.random((int(rng.integers(1, 9)), 3), dtype=np.float32)
            np.testing.assert_array_equal(engine(x)["y"], 2 * x)

    with Engine(path, cuda_graph=cuda_graph) as engine, ThreadPoolExecutor(9) as pool:
        beside = pool.submit(torch_at_work)
        try:
            list(pool.map(calls, range(8)))
        finally:
            done.set()
        beside.result()


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_what_torch_has_still_to_compute_is_waited_for(path: Path, cuda_graph: bool) -> None:
    with Engine(path, cuda_graph=cuda_graph) as engine, torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            torch.cuda._sleep(100_000_000)  # cycles
            x = torch.randn(5, 3, device="cuda")
            np.testing.assert_array_equal(engine(x)["y"], 2 * x.cpu().numpy())
            np.testing.assert_array_equal(engine(x[1:])["y"], 2 * x[1:].cpu().numpy())


def test_memory_that_is_not_there(machine: Machine, tmp_path: Path) -> None:
    network = FakeNetwork(
        inputs={"x": (DataType.FLOAT, (-1, 1))},
        outputs={"y": (DataType.FLOAT, (-1, 1 << 28))},
        compute=lambda given: given,
        profiles=[{"x": ((1, 1), (1, 1), (1000, 1))}],
    )
    path = machine.engine(tmp_path / "large.engine", network)
    with Engine(path) as engine, pytest.raises(UserError, match="of GPU memory were asked for"):
        engine(np.ones((1000, 1), np.float32))


@pytest.mark.parametrize("closed", ["", "engine.close()"])
def test_the_end_of_a_process(closed: str, tmp_path: Path) -> None:
    if available("pycuda.driver") is None:
        pytest.skip("pycuda cannot be imported here")
    script = f"""
import numpy, pytest
from pathlib import Path
from repvgg_deploy import Engine
from tests.engine_files import doubling
from tests.gpu.stand_in import machine_with_a_gpu
machine = machine_with_a_gpu(pytest.MonkeyPatch())
engine = Engine(machine.engine(Path({str(tmp_path / "x.engine")!r}), doubling()), cuda_graph=True)
print(engine(numpy.ones((1, 3), numpy.float32))["y"].sum())
{closed}
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "6.0\n", "")
