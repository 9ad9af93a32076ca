"""bench: before speed is shown, whether the networks that ought to be the same are."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from ..equivalence.compare import compare
from ..equivalence.oracle import ExactGraph, checked_truth, in_rounds
from ..errors import CheckFailed
from ..optional import available
from ..quantize.quality import SAME_INT8_DB, likeness
from ..reparam.graph.files import load_model
from ..runners.onnx_bf16 import widened
from ..runners.onnx_session import OrtSession
from ..runners.protocol import run
from ..runners.torch_network import TorchRunner, exact_math
from .bench_subjects import Entrant
from .weights import TORCH_DTYPE

#: Images of a batch whose outputs are compared.
_COMPARED = 4
#: Times the rounding error that torch makes itself. Wider than a proof's limit of 8: a runtime that
#: convolves by Winograd's algorithm rounds worse (OpenVINO's fp32: up to 11 times on RepVGG-A0),
#: and here the question is only whether it is the same network.
SAME_NETWORK = 64.0
Array = NDArray[np.float64]
Images = NDArray[np.float32]


class Yardstick:
    """What entrants of each origin ought to give, found out when it is first needed.

    The truth is the origin's first torch network in float64, else the ONNX graph in float64; the
    bound is a multiple of the rounding error that torch itself makes in the entrant's precision.
    """

    def __init__(self, entrants: Sequence[Entrant]) -> None:
        self._first: dict[str, Entrant] = {}
        for entrant in entrants:
            if entrant.network is not None:
                self._first.setdefault(entrant.origin, entrant)
        self._known: dict[tuple[object, ...], tuple[Array, Array]] = {}

    def doubt(self, entrant: Entrant, images: Images, output: Array, rounding: str) -> str:
        """Why these outputs, [N, classes], are not what they ought to be; empty where they are.

        ``rounding`` is the precision whose rounding error they may show: an engine may be of tf32.
        """
        few = len(images) if entrant.batch else min(len(images), _COMPARED)
        if rounding == "int8":
            return self._int8_doubt(entrant, images[:few], output[:few])
        if entrant.origin not in self._first and entrant.graph is None:
            return ""  # an engine of unknown origin
        try:
            truth, own = self._reference(entrant, images[:few], rounding)
        except CheckFailed as error:
            return str(error)
        if truth.shape != output[:few].shape:
            return f"gives {output.shape[1:]} logits an image, not {truth.shape[1:]}"
        found = compare(entrant.label, truth, own, output[:few], rounding, SAME_NETWORK)
        return "" if found.passed else found.reason

    def _reference(self, entrant: Entrant, images: Images, rounding: str) -> tuple[Array, Array]:
        """The truth, and the same network in the entrant's own precision."""
        first = self._first.get(entrant.origin)
        named = (entrant.origin,) if first else (entrant.origin, entrant.label)
        key = (*named, rounding, images.shape)
        if key not in self._known:
            network = None if first is None else first.network
            if network is None:
                self._known[key] = _of_graph(entrant, images)
            else:
                self._known[key] = _of_network(network, images, rounding)
        return self._known[key]

    def _int8_doubt(self, entrant: Entrant, images: Images, output: Array) -> str:
        graph = entrant.graph
        if graph is None or available("onnxruntime") is None:
            return ""  # nothing here runs the graph as it stands
        key = (entrant.origin, entrant.label, "int8", images.shape)
        if key not in self._known:
            model = graph()
            assert isinstance(model, Path)
            logits = next(iter(_run_as_it_stands(model, images).values())).astype(np.float64)
            self._known[key] = logits, logits
        found = likeness(output, self._known[key][0])
        if found.sqnr_db >= SAME_INT8_DB:
            return ""
        return f"is {found.sqnr_db:.1f} dB from its graph as it stands, bound {SAME_INT8_DB:g} dB"


def _of_network(network: torch.nn.Module, images: Images, rounding: str) -> tuple[Array, Array]:
    cpu, dtype = torch.device("cpu"), TORCH_DTYPE.get(rounding, torch.float32)
    with exact_math():
        truth = run(TorchRunner(copy.deepcopy(network).double(), cpu), images)
        return truth, run(TorchRunner(copy.deepcopy(network).to(dtype), cpu), images)


def _of_graph(entrant: Entrant, images: Images) -> tuple[Array, Array]:
    """In float64 and as ONNX Runtime runs it; CheckFailed where these two do not agree.

    Without ONNX Runtime the entrant itself has to agree with float64.
    """
    assert entrant.graph is not None
    path = entrant.graph()
    assert isinstance(path, Path)
    model = load_model(path)
    if entrant.subject.precision == "bf16":
        model = widened(model)
    rounds = [{_input(model): images}]
    if available("onnxruntime") is None:
        truth = own = ExactGraph(path, model, rounds).outputs
    else:
        own = in_rounds(OrtSession(path, model.SerializeToString()), rounds)
        truth = checked_truth(path, model, rounds, own).outputs
    ((exact,),), ((rounded,),) = truth.values(), own.values()
    return np.asarray(exact, np.float64), np.asarray(rounded, np.float64)


def _run_as_it_stands(path: Path, images: Images) -> dict[str, NDArray[np.generic]]:
    session = OrtSession(path)
    ((name, _, _),) = session.inputs
    return session.run({name: images})


def _input(model: ModelProto) -> str:
    constants = {tensor.name for tensor in model.graph.initializer}
    return next(str(value.name) for value in model.graph.input if value.name not in constants)
