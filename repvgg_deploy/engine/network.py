"""An ONNX model as TensorRT's strongly typed network: what goes in and out, in which shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import api
from .gpu import this_gpu
from .messages import explain
from .module import TensorRT
from .options import DEFAULT_PROFILE, Profile
from .precision import type_names

#: A profile by input name: its smallest, tuned-for and largest shape.
Shapes = dict[str, dict[str, list[int]]]


def parse(
    trt: TensorRT, builder: api.Builder, logger: object, path: Path
) -> api.INetworkDefinition:
    """The network, typed as the ONNX model is.

    Raises:
        UserError: TensorRT's parser refuses the model; with the node and the parser's words.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise UserError(f"{path}: TensorRT cannot read it: {_parser_error(errors)}.")
    return network


def _parser_error(errors: Sequence[api.ParserError]) -> str:
    if not errors:
        return "its parser gave no reason"
    first = errors[0]
    operator, node = first.node_operator(), first.node_name()
    if operator.startswith(("DynamicQuantize", "QLinear", "ConvInteger", "MatMulInteger")):
        return (
            f"{operator} at {node!r} is ONNX Runtime's own way to quantize; quantize it with "
            "QuantizeLinear and DequantizeLinear nodes (docs/engines.md)"
        )
    place = f"at the {operator} node {node!r}, " if operator else ""
    return place + explain(first.desc(), this_gpu())


def describe(trt: TensorRT, tensors: Sequence[api.ITensor]) -> list[dict[str, Any]]:
    """Name, dtype and shape of inputs or outputs; -1 where a dimension is dynamic."""
    names = type_names(trt)
    return [
        {
            "name": tensor.name,
            "dtype": names.get(tensor.dtype, str(tensor.dtype)),
            "shape": [int(size) for size in tensor.shape],
        }
        for tensor in tensors
    ]


def profile_shapes(
    path: Path, inputs: Sequence[dict[str, Any]], profiles: Sequence[Profile]
) -> list[Shapes]:
    """Each profile as shapes of every input; a model of fixed shapes has the one it is made for.

    Raises:
        UserError: an input that is dynamic in another dimension than the batch, or profiles for a
            model whose batch is fixed.
    """
    for tensor in inputs:
        if -1 in tensor["shape"][1:]:
            raise UserError(
                f"{path}: input {tensor['name']!r} has the shape {tensor['shape']}: only the "
                "batch, the first dimension, may be dynamic (-1); fix the others when you export "
                "the model."
            )
    if all(-1 not in tensor["shape"] for tensor in inputs):
        if profiles:
            shapes = " and ".join(str(tensor["shape"]) for tensor in inputs) or "no input"
            raise UserError(
                f"{path}: --profile has no effect: the model takes {shapes} and nothing else; "
                "leave it out, or export the model with a dynamic batch."
            )
        return [{t["name"]: dict.fromkeys(("min", "opt", "max"), t["shape"]) for t in inputs}]
    return [
        {tensor["name"]: _batches(tensor["shape"], profile) for tensor in inputs}
        for profile in profiles or (DEFAULT_PROFILE,)
    ]


def _batches(shape: list[int], profile: Profile) -> dict[str, list[int]]:
    sizes = {"min": profile.min, "opt": profile.opt, "max": profile.max}
    return {key: [size if n == -1 else n for n in shape] for key, size in sizes.items()}
