"""One execution context of an engine, with the memory it reads and writes, its stream and clock."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from numpy.typing import NDArray

from ...engine import api
from ...engine.load import LoadedEngine
from ...errors import UserError
from .buffer import GpuBuffer
from .cuda_graph import CudaGraph
from .device import GpuDevice
from .dlpack import DeviceArray
from .stream import GpuStream, Times
from .tensors import EngineTensor, EngineTensors, Shape

#: Of what TensorRT reads and writes, in bytes (IExecutionContext::setTensorAddress).
_ALIGNMENT = 256

Input = NDArray[Any] | DeviceArray
Outputs = dict[str, NDArray[Any]]


class EngineSession:
    """Runs one inference at a time; other threads take sessions of their own.

    With ``cuda_graph`` the inference is recorded when inputs of a new shape come, and launched as
    one from then on. Call its methods within ``device.current()``.
    """

    def __init__(
        self,
        loaded: LoadedEngine,
        tensors: EngineTensors,
        context: api.IExecutionContext,
        device: GpuDevice,
        cuda_graph: bool = False,
    ) -> None:
        self._loaded, self._tensors, self._context = loaded, tensors, context
        self._driver = device.driver
        self._stream = GpuStream(device)
        self._buffers = {
            t.name: GpuBuffer(device, f"{loaded.path}: {t.name!r}")
            for t in (*tensors.inputs, *tensors.outputs)
        }
        self._profile: int | None = None
        self._input_shapes: dict[str, Shape] = {}
        self._output_shapes: dict[str, Shape] = {}
        self._lent: object = None
        self._wants_graph = cuda_graph
        self._graph: CudaGraph | None = None
        self._recorded: object = None

    @property
    def stream(self) -> int:
        """Handle of the CUDA stream that all of it runs in."""
        return self._stream.handle

    def run(self, inputs: Mapping[str, Input]) -> tuple[Outputs, Times]:
        """One inference from inputs by name to outputs by name, and how long its parts took.

        Raises:
            UserError: as ``load``; or the engine fails.
        """
        self.load(inputs)
        self.compute()
        outputs = self.fetch()
        self._lent = None
        return outputs, self._stream.times()

    def load(self, inputs: Mapping[str, Input]) -> None:
        """Place the inputs on the GPU; what lies there already is read where it lies.

        Raises:
            UserError: they do not fit the engine, no profile holds them, or memory is too small.
        """
        self._tensors.check(inputs)
        self._set_shapes({t.name: tuple(inputs[t.name].shape) for t in self._tensors.inputs})
        self._lent = inputs
        with self._stream.timed("host_to_device"):
            addresses = {t.name: self._place(t, inputs[t.name]) for t in self._tensors.inputs}
        for tensor in self._tensors.outputs:
            buffer = self._buffers[tensor.name]
            buffer.reserve(prod(self._output_shapes[tensor.name]) * tensor.dtype.itemsize)
            addresses[tensor.name] = buffer.address
        for name, address in addresses.items():
            self._require(self._context.set_tensor_address(name, address), f"{name!r} has no place")
        if self._wants_graph:
            self._record((tuple(self._input_shapes.items()), tuple(addresses.items())))

    def compute(self) -> None:
        """Start one inference of the loaded inputs; ``wait`` or ``fetch`` see its end."""
        with self._stream.timed("compute"):
            if self._graph is None:
                self._enqueue()
            else:
                self._graph.launch(self.stream)

    def wait(self) -> None:
        """Until all that was started is done."""
        self._stream.wait()

    def fetch(self) -> Outputs:
        """Outputs of the last inference by name, in arrays of their own."""
        with self._stream.timed("device_to_host"):
            for tensor in self._tensors.outputs:
                self._buffers[tensor.name].download(self._stream.raw)
        self.wait()
        return {
            t.name: self._buffers[t.name].array(self._output_shapes[t.name], t.dtype).copy()
            for t in self._tensors.outputs
        }

    def close(self) -> None:
        """Give all memory back, that of the execution context too. Nothing works afterwards."""
        self.wait()  # an interrupted inference may still run, and TensorRT frees under it
        if self._graph is not None:
            self._graph.free()
        del self._context
        for buffer in self._buffers.values():
            buffer.free()
        self._stream.close()
        self._graph = self._lent = None

    def _set_shapes(self, shapes: dict[str, Shape]) -> None:
        """The profile and the shapes of this inference, in the execution context."""
        if shapes == self._input_shapes:
            return
        profile = self._tensors.pick_profile(shapes)
        self._input_shapes = {}  # until all of them are set
        if profile != self._profile:
            done = self._context.set_optimization_profile_async(profile, self.stream)
            self._require(done, f"its profile {profile} cannot be used")
            self._profile = profile
        for name, shape in shapes.items():
            done = self._context.set_input_shape(name, shape)
            self._require(done, f"its input {name!r} cannot be of the shape {shape}")
        for tensor in self._tensors.outputs:
            shape = tuple(self._context.get_tensor_shape(tensor.name))
            if min(shape, default=0) < 0:
                raise UserError(
                    f"{self._loaded.path}: the shape of its output {tensor.name!r} depends on the "
                    "values of the input; this tool runs engines whose shapes do not."
                )
            self._output_shapes[tensor.name] = shape
        self._input_shapes = shapes

    def _place(self, tensor: EngineTensor, value: Input) -> int:
        """Where the engine shall read an input. A graph always reads the same place.

        Slices of a tensor on the GPU may begin where TensorRT cannot read.
        """
        buffer = self._buffers[tensor.name]
        if isinstance(value, DeviceArray):
            if not self._wants_graph and value.address % _ALIGNMENT == 0:
                return value.address
            buffer.reserve(value.nbytes)
            driver = self._driver
            driver.memcpy_dtod_async(buffer.address, value.address, value.nbytes, self._stream.raw)
        else:
            buffer.reserve(value.nbytes)
            buffer.array(value.shape, tensor.dtype)[...] = value
            buffer.upload(self._stream.raw)
        return buffer.address

    def _record(self, key: object) -> None:
        """Keep the inference as a CUDA graph, unless that of the same shapes and places is kept."""
        if key == self._recorded:
            return
        if self._graph is not None:
            self._graph.free()
        self._graph = self._recorded = None
        self._enqueue()  # TensorRT prepares itself in the first one, which no graph may hold
        self.wait()
        self._graph = CudaGraph(self.stream, self._enqueue)
        self._recorded = key

    def _enqueue(self) -> None:
        done = self._context.execute_async_v3(self.stream)
        self._require(done, "the engine fails when it runs")

    def _require(self, done: bool, otherwise: str) -> None:
        if not done:
            raise self._loaded.failed(otherwise)
