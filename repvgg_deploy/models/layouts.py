"""Other code bases' key names for a whole RepVGG network, as ours (which are the official ones)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """``stem``: path of the first block. ``renames``: patterns of keys and what to put in their
    place, each applied once."""

    name: str
    stem: str
    renames: tuple[tuple[str, str], ...] = ()

    def our_key(self, key: str) -> str:
        """The official name of a key of this layout."""
        for pattern, ours in self.renames:
            key = re.sub(pattern, ours, key, count=1)
        return key


LAYOUTS = (
    Layout("official", "stage0"),
    Layout(
        "timm",
        "stem",
        (
            (r"^stem\.", "stage0."),
            *((rf"^stages\.{stage}\.", f"stage{stage + 1}.") for stage in range(4)),
            (r"\.conv_kxk\.", ".rbr_dense."),
            (r"\.conv_1x1\.", ".rbr_1x1."),
            (r"\.identity\.", ".rbr_identity."),
            (r"\.reparam_conv\.", ".rbr_reparam."),
            (r"\.attn\.fc1\.", ".se.down."),
            (r"\.attn\.fc2\.", ".se.up."),
            (r"^head\.fc\.", "linear."),
        ),
    ),
    Layout(
        "mmpretrain",
        "backbone.stem",
        (
            (r"^backbone\.stem\.", "stage0."),
            (r"^backbone\.stage_(\d)\.", r"stage\1."),
            (r"\.branch_3x3\.", ".rbr_dense."),
            (r"\.branch_1x1\.", ".rbr_1x1."),
            (r"(\.rbr_(?:dense|1x1))\.norm\.", r"\1.bn."),
            (r"\.branch_norm\.", ".rbr_identity."),
            (r"\.branch_reparam\.", ".rbr_reparam."),
            (r"\.se_layer\.conv1\.conv\.", ".se.down."),
            (r"\.se_layer\.conv2\.conv\.", ".se.up."),
            (r"^head\.fc\.", "linear."),
        ),
    ),
)
_KERNELS = (".rbr_dense.conv.weight", ".rbr_reparam.weight")


def recognise(state: Mapping[str, Tensor]) -> tuple[Layout, dict[str, Tensor]] | None:
    """The layout of a whole RepVGG network and its tensors under official names; else None."""
    for layout in LAYOUTS:
        if not any(key.startswith(f"{layout.stem}.") for key in state):
            continue
        ours = {layout.our_key(key): tensor for key, tensor in state.items()}
        kernels = {key: tensor for key, tensor in ours.items() if key.endswith(_KERNELS)}
        stages = {key.split(".")[0] for key in kernels}
        plain = all(tensor.shape[2:] == (3, 3) for tensor in kernels.values())
        if plain and "linear.weight" in ours and {"stage0", "stage1", "stage4"} <= stages:
            return layout, ours
    return None
