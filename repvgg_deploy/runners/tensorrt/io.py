"""Reads what an engine takes and gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...engine.load import LoadedEngine
from ...engine.precision import type_names
from ...errors import UserError
from ...optional import require
from .tensors import EngineTensor, EngineTensors, Range, Shape

#: Types that numpy has under another name, and those that only ml_dtypes brings.
_NUMPY = {"fp32": "float32", "fp16": "float16"}
_ML_DTYPES = {"bf16": "bfloat16", "fp8": "float8_e4m3fn"}


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
    member = loaded.engine.get_tensor_dtype(name)
    ours = type_names(loaded.trt).get(member)
    if ours is None:
        raise UserError(
            f"{loaded.path}: {name!r} is of the type {member}, which numpy does not have."
        )
    if ours in _ML_DTYPES:
        require("ml_dtypes")  # numpy knows its names from then on
    return np.dtype(_ML_DTYPES.get(ours) or _NUMPY.get(ours, ours))
