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

from ..errors import CheckFailed
from ..models.network import RepVGG
from ..quantize.fake import Int8State, fake_quantized, int8_tensors
from ..quantize.layers import QuantizedLayer, layer_key
from ..quantize.quality import Likeness
from ..quantize.quantizer import QuantizedNetwork
from ..quantize.read import read_qdq
from ..runners.torch_network import exact_math

#: Decibel against the float network, which is what distillation makes large.
LEAST_SQNR_DB = 15.0
#: Points of top-1 that a network trained on labels may lose; with more it has lost its answers.
MOST_DROP = 10.0


def prove_trained(
    source: Path,
    network: RepVGG,
    made: QuantizedNetwork,
    quantized: ModelProto,
    images: NDArray[np.float32],
) -> None:
    """The integers and scales of ``quantized`` are those of ``made``, and those compute what the
    trained ``network`` does in eval mode: its logits on ``images``, every bit. Moves ``network`` to
    the CPU.

    Raises:
        CheckFailed: something differs, or is not finite.
    """
    network.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    tensors = int8_tensors(made.model, made.layers)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckFailed(
                f"{source}: training left {name} with values that are not finite; nothing was "
                "written. Train with a smaller --lr."
            )
    found = {layer.name: layer for layer in read_qdq(quantized).layers}
    for layer in made.layers:
        if not _same(layer, found.get(layer.name)):
            raise CheckFailed(
                f"{source}: the int8 model does not hold the integers and scales of {layer.name} "
                "that were trained; nothing was written, please report this."
            )
    scales = {layer_key(layer.name): layer.input_scale for layer in made.layers}
    with exact_math():
        samples = torch.from_numpy(images)
        same = torch.equal(network(samples), fake_quantized(Int8State(tensors, scales))(samples))
    if not same:
        raise CheckFailed(
            f"{source}: the int8 model does not compute what was trained; nothing was written, "
            "please report this."
        )


def _same(layer: QuantizedLayer, found: QuantizedLayer | None) -> bool:
    return (
        found is not None
        and found.input_scale == layer.input_scale
        and np.array_equal(found.weight, layer.weight)
        and np.array_equal(found.weight_scales, layer.weight_scales)
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
