"""python -m tests.benchmarks.roofline [THREADS]: counts of networks, and this CPU's ceilings.

Nothing is written. The last lines hold the ceiling to the test: no runtime's convolution may go
beyond it by more than a little, or it is none (Winograd's algorithm may: it multiplies less).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from repvgg_deploy.bench.roofline.ceilings import Ceilings, find_ceilings
from repvgg_deploy.bench.roofline.counts import count
from repvgg_deploy.bench.roofline.peaks import fastest
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.export.reference import reference_onnx
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.zoo import ZOO
from repvgg_deploy.optional import available
from repvgg_deploy.runners.onnx_runtime import OrtRunner

NETWORKS = ("RepVGG-A0", "RepVGG-B0", "RepVGG-B1g4", "resnet18", "resnet50")


def graph(name: str) -> onnx.ModelProto:
    if name not in ZOO:
        return reference_onnx(name)
    with torch.device("meta"):
        network = RepVGG(ZOO[name].spec(), "deploy")
    return to_onnx(network.to_empty(device="cpu"), (224, 224))


def show_counts(ceilings: Ceilings) -> None:
    print(f"{'224 x 224, fp32':14} batch   GMACs  Winograd      MB   arithmetic      bytes")
    for name in NETWORKS:
        model = graph(name)
        for batch in (1, 8):
            counts = count(model, batch)
            arithmetic, moved = counts.macs / ceilings.macs["fp32"], counts.bytes / ceilings.bytes
            print(
                f"{name:15} {batch:5} {counts.macs / 1e9:7.2f} {counts.winograd / 1e9:9.2f} "
                f"{counts.bytes / 1e6:7.1f} {arithmetic * 1e3:9.1f} ms {moved * 1e3:7.1f} ms"
            )


def one_convolution(channels: int, side: int, kernel: int) -> onnx.ModelProto:
    shape = [1, channels, side, side]
    weights = np.random.default_rng(0).standard_normal((channels, channels, kernel, kernel))
    pad = kernel // 2
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[pad] * 4)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    weight = numpy_helper.from_array(weights.astype(np.float32), "w")
    return helper.make_model(
        helper.make_graph([node], "one", ends[:1], ends[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def show_convolutions(ceilings: Ceilings) -> None:
    for channels, side, kernel in ((256, 56, 3), (512, 28, 3), (512, 28, 1)):
        model = one_convolution(channels, side, kernel)
        images = np.ones((1, channels, side, side), np.float32)
        runner = OrtRunner(model.SerializeToString(), threads=ceilings.threads)
        runner.load(images)
        best = {"onnxruntime": fastest(runner.step, "cpu").seconds}
        if (openvino := available("openvino")) is not None:
            core = openvino.Core()
            compiled = core.compile_model(
                core.read_model(model.SerializeToString()), "CPU",
                {"INFERENCE_NUM_THREADS": ceilings.threads, "INFERENCE_PRECISION_HINT": "f32"},
            )  # fmt: skip
            request = compiled.create_infer_request()
            best["openvino"] = fastest(lambda: request.infer([images]), "cpu").seconds  # noqa: B023
        for runtime, seconds in best.items():
            rate = count(model, 1).macs / seconds
            print(
                f"{kernel}x{kernel}, {channels} channels, {side} x {side}, {runtime}: "
                f"{rate / 1e9:.1f} GMACs/s, {rate / ceilings.macs['fp32']:.0%} of the ceiling"
            )


def main() -> None:
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count() or 1
    with TemporaryDirectory() as folder:
        ceilings, note = find_ceilings("cpu", threads, Path(folder))
    print(f"{ceilings.name}, {threads} threads, torch {ceilings.torch}, {ceilings.date}")
    for precision, rate in ceilings.macs.items():
        print(f"  {precision}: {rate / 1e9:.1f} GMACs/s")
    print(f"  copy: {ceilings.bytes / 1e9:.1f} GB/s, CPU granted {ceilings.granted:.0%}")
    print(note or "")
    show_counts(ceilings)
    show_convolutions(ceilings)


if __name__ == "__main__":
    main()
