"""fuse: a training checkpoint becomes a proven plain network in the workspace."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..artifacts import FusedArtifact, Source, store
from ..checkpoint.load import is_finite
from ..equivalence.proof import Proof, prove_fusion
from ..errors import CheckFailed
from ..files import whole_file
from ..models.build import build
from ..models.spec import ArchSpec
from ..models.zoo import describe
from ..reparam.state_dict import fold_block, fuse_in_place
from ..runners.torch_network import pick_device
from ..workspace import ModelFolder, Workspace
from .network import NetworkFile, proof_samples, read_network


@dataclass(frozen=True)
class FuseResult:
    """What fuse made. ``dropped`` names the tensors that only training needs."""

    folder: ModelFolder
    artifact: FusedArtifact
    spec: ArchSpec
    wrapper: str
    blocks: int
    dropped: list[str]
    proof: Proof | None
    files: list[Path]


def fuse_checkpoint(
    path: Path,
    workspace: Workspace,
    *,
    name: str | None = None,
    pth: bool = False,
    prove: bool = True,
    device: str = "auto",
    images: Path | None = None,
) -> FuseResult:
    """Fuse a checkpoint, prove it, and make it the workspace's current model.

    ``name`` defaults to the checkpoint's file name without its ending. With ``pth`` the weights
    are written in the official deploy key names for torch.load as well. An already fused
    checkpoint is taken as it is. The proof runs on ``images`` (see load_samples), else on made-up
    inputs of PROOF_SIZE pixels.

    Raises:
        UserError: the checkpoint or the workspace cannot be used.
        CheckFailed: the fused network is not the training network; nothing is written.
    """
    network = read_network(path)
    checkpoint = network.checkpoint
    state = dict(checkpoint.state) if prove else checkpoint.state
    dropped = [key for key in state if key.split(".", 1)[0].endswith("_aux")]
    for key in dropped:
        del state[key]
    fuse_in_place(state, network.blocks, network.spec.eps, overwrite=not prove)
    fused = {key: value.float().contiguous() for key, value in state.items()}
    _check_overflow(fused, path)
    folder = workspace.claim(path.stem if name is None else name, checkpoint.sha256)

    proof = None
    if prove and network.form == "train":
        samples = proof_samples(network.spec, images)
        proof = _prove(network, fused, samples, pick_device(device))

    files = [folder.fused]
    if pth:
        _save_pth(folder.fused_pth, fused)
        files.append(folder.fused_pth)
    artifact = store(
        folder.fused,
        lambda temporary: _save_safetensors(temporary, fused),
        lambda sha256: FusedArtifact(
            file=folder.fused.name,
            sha256=sha256,
            source=Source(str(path.resolve()), checkpoint.sha256),
            source_form=network.form,
            family=network.spec.family,
            architecture=describe(network.spec),
            spec=network.spec.to_dict(),
            proof=None if proof is None else proof.to_dict(),
        ),
    )
    workspace.set_current(folder)
    return FuseResult(
        folder, artifact, network.spec, checkpoint.wrapper, len(network.spec.blocks), dropped,
        proof, files,
    )  # fmt: skip


def _check_overflow(fused: dict[str, Tensor], path: Path) -> None:
    for key, tensor in fused.items():
        if not is_finite(tensor):
            raise CheckFailed(
                f"{path}: the fused {key} does not fit into float32, although every weight of the "
                "checkpoint does; its batch-norm statistics are out of all proportion."
            )


def _prove(
    network: NetworkFile,
    fused: dict[str, Tensor],
    samples: NDArray[np.float32],
    device: torch.device,
) -> Proof:
    spec, state = network.spec, network.checkpoint.state
    blocks = {block.path: block for block in network.blocks}

    def fold(name: str) -> tuple[Tensor, Tensor]:
        return fold_block(state, blocks[name], spec.eps, torch.float64)

    deploy = build(fused, spec, "deploy")
    proof = prove_fusion(network.build(), deploy, samples, device, fold)
    if not proof.passed:
        more = f" (and {len(proof.failures) - 1} more)" if len(proof.failures) > 1 else ""
        raise CheckFailed(
            f"{network.checkpoint.path}: the fused network is not the training network: "
            f"{proof.failures[0]}{more}; nothing was written, please report this."
        )
    return proof


def _save_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    try:
        save_file(state, path, metadata={"format": "pt"})
    except SafetensorError as error:  # the Rust side puts the errno into the text
        code = re.search(r"(?:os error|code:) (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), str(error)) from error


def _save_pth(path: Path, state: dict[str, Tensor]) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:  # torch's own, raised while it handles the write's error
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
