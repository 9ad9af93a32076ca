"""What the finished engine says of its own layers, by TensorRT's engine inspector.

It needs a GPU, since it asks a loaded engine. Format: the JSON of EngineInspector, TensorRT
developer guide, "Engine Inspector"; what each layer holds differs between versions.
"""

from __future__ import annotations

import json
import re
from typing import Any

from . import api
from .module import TensorRT
from .network import Shapes
from .options import QUANTIZED

#: Types in the inspector's tensor formats, such as "Channel major FP16 format where ...".
_TYPES = (
    ("bf16", r"\bBF16\b|BFloat16"),
    ("fp16", r"\bFP16\b|\bHalf\b"),
    ("fp32", r"\bFP32\b|\bFloat\b"),
    ("fp8", r"\bFP8\b|E4M3"),
    ("int8", r"\bInt8\b|\bINT8\b"),
)


def inspect_layers(trt: TensorRT, engine: api.ICudaEngine, shapes: Shapes) -> list[dict[str, Any]]:
    """The table of a loaded engine, at the shapes that its first profile, ``shapes``, is tuned for.

    Of an engine whose batch is dynamic the inspector names no types ("N/A due to dynamic shapes")
    unless it has a context with all input shapes (IEngineInspector::setExecutionContext).
    """
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context()
    if context is not None:  # None: too little memory
        for name, sizes in shapes.items():
            context.set_input_shape(name, sizes["opt"])
        inspector.execution_context = context
    return inspected_table(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def inspected_table(text: str) -> list[dict[str, Any]]:
    """Every layer, its kind and the types it reads and writes; text that is no JSON gives []."""
    try:
        layers = json.loads(text)["Layers"]
        return [_row(layer) for layer in layers if isinstance(layer, dict)]
    except (ValueError, KeyError, TypeError):
        return []


def inspected_mismatches(rows: list[dict[str, Any]], precision: str) -> list[str]:
    """Convolutions of the engine that read another type than asked for.

    Where the builder fused the network into one opaque layer, or names no types, there is nothing
    to judge. In int8 and fp8 engines other layers may be left in float on purpose.
    """
    read = [row for row in rows if "conv" in row["kind"].lower() and row["inputs"]]
    wrong = [row for row in read if precision not in row["inputs"]]
    if precision in QUANTIZED and len(wrong) < len(read):
        return []
    return [f"{row['name']} reads {', '.join(row['inputs'])}" for row in wrong]


def _row(layer: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": str(layer.get("Name", "")),
        "kind": str(layer.get("ParameterType") or layer.get("LayerType", "")),
        "inputs": _types(layer.get("Inputs")),
        "outputs": _types(layer.get("Outputs")),
        "tactic": str(layer.get("TacticName", "")),
    }


def _types(tensors: object) -> list[str]:
    if not isinstance(tensors, list):
        return []
    formats = [str(t.get("Format/Datatype", "")) for t in tensors if isinstance(t, dict)]
    found = [next((name for name, p in _TYPES if re.search(p, f)), "") for f in formats]
    return [name for name in found if name]
