"""The rows of public tools: ONNX Runtime's quantize_static and NVIDIA ModelOpt.

Every row but ONNX Runtime's defaults quantizes the same convolutions as ours: all but those of
squeeze-excitation. ONNX Runtime's quant_pre_process is not run: there is nothing left to fuse in
these graphs, and with it the figures were the same to the last digit.
"""

from __future__ import annotations

import io
import json
import logging
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_static,
)

from .method import Images, Method, NotHere
from .score import squeeze_excite_convs

WORKER = Path(__file__).with_name("modelopt_worker.py")
CALIBRATION_BATCH = 64

#: As TensorRT has to have it. No Q/DQ between Conv and ReLU, where TensorRT has none either; that
#: is to ONNX Runtime's advantage (with it, 0.4 dB less on ``narrow``).
TENSORRT_SUITED: dict[str, Any] = {
    "op_types_to_quantize": ["Conv"],
    "per_channel": True,
    "activation_type": QuantType.QInt8,
    "weight_type": QuantType.QInt8,
}
TENSORRT_EXTRA: dict[str, Any] = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": ["Conv"],
}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """The images in batches."""

    def __init__(self, name: str, images: Images) -> None:
        starts = range(0, len(images), CALIBRATION_BATCH)
        self._batches: Iterator[dict[str, Images]] = (
            {name: images[start : start + CALIBRATION_BATCH]} for start in starts
        )

    def get_next(self) -> dict[str, Images] | None:
        return next(self._batches, None)


def _with_onnxruntime(
    options: dict[str, Any], model: onnx.ModelProto, images: Images
) -> onnx.ModelProto:
    if options:
        options = options | {"nodes_to_exclude": squeeze_excite_convs(model)}
    logging.getLogger().setLevel(logging.ERROR)  # it asks for quant_pre_process at each call
    copy = onnx.ModelProto.FromString(model.SerializeToString())  # it changes what it is given
    reader = _Reader(model.graph.input[0].name, images)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        path = Path(folder) / "int8.onnx"
        quantize_static(copy, path, reader, **options)
        return onnx.load(path)


def _with_modelopt(
    python: Path, options: dict[str, Any], model: onnx.ModelProto, images: Images
) -> onnx.ModelProto:
    if not python.exists():
        raise NotHere(f"{python} is not there: nvidia-modelopt[onnx] in a venv of its own")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(model, folder / "fp32.onnx")
        np.save(folder / "images.npy", images)
        options = options | {"nodes_to_exclude": squeeze_excite_convs(model)}
        (folder / "options.json").write_text(json.dumps(options))
        done = subprocess.run(
            [str(python), str(WORKER), name], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"ModelOpt failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return onnx.load(folder / "int8.onnx")


def modelopt_versions(python: Path) -> dict[str, str] | None:
    """What stands in ModelOpt's venv; None where there is none."""
    packages = ["nvidia-modelopt", "onnxruntime-gpu", "onnxruntime", "onnx", "numpy"]
    code = (
        "import importlib.metadata as m, json, sys; found = {d.name: d.version "
        "for d in m.distributions()}; print(json.dumps({k: found[k] for k in sys.argv[1:] "
        "if k in found}))"
    )
    if not python.exists():
        return None
    versions: dict[str, str] = json.loads(
        subprocess.check_output([str(python), "-c", code, *packages])
    )
    return versions


def public_methods(modelopt_python: Path) -> list[Method]:
    """Every row of the issue's table that is not ours."""

    def onnxruntime(name: str, options: dict[str, Any]) -> Method:
        return Method(f"ONNX Runtime, {name}", options, partial(_with_onnxruntime, options))

    def suited(method: CalibrationMethod, **extra: float) -> dict[str, Any]:
        extra_options = TENSORRT_EXTRA | extra
        return TENSORRT_SUITED | {"calibrate_method": method, "extra_options": extra_options}

    def modelopt(method: str) -> Method:
        options = {
            "quantize_mode": "int8",
            "calibration_method": method,
            "calibration_eps": ["cpu"],
            "op_types_to_quantize": ["Conv"],
            "high_precision_dtype": "fp32",
            "target_dla": True,  # else it leaves the narrow convolutions in float, without a word
        }
        quantize = partial(_with_modelopt, modelopt_python, options)
        return Method(f"ModelOpt, {method}", options, quantize)

    return [
        onnxruntime("its defaults", {}),
        onnxruntime("MinMax", suited(CalibrationMethod.MinMax)),
        onnxruntime("Entropy", suited(CalibrationMethod.Entropy)),
        onnxruntime(
            "Percentile 99.99", suited(CalibrationMethod.Percentile, CalibPercentile=99.99)
        ),
        modelopt("entropy"),
        modelopt("max"),
    ]
