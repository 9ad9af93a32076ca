"""The trainable int8 network: made from a post-training quantization, and read out again."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor, nn

from ...models.build import build
from ...models.infer import infer
from ...models.network import RepVGG
from ...models.spec import OFFICIAL_EPS, PLAIN_STRIDES, Strides
from ...quantize.layers import layer_key
from ...quantize.quantizer import Images, QuantizedNetwork
from .layer import QatLayer
from .settings import QatSettings


def trainable(
    start: QuantizedNetwork, settings: QatSettings, strides: Strides = PLAIN_STRIDES
) -> RepVGG:
    """A network that computes what ``start`` does, every number the same, and can be trained.

    ``start`` is that of a fused RepVGG of these strides, as export.graph writes it. The state dict
    has the official keys, and ``weight_scale`` and ``input_scale`` for each layer in int8.
    """
    state = _float_tensors(start.model)
    spec, form = infer(state, OFFICIAL_EPS, strides)
    network = build(state, spec, form).requires_grad_(True)
    for layer in start.layers:
        path, _, leaf = layer_key(layer.name).rpartition(".")
        parent = network.get_submodule(path)
        held = getattr(parent, leaf)
        assert isinstance(held, (nn.Conv2d, nn.Linear))
        setattr(parent, leaf, QatLayer(held, layer, settings))
    return network


def insert_norms(network: nn.Module, images: Images) -> None:
    """A batch norm behind every convolution in int8, with the statistics that it has on ``images``
    (as the official RepVGG quantization recipe inserts them); in eval mode nothing changes."""
    layers = [m for m in network.modules() if isinstance(m, QatLayer) and m.weight.ndim == 4]
    sums = {layer: _Sums(layer) for layer in layers}
    handles = [layer.register_forward_hook(sums[layer].add) for layer in layers]
    network.eval()
    with torch.no_grad():
        for batch in images():
            network(torch.from_numpy(batch))
    for handle in handles:
        handle.remove()
    for layer, found in sums.items():
        layer.insert_norm(*found.statistics())


class _Sums:
    """Of what a convolution gives without its bias: [out], in float64."""

    def __init__(self, layer: QatLayer) -> None:
        self._bias = layer.bias
        self._count = 0
        self._sum = torch.zeros(len(layer.weight), dtype=torch.float64)
        self._squares = torch.zeros_like(self._sum)

    def add(self, _module: nn.Module, _inputs: tuple[Tensor, ...], y: Tensor) -> None:
        plain = y.double()
        if self._bias is not None:
            plain -= self._bias.double().reshape(-1, 1, 1)
        self._count += plain[:, 0].numel()
        self._sum += plain.sum((0, 2, 3))
        self._squares += plain.square().sum((0, 2, 3))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance."""
        mean = self._sum / self._count
        return mean, (self._squares / self._count - mean.square()).clamp(min=0)


def trained(network: RepVGG, start: QuantizedNetwork) -> QuantizedNetwork:
    """What the network has become, as it computes in eval mode, to be exported like ``start``."""
    layers, arrays = [], dict[str, NDArray[np.float32]]()
    state = network.state_dict()
    for layer in start.layers:
        key = layer_key(layer.name)
        module = network.get_submodule(key)
        assert isinstance(module, QatLayer)
        layers.append(module.quantized(layer.name))
        with torch.no_grad():
            weight, bias = module.folded()
        state[f"{key}.weight"] = weight
        if bias is not None:
            state[f"{key}.bias"] = bias
    model = ModelProto()
    model.CopyFrom(start.model)
    for tensor in model.graph.initializer:
        if tensor.name in state:
            arrays[tensor.name] = state[tensor.name].detach().float().cpu().numpy()
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return QuantizedNetwork(model, layers, start.ranges, {})


def _float_tensors(model: ModelProto) -> dict[str, Tensor]:
    return {
        t.name: torch.tensor(numpy_helper.to_array(t))
        for t in model.graph.initializer
        if t.data_type == TensorProto.FLOAT
    }
