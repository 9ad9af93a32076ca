"""Every family's block wired by hand from torch's own layers, which the family table has to match.

Nothing here reads the table. A block is written as its branches, a branch as its layers in order,
``name:kind``. Kinds: ``3`` and other digits a convolution of that size, ``d7`` a depthwise one,
``n`` batch norm, ``l`` a linear layer, ``s`` a factor that is a parameter of the block itself,
``g`` one in a layer of its own. ``?`` in front: a block may lack the branch; ``-``: it is
subtracted. An empty branch is the identity.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = dict[str, Tensor]
YOLO = 1e-3


@dataclass(frozen=True)
class Wiring:
    """``place``: a path at which the code base has such a block; ``outer``: norm after the sum."""

    place: str
    branches: tuple[str, ...]
    eps: float = 1e-5
    outer: str = ""
    #: The identity without tensors is there only in blocks that keep their channels.
    square: bool = False


def conv_bn(name: str, size: str, conv: str = "conv", bn: str = "bn") -> str:
    return f"{name}.{conv}:{size} {name}.{bn}:n"


REPVGG = (conv_bn("rbr_dense", "3"), conv_bn("rbr_1x1", "1"), "?rbr_identity:n")
QA = (conv_bn("rbr_dense", "3"), "rbr_1x1:1", "")
MOBILEONE = (
    "?" + conv_bn("rbr_conv.0", "3"),
    "?" + conv_bn("rbr_conv.1", "3"),
    "?" + conv_bn("rbr_scale", "1"),
    "?rbr_skip:n",
)
TIMM_MOBILEONE = (
    "?" + conv_bn("conv_kxk.0", "3"),
    "?" + conv_bn("conv_kxk.1", "3"),
    "?" + conv_bn("conv_scale", "1"),
    "?identity:n",
)


def mixer(scale: str, names: tuple[str, str, str]) -> tuple[str, ...]:
    """x + scale * (mixer(x) - norm(x))."""
    kernels, small, skip = names
    return (
        "",
        f"?{conv_bn(f'mixer.{kernels}.0', 'd3')} {scale}",
        f"?{conv_bn(f'mixer.{small}', 'd1')} {scale}",
        f"?mixer.{skip}:n {scale}",
        f"-norm.{skip}:n {scale}",
    )


APPLE, TIMM = ("rbr_conv", "rbr_scale", "rbr_skip"), ("conv_kxk", "conv_scale", "identity")

#: By the code base's and the class's name in the table.
WIRINGS: dict[tuple[str, str], Wiring] = {
    ("qarepvgg", "QARepVGGBlock"): Wiring("stage1.1", QA, outer="bn", square=True),
    ("yolov6-qarepvgg", "QARepVGGBlock"): Wiring("neck.b", QA, YOLO, outer="bn", square=True),
    ("zcls", "RepVGGBlock"): Wiring("stage1.1.0", REPVGG),
    ("repvgg", "RepVGGBlock"): Wiring("stage1.1", REPVGG),
    ("yolov6", "RepVGGBlock"): Wiring("backbone.ERBlock_2.0", REPVGG, YOLO),
    ("yolov7", "RepConv"): Wiring(
        "m.3",
        (conv_bn("rbr_dense", "3", "0", "1"), conv_bn("rbr_1x1", "1", "0", "1"), "?rbr_identity:n"),
        YOLO,
    ),
    ("timm-repvgg", "RepVggBlock"): Wiring(
        "stages.0.1", (conv_bn("conv_kxk", "3"), conv_bn("conv_1x1", "1"), "?identity:n")
    ),
    ("timm-fastvit", "RepMixer"): Wiring("b.token_mixer", mixer("layer_scale.gamma:g", TIMM)),
    ("timm-fastvit", "RepMixer without layer scale"): Wiring("b.token_mixer", mixer("", TIMM)),
    ("timm-fastvit", "ReparamLargeKernelConv"): Wiring(
        "b.proj", (conv_bn("large_conv", "7"), "?" + conv_bn("small_conv", "3"))
    ),
    ("timm-fastvit", "RepConditionalPosEnc"): Wiring("stages.3.pos_emb", ("pos_enc:d7", "")),
    ("timm-mobileone", "MobileOneBlock"): Wiring("stages.0.1", TIMM_MOBILEONE),
    ("fastvit", "RepMixer"): Wiring("b.token_mixer", mixer("layer_scale:s", APPLE)),
    ("fastvit", "RepMixer without layer scale"): Wiring("b.token_mixer", mixer("", APPLE)),
    ("fastvit", "ReparamLargeKernelConv"): Wiring(
        "b.proj", (conv_bn("lkb_origin", "7"), "?" + conv_bn("small_conv", "3"))
    ),
    ("fastvit", "RepCPE"): Wiring("network.6", ("pe:d7", "")),
    ("mobileone", "MobileOneBlock"): Wiring("b.1", MOBILEONE),
    ("mmpretrain-repvgg", "RepVGGBlock"): Wiring(
        "backbone.stage_1.1",
        (
            conv_bn("branch_3x3", "3", bn="norm"),
            conv_bn("branch_1x1", "1", bn="norm"),
            "?branch_norm:n",
        ),
    ),
    ("mmpretrain-mobileone", "MobileOneBlock"): Wiring(
        "backbone.stage1.1",
        (
            "?" + conv_bn("branch_conv_list.0", "3", bn="norm"),
            "?" + conv_bn("branch_conv_list.1", "3", bn="norm"),
            "?" + conv_bn("branch_scale", "1", bn="norm"),
            "?branch_norm:n",
        ),
    ),
    ("rtdetrv2", "RepVggBlock with alpha"): Wiring(
        "stages.0.b", (conv_bn("conv1", "3"), f"{conv_bn('conv2', '1')} alpha:s")
    ),
    ("rtdetrv2", "RepVggBlock"): Wiring(
        "stages.0.b", (conv_bn("conv1", "3"), conv_bn("conv2", "1"))
    ),
    ("yolov9", "RepConv"): Wiring(
        "model.3.cv1", (conv_bn("conv1", "3"), conv_bn("conv2", "1"), "?bn:n"), YOLO
    ),
    ("yolov10", "RepVGGDW"): Wiring("m.3", (conv_bn("conv", "d7"), conv_bn("conv1", "d3")), YOLO),
    ("rtdetr", "RepVggBlock"): Wiring(
        "encoder.b", (conv_bn("conv1", "3", bn="norm"), conv_bn("conv2", "1", bn="norm"))
    ),
    ("repvit", "RepVggDw"): Wiring("b.0", (conv_bn("conv", "d3", "c"), "conv1:d1", ""), outer="bn"),
    ("repvit", "RepVggDw, legacy"): Wiring(
        "b.0", (conv_bn("conv", "d3", "c"), conv_bn("conv1", "d1", "c"), "")
    ),
    ("repvit", "RepVitClassifier"): Wiring("net.head", ("head.bn:n head.l:l",)),
    ("repvit", "Classfier"): Wiring("net.classifier", ("classifier.bn:n classifier.l:l",)),
    ("repopt-vgg", "RepVGGBlock"): Wiring(
        "stage1.1", ("conv_3x3:3 bn_3x3:n", "conv_1x1:1 bn_1x1:n", "?bn_identity:n")
    ),
    ("repopt-vgg", "LinearAddBlock"): Wiring(
        "stage1.1",
        ("conv:3 scale_conv.weight:g", "conv_1x1:1 scale_1x1.weight:g", "?scale_identity.weight:g"),
        outer="bn",
    ),
    ("repopt-vgg", "RealVGGBlock"): Wiring("stage1.1", ("conv:3 bn:n",)),
}
#: Plain layers, which are looked for beside a block of their code base.
PLAIN = {
    **{(f, "Conv"): Wiring("neck.plain", ("conv:1 bn:n",), YOLO)
       for f in ("yolov6", "yolov6-qarepvgg", "yolov7", "yolov9", "yolov10")},
    ("repvit", "ConvNorm"): Wiring("neck.plain", ("c:1 bn:n",)),
}  # fmt: skip
#: Two heads of which the mean counts.
DISTILLED = {
    ("repvit", f"{kind} with distillation"): Wiring(
        f"net.{head}", (f"{head}.bn:n {head}.l:l", f"{head}_dist.bn:n {head}_dist.l:l")
    )
    for kind, head in (("RepVitClassifier", "head"), ("Classfier", "classifier"))
}
EVERY = {**WIRINGS, **PLAIN, **DISTILLED}


def steps_of(branch: str) -> list[tuple[str, str]]:
    return [(n, k) for n, _, k in (step.partition(":") for step in branch.lstrip("?-").split())]


class Wired(nn.Module):
    """A block of ``branches`` for tensors of these shapes; ``groups`` of its convolutions."""

    def __init__(
        self, wiring: Wiring, branches: tuple[str, ...], shapes: State, groups: int
    ) -> None:
        super().__init__()
        self.wiring, self.branches = wiring, branches
        self.layers: dict[str, nn.Module | nn.Parameter] = {}
        for branch in branches:
            for name, kind in steps_of(branch):
                if name not in self.layers:
                    self.layers[name] = self._add(
                        name, layer(name, kind, shapes, groups, wiring.eps)
                    )
        if wiring.outer:
            norm = layer(wiring.outer, "n", shapes, groups, wiring.eps)
            self.layers[wiring.outer] = self._add(wiring.outer, norm)

    def _add(self, name: str, made: nn.Module | nn.Parameter) -> nn.Module | nn.Parameter:
        *path, last = name.split(".")
        holder: nn.Module = self
        for part in path:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder._modules[part]  # type: ignore[assignment]
        setattr(holder, last, made)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the branches, before the norm after it."""
        total = torch.zeros((), dtype=x.dtype)
        for branch in self.branches:
            y = x
            for name, kind in steps_of(branch):
                own = self.layers[name]
                if isinstance(own, nn.Linear):
                    y = own(y.flatten(1))[:, :, None, None]
                elif isinstance(own, nn.Module):
                    y = own(y)
                else:
                    y = y * (own.view(1, -1, 1, 1) if kind == "g" else own)
            total = total + (-y if branch.startswith("-") else y)
        return total

    def outer(self, total: Tensor) -> Tensor:
        norm = self.layers[self.wiring.outer]
        assert isinstance(norm, nn.Module)
        return norm(total)


def layer(name: str, kind: str, shapes: State, groups: int, eps: float) -> nn.Module | nn.Parameter:
    if kind in ("s", "g"):
        return nn.Parameter(torch.zeros(shapes[name].shape))
    weight = shapes[f"{name}.weight"].shape
    has_bias = f"{name}.bias" in shapes
    if f"{name}.running_mean" in shapes:  # whatever its name: the order is what counts
        features = weight.numel()
        return nn.BatchNorm2d(features, eps=eps)
    if kind == "l":
        return nn.Linear(weight[1], weight[0], bias=has_bias)
    out, width, *size = weight  # a ValueError for a batch norm without statistics
    groups = out if width == 1 else groups
    padding = [side // 2 for side in size]
    return nn.Conv2d(width * groups, out, size, 1, padding, 1, groups, has_bias)


def variants(wiring: Wiring) -> Iterator[tuple[str, ...]]:
    """The branches that a block may have."""
    choices = [(b, None) if b.startswith("?") else (b,) for b in wiring.branches]
    if wiring.square:
        choices = [
            (b, None) if b == "" else c for b, c in zip(wiring.branches, choices, strict=True)
        ]
    for picked in product(*choices):
        yield tuple(branch for branch in picked if branch is not None)


def load(
    wiring: Wiring, state: Mapping[str, Tensor], tail: tuple[str, ...], groups: int
) -> Iterator[Wired]:
    """Blocks of which these are all the tensors, counters and what follows the sum apart."""
    own = {
        key: tensor.double() for key, tensor in state.items()
        if key.split(".")[0] not in tail and not key.endswith("num_batches_tracked")
    }  # fmt: skip
    for branches in variants(wiring):
        try:
            block = Wired(wiring, branches, own, groups).double().eval()
            expected = {
                key: tensor for key, tensor in block.state_dict().items()
                if not key.endswith("num_batches_tracked")
            }  # fmt: skip
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError, ZeroDivisionError):
            continue
        if set(expected) != set(own):
            continue
        if any(expected[key].numel() != own[key].numel() for key in own):
            continue
        flat = {key: own[key].reshape(expected[key].shape) for key in own}
        block.load_state_dict(flat, strict=False)
        yield block


def random_block(wiring: Wiring, pick: random.Random, channels: int, groups: int) -> State:
    """Tensors of a block that keeps its channels."""
    generator = torch.Generator().manual_seed(pick.getrandbits(32))

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    first = next(b for b in wiring.branches if any(kind not in "nsg" for _, kind in steps_of(b)))
    branches = pick.choice([branches for branches in variants(wiring) if first in branches])
    if wiring.square:
        branches = wiring.branches
    names = [step for branch in branches for step in steps_of(branch)]
    names += [(wiring.outer, "n")] if wiring.outer else []
    state: State = {}
    for name, kind in names:
        if kind in ("s", "g"):
            own = pick.choice([(1,), (channels, 1, 1)])
            state[name] = noise(*((channels,) if kind == "g" else own))
        elif kind == "n":
            state |= {
                f"{name}.{leaf}": noise(channels) for leaf in ("weight", "bias", "running_mean")
            }
            state[f"{name}.running_var"] = torch.rand(channels, generator=generator) + 0.1
            state[f"{name}.num_batches_tracked"] = torch.tensor(3)
        elif kind == "l":
            state |= {f"{name}.weight": noise(5, channels), f"{name}.bias": noise(5)}
        else:
            width = 1 if kind.startswith("d") else channels // groups
            size = int(kind.lstrip("d"))
            state[f"{name}.weight"] = noise(channels, width, size, size)
            if name.split(".")[-1] in ("conv1", "pos_enc", "pe"):
                state[f"{name}.bias"] = noise(channels)
    return state


def agrees(
    block: Wired, weight: Tensor, bias: Tensor, with_outer: bool, factor: float, groups: int
) -> bool:
    """Whether a convolution computes what a block does, in float64."""
    generator = torch.Generator().manual_seed(0)
    four = weight if weight.ndim == 4 else weight[:, :, None, None]
    x = torch.randn(2, four.shape[1] * groups, 9, 8, generator=generator, dtype=torch.float64)
    try:
        if weight.ndim == 2:  # a linear layer works on [batch, channels]
            x = x[:, :, :1, :1]
        total = block(x)
        true = factor * (block.outer(total) if with_outer else total)
    except RuntimeError:
        return False
    padding = [side // 2 for side in four.shape[2:]]
    actual = F.conv2d(x, four.double(), bias.double().flatten(), padding=padding, groups=groups)
    if actual.shape != true.shape:
        return False
    return bool((actual - true).abs().max() <= 1e-9 * true.abs().max().clamp_min(1.0))
