"""A stand-in for ``tensorrt`` and ``tensorrt_rtx``: engines are numpy functions.

Only the runtime half: the real builder of TensorRT-RTX works in tests, its runtime needs a GPU.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

DataType = IntEnum(
    "DataType", ["FLOAT", "HALF", "BF16", "FP8", "INT8", "INT32", "INT64", "BOOL", "UINT8", "FP4"]
)
Location = IntEnum("Location", ["DEVICE", "HOST"])
Mode = IntEnum("Mode", ["INPUT", "OUTPUT"])
Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]


def numpy_type(member: DataType) -> np.dtype[Any]:
    import ml_dtypes

    known = {DataType.FLOAT: "float32", DataType.HALF: "float16", DataType.BOOL: "bool"}
    if member == DataType.BF16:
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(known.get(member, member.name.lower()))


@dataclass
class FakeNetwork:
    """``inputs`` and ``outputs`` are name -> (type, shape); ``profiles`` name -> (min, opt, max)
    each. ``compute`` takes arrays by name; what it raises is a failing engine."""

    inputs: dict[str, tuple[DataType, Shape]]
    outputs: dict[str, tuple[DataType, Shape]]
    compute: Callable[[Arrays], Arrays]
    profiles: list[dict[str, tuple[Shape, Shape, Shape]]] = field(default_factory=list)
    locations: dict[str, Location] = field(default_factory=dict)


@dataclass
class FakeTensorRT:
    """A module: put it into ``sys.modules``. ``engines`` are the bytes that it loads.

    ``run`` is called with a stream and the work for it. ``cache`` is what TensorRT-RTX compiles;
    ``accepts`` tells whether it takes a stored cache.
    """

    __version__: str = "10.13.0"
    engines: dict[bytes, FakeNetwork] = field(default_factory=dict)
    refuses_to_start: bool = False
    no_contexts: bool = False
    says: str = "the engine's magic tag does not match"
    run: Callable[[int, Callable[[], None]], None] = lambda stream, work: work()
    cache: bytes = b"kernels"
    host_code: list[bool] = field(default_factory=list)
    contexts: list[FakeContext] = field(default_factory=list)
    configs: list[Any] = field(default_factory=list)

    DataType, TensorLocation, TensorIOMode, Logger = DataType, Location, Mode, Severity
    CudaGraphStrategy = IntEnum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
    ProfilingVerbosity = IntEnum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"])
    DynamicShapesKernelSpecializationStrategy = IntEnum("Strategy", ["LAZY", "EAGER"])

    class ILogger:
        def __init__(self) -> None:
            pass

    def Runtime(self, logger: Any) -> SimpleNamespace:
        if self.refuses_to_start:
            logger.log(Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        runtime = SimpleNamespace(engine_host_code_allowed=False)

        def deserialize(data: bytes) -> FakeEngine | None:
            self.host_code.append(runtime.engine_host_code_allowed)
            if data not in self.engines:
                logger.log(Severity.ERROR, self.says)
                return None
            logger.log(Severity.WARNING, "lazy loading is off")
            logger.log(Severity.INFO, "loaded engine")
            return FakeEngine(self, logger, self.engines[data])

        runtime.deserialize_cuda_engine = deserialize
        return runtime


class FakeCache:
    """An IRuntimeCache of TensorRT-RTX. ``stored`` is what was read from a file."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt, self.stored = trt, b""

    def deserialize(self, data: bytes) -> bool:
        if data.startswith(b"kernels"):
            self.stored = data
        return bool(self.stored)

    def serialize(self) -> bytes:
        return self.trt.cache


class FakeConfig:
    """An IRuntimeConfig of TensorRT-RTX."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.cache = FakeCache(trt)

    def create_runtime_cache(self) -> FakeCache:
        return self.cache

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        return cache is self.cache


class FakeEngine:
    def __init__(self, trt: FakeTensorRT, logger: Any, network: FakeNetwork) -> None:
        self.trt, self.logger, self.network = trt, logger, network
        self.tensors = {**network.inputs, **network.outputs}
        self.num_io_tensors = len(self.tensors)
        self.num_optimization_profiles = max(1, len(network.profiles))

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name in self.network.inputs else Mode.OUTPUT

    def get_tensor_location(self, name: str) -> Location:
        return self.network.locations.get(name, Location.DEVICE)

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> Shape:
        return self.tensors[name][1]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        return list(self.network.profiles[profile_index][name])

    def create_runtime_config(self) -> FakeConfig:
        config = FakeConfig(self.trt)
        self.trt.configs.append(config)
        return config

    def create_execution_context(self, runtime_config: Any = None) -> FakeContext | None:
        if self.trt.no_contexts:
            self.logger.log(Severity.ERROR, "OutOfMemory: no room for activations")
            return None
        context = FakeContext(self)
        self.trt.contexts.append(context)
        return context


class FakeContext:
    """Checks that shapes lie in the chosen profile and that every tensor has an address."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.network = engine, engine.network
        self.profile: int | None = None
        self.profiles_set: list[int] = []
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.enqueued = 0
        self.busy = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle > 0
        self.profile, self.shapes = profile_index, {}
        self.profiles_set.append(profile_index)
        return 0 <= profile_index < self.engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        assert self.profile is not None
        self.shapes[name] = tuple(shape)
        if not self.network.profiles:
            return tuple(shape) == self.network.inputs[name][1]
        low, _, high = self.network.profiles[self.profile][name]
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def get_tensor_shape(self, name: str) -> Shape:
        batch = next(iter(self.shapes.values()))[0]
        shape = self.network.outputs[name][1]
        return (batch if shape[0] == -1 else shape[0], *shape[1:]) if shape else ()

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert name in self.engine.tensors
        assert memory % 256 == 0, "IExecutionContext::setTensorAddress asks for this"
        self.addresses[name] = memory
        return memory != 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.enqueued += 1
        shapes = {n: self.shapes[n] for n in self.network.inputs}
        shapes |= {n: self.get_tensor_shape(n) for n in self.network.outputs}
        addresses = dict(self.addresses)

        def work() -> None:
            assert not self.busy, "two threads in one context"
            self.busy = True
            arrays = {n: self._view(n, addresses[n], shapes[n]) for n in shapes}
            outputs = self.network.compute({n: arrays[n] for n in self.network.inputs})
            for name, values in outputs.items():
                arrays[name][...] = values
            time.sleep(0.0005)
            self.busy = False

        try:
            self.engine.trt.run(stream_handle, work)
        except RuntimeError as error:
            self.busy = False
            self.engine.logger.log(Severity.ERROR, str(error))
            return False
        return True

    def _view(self, name: str, address: int, shape: Shape) -> np.ndarray:
        dtype = numpy_type(self.engine.get_tensor_dtype(name))
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)
