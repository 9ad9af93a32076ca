"""Running engines: on stand-ins for pycuda and TensorRT's runtime, since no GPU is here."""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from repvgg_deploy.engine.load import read_engine
from repvgg_deploy.errors import UserError
from repvgg_deploy.runners.protocol import run
from repvgg_deploy.runners.tensorrt import cuda_graph
from repvgg_deploy.runners.tensorrt import device as gpu_device
from repvgg_deploy.runners.tensorrt.runner import EngineRunner

from .engine_files import Machine, doubling, fake_machine
from .fake_tensorrt import DataType, FakeNetwork, Location, numpy_type

Patch = pytest.MonkeyPatch
ROOT = Path(__file__).parent.parent


@pytest.fixture
def machine(monkeypatch: Patch) -> Iterator[Machine]:
    """At the end nothing may be left on the GPU, and no context current."""
    machine = fake_machine(monkeypatch)
    yield machine
    assert (machine.pycuda.used, machine.pycuda.pinned, machine.pycuda.stack) == (0, [], [])


@contextmanager
def running(
    machine: Machine, network: FakeNetwork, path: Path, **changes: Any
) -> Iterator[EngineRunner]:
    graph = changes.pop("cuda_graph", False)
    with EngineRunner(
        read_engine(machine.engine(path, network, **changes)), cuda_graph=graph
    ) as runner:
        yield runner


def noise(batch: int, dtype: Any = np.float32) -> np.ndarray:
    values = np.random.default_rng(batch).standard_normal((batch, 3)) * 4
    return values.astype(dtype)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.engine"


def test_inference_and_its_times(machine: Machine, path: Path) -> None:
    with running(machine, doubling(), path) as runner:
        assert runner.start is None
        for batch in (2, 8, 1, 8):
            outputs, times = runner.run(noise(batch))
            assert list(outputs) == ["y"]
            assert np.array_equal(outputs["y"], 2 * noise(batch))
            assert times.compute > 0
            assert times.host_to_device >= 0
            assert times.device_to_host >= 0
        assert runner.start is not None
        assert runner.start.seconds > 0
        assert runner.start.cache_used is None  # TensorRT has no runtime cache


def test_no_markers_for_a_profiler(machine: Machine, path: Path) -> None:
    """They cost time in each inference of an engine that was built with details."""
    with running(machine, doubling(), path) as runner:
        runner.run(noise(2))
    assert machine.tensorrt.contexts[0].nvtx_verbosity.name == "NONE"


def test_outputs_are_the_callers_own(machine: Machine, path: Path) -> None:
    with running(machine, doubling(), path) as runner:
        first, _ = runner.run(noise(2))
        kept = first["y"].copy()
        runner.run(noise(2) + 1)
    assert np.array_equal(first["y"], kept)


def test_memory_grows_to_the_largest_batch_and_is_used_again(machine: Machine, path: Path) -> None:
    with running(machine, doubling(), path) as runner:
        sizes = []
        for batch in (2, 1, 8, 4, 8):
            runner.run(noise(batch))
            sizes.append(machine.pycuda.used)
    assert sizes == [2 * n * 3 * 4 for n in (2, 2, 8, 8, 8)]


@pytest.mark.parametrize(
    "kind",
    [DataType.FLOAT, DataType.HALF, DataType.BF16, DataType.INT8, DataType.INT32, DataType.INT64],
)
def test_every_type(machine: Machine, path: Path, kind: DataType) -> None:
    x = noise(3, numpy_type(kind))
    with running(machine, doubling(kind), path) as runner:
        outputs, _ = runner.run(x)
    assert outputs["y"].dtype == x.dtype
    assert np.array_equal(outputs["y"], x * x.dtype.type(2))


def test_several_inputs_and_outputs(machine: Machine, path: Path) -> None:
    network = FakeNetwork(
        inputs={"a": (DataType.FLOAT, (-1, 2)), "mask": (DataType.BOOL, (-1,))},
        outputs={"sum": (DataType.FLOAT, (-1,)), "count": (DataType.INT64, (1,))},
        compute=lambda given: {
            "sum": given["a"].sum(1) * given["mask"],
            "count": given["mask"].sum(),
        },
        profiles=[{"a": ((1, 2), (2, 2), (4, 2)), "mask": ((1,), (2,), (4,))}],
    )
    a, mask = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([True, False, True])
    with running(machine, network, path) as runner:
        outputs, _ = runner.run({"a": a, "mask": mask})
        assert outputs["sum"].tolist() == [1, 0, 9]
        assert outputs["count"].tolist() == [2]
        with pytest.raises(UserError, match="give a dict of arrays by these names"):
            runner.run(a)
        with pytest.raises(UserError, match="its input 'mask' is missing"):
            runner.run({"a": a})
        with pytest.raises(UserError, match=r"no profile of the engine holds.*'mask' of 5"):
            runner.run({"a": a, "mask": np.zeros(5, bool)})


def test_an_array_that_is_not_contiguous(machine: Machine, path: Path) -> None:
    x = np.asfortranarray(noise(4))[::-1]
    with running(machine, doubling(), path) as runner:
        assert np.array_equal(runner.run(x)[0]["y"], 2 * x)


def test_the_profile_that_is_tuned_nearest(machine: Machine, path: Path) -> None:
    with running(machine, doubling(batches=((1, 1, 4), (1, 8, 8))), path) as runner:
        for batch in (1, 4, 8, 2, 3):
            assert np.array_equal(runner.run(noise(batch))[0]["y"], 2 * noise(batch))
        assert machine.tensorrt.contexts[0].profiles_set == [0, 1, 0]  # 4 may go to either
        with pytest.raises(UserError, match="holds 'x' of 9x3, only 1x3 to 4x3; 1x3 to 8x3; use"):
            runner.run(noise(9))
        runner.run(noise(2))  # goes on working


def test_of_two_profiles_for_all_batches_the_nearer_is_taken(machine: Machine, path: Path) -> None:
    with running(machine, doubling(batches=((1, 1, 8), (1, 8, 8))), path) as runner:
        for batch in (1, 8, 2):
            assert np.array_equal(runner.run(noise(batch))[0]["y"], 2 * noise(batch))
    assert machine.tensorrt.contexts[0].profiles_set == [0, 1, 0]


def test_shapes_that_tensorrt_refuses_are_not_taken_as_set(machine: Machine, path: Path) -> None:
    with running(machine, doubling(), path) as runner:
        runner.run(noise(2))
        (context,) = machine.tensorrt.contexts
        accept = context.set_input_shape

        def refuse(name: str, shape: Any) -> bool:
            accept(name, shape)
            return False

        context.set_input_shape = refuse  # type: ignore[method-assign]
        with pytest.raises(UserError, match=r"'x' cannot be of the shape \(4, 3\)"):
            runner.run(noise(4))
        context.set_input_shape = accept  # type: ignore[method-assign]
        assert np.array_equal(runner.run(noise(2))[0]["y"], 2 * noise(2))
        assert context.shapes == {"x": (2, 3)}


def test_a_fixed_batch(machine: Machine, path: Path) -> None:
    network = replace(doubling(), inputs={"x": (DataType.FLOAT, (2, 3))}, profiles=[])
    with running(machine, network, path) as runner:
        assert np.array_equal(runner.run(noise(2))[0]["y"], 2 * noise(2))
        with pytest.raises(UserError, match="'x' has the shape 2x3, and 1x3 was given"):
            runner.run(noise(1))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"z": noise(2)}, r"has no input 'z'; it has 'x' \(Nx3\)"),
        (noise(2, np.float64), "its input 'x' is float32, and float64 was given; cast it"),
        (noise(2, np.float16), "its input 'x' is float32, and float16 was given"),
        (noise(2)[:, :2], "its input 'x' has the shape Nx3, and 2x2 was given"),
        (noise(2)[0], "its input 'x' has the shape Nx3, and 3 was given"),
        (np.float32(1), "its input 'x' has the shape Nx3, and no dimension was given"),
        (noise(2)[:0], "no profile of the engine holds 'x' of 0x3, only 1x3 to 8x3"),
    ],
)
def test_inputs_that_do_not_fit(machine: Machine, path: Path, given: Any, words: str) -> None:
    with running(machine, doubling(), path) as runner, pytest.raises(UserError, match=words):
        runner.run(given)


def test_the_runner_protocol(machine: Machine, path: Path) -> None:
    with running(machine, doubling(DataType.HALF), path, precision="fp16") as runner:
        assert runner.runtime == "tensorrt fp16"
        x = noise(6)
        assert np.array_equal(run(runner, x, batch=2), 2 * x.astype(np.float16).astype(float))
        assert run(runner, x).dtype == np.float64
        with pytest.raises(UserError, match="is float16, and int64 was given"):
            runner.load(np.ones((2, 3), np.int64))


def test_a_bfloat16_engine_behind_the_protocol(machine: Machine, path: Path) -> None:
    x = noise(2)
    with running(machine, doubling(DataType.BF16), path) as runner:
        assert np.array_equal(run(runner, x), 2 * x.astype(ml_dtypes.bfloat16).astype(float))


def test_a_closed_engine(machine: Machine, path: Path) -> None:
    with running(machine, doubling(), path) as runner:
        pass
    runner.close()
    with pytest.raises(UserError, match="the engine is closed"):
        runner.run(noise(1))
    assert runner.warnings == ["lazy loading is off"]


def test_a_closed_runner_lets_the_weights_go(machine: Machine, path: Path) -> None:
    """TensorRT frees an engine's memory when its last object goes."""
    with running(machine, doubling(), path) as runner:
        runner.run(noise(2))
        loaded = weakref.ref(machine.tensorrt.contexts.pop().engine)
        assert loaded() is not None
    gc.collect()
    assert loaded() is None


def test_too_little_gpu_memory(machine: Machine, path: Path) -> None:
    machine.pycuda.limit = 2_000_000
    network = doubling(batches=((1, 2, 10**6),))
    with running(machine, network, path) as runner:
        with pytest.raises(
            UserError, match=r"'x': 12.0 MB of GPU memory were asked for, of which 2 MB are free"
        ):
            runner.run(noise(10**6))
        assert np.array_equal(runner.run(noise(2))[0]["y"], 2 * noise(2))


def test_too_little_page_locked_memory(machine: Machine, path: Path) -> None:
    def refuse(shape: int, dtype: Any) -> Any:
        raise machine.pycuda.MemoryError("cuMemHostAlloc failed: out of memory")

    with running(machine, doubling(), path) as runner:
        machine.pycuda.pagelocked_empty = refuse  # type: ignore[method-assign]
        with pytest.raises(UserError, match="of host memory were asked for; use a smaller batch"):
            runner.run(noise(2))


def test_no_room_for_an_execution_context(machine: Machine, path: Path) -> None:
    machine.tensorrt.no_contexts = True
    with (
        pytest.raises(UserError, match=r"no execution context for it: memory ran out.*OutOfMemory"),
        running(machine, doubling(), path),
    ):
        pass


def test_an_engine_that_fails_when_it_runs(machine: Machine, path: Path) -> None:
    def fail(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise RuntimeError("an illegal memory access was encountered")

    network = replace(doubling(), compute=fail)
    with (
        running(machine, network, path) as runner,
        pytest.raises(UserError, match=r"the engine fails when it runs: .*illegal memory access"),
    ):
        runner.run(noise(1))


def test_a_gpu_that_fails(machine: Machine, path: Path) -> None:
    def fail(*given: Any) -> None:
        raise machine.pycuda.Error("cuMemcpyHtoDAsync failed: unspecified launch failure")

    with running(machine, doubling(), path) as runner:
        copy, machine.pycuda.memcpy_htod_async = machine.pycuda.memcpy_htod_async, fail  # type: ignore[assignment]
        with pytest.raises(UserError, match=r"the GPU failed: .*launch failure; start again"):
            runner.run(noise(1))
        machine.pycuda.memcpy_htod_async = copy  # type: ignore[method-assign]


def test_shape_tensors_and_types_that_numpy_lacks(machine: Machine, path: Path) -> None:
    shape_tensor = replace(doubling(), locations={"x": Location.HOST})
    fp4 = replace(doubling(), inputs={"x": (DataType.FP4, (-1, 3))})
    for network, words in ((shape_tensor, "'x' is a shape tensor"), (fp4, "numpy does not have")):
        with pytest.raises(UserError, match=words), running(machine, network, path):
            pass


def test_an_output_whose_shape_depends_on_values(machine: Machine, path: Path) -> None:
    network = replace(doubling(), outputs={"y": (DataType.FLOAT, (-1, -1))})
    with (
        running(machine, network, path) as runner,
        pytest.raises(UserError, match="the shape of its output 'y' depends on the values"),
    ):
        runner.run(noise(1))


@pytest.fixture
def rtx(machine: Machine, tmp_path: Path) -> Path:
    name = tmp_path / "fp16.rtx.engine"
    return machine.engine(name, doubling(), flavour="rtx", version="1.7.1")


def test_a_cold_and_a_warm_start(machine: Machine, rtx: Path) -> None:
    cache = rtx.with_name("fp16.rtx.engine.cache")
    starts = []
    for _ in range(2):
        with EngineRunner(read_engine(rtx)) as runner:
            runner.run(noise(2))
            assert cache.read_bytes() == b"kernels"  # there before the end
            starts.append(runner.start)
            assert runner.warnings == ["lazy loading is off"]
    assert [start.cache_used for start in starts if start] == [False, True]
    assert [config.cache.stored for config in machine.rtx.configs] == [b"", b"kernels"]


def test_what_is_compiled_later_is_kept_too(machine: Machine, rtx: Path) -> None:
    cache = rtx.with_name("fp16.rtx.engine.cache")
    with EngineRunner(read_engine(rtx)) as runner:
        runner.run(noise(2))
        machine.rtx.cache = b"kernels and more"
    assert cache.read_bytes() == b"kernels and more"
    before = cache.stat().st_mtime_ns
    with EngineRunner(read_engine(rtx)) as runner:
        runner.run(noise(2))
    assert cache.stat().st_mtime_ns == before  # nothing new, nothing written


def test_a_cache_that_does_not_fit_is_set_aside(machine: Machine, rtx: Path) -> None:
    cache = rtx.with_name("fp16.rtx.engine.cache")
    cache.write_bytes(b"of another GPU")
    with EngineRunner(read_engine(rtx)) as runner:
        assert np.array_equal(runner.run(noise(2))[0]["y"], 2 * noise(2))
        assert "is not used and is now fp16.rtx.engine.cache.unusable" in runner.warnings[0]
        assert runner.start is not None
        assert runner.start.cache_used is False
    assert cache.with_name("fp16.rtx.engine.cache.unusable").read_bytes() == b"of another GPU"
    assert cache.read_bytes() == b"kernels"


def test_a_cache_that_cannot_be_written_or_read(machine: Machine, rtx: Path) -> None:
    rtx.with_name("fp16.rtx.engine.cache").mkdir()
    with EngineRunner(read_engine(rtx)) as runner:
        assert np.array_equal(runner.run(noise(2))[0]["y"], 2 * noise(2))
    assert "cannot be read (Is a directory); not used" in runner.warnings[0]
    assert "the runtime cache is not kept" in runner.warnings[1]


@pytest.mark.parametrize("given", [None, RuntimeError("out of host memory")])
def test_a_cache_that_the_runtime_does_not_give(
    machine: Machine, rtx: Path, monkeypatch: Patch, given: RuntimeError | None
) -> None:
    def serialize() -> None:
        if given is not None:
            raise given

    with EngineRunner(read_engine(rtx)) as runner:
        machine.rtx.configs[0].create_runtime_cache().serialize = serialize
        assert np.array_equal(runner.run(noise(2))[0]["y"], 2 * noise(2))
        assert "the runtime cache is not kept" in runner.warnings[0]
    assert not rtx.with_name("fp16.rtx.engine.cache").exists()


def test_rtx_records_its_graphs_itself(machine: Machine, rtx: Path) -> None:
    with EngineRunner(read_engine(rtx), cuda_graph=True) as runner:
        runner.run(noise(2))
    (config,) = machine.rtx.configs
    assert config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"


class FakeGraphs:
    """The six functions of the CUDA driver; ``TensorRT.run`` puts its work here meanwhile."""

    def __init__(self, machine: Machine) -> None:
        self.recorded: list[Any] = []
        self.open = False
        self.calls: list[str] = []
        self.refuses = ""
        self.alive = 0

        def enqueue(stream: int, work: Any) -> None:
            if self.open:
                self.recorded.append(work)
            else:
                work()

        machine.tensorrt.run = enqueue

    def _called(self, name: str) -> int:
        self.calls.append(name)
        return 900 if name == self.refuses else 0

    def cuStreamBeginCapture_v2(self, stream: ctypes.c_void_p, mode: ctypes.c_int) -> int:
        assert stream.value
        assert mode.value == 1
        self.open, self.recorded = self.refuses != "begin", []
        return self._called("begin")

    def cuStreamEndCapture(self, stream: ctypes.c_void_p, graph: Any) -> int:
        self.open = False
        graph._obj.value = 1
        return self._called("end")

    def cuGraphInstantiateWithFlags(self, instance: Any, graph: Any, flags: Any) -> int:
        assert graph.value == 1
        instance._obj.value = 2
        self.alive += 1
        return self._called("instantiate")

    def cuGraphDestroy(self, graph: ctypes.c_void_p) -> int:
        return 0

    def cuGraphExecDestroy(self, instance: ctypes.c_void_p) -> int:
        self.alive -= 1
        return 0

    def cuGraphLaunch(self, instance: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:
        assert instance.value == 2
        for work in self.recorded:
            work()
        return self._called("launch")


@pytest.fixture
def graphs(machine: Machine, monkeypatch: Patch) -> FakeGraphs:
    fake = FakeGraphs(machine)
    monkeypatch.setattr(cuda_graph, "driver", lambda: fake)
    return fake


def test_inference_as_a_cuda_graph(machine: Machine, path: Path, graphs: FakeGraphs) -> None:
    with running(machine, doubling(), path, cuda_graph=True) as runner:
        for batch, shift in ((2, 0), (2, 1), (4, 0), (2, 0)):
            x = noise(batch) + np.float32(shift)
            assert np.array_equal(runner.run(x)[0]["y"], 2 * x)
        assert graphs.calls.count("begin") == 3  # for 2, 4, and 2 again
        assert graphs.calls.count("launch") == 4
        assert graphs.alive == 1
    assert graphs.alive == 0


@pytest.mark.parametrize("function", ["begin", "end", "instantiate", "launch"])
def test_a_graph_that_cannot_be(
    machine: Machine, path: Path, graphs: FakeGraphs, function: str
) -> None:
    graphs.refuses = function
    with (
        running(machine, doubling(), path, cuda_graph=True) as runner,
        pytest.raises(UserError, match=r"cannot be kept as a CUDA graph .*error 900.*run it with"),
    ):
        runner.run(noise(1))
    assert not graphs.open


def test_an_engine_that_fails_while_it_is_recorded(
    machine: Machine, path: Path, graphs: FakeGraphs
) -> None:
    def fail(stream: int, work: Any) -> None:
        if graphs.open:
            raise RuntimeError("operation not permitted when stream is capturing")

    machine.tensorrt.run = fail
    with (
        running(machine, doubling(), path, cuda_graph=True) as runner,
        pytest.raises(UserError, match="not permitted when stream is capturing"),
    ):
        runner.run(noise(1))
    assert not graphs.open


def test_pycuda_that_is_missing_or_does_not_load(machine: Machine, monkeypatch: Patch) -> None:
    gpu_device.gpu_device.cache_clear()

    def importing(error: ImportError) -> Any:
        def fail(name: str) -> Any:
            raise error

        return fail

    missing = ModuleNotFoundError("No module named 'pycuda'")
    monkeypatch.setattr(gpu_device.importlib, "import_module", importing(missing))
    with pytest.raises(UserError, match=re.escape('pip install "repvgg-deploy[tensorrt]"')):
        gpu_device.gpu_device()
    broken = ImportError("libcuda.so.1: cannot open shared object file")
    monkeypatch.setattr(gpu_device.importlib, "import_module", importing(broken))
    with pytest.raises(UserError, match=r"does not load here \(libcuda.so.1: cannot open"):
        gpu_device.gpu_device()


def test_cuda_that_does_not_start(machine: Machine) -> None:
    def fail() -> None:
        raise machine.pycuda.Error("cuInit failed: unknown error")

    machine.pycuda.init = fail  # type: ignore[method-assign]
    gpu_device.gpu_device.cache_clear()
    with pytest.raises(UserError, match="the GPU cannot be used: CUDA said: cuInit failed"):
        gpu_device.gpu_device()


def test_no_torch_and_no_onnx_are_needed(tmp_path: Path) -> None:
    """Where only numpy, click, TensorRT and pycuda are installed."""
    script = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "onnx", "onnxruntime", "safetensors", "rich"}:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np, pytest
from pathlib import Path
from tests.engine_files import doubling, fake_machine
import repvgg_deploy

machine = fake_machine(pytest.MonkeyPatch())
path = machine.engine(Path(sys.argv[1]), doubling())
with repvgg_deploy.Engine(path) as engine:
    print(engine(np.ones((2, 3), np.float32))["y"].sum())
from repvgg_deploy.runners.tensorrt.runner import EngineRunner
assert EngineRunner
assert not {"torch", "onnx"} & set(sys.modules)
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "x.engine")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "12.0"
