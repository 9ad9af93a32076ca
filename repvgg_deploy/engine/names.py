"""The flavours of TensorRT by name; light, since commands know engines before they load much."""

from __future__ import annotations

#: Name of the flavour -> Python module.
MODULES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
#: Name of the flavour -> what it is called in sentences.
NAMES = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}
