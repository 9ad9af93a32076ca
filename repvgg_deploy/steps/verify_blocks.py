"""verify, of weights whose network is not known: blocks, and every other tensor to the bit."""

from __future__ import annotations

import torch
from torch import Tensor

from ..equivalence.blocks import prove_blocks
from ..errors import UserError
from .carried import check_blocks, made_from
from .inventory import training_only
from .verdict import Verdict
from .weights import WeightsFile


def verify_blocks(reference: WeightsFile, candidate: WeightsFile, device: torch.device) -> Verdict:
    """Blocks against their branches, and every other tensor to the bit."""
    before, after = reference.checkpoint.state, candidate.checkpoint.state
    fused = {key for block in reference.blocks for key in block.fused_keys}
    if not fused:
        raise UserError(
            f"{reference.path}: holds no block in training form, so there is nothing to prove; "
            "name the training checkpoint."
        )
    if missing := sorted(fused - set(after)):
        raise UserError(
            f"{candidate.path}: {missing[0]} is missing, so it is not {reference.path} in its "
            "deploy form; name two forms of one network."
        )
    folded = {key for block in reference.blocks for key in block.keys(before)}
    dropped = set(training_only(reference))
    changed = []
    for key in sorted((set(before) | set(after)) - folded - fused):
        same = key in before and key in after and _equal(before[key], after[key])
        if not same and not (key in dropped and key not in after):
            changed.append(key)
    proof = prove_blocks(before, after, reference.blocks, device, reference.reading.eps)
    weights = check_blocks(reference, after, made_from(candidate.path, reference.path))
    return Verdict(
        reference.path, candidate.path, None, proof, str(device), tuple(changed), weights=weights
    )


def _equal(first: Tensor, second: Tensor) -> bool:
    """Equal in numbers, or to the bit, as NaN is to itself."""
    bits = (tensor.flatten().contiguous().view(torch.uint8) for tensor in (first, second))
    return torch.equal(first, second) or (first.dtype == second.dtype and torch.equal(*bits))
