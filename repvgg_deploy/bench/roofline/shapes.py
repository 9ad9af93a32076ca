"""The type and shape of every tensor of an ONNX graph at a batch size."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from ...errors import UserError
from ...reparam.graph.model import is_standard, subgraphs

#: Constants up to this many numbers may be shapes, which the inference has to read.
_FEW = 1024


@dataclass(frozen=True)
class Tensor:
    """``element`` is a TensorProto.DataType."""

    element: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * item_bytes(self.element)


def item_bytes(element: int) -> int:
    """Of one number."""
    return int(helper.tensor_dtype_to_np_dtype(element).itemsize)


def infer_tensors(
    model: ModelProto, batch: int, image_size: tuple[int, int] | None, name: str
) -> dict[str, Tensor]:
    """By name; the model is left as it is. ``image_size`` (height, width) fills in open sides.

    Raises:
        UserError: an operator that is not ONNX's own or holds a graph, another batch size or other
            sides than the model's fixed ones, more than one input, or a shape that stays open.
    """
    for node in model.graph.node:
        _check_node(node, name)
    light = _without_weights(model)
    _set_input(light.graph, model, (batch, None, *(image_size or (None, None))), name)
    try:
        inferred = onnx.shape_inference.infer_shapes(light, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: its shapes cannot be inferred at batch {batch} ({reason}); export it with "
            "fixed shapes."
        ) from error
    graph = inferred.graph
    found = {tensor.name: Tensor(tensor.data_type, tuple(tensor.dims)) for tensor in
             model.graph.initializer}  # fmt: skip
    for value in (*graph.input, *graph.value_info, *graph.output):
        if (tensor := _known(value)) is not None:
            found.setdefault(value.name, tensor)
    for node in model.graph.node:
        for output in filter(None, node.output):
            if output not in found:
                raise UserError(
                    f"{name}: the shape of {output!r} ({node.op_type}) is not known at batch "
                    f"{batch}; export it with fixed shapes."
                )
    return found


def _check_node(node: NodeProto, name: str) -> None:
    if not is_standard(node.domain):
        raise UserError(
            f"{name}: holds {node.op_type} of {node.domain!r}, whose work is not known; count the "
            "model as exported, of ONNX's own operators."
        )
    if next(subgraphs(node), None) is not None:
        raise UserError(
            f"{name}: holds {node.op_type}, whose work depends on the data; export it without."
        )


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy whose large constants are inputs: the inference copies the model several times."""
    light = ModelProto()
    light.opset_import.extend(model.opset_import)
    light.ir_version = model.ir_version
    graph = light.graph
    graph.name = "shapes"
    graph.node.extend(model.graph.node)
    declared = {value.name for value in model.graph.input}
    graph.input.extend(model.graph.input)
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= _FEW and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in declared:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    for output in model.graph.output:  # its shape may name another batch
        kept = graph.output.add(name=output.name)
        kept.type.tensor_type.elem_type = output.type.tensor_type.elem_type
    return light


def _set_input(
    graph: GraphProto, model: ModelProto, wanted: tuple[int | None, ...], name: str
) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    image = next((value for value in graph.input if [value.name] == inputs), None)
    dims = image.type.tensor_type.shape.dim if image is not None else []
    if len(dims) != 4:
        raise UserError(
            f"{name}: its inputs are {inputs}; only a model of one image input, [N, C, H, W], can "
            "be counted."
        )
    for dim, size in zip(dims, wanted, strict=True):
        if size is None:
            continue
        if dim.HasField("dim_value") and dim.dim_value not in (0, size):
            shape = [d.dim_value or d.dim_param for d in dims]
            raise UserError(
                f"{name}: its input has the shape {shape}, not {list(wanted)} (None: any); give "
                "it the batch and image size that it is made for."
            )
        dim.dim_value = size


def _known(value: ValueInfoProto) -> Tensor | None:
    kind = value.type.tensor_type
    dims = kind.shape.dim
    if (
        not kind.elem_type
        or not kind.HasField("shape")
        or not all(dim.HasField("dim_value") for dim in dims)
    ):
        return None
    return Tensor(kind.elem_type, tuple(dim.dim_value for dim in dims))
