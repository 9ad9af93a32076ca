"""bench: the networks that are measured, and how runtimes get at them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..bench.record import Subject
from ..errors import UserError
from ..export.graph import BF16_OPSET, DEFAULT_OPSET, to_onnx
from ..export.reference import reference_onnx
from ..files import sha256_file
from ..models.network import RepVGG
from ..models.reference import reference
from ..reparam.graph.files import data_files_of
from ..runners.onnx_info import OnnxInfo, read_onnx_info
from ..sidecar import check_bytes, lineage
from .image_size import default_image_size
from .weights import TORCH_DTYPE, WeightsFile

RAW, FOLDED, FUSED = "unfused", "unfused, conv-BN folded", "fused"
KINDS = {RAW: "unfused", FOLDED: "folded", FUSED: "fused"}

Size = tuple[int, int]


@dataclass(frozen=True)
class Entrant:
    """A network that enters contests, on images of ``channels`` and the subject's size.

    Entrants of one ``origin`` ought to give the same outputs. ``network`` is in float32, whatever
    the subject's precision, and None where there is a file alone; ``graph`` gives the ONNX model,
    and is None for an engine. ``batch`` is the only batch size that it takes, None: any.
    ``channels`` are those of the images.
    """

    subject: Subject
    origin: str
    channels: int
    network: nn.Module | None = None
    graph: Callable[[], Path | bytes] | None = None
    batch: int | None = None

    @property
    def label(self) -> str:
        return self.subject.label

    def module(self) -> nn.Module:
        """A copy of the network in its precision, on the CPU."""
        assert self.network is not None
        return copy.deepcopy(self.network).to(TORCH_DTYPE[self.subject.precision]).eval()

    def images(self, batch: int, seed: int) -> NDArray[np.float32]:
        """Seeded noise; the first images are the same for every batch size. [N, C, H, W]

        Raises:
            UserError: the network takes another batch size alone.
        """
        if self.batch not in (None, batch):
            raise UserError(f"{self.label}: takes batches of {self.batch} images alone.")
        shape = (batch, self.channels, *self.subject.image_size)
        return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def in_precision(label: str, precision: str) -> str:
    """``fused``, and ``fused, fp16``: fp32 goes without saying."""
    return label if precision == "fp32" else f"{label}, {precision}"


def network_entrant(
    network: RepVGG, subject: Subject, origin: str, file: Path | None = None
) -> Entrant:
    """A RepVGG in torch. ONNX runtimes get ``file``, or None: a graph written from it here."""

    def graph() -> Path | bytes:
        precision = subject.precision
        opset = BF16_OPSET if precision == "bf16" else DEFAULT_OPSET
        model = to_onnx(network, subject.image_size, precision=precision, opset=opset)
        return bytes(model.SerializeToString())

    channels = network.spec.in_channels
    return Entrant(subject, origin, channels, network, graph if file is None else lambda: file)


def reference_entrants(
    names: Sequence[str], precisions: Sequence[str], size: Size
) -> list[Entrant]:
    """Networks to hold a RepVGG against, random weights, at images of three channels."""
    return [_reference(name, precision, size) for name in names for precision in precisions]


def _reference(name: str, precision: str, size: Size) -> Entrant:
    def graph() -> bytes:
        return bytes(reference_onnx(name, size, precision=precision).SerializeToString())

    network = reference(name)
    subject = Subject(
        in_precision(name, precision),
        "reference",
        precision,
        size,
        bytes=weight_bytes(network, precision),
    )
    return Entrant(subject, f"reference {name}", 3, network, graph)


def weights_entrant(weights: WeightsFile, size: Size | None, precision: str) -> Entrant:
    """A checkpoint or fused weights that the user names, in the form that they are in."""
    held = weights.network
    network, path = held.build(), weights.path
    subject = Subject(
        in_precision(str(path), precision),
        "unfused" if held.form == "train" else "fused",
        precision,
        size or default_image_size(path, held.spec),
        str(path),
        sha256_file(path),
        weight_bytes(network, precision),
    )
    return network_entrant(network, subject, find_origin(path))


def onnx_entrant(path: Path, label: str) -> Entrant:
    """An ONNX model, at the image size that it takes.

    Raises:
        UserError: not one image in and one output, or it is not what its sidecar describes.
    """
    check_bytes(path)
    info: OnnxInfo = read_onnx_info(path)
    size = path.stat().st_size + sum(file.stat().st_size for file in data_files_of(path))
    subject = Subject(
        label,
        "onnx",
        "int8" if info.quantized else info.precision,
        (info.height, info.width),
        str(path),
        sha256_file(path),
        size,
    )
    origin = find_origin(path)
    return Entrant(subject, origin, info.channels, graph=lambda: path, batch=info.batch)


def find_origin(path: Path) -> str:
    """What the file was made from, as the sidecars say: the SHA-256 of the checkpoint."""
    sources = lineage(path)
    return sources[-1].sha256 if sources else sha256_file(path)


def weight_bytes(network: nn.Module, precision: str) -> int:
    """Of the parameters and buffers, stored in that precision."""
    width: int = torch.empty(0, dtype=TORCH_DTYPE[precision]).element_size()
    count: int = sum(tensor.numel() for tensor in network.state_dict().values())
    return count * width


def renamed(entrant: Entrant, kind: str) -> Entrant:
    """The same, as another kind of subject."""
    return replace(entrant, subject=replace(entrant.subject, kind=kind))
