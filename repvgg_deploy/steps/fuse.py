"""fuse: a training checkpoint becomes proven deploy-form weights in the workspace."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..artifacts import FusedArtifact, Source, store
from ..checkpoint.load import is_finite
from ..checkpoint.save import save_state
from ..equivalence.blocks import prove_blocks
from ..equivalence.proof import Proof, prove_fusion
from ..errors import CheckFailed
from ..files import whole_file
from ..models.build import build
from ..models.zoo import describe
from ..reparam.blocks import below
from ..reparam.state_dict import fold_block, fuse_in_place
from ..runners.torch_network import pick_device
from ..workspace import ModelFolder, Workspace
from .weights import Network, Reading, WeightsFile, proof_samples, read_weights, require_blocks

Format = Literal["theirs", "ours"]


@dataclass(frozen=True)
class BlockCount:
    """Blocks of one kind. ``with_se`` of them have a squeeze-excitation."""

    family: str
    block: str
    count: int
    eps: float
    with_se: int
    note: str


@dataclass(frozen=True)
class FuseResult:
    """What fuse made. ``dropped`` names the tensors that only training needs."""

    folder: ModelFolder
    artifact: FusedArtifact
    weights: WeightsFile
    blocks: list[BlockCount]
    dropped: list[str]
    proof: Proof | None
    files: list[Path]


def fuse_checkpoint(
    path: Path,
    workspace: Workspace,
    *,
    reading: Reading,
    name: str | None = None,
    origin: str | None = None,
    form: Format = "theirs",
    pth: bool = False,
    prove: bool = True,
    device: str = "auto",
    images: Path | None = None,
) -> FuseResult:
    """Fuse a checkpoint, prove it, and make it the workspace's current model.

    ``name`` defaults to the checkpoint's file name without its ending; ``origin`` says where the
    file came from, if not from ``path``. The keys are those of the code base's own deploy form, or
    with ``form`` ours the official ones of a whole RepVGG. With ``pth`` the weights are written for
    torch.load as well; MegEngine's come back as a pickle too. The proof of a whole network runs on
    ``images`` (see load_samples), else on made-up inputs of PROOF_SIZE pixels.

    Raises:
        UserError: the checkpoint or the workspace cannot be used.
        CheckFailed: the fused weights are not the training network; nothing is written.
    """
    weights = read_weights(path, reading)
    require_blocks(weights)
    checkpoint = weights.checkpoint
    whole = weights.network if form == "ours" else weights.whole
    blocks = count_blocks(weights)
    state = dict(checkpoint.state) if prove else checkpoint.state
    dropped = _drop_training_only(state, weights)
    fuse_in_place(state, weights.blocks, reading.eps, overwrite=not prove)
    if checkpoint.kind == "numpy pickle":
        _shape_biases_as_megengine(state, weights)
    _check_overflow(state, weights)
    folder = workspace.claim(path.stem if name is None else name, checkpoint.sha256)
    proof = _prove(weights, state, images, device) if prove and weights.blocks else None
    if form == "ours" and whole is not None:
        state = {whole.layout.our_key(key): tensor for key, tensor in state.items()}

    files = _write_copies(folder, state, pth, checkpoint.kind == "numpy pickle")
    fused = {key: tensor.contiguous() for key, tensor in state.items()}
    artifact = store(
        folder.fused,
        lambda temporary: save_state(temporary, fused, ".safetensors"),
        lambda sha256: FusedArtifact(
            file=folder.fused.name,
            sha256=sha256,
            source=Source(origin or str(path.resolve()), checkpoint.sha256),
            source_form=weights.form,
            family=", ".join(dict.fromkeys(block.family for block in blocks)),
            architecture=_describe(weights, blocks),
            reading=reading.to_dict(),
            spec=None if whole is None else whole.spec.to_dict(),
            proof=None if proof is None else proof.to_dict(),
        ),
    )
    workspace.set_current(folder)
    return FuseResult(folder, artifact, weights, blocks, dropped, proof, [folder.fused, *files])


def count_blocks(weights: WeightsFile) -> list[BlockCount]:
    """The blocks of a file by kind."""
    state = weights.checkpoint.state
    se: Counter[tuple[str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    known = {}
    for block in weights.blocks:
        kind = (block.family.family, block.family.block)
        counts[kind] += 1
        known[kind] = block
        tails = tuple(below(block.path, f"{tail}.") for tail in block.family.tail)
        se[kind] += any(key.startswith(tails) for key in state) if tails else False
    return [
        BlockCount(*kind, count, known[kind].eps(weights.reading.eps), se[kind],
                   known[kind].family.note)
        for kind, count in counts.items()
    ]  # fmt: skip


def _describe(weights: WeightsFile, blocks: list[BlockCount]) -> str:
    if weights.whole is not None:
        return describe(weights.whole.spec)
    counted = ", ".join(f"{b.count} {b.block} ({b.family})" for b in blocks)
    return counted or "blocks that are fused already"


def _drop_training_only(state: dict[str, Tensor], weights: WeightsFile) -> list[str]:
    patterns = {b.family.training_only for b in weights.blocks if b.family.training_only}
    dropped = [key for key in state if any(re.search(pattern, key) for pattern in patterns)]
    for key in dropped:
        del state[key]
    return dropped


def _shape_biases_as_megengine(state: dict[str, Tensor], weights: WeightsFile) -> None:
    """MegEngine's convolutions have biases [1, C, 1, 1]."""
    for block in weights.blocks:
        _, key = block.fused_keys
        state[key] = state[key].reshape(1, -1, 1, 1)


def _check_overflow(state: Mapping[str, Tensor], weights: WeightsFile) -> None:
    """Fused tensors are finite, and all of a whole network's are in float32, which it runs in."""
    fused = {key for block in weights.blocks for key in block.fused_keys}
    for key, tensor in state.items():
        wide = weights.whole is not None and tensor.dtype == torch.float64
        if (key in fused or wide) and not is_finite(tensor.float()):
            raise CheckFailed(
                f"{weights.path}: the fused {key} does not fit into float32, although every weight "
                "of the checkpoint does; its batch-norm statistics are out of all proportion."
            )


def _prove(
    weights: WeightsFile, fused: Mapping[str, Tensor], images: Path | None, device: str
) -> Proof:
    target = pick_device(device)
    if weights.whole is None:
        state, eps = weights.checkpoint.state, weights.reading.eps
        proof = prove_blocks(state, fused, weights.blocks, target, eps)
    else:
        proof = _prove_network(weights, weights.whole, fused, images, target)
    if not proof.passed:
        more = f" (and {len(proof.failures) - 1} more)" if len(proof.failures) > 1 else ""
        raise CheckFailed(
            f"{weights.path}: the fused network is not the training network: "
            f"{proof.failures[0]}{more}; nothing was written, please report this."
        )
    return proof


def _prove_network(
    weights: WeightsFile,
    whole: Network,
    fused: Mapping[str, Tensor],
    images: Path | None,
    device: torch.device,
) -> Proof:
    samples = proof_samples(whole.spec, images)
    blocks = {whole.layout.our_key(f"{b.path}.").rstrip("."): b for b in weights.blocks}

    def fold(name: str) -> tuple[Tensor, Tensor]:
        block, state = blocks[name], weights.checkpoint.state
        return fold_block(state, block, whole.spec.eps, torch.float64)

    ours = {whole.layout.our_key(key): tensor for key, tensor in fused.items()}
    return prove_fusion(whole.build(), build(ours, whole.spec, "deploy"), samples, device, fold)


def _write_copies(
    folder: ModelFolder, state: Mapping[str, Tensor], pth: bool, megengine: bool
) -> list[Path]:
    """The same weights for torch.load and for MegEngine."""
    paths = [folder.fused_pth] * pth + [folder.fused_pkl] * megengine
    for path in paths:
        with whole_file(path) as temporary:
            save_state(temporary, state, path.suffix)
    return paths
