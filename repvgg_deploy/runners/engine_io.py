"""Reads what an engine takes and gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.load import LoadedEngine
from ..errors import UserError
from ..optional import require
from .engine_tensors import EngineTensor, EngineTensors, Range, Shape

#: TensorRT's element types as numpy knows them, and those that only ml_dtypes brings.
_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_ML_DTYPES = {"BF16": "bfloat16", "FP8": "float8_e4m3fn"}


def read_tensors(loaded: LoadedEngine) -> EngineTensors:
    """What an engine takes and gives.

    Raises:
        UserError: an element type that numpy lacks, or a tensor that has to lie in host memory.
    """
    engine = loaded.engine
    inputs: list[EngineTensor] = []
    outputs: list[EngineTensor] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_location(name) != loaded.trt.TensorLocation.DEVICE:
            raise UserError(
                f"{loaded.path}: {name!r} is a shape tensor, whose values TensorRT reads on the "
                "host; this tool runs engines without such."
            )
        is_input = engine.get_tensor_mode(name) == loaded.trt.TensorIOMode.INPUT
        shape = tuple(engine.get_tensor_shape(name))
        ranges = _ranges(loaded, name, shape) if is_input else ()
        tensor = EngineTensor(name, _dtype(loaded, name), shape, ranges)
        (inputs if is_input else outputs).append(tensor)
    return EngineTensors(loaded.path, tuple(inputs), tuple(outputs))


def _ranges(loaded: LoadedEngine, name: str, shape: Shape) -> tuple[Range, ...]:
    engine = loaded.engine
    if -1 not in shape:
        return (Range(shape, shape, shape),) * engine.num_optimization_profiles
    return tuple(
        Range(*(tuple(sizes) for sizes in engine.get_tensor_profile_shape(name, profile)))
        for profile in range(engine.num_optimization_profiles)
    )


def _dtype(loaded: LoadedEngine, name: str) -> np.dtype[Any]:
    member, types = loaded.engine.get_tensor_dtype(name), loaded.trt.DataType
    for theirs, ours in _NUMPY.items():
        if member == getattr(types, theirs):
            return np.dtype(ours)
    for theirs, ours in _ML_DTYPES.items():
        if member == getattr(types, theirs):
            found: np.dtype[Any] = np.dtype(getattr(require("ml_dtypes"), ours))
            return found
    raise UserError(f"{loaded.path}: {name!r} is of the type {member}, which numpy does not have.")
