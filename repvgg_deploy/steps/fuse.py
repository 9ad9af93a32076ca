"""fuse: a training checkpoint becomes proven deploy-form weights in the workspace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..artifacts import FusedArtifact, Source
from ..checkpoint.check import is_finite
from ..checkpoint.save import save_state
from ..equivalence.blocks import prove_blocks
from ..equivalence.proof import Proof, prove_fusion
from ..equivalence.truth import TruthCheck, hold_truth
from ..equivalence.truth_file import Truth
from ..errors import CheckFailed, UserError
from ..models.build import build
from ..reparam.state_dict import fold_block, fuse_in_place
from ..runners.torch_network import pick_device
from ..sidecar import prepare
from ..transaction import transaction
from ..workspace import ModelFolder, Workspace
from .assumptions import Assumptions, find_assumptions
from .carried import check_blocks
from .inventory import BlockCount, architecture, count_blocks, training_only
from .truth import require_whole, weights_candidate
from .weights import Network, Reading, WeightsFile, proof_samples, read_weights, require_blocks

#: No trained weight comes near; float32 ends at 3.4e38.
_OUT_OF_PROPORTION = 1e30
Format = Literal["theirs", "ours"]


@dataclass(frozen=True)
class FuseResult:
    """What fuse made: the files, and what is known of them."""

    folder: ModelFolder
    artifact: FusedArtifact
    weights: WeightsFile
    blocks: list[BlockCount]
    proof: Proof | None
    files: list[Path]
    assumptions: Assumptions
    truth: TruthCheck | None


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
    truth: Truth | None = None,
) -> FuseResult:
    """Fuse a checkpoint, prove it, and make it the workspace's current model.

    ``name`` defaults to the checkpoint's file name without its ending; ``origin`` says where the
    file came from, if not from ``path``. The keys are those of the code base's own deploy form, or
    with ``form`` ours the official ones of a whole RepVGG. With ``pth`` the weights are written for
    torch.load as well; MegEngine's come back as a pickle too; such copies of an earlier run go. The
    proof of a whole network runs on ``images`` (see load_samples), else on made-up inputs of
    PROOF_SIZE pixels. ``truth`` are recorded outputs of the user's own model.

    Raises:
        UserError: the checkpoint or the workspace cannot be used.
        CheckFailed: the fused weights are not the training network, or do not give the recorded
            outputs; nothing is written.
    """
    weights = read_weights(path, reading)
    require_blocks(weights)
    _check_options_matter(weights, images, truth)
    assumptions = find_assumptions(weights)
    checkpoint = weights.checkpoint
    whole = weights.network if form == "ours" else weights.whole
    blocks = count_blocks(weights)
    state = _fold(weights, overwrite=not prove)
    name = path.stem if name is None else name
    folder = workspace.claim(name, checkpoint.sha256)
    with transaction(folder.path) as change:
        proof = _prove(weights, state, images, device) if prove and weights.blocks else None
        held = None if truth is None else _hold(weights, state, truth, device)
        if form == "ours" and whole is not None:
            state = {whole.layout.our_key(key): tensor for key, tensor in state.items()}
        workspace.claim(name, checkpoint.sha256)  # again: another run may have written meanwhile
        paths = [folder.fused_pth] * pth + [folder.fused_pkl] * (checkpoint.kind == "numpy pickle")
        copies = {path: partial(save_state, state=state, suffix=path.suffix) for path in paths}
        fused = {key: tensor.contiguous() for key, tensor in state.items()}
        record = _record(weights, folder, origin, blocks, assumptions, proof, held)
        artifact = prepare(
            change,
            folder.fused,
            lambda temporary: save_state(temporary, fused, ".safetensors"),
            lambda sha256: replace(record, sha256=sha256),
            copies,
        )
        for stale in folder.stale_copies(paths):
            change.remove(stale)
        workspace.set_current(folder, change)
    files = [folder.fused, *paths]
    return FuseResult(folder, artifact, weights, blocks, proof, files, assumptions, held)


def _record(
    weights: WeightsFile,
    folder: ModelFolder,
    origin: str | None,
    blocks: list[BlockCount],
    assumptions: Assumptions,
    proof: Proof | None,
    held: TruthCheck | None,
) -> FusedArtifact:
    """The sidecar but for the hash, which is known when the file is written."""
    checkpoint = weights.checkpoint
    return FusedArtifact(
        file=folder.fused.name,
        sha256="",
        source=Source(origin or str(checkpoint.path.resolve()), checkpoint.sha256),
        source_form=weights.form,
        family=", ".join(dict.fromkeys(block.family for block in blocks)),
        architecture=architecture(weights, blocks),
        reading=weights.reading.to_dict(),
        spec=None if weights.whole is None else weights.whole.spec.to_dict(),
        proof=None if proof is None else proof.to_dict(),
        not_whole=weights.partial,
        assumptions=assumptions.to_dict(),
        truth=None if held is None else held.to_dict(),
    )


def _fold(weights: WeightsFile, overwrite: bool) -> dict[str, Tensor]:
    """The deploy form's tensors, without those that only training needs."""
    state = weights.checkpoint.state
    state = state if overwrite else dict(state)
    for key in training_only(weights):
        del state[key]
    try:
        fuse_in_place(state, weights.blocks, weights.reading.eps, overwrite=overwrite)
    except UserError as error:
        raise UserError(f"{weights.path}: {error}") from error
    if weights.checkpoint.kind == "numpy pickle":
        _shape_biases_as_megengine(state, weights)
    _check_overflow(state, weights)
    return state


def _check_options_matter(weights: WeightsFile, images: Path | None, truth: Truth | None) -> None:
    if truth is not None:
        require_whole(weights)
    if weights.reading.eps is not None and not weights.blocks:
        raise UserError(
            f"{weights.path}: is fused already, no batch norm to fold; leave out --eps."
        )
    if images is None:
        return
    if not weights.blocks:
        raise UserError(f"{weights.path}: is fused already, nothing to prove; leave out --images.")
    if weights.whole is None:
        refuse_images(weights.path)


def refuse_images(path: Path) -> None:
    """UserError: the proof of this file's blocks reads no images."""
    raise UserError(
        f"{path}: holds blocks but no whole RepVGG network, and blocks are proved on noise of "
        "their own; leave out --images."
    )


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
            name, largest = _largest(weights.checkpoint.state)
            if largest > _OUT_OF_PROPORTION:
                cause = f"{name!r} of the checkpoint holds values up to {largest:.2g}"
            else:
                cause = "its batch-norm statistics are out of all proportion"
            raise CheckFailed(
                f"{weights.path}: the fused {key} does not fit into float32: {cause}; use an "
                "earlier checkpoint."
            )


def _largest(state: Mapping[str, Tensor]) -> tuple[str, float]:
    """The tensor with the largest number, and that."""
    sizes = {
        key: float(tensor.abs().max())
        for key, tensor in state.items()
        if tensor.is_floating_point() and tensor.numel()
    }
    key = max(sizes, key=sizes.__getitem__)
    return key, sizes[key]


def _prove(
    weights: WeightsFile, fused: Mapping[str, Tensor], images: Path | None, device: str
) -> Proof:
    """The proof of the fused network, and every weight compared with a second fold."""
    target = pick_device(device)
    if weights.whole is None:
        state, eps = weights.checkpoint.state, weights.reading.eps
        proof = prove_blocks(state, fused, weights.blocks, target, eps)
    else:
        proof = _prove_network(weights, weights.whole, fused, images, target)
    _check_measurable(weights, proof)
    if not proof.passed:
        more = f" (and {len(proof.failures) - 1} more)" if len(proof.failures) > 1 else ""
        raise CheckFailed(
            f"{weights.path}: the fused network is not the training network: "
            f"{proof.failures[0]}{more}; nothing was written, please report this."
        )
    _check_weights(weights, fused)
    return proof


def _check_weights(weights: WeightsFile, fused: Mapping[str, Tensor]) -> None:
    """Outputs are too coarse to tell every weight; a second fold does."""
    check = check_blocks(weights, fused, must_be_exact=True)
    if not check.exact:
        raise CheckFailed(
            f"{weights.path}: {check.reason}; nothing was written, please report this."
        )


def _check_measurable(weights: WeightsFile, proof: Proof) -> None:
    """A training network that overflows float32 by itself is no measure for the fused one."""
    if not proof.unmeasured:
        return
    key, largest = _largest(weights.checkpoint.state)
    raise CheckFailed(
        f"{weights.path}: cannot be proved, since the training network itself overflows float32 at "
        f"{proof.unmeasured} ({key!r} holds values up to {largest:.2g}); nothing was written. "
        "The training diverged or the file is damaged, so use an earlier checkpoint."
    )


def _hold(
    weights: WeightsFile, fused: Mapping[str, Tensor], truth: Truth, device: str
) -> TruthCheck:
    """The fused network on recorded inputs."""
    whole = require_whole(weights)
    ours = {whole.layout.our_key(key): tensor for key, tensor in fused.items()}
    network = replace(whole, form="deploy", state=ours)
    return hold_truth(truth, weights_candidate(weights.path, network, pick_device(device)))


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
