"""One calibration as a process: ranges of a model's activations over made-up images.

    python -m tests.benchmarks.int8.calibrators NAME MODEL IMAGES TIMES

Appends its seconds to the file TIMES: from the model's file to the ranges, without imports. All
see the same images, in the same batches.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BATCH = 16
#: ONNX Runtime's Percentile keeps every inner tensor of what it is given at a time.
STRIDE = 32


def batches(first: int, end: int) -> Iterator[NDArray[np.float32]]:
    """Images ``first`` to ``end``, each batch from a seed of its own."""
    for start in range(first, end, BATCH):
        generator = np.random.default_rng(start)
        size = min(BATCH, end - start)
        yield 4 * generator.random((size, 3, 224, 224), np.float32) - 2


def ours(model: Path, images: int) -> None:
    from repvgg_deploy.quantize.collect import collect
    from repvgg_deploy.quantize.ranges import mse

    found = collect(model, conv_inputs(model), batches(0, images))
    assert all(mse(histogram) > 0 for histogram in found.values())


def ours_per_channel(model: Path, images: int) -> None:
    from repvgg_deploy.quantize.collect import collect_channels
    from repvgg_deploy.quantize.ranges import mse, mse_thresholds

    for histograms in collect_channels(model, conv_inputs(model), batches(0, images)).values():
        assert mse(histograms.total()) >= mse_thresholds(histograms).min()


def conv_inputs(model: Path) -> list[str]:
    import onnx

    nodes = onnx.load(model).graph.node
    return list(dict.fromkeys(node.input[0] for node in nodes if node.op_type == "Conv"))


def minmax(model: Path, images: int) -> None:
    onnx_runtime(model, images, "MinMax", stride=images)


def percentile(model: Path, images: int) -> None:
    onnx_runtime(model, images, "Percentile", stride=STRIDE)


def percentile_at_once(model: Path, images: int) -> None:
    onnx_runtime(model, images, "Percentile", stride=images)


def onnx_runtime(model: Path, images: int, method: str, stride: int) -> None:
    """Its collector with its own settings, given ``stride`` images at a time."""
    from onnxruntime.quantization.calibrate import (
        CalibrationDataReader,
        CalibrationMethod,
        create_calibrator,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, first: int) -> None:
            self._batches = batches(first, min(first + stride, images))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"input": batch}

    with tempfile.TemporaryDirectory() as folder:
        calibrator = create_calibrator(
            model,
            augmented_model_path=f"{folder}/augmented.onnx",
            calibrate_method=CalibrationMethod[method],
        )
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        for first in range(0, images, stride):
            calibrator.collect_data(Reader(first))
        assert calibrator.compute_data().keys()


CALIBRATORS: dict[str, Callable[[Path, int], None]] = {
    "ours": ours,
    "ours, per channel": ours_per_channel,
    "ONNX Runtime MinMax": minmax,
    "ONNX Runtime Percentile": percentile,
    "ONNX Runtime Percentile, at once": percentile_at_once,
}


def main() -> None:
    name, model, images, times = sys.argv[1:]
    CALIBRATORS[name](Path(model), 1)  # imports, and the first call of everything
    start = time.perf_counter()
    CALIBRATORS[name](Path(model), int(images))
    with Path(times).open("a") as file:
        print(time.perf_counter() - start, file=file)


if __name__ == "__main__":
    main()
