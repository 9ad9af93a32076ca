"""verify, of an int8 ONNX model against weights: integer by integer, beside its fake-quantized
network.

A float model is judged by its distance to the truth. Of an int8 model that says how much was lost,
not whether it is what was meant; its integers say that, for they are meant to be equal.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from ..equivalence.compare import compare
from ..errors import UserError
from ..files import sha256_file
from ..quantize.fake import Int8State, dequantized, fake_quantized, read_int8
from ..quantize.integers import FollowedRun, follow, run_with_integers
from ..quantize.layers import layer_key
from ..quantize.quality import likeness
from ..quantize.read import QdqModel, read_qdq
from ..reparam.graph.files import load_model, read_proto
from ..runners.onnx_info import OnnxInfo
from ..runners.protocol import run
from ..runners.torch_network import TorchRunner, exact_math
from ..sidecar import lineage, load_sidecar
from .against_weights import check_channels, pick_samples
from .int8_proof import IntegerProof, LayerIntegers
from .quantize_options import TRAINED
from .verdict import Verdict
from .weights import TORCH_DTYPE, WeightsFile


def is_quantized(model: Path) -> bool:
    """Whether it has Q/DQ nodes."""
    return any(node.op_type == "QuantizeLinear" for node in read_proto(model).graph.node)


def integers_file(model: Path) -> Path:
    """``int8.safetensors`` of ``int8.onnx``; UserError where there is none."""
    path = model.with_suffix(".safetensors")
    if not path.exists():
        raise UserError(
            f"{model}: is quantized, and {path.name}, which quantize writes beside it, is not "
            "there; its integers can be held against that alone."
        )
    return path


def verify_int8(
    reference: WeightsFile, candidate: OnnxInfo, device: torch.device, images: Path | None
) -> Verdict:
    """Compare weights, scales and biases, then what the model computes.

    Raises:
        UserError: a file that cannot be used, or images that the model does not take.
    """
    path = candidate.path
    check_channels(reference.network, reference.path, candidate.channels, path)
    state = read_int8(integers_file(path))
    model = load_model(path)
    changed = foreign(reference.path, path) or changed_tensors(model, state, candidate.precision)
    trained = is_trained(path)
    proof = IntegerProof(tuple(changed), len(state.scales), candidate.precision, trained=trained)
    if changed:  # there is no point in running it
        return Verdict(reference.path, path, None, None, str(device), integers=proof)
    image = (candidate.channels, candidate.height, candidate.width)
    samples, batch = pick_samples(path, image, candidate.batch or 1, candidate.batch, images)
    own = run_with_integers(path, model, candidate.input, samples, batch)
    dtype, strides = TORCH_DTYPE[candidate.precision], reference.network.spec.strides
    with exact_math():
        truth = follow(fake_quantized(state, torch.float64, strides), samples, own, device)
        torch_run = follow(fake_quantized(state, dtype, strides), samples, own, device)
        whole = run(TorchRunner(fake_quantized(state, dtype, strides), device), samples)
        plain = run(TorchRunner(dequantized(state, strides=strides), device), samples)
        floats = run(TorchRunner(reference.network.build(), device), samples)
    logits = compare("logits", truth.logits, torch_run.logits, own.logits, candidate.precision)
    proof = IntegerProof(
        (),
        len(state.scales),
        candidate.precision,
        _compare_integers(torch_run, own),
        network=likeness(own.logits, whole),
        weights=likeness(plain, floats),
        reference=likeness(own.logits, floats),
        trained=trained,
    )
    return Verdict(reference.path, path, logits, None, str(device), integers=proof)


def is_trained(path: Path) -> bool:
    """Whether the sidecar of an int8 model says that its weights were trained."""
    try:
        return bool(load_sidecar(path)["method"]["effort"] == TRAINED)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def foreign(reference: Path, path: Path) -> list[str]:
    """Whether the sidecars say that ``path`` was made from something else."""
    sources = lineage(path)
    if not sources or sha256_file(reference) in {source.sha256 for source in sources}:
        return []
    return [f"its sidecar says that it was made from another file ({sources[0].path})"]


def changed_tensors(model: ModelProto, state: Int8State, float_type: str) -> list[str]:
    """What a model holds that its fake-quantized network does not, a sentence a tensor."""
    try:
        found = read_qdq(model)
    except UserError as error:
        return [str(error).removesuffix(".")]
    stored = {t.name: t for t in model.graph.initializer}
    changed = _changed_layers(found, state, float_type)
    quantized = {f"{name}.{part}" for name in state.scales for part in _PARTS}
    for name in state.tensors.keys() - quantized:
        if name not in stored:
            changed.append(f"{name} is not in it")
            continue
        found_values = numpy_helper.to_array(stored[name])
        kept_fp32 = float_type == "fp16" and found_values.dtype == np.float32  # Resize's scales
        kind = torch.float32 if kept_fp32 else TORCH_DTYPE[float_type]
        values = state.tensors[name].to(kind).numpy()
        if not np.array_equal(found_values, values):
            changed.append(_sentence(name, found_values, values))
    own = {name for node in model.graph.node if node.op_type in _QDQ for name in node.input}
    own |= state.tensors.keys() | {f"{name}.bias" for name in state.scales}
    changed += [
        f"{name} is in it alone"
        for name, tensor in stored.items()
        if name not in own
        and tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
        and 0 not in tensor.dims  # int8_tensors leaves out those without numbers
    ]
    return sorted(changed)


_QDQ = ("QuantizeLinear", "DequantizeLinear")
_PARTS = ("weight", "weight_scale", "input_scale", "bias")


def _changed_layers(found: QdqModel, state: Int8State, float_type: str) -> list[str]:
    layers = {layer_key(layer.name): layer for layer in found.layers}
    changed = [f"{name} is not quantized in it" for name in state.scales.keys() - layers.keys()]
    changed += [f"{name} is quantized in it alone" for name in layers.keys() - state.scales.keys()]
    for name in state.scales.keys() & layers.keys():
        layer = layers[name]
        arrays = (layer.weight, layer.weight_scales, np.float32(layer.input_scale), layer.bias)
        for part, values in zip(_PARTS, arrays, strict=True):
            meant = state.tensors.get(f"{name}.{part}")
            if meant is None or values is None:
                if (meant is None) != (values is None):
                    changed.append(f"{name}.{part} is in one of the two alone")
                continue
            kept = meant if part != "bias" else meant.to(TORCH_DTYPE[float_type]).float()
            if not np.array_equal(values, kept.numpy()):
                changed.append(_sentence(f"{name}.{part}", np.asarray(values), kept.numpy()))
    return changed


def _sentence(name: str, found: NDArray[np.generic], meant: NDArray[np.generic]) -> str:
    if found.shape != meant.shape:
        return f"{name} is of shape {list(found.shape)} and should be {list(meant.shape)}"
    count = int((found != meant).sum())
    what = "integers" if found.dtype == np.int8 else "numbers"
    return f"{name}: {count:,} of {found.size:,} {what} are not those of the fake-quantized network"


def _compare_integers(torch_run: FollowedRun, own: FollowedRun) -> tuple[LayerIntegers, ...]:
    return tuple(
        LayerIntegers.of(name, torch_run.integers[name], own.integers[name])
        for name in torch_run.integers
    )
