"""The architecture of a RepVGG or RepVGGplus network, read off the shapes of its state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import UserError
from .spec import (
    AUX_STAGES,
    PLAIN_STRIDES,
    STAGES,
    ArchSpec,
    Block,
    BlockSpec,
    Family,
    Form,
    Strides,
    as_strides,
    block_name,
    first_stride,
    strides_text,
)


class NotPlain(UserError):
    """A RepVGG whose strides are not the plain ones, as dilated backbones have them, or whose
    squeeze-excitation stands where it does not fold."""


State = Mapping[str, Tensor]
_BLOCK_KEY = {
    "repvgg": re.compile(r"(stage[1-4])\.(0|[1-9][0-9]{0,3})\."),
    "repvggplus": re.compile(r"(stage(?:1|2|3_first|3_second|4))\.blocks\.(0|[1-9][0-9]{0,3})\."),
}
_KERNEL: dict[Form, str] = {"train": "rbr_dense.conv.weight", "deploy": "rbr_reparam.weight"}


def infer(state: State, eps: float, strides: Strides | None = None) -> tuple[ArchSpec, Form]:
    """Read architecture and form off a state dict in the official key layout.

    ``strides`` are those of stages 0 to 4, which no state dict holds; None: the plain ones.
    ``check_layout`` and ``foreign_keys`` then account for every single key.

    Raises:
        UserError: not a RepVGG; blocks of both forms; a block, branch or head missing; shapes
            that do not follow from one another; an identity branch where ``strides`` allow none,
            or none where they ask for one.
        NotPlain: the same, where the plain strides are only assumed.
    """
    form = _form(state)
    family: Family = "repvggplus" if any(".blocks." in key for key in state) else "repvgg"
    kind: Block = "qarepvgg" if "stage0.rbr_1x1.weight" in state else "repvgg"
    blocks: list[BlockSpec] = []
    for name, stride in _layout(state, family, strides or PLAIN_STRIDES):
        before = blocks[-1].out_channels if blocks else None
        blocks.append(_block(state, name, stride, before, form, family))
    if form == "train" and kind == "repvgg":
        for block in blocks:
            _check_identity(state, block, blocks, family, strides)
    if kind == "qarepvgg" and family == "repvgg" and any(block.se_channels for block in blocks):
        raise NotPlain(
            "QARepVGG's own code has the squeeze-excitation before the batch norm after the sum, "
            "so that one does not fold, and this step has no such network. Use your own model code "
            "with the fused weights."
        )
    classes = _classes(state, blocks[-1].out_channels)
    aux = AUX_STAGES if family == "repvggplus" else ()
    aux = tuple(stage for stage in aux if f"{stage}_aux.3.weight" in state)
    return ArchSpec(family, tuple(blocks), classes, aux, eps, kind), form


def _form(state: State) -> Form:
    trained = [key for key in state if ".rbr_dense." in key]
    fused = [key for key in state if ".rbr_reparam." in key]
    if trained and fused:
        both = {key.partition(".rbr_")[0] for key in trained} & {
            key.partition(".rbr_")[0] for key in fused
        }
        if both:
            raise UserError(
                f"block {min(both)}: holds a fused convolution (rbr_reparam) beside its training "
                "branches, and nothing tells which of them the network computes with; remove the "
                "one that is not used."
            )
        raise UserError(
            f"a mixture of fused ({fused[0]}) and unfused ({trained[0]}) blocks; "
            "use the checkpoint as training saved it."
        )
    return "deploy" if fused else "train"


def _layout(state: State, family: Family, strides: Strides) -> list[tuple[str, int]]:
    """(block name, stride) in execution order, from the block indices present in each stage."""
    found: dict[str, set[int]] = {stage: set() for stage in STAGES[family]}
    for key in state:
        if match := _BLOCK_KEY[family].match(key):
            found[match[1]].add(int(match[2]))
    layout = [("stage0", strides[0])]
    for stage in STAGES[family]:
        indices = sorted(found[stage])
        if not indices or indices != list(range(len(indices))):
            raise UserError(
                f"{stage} has the blocks {indices}, which leaves a gap; the file is damaged or "
                "holds a part of a network, so use the whole checkpoint."
            )
        first = first_stride(family, stage, strides)
        layout += [(block_name(family, stage, i), first if i == 0 else 1) for i in indices]
    return layout


def _block(
    state: State, name: str, stride: int, before: int | None, form: Form, family: Family
) -> BlockSpec:
    key = f"{name}.{_KERNEL[form]}"
    if key not in state:
        raise UserError(f"block {name}: {_KERNEL[form]} is missing; use the whole checkpoint.")
    shape = tuple(state[key].shape)
    if len(shape) != 4 or shape[2:] != (3, 3):
        raise UserError(f"{key} has shape {shape}, not [out, in, 3, 3]; this is no RepVGG block.")
    out, per_group = shape[:2]
    cin = per_group if before is None else before
    if cin % per_group or out % (cin // per_group):
        raise UserError(
            f"{key} has shape {shape}, which does not fit the {cin} channels that come before it; "
            "the file is damaged or mixes two networks."
        )
    se = "post_se" if family == "repvggplus" else "se"
    squeeze = state.get(f"{name}.{se}.down.weight")
    squeezed = 0 if squeeze is None else squeeze.shape[0]
    return BlockSpec(name, cin, out, stride, cin // per_group, squeezed)


def _check_identity(
    state: State,
    block: BlockSpec,
    blocks: list[BlockSpec],
    family: Family,
    given: Strides | None,
) -> None:
    """An identity branch shows stride 1, its absence between equal channels a larger one."""
    present = _has_identity(state, block)
    if present == block.has_identity:
        return
    number = _stages_started(blocks, family).get(block.name)
    if block.in_channels != block.out_channels or number is None:
        if present:
            raise NotPlain(
                f"block {block.name}: has an identity branch where its shapes or its stride "
                f"({block.stride}) allow none; this is no RepVGG network in the official layout. "
                "Use your own model code with the fused weights."
            )
        raise UserError(
            f"block {block.name}: rbr_identity is missing, but a RepVGG block with "
            f"{block.in_channels} channels in and out at stride 1 has one; the file is damaged, or "
            "the network has other strides."
        )
    fitting = strides_text(_fitting_strides(state, blocks, family, given), ",")
    shown = (
        f"block {block.name} has an identity branch, so stage {number} starts at stride 1"
        if present
        else f"block {block.name} has as many channels out as in and no identity branch, so stage "
        f"{number} starts at a larger stride than 1"
    )
    if given is not None:
        raise UserError(
            f"--strides {strides_text(given, ',')}: {shown}; --strides {fitting} fits the file."
        )
    raise NotPlain(
        f"{shown} and not at the usual {block.stride}. If the stages whose strides the file does "
        f"not show start at the usual 2, fuse it with --strides {fitting}; else use your own model "
        "code with the fused weights."
    )


def _has_identity(state: State, block: BlockSpec) -> bool:
    return f"{block.name}.rbr_identity.weight" in state


def _stages_started(blocks: list[BlockSpec], family: Family) -> dict[str, int]:
    """Names of the blocks whose stride may be other than 1, and the number of their stage."""
    numbers = {block_name(family, stage, 0): number for stage, number in STAGES[family].items()}
    started = {"stage0": 0, **{name: n for name, n in numbers.items() if n is not None}}
    return {block.name: started[block.name] for block in blocks if block.name in started}


def _fitting_strides(
    state: State, blocks: list[BlockSpec], family: Family, given: Strides | None
) -> Strides:
    """``given``, or the plain strides, changed where an identity or its absence shows another."""
    fitting = list(given or PLAIN_STRIDES)
    started = _stages_started(blocks, family)
    for block in blocks:
        if block.name in started and block.in_channels == block.out_channels:
            number = started[block.name]
            fitting[number] = 1 if _has_identity(state, block) else max(2, fitting[number])
    return as_strides(fitting)


def _classes(state: State, channels: int) -> int:
    head = state.get("linear.weight")
    if head is None or head.ndim != 2 or head.shape[1] != channels:
        found = "missing" if head is None else f"of shape {tuple(head.shape)}"
        raise UserError(
            f"linear.weight is {found}, but the last block has {channels} channels; fuse needs "
            "the whole classification network."
        )
    return head.shape[0]
