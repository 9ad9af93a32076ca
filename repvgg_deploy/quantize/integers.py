"""The integers that flow through an int8 network, in ONNX Runtime and in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from ..runners.onnx_session import OrtSession
from .fake import FakeQuantized, dequantize, quantize
from .layers import layer_key
from .read import read_qdq

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


@dataclass(frozen=True)
class FollowedRun:
    """``integers`` is what each quantized layer read, by its name; ``logits`` [N, classes]."""

    integers: dict[str, NDArray[np.int8]]
    logits: NDArray[np.float64]


def run_with_integers(
    path: Path, model: ModelProto, image: str, samples: NDArray[np.float32], batch: int
) -> FollowedRun:
    """A Q/DQ model in ONNX Runtime, its graph as it stands, its integers as outputs.

    Raises:
        UserError: ONNX Runtime cannot run it, or read_qdq refuses it.
    """
    inputs = {layer_key(name): tensor for name, tensor in read_qdq(model).inputs.items()}
    (output,) = (value.name for value in model.graph.output)
    kinds = dict.fromkeys(inputs.values(), TensorProto.INT8)
    whole = run_exposed(path, model, kinds, image, samples, batch)
    integers = {name: whole[tensor] for name, tensor in inputs.items()}
    return FollowedRun(integers, whole[output].astype(np.float64))


def run_exposed(
    path: Path,
    model: ModelProto,
    inner: Mapping[str, int],
    image: str,
    samples: NDArray[np.float32],
    batch: int,
) -> dict[str, NDArray[Any]]:
    """The outputs of a model and ``inner`` tensors, which map to their ONNX types."""
    exposed = ModelProto()
    exposed.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    for name in sorted(inner.keys() - outputs):
        exposed.graph.output.append(helper.make_tensor_value_info(name, inner[name], None))
    session = OrtSession(path, exposed.SerializeToString())
    parts = [
        session.run({image: samples[start : start + batch]})
        for start in range(0, len(samples), batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def follow(
    network: nn.Module,
    samples: NDArray[np.float32],
    other: FollowedRun,
    device: torch.device,
) -> FollowedRun:
    """A fake-quantized network whose every layer goes on from the integers of ``other``.

    The integers it would have had itself come back: each is one layer's work, so that what one
    layer does otherwise does not show in the next.
    """
    own: dict[str, NDArray[np.int8]] = {}

    def hook(name: str) -> Hook:
        def replace(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
            assert isinstance(module, FakeQuantized)
            (x,) = inputs
            own[name] = quantize(x, module.scale).cpu().numpy()
            theirs = torch.tensor(other.integers[name], device=x.device)
            y: Tensor = module.layer(dequantize(theirs, module.scale, x.dtype))
            return y

        return replace

    network = network.to(device)
    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, FakeQuantized)]
    handles = [module.register_forward_hook(hook(name)) for name, module in layers]
    dtype = next(network.parameters()).dtype
    with torch.inference_mode():
        logits: Tensor = network(torch.from_numpy(samples).to(device, dtype))
    for handle in handles:
        handle.remove()
    return FollowedRun(own, logits.double().cpu().numpy())
