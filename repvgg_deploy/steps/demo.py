"""demo: the whole pipeline's accuracy on the bundled images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..data.demo import demo_checkpoint, demo_images
from ..runners.onnx_runtime import OrtRunner
from ..runners.protocol import Runner, run
from ..runners.torch_network import TorchRunner
from ..workspace import ModelFolder
from .weights import read_weights


@dataclass(frozen=True)
class Accuracy:
    """``top1`` in percent on the labelled images; ``agreement``: with the unfused network."""

    network: str
    images: int
    top1: float
    agreement: float


def demo_accuracy(folder: ModelFolder) -> list[Accuracy]:
    """Top-1 of the unfused, the fused and the ONNX networks on the bundled test images."""
    images, labels = demo_images()
    cpu = torch.device("cpu")
    runners: dict[str, Runner] = {
        "unfused (torch)": TorchRunner(read_weights(demo_checkpoint()).network.build(), cpu),
        "fused (torch)": TorchRunner(read_weights(folder.fused).network.build(), cpu),
    }
    for path in folder.onnx_files():
        runners[f"{path.name} (onnxruntime)"] = OrtRunner(path)
    answers = {name: run(runner, images).argmax(1) for name, runner in runners.items()}
    unfused = answers["unfused (torch)"]
    return [
        Accuracy(name, len(labels), _percent(given == labels), _percent(given == unfused))
        for name, given in answers.items()
    ]


def _percent(hits: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    return 100 * float(hits.mean())
