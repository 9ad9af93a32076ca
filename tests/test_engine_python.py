"""``repvgg_deploy.Engine``: engines in production, on stand-ins for pycuda and TensorRT."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repvgg_deploy import Engine, UserError
from repvgg_deploy.runners.tensorrt import dlpack

from .at_work import PATIENCE
from .engine_files import Machine, doubling, fake_machine
from .fake_dlpack import OnTheGpu
from .fake_tensorrt import DataType, FakeNetwork

pytestmark = pytest.mark.filterwarnings("ignore:.*lazy loading")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = fake_machine(monkeypatch)
    yield machine
    assert (machine.pycuda.used, machine.pycuda.pinned, machine.pycuda.stack) == (0, [], [])


@pytest.fixture
def path(machine: Machine, tmp_path: Path) -> Path:
    return machine.engine(tmp_path / "x.engine", doubling())


def noise(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, 3), dtype=np.float32)


def test_numpy_in_numpy_out(machine: Machine, path: Path) -> None:
    with Engine(str(path)) as engine:
        assert np.array_equal(engine(noise(2))["y"], 2 * noise(2))
        assert np.array_equal(engine({"x": noise(3)})["y"], 2 * noise(3))
        assert (engine.inputs[0].name, engine.inputs[0].dtype) == ("x", np.float32)
        assert [str(held) for held in engine.inputs[0].ranges] == ["1x3 to 8x3"]
        assert engine.outputs[0].shape == (-1, 3)
        assert engine.artifact.precision == "fp32"
        assert "tensorrt" in repr(engine)
        assert "x float32 Nx3" in repr(engine)


def test_what_tensorrt_warns_of_is_a_warning(machine: Machine, path: Path) -> None:
    with pytest.warns(UserWarning, match="lazy loading is off"):
        Engine(path).close()


def test_eight_threads_at_once(machine: Machine, path: Path) -> None:
    wrong: list[int] = []
    with Engine(path) as engine:
        together = threading.Barrier(8)

        def work(seed: int) -> None:
            rng = np.random.default_rng(seed)
            together.wait()
            for _ in range(25):
                x = rng.random((int(rng.integers(1, 9)), 3), dtype=np.float32)
                if not np.array_equal(engine(x)["y"], 2 * x):
                    wrong.append(seed)
            assert machine.pycuda.stack == []

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert not wrong
        assert 1 < len(machine.tensorrt.contexts) <= 8
    assert machine.pycuda.retained == 1


def test_calls_one_after_another_share_a_context(machine: Machine, path: Path) -> None:
    with Engine(path) as engine:
        for _ in range(20):
            thread = threading.Thread(target=engine, args=(noise(2),))
            thread.start()
            thread.join()
    assert len(machine.tensorrt.contexts) == 1


def test_a_tensor_on_the_cpu(machine: Machine, path: Path) -> None:
    x = torch.randn(2, 3)
    with Engine(path) as engine:
        assert np.array_equal(engine(x)["y"], 2 * x.numpy())
        with pytest.raises(UserError, match="cannot be read through DLPack"):
            engine(x.requires_grad_())


def on_the_gpu(machine: Machine, values: np.ndarray, **changes: Any) -> tuple[Any, OnTheGpu]:
    """Device memory that holds ``values``, and its array."""
    machine.pycuda.stack.append(None)
    memory = machine.pycuda.mem_alloc(values.nbytes)
    memory.memory[:] = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    machine.pycuda.stack.pop()
    address = int(memory) - changes.get("byte_offset", 0)
    return memory, OnTheGpu(address, values, **changes)


def free(machine: Machine, memory: Any) -> None:
    machine.pycuda.stack.append(None)
    memory.free()
    machine.pycuda.stack.pop()


def test_a_tensor_on_the_gpu_is_read_where_it_lies(machine: Machine, path: Path) -> None:
    for changes in ({}, {"strides": (3, 1)}, {"byte_offset": 256}):
        memory, array = on_the_gpu(machine, noise(4), **changes)
        with Engine(path) as engine:
            machine.pycuda.copies.clear()
            assert np.array_equal(engine(array)["y"], 2 * noise(4))
            assert machine.pycuda.copies == ["down"]
            assert machine.tensorrt.contexts[-1].addresses["x"] == int(memory)
            assert len(array.streams) == 1
            assert array.streams[0] > 2  # a stream of its own, not one of CUDA's defaults
        free(machine, memory)


def test_a_slice_that_tensorrt_cannot_read_is_copied(machine: Machine, path: Path) -> None:
    memory, _ = on_the_gpu(machine, noise(4))
    array = OnTheGpu(int(memory) + 12, noise(4)[1:])  # the second of four rows on
    with Engine(path) as engine:
        machine.pycuda.copies.clear()
        assert np.array_equal(engine(array)["y"], 2 * noise(4)[1:])
        assert machine.pycuda.copies == ["across", "down"]
    free(machine, memory)


def test_types_of_arrays_on_the_gpu(machine: Machine, tmp_path: Path) -> None:
    for kind, dtype in ((DataType.HALF, "float16"), (DataType.INT32, "int32")):
        path = machine.engine(tmp_path / f"{dtype}.engine", doubling(kind))
        values = noise(2).astype(dtype)
        memory, array = on_the_gpu(machine, values)
        with Engine(path) as engine:
            assert np.array_equal(engine(array)["y"], values * 2)
        free(machine, memory)


def test_boolean_and_bfloat16_arrays_on_the_gpu(machine: Machine, tmp_path: Path) -> None:
    import ml_dtypes

    for dtype, kind in ((np.dtype(bool), DataType.BOOL), (ml_dtypes.bfloat16, DataType.BF16)):
        values = (noise(2) > 0).astype(dtype)
        network = FakeNetwork(
            inputs={"x": (kind, (2, 3))},
            outputs={"y": (DataType.FLOAT, (2, 3))},
            compute=lambda given: {"y": given["x"].astype(np.float32)},
        )
        memory, array = on_the_gpu(machine, values)
        with Engine(machine.engine(tmp_path / f"{kind.name}.engine", network)) as engine:
            assert np.array_equal(engine(array)["y"], values.astype(np.float32))
        free(machine, memory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strides": (1, 4)}, "is not contiguous"),
        ({"device": (2, 1)}, r"\(type 2, number 1\)"),
        ({"device": (10, 0)}, r"\(type 10, number 0\)"),
        ({"code": 5, "bits": 128}, "DLPack code 5, 128 bits"),
        ({"lanes": 4}, "a type that numpy lacks"),
        ({"bits": 64}, "is float32, and float64 was given"),
    ],
)
def test_arrays_on_the_gpu_that_cannot_be_used(
    machine: Machine, path: Path, changes: dict[str, Any], words: str
) -> None:
    memory, array = on_the_gpu(machine, noise(4), **changes)
    with Engine(path) as engine, pytest.raises(UserError, match=words):
        engine(array)
    free(machine, memory)


def test_no_array_at_all(machine: Machine, path: Path) -> None:
    with Engine(path) as engine, pytest.raises(UserError, match="an input is a list; give a numpy"):
        engine([1.0, 2.0])


def test_a_call_that_fails_leaves_the_engine_usable(machine: Machine, path: Path) -> None:
    with Engine(path) as engine:
        for bad in (noise(9), noise(2).astype(np.float64), {"z": noise(1)}):
            with pytest.raises(UserError):
                engine(bad)
        assert np.array_equal(engine(noise(8))["y"], 2 * noise(8))
    assert len(machine.tensorrt.contexts) == 1


def test_an_interrupted_call_takes_its_context_with_it(machine: Machine, tmp_path: Path) -> None:
    interrupt = [True]

    def compute(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if interrupt.pop() if interrupt else False:
            raise KeyboardInterrupt
        return {"y": given["x"] * 2}

    path = machine.engine(tmp_path / "x.engine", replace(doubling(), compute=compute))
    with Engine(path) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine(noise(2))
        assert machine.pycuda.used == 0
        assert np.array_equal(engine(noise(2))["y"], 2 * noise(2))


def test_warm_up_runs_every_profile_and_finds_memory_that_is_missing(
    machine: Machine, tmp_path: Path
) -> None:
    network = doubling(batches=((1, 2, 4), (4, 8, 8)))
    path = machine.engine(tmp_path / "x.rtx.engine", network, flavour="rtx", version="1.7.1")
    with Engine(path) as engine:
        engine.warm_up()
        (context,) = machine.rtx.contexts
        assert context.enqueued == 4  # 1, 2, 4 and 8
        assert path.with_name("x.rtx.engine.cache").exists()
        held = machine.pycuda.used
        engine(noise(8))
        assert machine.pycuda.used == held
    machine.pycuda.limit = 100
    with Engine(path) as engine, pytest.raises(UserError, match="of GPU memory were asked for"):
        engine.warm_up()
    (first, _) = machine.rtx.configs
    assert not hasattr(first, "dynamic_shapes_kernel_specialization_strategy")  # not EAGER


def test_a_runtime_cache_that_does_not_fit_warns(machine: Machine, tmp_path: Path) -> None:
    path = machine.engine(tmp_path / "x.engine", doubling(), flavour="rtx", version="1.7.1")
    path.with_name("x.engine.cache").write_bytes(b"damaged")
    with (
        pytest.warns(UserWarning, match="is not used and is now x.engine.cache.unusable"),
        Engine(path) as engine,
    ):
        assert np.array_equal(engine(noise(2))["y"], 2 * noise(2))


def test_a_closed_engine(machine: Machine, path: Path) -> None:
    engine = Engine(path)
    engine(noise(2))
    engine.close()
    engine.close()
    for use in (lambda: engine(noise(2)), engine.warm_up):
        with pytest.raises(UserError, match="the engine is closed; open it again"):
            use()


def test_a_closed_engine_lets_the_weights_go(machine: Machine, path: Path) -> None:
    """TensorRT frees an engine's memory when its last object goes."""
    engine = Engine(path)
    engine(noise(2))
    loaded = weakref.ref(machine.tensorrt.contexts.pop().engine)
    assert loaded() is not None
    engine.close()
    gc.collect()
    assert loaded() is None


def test_closing_while_another_thread_is_at_work(machine: Machine, tmp_path: Path) -> None:
    begun, closed = threading.Event(), threading.Event()

    def compute(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        begun.set()
        assert closed.wait(PATIENCE)
        return {"y": given["x"] * 2}

    engine = Engine(machine.engine(tmp_path / "x.engine", replace(doubling(), compute=compute)))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(engine, noise(2))
        assert begun.wait(PATIENCE)
        engine.close()
        closed.set()
        assert np.array_equal(result.result()["y"], 2 * noise(2))


@pytest.mark.parametrize("at_work", [False, True])
def test_an_engine_goes_after_its_contexts(machine: Machine, tmp_path: Path, at_work: bool) -> None:
    """TensorRT-RTX's runtime cache and the engine have to outlive what was made with them."""
    begun, closed = threading.Event(), threading.Event()

    def compute(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        begun.set()
        assert closed.wait(PATIENCE)
        return {"y": given["x"] * 2}

    network = replace(doubling(), compute=compute)
    path = machine.engine(tmp_path / "x.engine", network, flavour="rtx", version="1.7.1")
    engine = Engine(path)
    gone: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(engine, noise(2))
        assert begun.wait(PATIENCE)
        context = machine.rtx.contexts.pop()
        for name, thing in {"config": machine.rtx.configs.pop(), "engine": context.engine}.items():
            weakref.finalize(thing, gone.append, name)
        weakref.finalize(context, gone.append, "context")
        del context, thing
        if not at_work:
            closed.set()
            result.result()
        engine.close()
        closed.set()
        result.result()
    gc.collect()
    assert gone[0] == "context"
    assert sorted(gone) == ["config", "context", "engine"]


def test_an_engine_of_another_machine_is_refused(machine: Machine, tmp_path: Path) -> None:
    path = machine.engine(tmp_path / "x.engine", doubling(), targets=["sm75"])
    with pytest.raises(UserError, match="does not load here"):
        Engine(path)


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (4, 1, 1, 5), (2, 3, 4, 5), (0, 3, 4, 5)])
def test_strides_of_one_element_do_not_matter(shape: tuple[int, ...]) -> None:
    """torch gives them as 1. A real capsule of it, of memory on the CPU: the struct is the same."""
    array = dlpack._on_the_gpu(torch.zeros(shape, dtype=torch.float16).__dlpack__())
    assert (array.shape, array.dtype) == (shape, np.dtype("float16"))
    turned = torch.zeros((2, 3, 4, 5)).to(memory_format=torch.channels_last)
    with pytest.raises(UserError, match="is not contiguous"):
        dlpack._on_the_gpu(turned.__dlpack__())
