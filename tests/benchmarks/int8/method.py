"""What a row of the table is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Images = NDArray[np.float32]


class NotHere(Exception):
    """A tool is not installed; says which."""


@dataclass(frozen=True)
class Method:
    """A way to int8: ``quantize`` takes the fp32 model and calibration images [N, C, H, W].

    ``options`` is all that it is told beyond these two, for the record.
    """

    name: str
    options: dict[str, Any]
    quantize: Callable[[onnx.ModelProto, Images], onnx.ModelProto]
