"""What is proved of a network that was trained for int8 before it is written.

Its distance to the float network says how far training went, not whether it is right. Right is that
the file holds the integers and scales that were trained.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn

from ..errors import CheckFailed
from ..models.network import RepVGG
from ..quantize.fake import Int8State, fake_quantized, int8_tensors
from ..quantize.layers import QuantizedLayer, layer_key
from ..quantize.quality import Likeness
from ..quantize.quantizer import QuantizedNetwork
from ..quantize.read import read_qdq
from ..runners.torch_network import exact_math
from ..sqnr import LEAST_SQNR_DB
from ..train.qat.layer import QatLayer

#: Points of top-1 that a network trained on labels may lose; with more it has lost its answers.
MOST_DROP = 10.0


def check_finite(source: Path, network: nn.Module) -> None:
    """CheckFailed: training left a number that is none."""
    for name, tensor in network.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckFailed(
                f"{source}: training left {name} with values that are not finite; nothing was "
                "written. Train with a smaller --lr."
            )


def prove_trained(
    source: Path,
    network: RepVGG,
    made: QuantizedNetwork,
    quantized: ModelProto,
    images: NDArray[np.float32],
) -> None:
    """Every layer of ``quantized`` holds the integers and scales that the trained ``network``
    computes with in eval mode, and quantize's own network of them gives its logits on ``images``:
    every bit. ``network`` is on the CPU, in eval mode.

    Raises:
        CheckFailed: something differs.
    """
    found = {layer.name: layer for layer in read_qdq(quantized).layers}
    scales = {layer_key(layer.name): layer.input_scale for layer in made.layers}
    state = Int8State(int8_tensors(made.model, made.layers), scales)
    with exact_math():
        for layer in made.layers:
            module = network.get_submodule(layer_key(layer.name))
            if layer.name not in found or not _holds(found[layer.name], layer, module):
                raise CheckFailed(
                    f"{source}: the int8 model does not hold the integers and scales of "
                    f"{layer.name} that were trained; nothing was written, please report this."
                )
        samples = torch.from_numpy(images)
        fake = fake_quantized(state, strides=network.spec.strides)
        same = torch.equal(network(samples), fake(samples))
    if not same:
        raise CheckFailed(
            f"{source}: the int8 model does not compute what was trained; nothing was written, "
            "please report this."
        )


def _holds(found: QuantizedLayer, made: QuantizedLayer, module: nn.Module) -> bool:
    """Biases are in the float type of the model, so that those are held against ``made`` alone."""
    assert isinstance(module, QatLayer)
    scale, weight, bias = module.rounded()
    return (
        found.input_scale == float(scale)
        and np.array_equal(found.dequantized(), weight.numpy())
        and np.array_equal(found.weight_scales, made.weight_scales)
        and (made.bias is None) == (bias is None)
        and (made.bias is None or bias is None or np.array_equal(made.bias, bias.numpy()))
    )


def check_quality(source: Path, quality: Likeness, *, distilled: bool) -> None:
    """What training aimed at has to have come of it.

    Raises:
        CheckFailed: far from the float network, or, of one trained on labels, far fewer right
            answers.
    """
    if distilled and not quality.sqnr_db >= LEAST_SQNR_DB:
        lost = f"its outputs have an SQNR of {quality.sqnr_db:.1f} dB, less than {LEAST_SQNR_DB:g}"
    elif not distilled and quality.top1_drop is not None and quality.top1_drop > MOST_DROP:
        lost = f"top-1 falls by {quality.top1_drop:.1f} points, more than {MOST_DROP:g}"
    else:
        return
    raise CheckFailed(
        f"{source}: trained for int8, {lost}; nothing was written. Train with a smaller --lr, or "
        "for more epochs."
    )
