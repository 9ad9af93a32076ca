"""An ONNX model as Triton's ONNX Runtime backend takes it."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, ValueInfoProto

from ...artifacts import OnnxArtifact, QuantizedArtifact
from ...errors import UserError
from ...reparam.graph.external import is_external
from ...reparam.graph.files import read_proto
from ...reparam.graph.model import inner_tensors
from ...sidecar import read_sidecar, sidecar_path
from ...workspace import ModelFolder
from .servable import Servable, Tensor, check_precision, check_shapes, make_tensor, undamaged

_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}


def onnx_files(folder: ModelFolder) -> list[Path]:
    """Those of export, and that of quantize; an int8.onnx without a sidecar is someone else's."""
    int8 = folder.onnx("int8")
    ours = int8.exists() and sidecar_path(int8).exists()
    return [*folder.onnx_files(), *([int8] if ours else [])]


def read_onnx(path: Path) -> OnnxArtifact | QuantizedArtifact:
    """The record of one of them; UserError as :func:`~repvgg_deploy.sidecar.read_sidecar`."""
    if path.stem == "int8":
        return read_sidecar(path, QuantizedArtifact)
    return read_sidecar(path, OnnxArtifact)


def onnx_servable(path: Path, artifact: OnnxArtifact | QuantizedArtifact) -> Servable:
    """Read the tensors from the graph itself; nothing in it is run.

    Raises:
        UserError: no ONNX model, external data, or a model that Triton cannot serve.
    """
    model = read_proto(path)
    graph = model.graph
    if any(is_external(tensor) for tensor in (*graph.initializer, *inner_tensors(model))):
        raise UserError(f"{path}: keeps weights in another file; export it again.")
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]

    def servable() -> Servable:
        return Servable(
            path=path,
            sha256=artifact.sha256,
            precision=check_precision(artifact.precision),
            backend="onnx",
            inputs=tuple(map(_tensor, inputs)),
            outputs=tuple(map(_tensor, graph.output)),
        )

    return check_shapes(undamaged(path, path, servable))


def _tensor(value: ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    shape = [d.dim_value if d.WhichOneof("value") == "dim_value" else -1 for d in dims]
    return make_tensor(value.name, _TYPES.get(tensor.elem_type, tensor.elem_type), shape)
