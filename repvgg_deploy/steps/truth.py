"""Networks of every kind, compared with recorded outputs of the user's own model (--truth)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, TensorProto

from ..equivalence.oracle import Rounds, checked_truth, in_rounds
from ..equivalence.truth import Candidate, TruthCheck, hold_truth, rounding_error
from ..equivalence.truth_file import Truth
from ..errors import UserError
from ..export.graph import INPUT, OUTPUT
from ..reparam.graph.files import load_model, read_proto
from ..runners.onnx_bf16 import widened
from ..runners.onnx_session import Arrays, OrtSession
from ..runners.protocol import run
from ..runners.torch_network import TorchRunner, exact_math
from .against_weights import run_weights
from .weights import Network, WeightsFile

#: So many samples at once, where a network takes any number.
_BATCH = 32

Rounding = Callable[[Arrays], float]


def weights_candidate(path: Path, network: Network, device: torch.device) -> Candidate:
    """A whole network in float32 in torch."""

    def run_network(inputs: Arrays) -> Arrays:
        images = np.asarray(inputs[INPUT])
        channels = network.spec.in_channels
        if images.ndim != 4 or images.shape[1] != channels:
            raise UserError(
                f"{path}: takes images [N, {channels}, height, width], and the recorded input has "
                f"shape {images.shape}."
            )
        if images.shape[2:] == (1, 1):
            raise UserError(
                f"{path}: is given images of one pixel, on which every stride gives the same; "
                "record images of the size that it is used at."
            )
        runner = TorchRunner(network.build(), device)
        with exact_math():
            parts = [
                run(runner, images[start : start + _BATCH].astype(np.float32))
                for start in range(0, len(images), _BATCH)
            ]
        return {OUTPUT: np.concatenate(parts)}

    rounding = _network_rounding(network, "fp32", device)
    return Candidate(path, (INPUT,), (OUTPUT,), "fp32", run_network, rounding)


def hold_weights(weights: WeightsFile, truth: Truth, device: torch.device) -> TruthCheck:
    """A checkpoint or fused weights.

    Raises:
        UserError: they are no whole network, or the recorded arrays do not fit it.
        CheckFailed: the network does not give the recorded outputs.
    """
    return hold_truth(truth, weights_candidate(weights.path, require_whole(weights), device))


def require_whole(weights: WeightsFile) -> Network:
    """The whole network, to run it on recorded inputs; UserError where there is none."""
    if weights.whole is None:
        raise UserError(
            f"{weights.path}: cannot be compared with --truth: {weights.partial} An ONNX export of "
            "the training form can: fuse that with --truth."
        )
    return weights.whole


def hold_graph(
    path: Path,
    truth: Truth,
    *,
    network: Network | None = None,
    model: ModelProto | None = None,
    file: Path | None = None,
) -> TruthCheck:
    """An ONNX model of any inputs and outputs: ``model``, or what is in ``file``.

    Sentences name ``path``, which is the file by default. ``network`` is what the model was made
    from, on which its rounding is measured; None: on the same graph in float64.

    Raises:
        UserError: it cannot be run, or the recorded arrays do not fit it.
        CheckFailed: it does not give the recorded outputs.
    """
    return hold_truth(truth, _graph_candidate(path, network, model, file or path))


def _network_rounding(network: Network, precision: str, device: torch.device) -> Rounding:
    """What rounding to a precision costs this network in torch."""

    def rounding(inputs: Arrays) -> float:
        (images,) = inputs.values()
        exact, own = run_weights(network, precision, device, images.astype(np.float32))
        return rounding_error({OUTPUT: exact}, {OUTPUT: own})

    return rounding


def _graph_candidate(
    path: Path, network: Network | None, model: ModelProto | None, file: Path
) -> Candidate:
    """In ONNX Runtime; arguments are those of :func:`hold_graph`."""
    graph = read_proto(file) if model is None else model
    precision = _graph_precision(graph)
    runnable = None if model is None else model.SerializeToString()
    if precision == "bf16":  # which ONNX Runtime does not run on the CPU
        runnable = widened(load_model(file) if model is None else model).SerializeToString()
    session = OrtSession(file, runnable)

    def run_graph(inputs: Arrays) -> Arrays:
        return _whole(in_rounds(session, _batches(session, inputs, path)))

    def own_rounding(inputs: Arrays) -> float:
        copy = ModelProto()
        copy.CopyFrom(load_model(file) if model is None else model)
        copy = widened(copy) if precision == "bf16" else copy
        batches = _batches(session, inputs, path)
        own = in_rounds(session, batches)
        exact = checked_truth(path, copy, batches, own).outputs
        return rounding_error(_whole(exact), _whole(own))

    rounding: Rounding = own_rounding
    if network is not None:
        rounding = _network_rounding(network, precision, torch.device("cpu"))
    return Candidate(
        path,
        [name for name, _, _ in session.inputs],
        [value.name for value in graph.graph.output],
        precision,
        run_graph,
        rounding,
    )


def _graph_precision(model: ModelProto) -> str:
    """int8 with Q/DQ nodes, else that of the narrowest float weights."""
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "int8"
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    if TensorProto.BFLOAT16 in kinds:
        return "bf16"
    return "fp16" if TensorProto.FLOAT16 in kinds else "fp32"


def _whole(rounds: Rounds) -> Arrays:
    """All samples of each output; of one round its own, which may have no axis of samples."""
    return {n: p[0] if len(p) == 1 else np.concatenate(p) for n, p in rounds.items()}


def _batches(session: OrtSession, inputs: Arrays, path: Path) -> list[Arrays]:
    """All samples at once, or as many at a time as the model takes."""
    fixed = set()
    for name, _, shape in session.inputs:
        given = inputs[name].shape
        wrong = len(given) != len(shape) or any(
            isinstance(want, int) and want != got
            for want, got in zip(shape[1:], given[1:], strict=True)
        )
        if wrong:
            raise UserError(
                f"{path}: its input {name!r} takes {[side or '?' for side in shape]}, and the "
                f"recorded one has shape {list(given)}."
            )
        fixed |= {shape[0]} if shape and isinstance(shape[0], int) else set()
    counts = {len(values) for values in inputs.values()}
    if len(fixed) != 1 or len(counts) != 1:
        return [inputs]
    (size,), (count,) = fixed, counts
    if count % size:
        raise UserError(
            f"{path}: takes {size} samples at once, and {count} were recorded; record a multiple."
        )
    return [
        {name: values[start : start + size] for name, values in inputs.items()}
        for start in range(0, count, size)
    ]
