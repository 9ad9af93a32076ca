"""A checkpoint file: its blocks, and where it is a whole RepVGG, the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..artifacts import FusedArtifact
from ..checkpoint.check import check_values
from ..checkpoint.load import Checkpoint, load_checkpoint
from ..data.samples import load_samples
from ..equivalence.samples import probe_inputs
from ..errors import UserError
from ..models.build import build, check_layout, foreign_keys
from ..models.infer import NotPlain, infer
from ..models.layouts import Layout, recognise
from ..models.network import RepVGG
from ..models.spec import OFFICIAL_EPS, ArchSpec, Form, Strides, strides_text
from ..rebuild import rebuild
from ..reparam.blocks import TrainBlock
from ..reparam.find import find_blocks, pick_families
from .recorded_network import RecordedNetwork, find_recorded

#: Pixels a side of the images that a proof makes up: the smallest power of two at which the last
#: stage of a RepVGG still sees more than one pixel.
PROOF_SIZE = 64
TORCH_DTYPE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Reading:
    """What a state dict does not say about itself, where the user says it.

    ``eps`` of the batch norms and ``family`` (see ``--family``); None: by the family table.
    ``ema``: the moving average or not; None: where there is one. ``strides`` of stages 0 to 4 of a
    whole network; None: as an earlier step recorded them, else the plain ones.
    """

    eps: float | None = None
    family: str | None = None
    ema: bool | None = None
    strides: Strides | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def of(cls, fused: FusedArtifact) -> Reading:
        """How fuse read the checkpoint, with the eps and strides that it settled on.

        Raises:
            UserError: the sidecar does not say so.
        """
        try:
            reading = rebuild(cls, fused.reading, "reading")
            if fused.spec is None:
                return reading
            spec = ArchSpec.from_dict(fused.spec)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{fused.file}: its sidecar does not say how the checkpoint was read ({error}); "
                "fuse it again."
            ) from error
        return replace(reading, eps=spec.eps, strides=spec.strides)


#: Everything by the file and the family table.
BY_ITSELF = Reading()


@dataclass(frozen=True)
class Network:
    """A whole RepVGG: its architecture, and its tensors under the official names."""

    spec: ArchSpec
    form: Form
    layout: Layout
    state: Mapping[str, Tensor]

    def build(self, dtype: torch.dtype = torch.float32) -> RepVGG:
        """The network in its own form."""
        return build(self.state, self.spec, self.form, dtype)


@dataclass(frozen=True)
class WeightsFile:
    """A checked checkpoint. ``left`` maps paths of blocks that stay as they are to the reason.

    ``whole`` is None where the file is not one RepVGG network; ``partial`` says why.
    ``holds_fused``: it has blocks in deploy form, and all that look so are.
    ``recorded`` is what an earlier step wrote down about it, None where there was none.
    """

    checkpoint: Checkpoint
    reading: Reading
    blocks: list[TrainBlock]
    left: dict[str, str]
    whole: Network | None
    partial: str
    holds_fused: bool
    recorded: RecordedNetwork | None = None

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def form(self) -> Form:
        """``deploy`` where nothing is left to fuse."""
        return "train" if self.blocks else "deploy"

    @property
    def network(self) -> Network:
        """The whole network; UserError where the file does not hold one."""
        if self.whole is None:
            raise UserError(f"{self.path}: {self.partial}")
        return self.whole


def read_weights(path: Path, reading: Reading = BY_ITSELF) -> WeightsFile:
    """Read and check a checkpoint of any family, in training or deploy form.

    What an earlier step recorded about the file is the truth: nothing of it is inferred again.

    Raises:
        UserError: one sentence that names the file and what is wrong with it.
    """
    checkpoint = _without_prefix(load_checkpoint(path, reading.ema))
    recorded = find_recorded(path)
    try:
        found = find_blocks(
            checkpoint.state,
            pick_families(reading.family),
            asked=reading.family is not None,
            eps_known=reading.eps is not None,
            megengine=checkpoint.kind == "numpy pickle",
        )
        whole, partial = _whole_network(checkpoint.state, found.blocks, reading, recorded)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    state = checkpoint.state
    blocks = found.blocks if whole is None else _with_identities(found.blocks, whole)
    used = list(state) if whole else [key for block in blocks for key in block.keys(state)]
    check_values(state, used, path)
    fused = bool(found.deployed)
    return WeightsFile(checkpoint, reading, blocks, found.left, whole, partial, fused, recorded)


def _without_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """A whole network without what precedes every key, as ``model.`` in Lightning's checkpoints."""
    state, prefix = checkpoint.state, ""
    while state and recognise(state) is None:
        first = f"{next(iter(state)).partition('.')[0]}."
        if not all(key.startswith(first) and key != first for key in state):
            return checkpoint
        prefix += first
        state = {key.removeprefix(first): tensor for key, tensor in state.items()}
    if not prefix:
        return checkpoint
    return replace(checkpoint, state=state, wrapper=f"{checkpoint.wrapper}, prefix {prefix}")


def _with_identities(blocks: list[TrainBlock], whole: Network) -> list[TrainBlock]:
    """Whether a block has an identity without tensors is not in its shapes where it is grouped; in
    a whole network its stride and the channels before it are known, so there it is."""
    specs = {spec.name: spec for spec in whole.spec.blocks}
    names = {block.path: whole.layout.our_key(f"{block.path}.").rstrip(".") for block in blocks}
    return [block.with_identity(specs[names[block.path]].has_identity) for block in blocks]


def _whole_network(
    state: Mapping[str, Tensor],
    blocks: list[TrainBlock],
    reading: Reading,
    recorded: RecordedNetwork | None,
) -> tuple[Network | None, str]:
    """The network, or why there is none; UserError where it contradicts what was said of it."""
    if recorded is not None and recorded.spec is None:
        whole, partial = None, recorded.not_whole
    else:
        known = None if recorded is None or recorded.spec is None else recorded.spec.strides
        strides = reading.strides or known
        whole, partial = _infer_network(state, blocks, replace(reading, strides=strides))
    if whole is None and reading.strides is not None:
        raise UserError(f"--strides {strides_text(reading.strides, ',')} has no effect: {partial}")
    if whole is None or recorded is None or recorded.spec is None:
        return whole, partial
    return _checked(whole, recorded.spec, recorded.by), ""


def _checked(whole: Network, recorded: ArchSpec, by: Path) -> Network:
    """The network as recorded; UserError where the file or an option says otherwise."""
    found = whole.spec
    if whole.form == "deploy":  # it shows neither
        found = replace(found, eps=recorded.eps, block=recorded.block)
    found = replace(found, aux_stages=recorded.aux_stages)
    for name, ours, theirs in (
        ("--strides", strides_text(found.strides, ","), strides_text(recorded.strides, ",")),
        ("--eps", f"{found.eps:g}", f"{recorded.eps:g}"),
    ):
        if ours != theirs:
            raise UserError(f"{name} {ours}: {by} records {theirs}; leave out {name}.")
    if found != recorded:
        raise UserError(f"is not the network that {by} describes; run the step that made it again.")
    return replace(whole, spec=recorded if whole.form == "deploy" else whole.spec)


def _infer_network(
    state: Mapping[str, Tensor], blocks: list[TrainBlock], reading: Reading
) -> tuple[Network | None, str]:
    recognised = recognise(state)
    if recognised is None:
        return None, (
            "holds blocks but no whole RepVGG classification network, so this step has no network "
            "to build; use your own model code with the fused weights, or export the training form "
            "to ONNX and fuse that."
        )
    layout, ours = recognised
    eps = next((block.eps(reading.eps) for block in blocks), reading.eps or OFFICIAL_EPS)
    try:
        spec, form = infer(ours, eps, reading.strides)
    except NotPlain as error:
        return None, str(error)
    if foreign := foreign_keys(ours, spec, form):
        more = f" (and {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        return None, (
            f"{foreign[0]!r}{more} belongs to no part of a plain {spec.family} network, so this "
            "step cannot build it; use your own model code with the fused weights."
        )
    strangers = {block.family.family for block in blocks} - {"qarepvgg"}
    if spec.block == "qarepvgg" and strangers:
        return None, (
            f"its blocks are read as those of {min(strangers)}, of which this step has no network; "
            "leave out --family, or use your own model code with the fused weights."
        )
    check_layout(ours, spec, form)
    if form == "train" and len(blocks) < len(spec.blocks):
        return None, (
            f"only {len(blocks)} of its {len(spec.blocks)} blocks can be fused, so this step has "
            "no network to build; repvgg-deploy inspect names the others and why."
        )
    return Network(spec, form, layout, ours), ""


def require_blocks(weights: WeightsFile) -> None:
    """Refuse a file that holds no block, fused or not.

    Raises:
        UserError: says what was looked for, and what came nearest.
    """
    if not weights.blocks and not weights.holds_fused:
        raise UserError(f"{weights.path}: {why_no_blocks(weights)}")


def why_no_blocks(weights: WeightsFile) -> str:
    """What was looked for in vain, and what came nearest."""
    asked = weights.reading.family
    nearest = ""
    if weights.left:
        path, reason = next(iter(weights.left.items()))
        more = f" (and {len(weights.left) - 1} more)" if len(weights.left) > 1 else ""
        where = f"block {path}" if path else "the root"
        nearest = f" Nearest: {where}{more}: {reason.rstrip('.')}."
    if asked is not None:
        return f"no blocks of {asked} found; leave out --family or name another.{nearest}"
    if nearest:
        return f"no known block can be fused.{nearest}"
    seen = ", ".join(map(repr, list(weights.checkpoint.state)[:3]))
    return (
        f"no re-parameterizable blocks found (keys start with {seen}); docs/families.md lists the "
        "code bases whose blocks fuse finds, and a model of any other code base can be fused "
        "through its ONNX file."
    )


def proof_samples(
    spec: ArchSpec, images: Path | None, size: tuple[int, int] = (PROOF_SIZE, PROOF_SIZE)
) -> NDArray[np.float32]:
    """Inputs for a proof: the user's images where given, else seeded noise and the extremes."""
    if images is not None:
        return load_samples(images, spec.in_channels)
    return probe_inputs(spec.in_channels, *size)
