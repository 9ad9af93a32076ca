"""What Triton has to know of a file: its tensors, batch sizes, and the GPUs it runs on."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...engine.options import PRECISIONS, Profile
from ...errors import UserError

#: Our names of element types, and Triton's own (model_config.proto, DataType).
_TYPES = {
    "fp32": "TYPE_FP32",
    "fp16": "TYPE_FP16",
    "bf16": "TYPE_BF16",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "bool": "TYPE_BOOL",
}
#: Batch sizes are int32 in Triton's schema.
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Tensor:
    """An input or output. ``dtype`` is Triton's, like TYPE_FP32; ``shape`` begins with the batch,
    -1 where that is dynamic, and is fixed otherwise."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Servable:
    """A file that Triton can load.

    ``profiles`` are the batch sizes of a TensorRT engine of dynamic batch, else empty; ``targets``
    the compute capabilities, like 8.6, of the only GPUs that it runs on, empty: not bound to any.
    ``version`` and ``platform`` are those of the TensorRT that built it, empty for ONNX; ``proved``
    says whether it was run and held against the network that it comes from.
    """

    path: Path
    sha256: str
    precision: str
    backend: Literal["onnx", "tensorrt"]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: tuple[Profile, ...] = ()
    targets: tuple[str, ...] = ()
    version: str = ""
    platform: str = ""
    version_compatible: bool = False
    proved: bool = True

    @property
    def dynamic(self) -> bool:
        """Whether the batch size is left to the request."""
        return self.inputs[0].shape[0] == -1


T = TypeVar("T")


def undamaged(path: Path, described_in: Path, read: Callable[[], T]) -> T:
    """What ``read`` returns; a UserError where it fails on a description that is not as it has to
    be."""
    try:
        return read()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"{described_in}: does not tell how to serve {path.name} ({error}); "
            "run the step that makes it again."
        ) from error


def check_shapes(servable: Servable) -> Servable:
    """Triton serves tensors whose first dimension is the batch, and ours are fixed otherwise.

    Raises:
        UserError: other shapes, or no tensors.
    """
    if not servable.inputs or not servable.outputs:
        raise UserError(f"{servable.path}: has no inputs or no outputs; export it again.")
    for tensor in (*servable.inputs, *servable.outputs):
        batch, *others = tensor.shape
        if not others or -1 in others or (batch == -1) != servable.dynamic:
            raise UserError(
                f"{servable.path}: {tensor.name} has the shape {list(tensor.shape)}; serve takes "
                "[batch, ...] with the batch, and nothing else, dynamic or fixed in every tensor."
            )
    return servable


def make_tensor(name: Any, dtype: Any, shape: Any) -> Tensor:
    """A tensor of what a file says of it; ValueError or TypeError where that cannot be."""
    if not isinstance(name, str) or not name:
        raise ValueError("a tensor without a name")
    name.encode()  # half a surrogate pair is no text that Triton could read
    if dtype not in _TYPES:
        raise ValueError(f"{reprlib.repr(dtype)} is no element type that serve knows")
    if not shape or not all(type(n) is int and (n == -1 or 1 <= n <= LARGEST) for n in shape):
        raise ValueError(f"{reprlib.repr(shape)} is no shape")
    return Tensor(name, _TYPES[dtype], tuple(shape))


def check_precision(precision: str) -> str:
    """The precision, which becomes part of a folder's name; ValueError for one there is not."""
    if precision not in PRECISIONS:
        raise ValueError(f"no precision: {reprlib.repr(precision)}")
    return precision
