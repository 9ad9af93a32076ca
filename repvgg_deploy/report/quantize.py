"""What quantize did, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..sqnr import EXACT, decibel_text, from_json, sqnr_text
from .text import count_text, table
from .truth import truth_line

if TYPE_CHECKING:
    from ..quantize.sensitivity import Sensitivity
    from ..steps.fallback import Fallback
    from ..steps.quantize import QuantizeResult

_HEADER = ("layer", "input scale", "room", "channels differ", "direction", "input SQNR dB", "")


#: Of the layers that stay in int8 this many are shown.
_RANKED = 5


def quantize_lines(result: QuantizeResult) -> list[str]:
    """What was proved and measured."""
    lines = []
    if result.equalized is not None:
        spreads = [found.spread for found in result.network.ranges.values() if found.spread]
        lines.append(
            f"equalized: the ranges of a tensor's channels differed up to {max(spreads):.3g}-fold; "
            f"still the same network ({result.equalized.ratio:.2g} times float32's own rounding "
            f"error, limit {result.equalized.limit:g})"
        )
    if result.fallback is not None:
        lines += _fallback_lines(result.fallback)
    quality = result.quality
    samples = count_text(result.artifact.proof["samples"], "image")
    others = "other than those it was calibrated with"
    where = f"{samples} {others}" if result.artifact.proof["held_out"] else f"the same {samples}"
    parts = [sqnr_text(quality.sqnr_db)]
    if quality.agreement is not None:
        parts.append(f"{quality.agreement:.2%} of the answers as in float")
    if quality.top1_drop is not None:
        parts.append(f"top-1 {0 - quality.top1_drop:+.2f} points")
    lines.append(f"on {where}: {', '.join(parts)}")
    integers = result.artifact.proof["integers"]
    lines.append(
        f"integers: {integers['differing']} of {integers['values']} differ between ONNX "
        f"Runtime and torch, by {count_text(integers['largest'], 'step')} at most"
    )
    if result.truth is not None:
        lines.append(truth_line(result.truth))
    return lines


def _fallback_lines(fallback: Fallback) -> list[str]:
    """The ranking, what stays in float, and what that costs."""
    by_name = {layer.name: layer for layer in fallback.ranking}
    kept = [by_name[name] for name in fallback.kept.names]
    others = [layer for layer in fallback.ranking if layer not in kept][:_RANKED]
    rows = [[layer.name, _gain(layer), "kept"] for layer in kept]
    rows += [[layer.name, _gain(layer), ""] for layer in others]
    lines = table(("most harmful layers", "dB if it alone is in float", ""), rows).splitlines()
    if not fallback.kept.names:
        return [*lines, "the bounds hold with every layer in int8"]
    reached = fallback.kept.steps[-1].sqnr_db
    count = count_text(len(fallback.kept.names), "layer")
    return [*lines, f"{count} kept in float: {sqnr_text(reached)}; {fallback.cost}"]


def _gain(layer: Sensitivity) -> str:
    return "exact" if layer.gained_db == EXACT else f"{layer.gained_db:+.2f}"


def verdict_text(result: QuantizeResult) -> str:
    """The end of quantize's last line."""
    layers = result.artifact.layers
    quantized = sum(bool(layer["quantized"]) for layer in layers)
    return (
        f"{quantized} of {count_text(len(layers), 'layer')} in int8, the rest in "
        f"{result.artifact.float_type}; {result.artifact.method['effort']}"
    )


def explanation(result: QuantizeResult) -> str:
    """Layer by layer."""
    return table(_HEADER, [_row(layer) for layer in result.artifact.layers], left=1)


def _row(layer: dict[str, Any]) -> list[str]:
    def figure(key: str, form: str) -> str:
        value = layer.get(key)
        return "" if value is None else format(value, form)

    return [
        str(layer["name"]),
        figure("input_scale", ".4g"),
        figure("headroom", ".2f"),
        figure("spread", ".3g"),
        figure("direction", "g"),
        decibel_text(from_json(layer["input_sqnr_db"])) if "input_sqnr_db" in layer else "",
        "" if layer["quantized"] else f"in float: {layer['reason']}",
    ]
