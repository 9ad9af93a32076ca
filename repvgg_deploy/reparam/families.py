"""The family table: how each code base names the tensors of one re-parameterizable block."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockFamily:
    """Key names below a block's own path.

    ``conv_bn``: (convolution, batch norm) of each branch, the first one being the k x k branch
    that every block has. ``identity``: the batch norm of the identity branch, which a block has
    or has not. ``fused``: the convolution that takes their place.
    """

    name: str
    conv_bn: tuple[tuple[str, str], ...]
    identity: str
    fused: str


OFFICIAL = BlockFamily(
    name="RepVGG (official)",
    conv_bn=(("rbr_dense.conv", "rbr_dense.bn"), ("rbr_1x1.conv", "rbr_1x1.bn")),
    identity="rbr_identity",
    fused="rbr_reparam",
)
