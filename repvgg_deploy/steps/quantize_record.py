"""The sidecar of an int8 model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ..artifacts import QuantizedArtifact, Source
from ..equivalence.truth import TruthCheck
from ..export.simplify import operators
from ..files import sha256_file
from ..quantize.layers import left_in_float
from ..quantize.quality import Likeness
from ..quantize.quantizer import QuantizedNetwork
from .calibration import Calibration
from .fallback import Fallback
from .quantize_options import QuantizeOptions


@dataclass(frozen=True)
class Outcome:
    """What came out: the ``quantized`` model of ``network``, and its ``quality`` on ``samples``.

    ``training`` is what the sidecar says of how it was trained, None: it was not; ``truth`` how it
    compares with recorded outputs, None: there were none.
    """

    network: QuantizedNetwork
    quantized: onnx.ModelProto
    quality: Likeness
    samples: int
    fallback: Fallback | None = None
    training: dict[str, Any] | None = None
    truth: TruthCheck | None = None


def describe(
    source: Path,
    path: Path,
    outcome: Outcome,
    calibration: Calibration,
    options: QuantizeOptions,
    content: bytes,
) -> Callable[[str], QuantizedArtifact]:
    """The sidecar of the model, but for its SHA-256. ``content`` is of the file of integers."""
    quantized, quality = outcome.quantized, outcome.quality
    (image,), output = quantized.graph.input, quantized.graph.output[0]
    beside = source.parent.resolve() == path.parent.resolve()
    bounds = {"min_sqnr_db": options.min_sqnr_db, "max_drop": options.max_drop}
    return lambda sha256: QuantizedArtifact(
        file=path.name,
        sha256=sha256,
        source=Source(source.name if beside else str(source.resolve()), sha256_file(source)),
        precision="int8",
        float_type=options.float_type,
        opset=quantized.opset_import[0].version,
        input_name=image.name,
        output_name=output.name,
        input_shape=[dim.dim_value for dim in image.type.tensor_type.shape.dim],
        operators=operators(quantized),
        method={
            "effort": options.method,
            "seed": options.seed,
            "stem": options.stem,
            "linear": options.linear,
            **(outcome.training or {}),
        },
        calibration=calibration.record(),
        layers=_layers(outcome, options),
        data={path.with_suffix(".safetensors").name: hashlib.sha256(content).hexdigest()},
        proof={
            "passed": True,
            "samples": outcome.samples,
            "sqnr_db": quality.sqnr_db,
            "agreement": quality.agreement,
            "min_agreement": None,
            "top1_drop": quality.top1_drop,
            "held_out": calibration.held_out,
            "integers": None,
            **bounds,
        },
        truth=None if outcome.truth is None else outcome.truth.to_dict(),
    )


def _layers(outcome: Outcome, options: QuantizeOptions) -> list[dict[str, Any]]:
    network, fallback = outcome.network, outcome.fallback
    inputs = {node.name: node.input[0] for node in network.model.graph.node if node.input}
    entries: list[dict[str, Any]] = []
    for layer in network.layers:
        found = network.ranges[inputs[layer.name]]
        measured = network.input_sqnr_db
        entries.append(
            {
                **({"input_sqnr_db": measured[layer.name]} if layer.name in measured else {}),
                "name": layer.name,
                "quantized": True,
                "input_scale": layer.input_scale,
                "reason": "",
                "headroom": found.headroom,
                "direction": found.direction,
                "spread": found.spread,
            }
        )
    left = left_in_float(network.model, stem=options.stem, linear=options.linear)
    if fallback is not None:
        left |= dict.fromkeys(fallback.kept.names, "costs the most in int8")
    return entries + [
        {"name": name, "quantized": False, "input_scale": None, "reason": reason}
        for name, reason in left.items()
    ]
