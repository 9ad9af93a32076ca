"""RepVGG as a torch module, in training form (three branches) and deploy form (one conv).

State-dict keys are the official ones, of RepVGG and of QARepVGG's classification networks, so
official checkpoints load with ``strict=True``.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from .recompute import recomputed
from .spec import ArchSpec, Block, BlockSpec, Form


def conv_bn(
    cin: int, cout: int, kernel_size: int, stride: int, groups: int, eps: float
) -> nn.Sequential:
    conv = nn.Conv2d(
        cin, cout, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(cout, eps=eps)))


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al., CVPR 2018), pooled over the whole map at any input size."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, squeezed, 1)
        self.up = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3), keepdim=True)
        scale = self.up(torch.relu(self.down(scale)))
        return x * torch.sigmoid(scale)


class RepVGGBlock(nn.Module):
    """One block: 3x3 + 1x1 + identity in training, one convolution deployed.

    Each branch of a ``repvgg`` block has a batch norm. In a ``qarepvgg`` block the 3x3 alone has
    one, and their sum another (QARepVGG, arXiv 2212.01593).
    """

    def __init__(
        self, spec: BlockSpec, form: Form, eps: float, se_after_relu: bool, kind: Block
    ) -> None:
        super().__init__()
        self.form = form
        self.se_after_relu = se_after_relu
        cin, cout, stride, groups = spec.in_channels, spec.out_channels, spec.stride, spec.groups
        if spec.se_channels:
            setattr(self, self.se_name, SqueezeExcite(cout, spec.se_channels))
        if form == "deploy":
            self.rbr_reparam = nn.Conv2d(cin, cout, 3, stride, padding=1, groups=groups)
            return
        plain = kind == "qarepvgg"
        if spec.has_identity:
            self.rbr_identity = nn.Identity() if plain else nn.BatchNorm2d(cin, eps=eps)
        self.rbr_dense = conv_bn(cin, cout, 3, stride, groups, eps)
        if plain:
            self.rbr_1x1: nn.Module = nn.Conv2d(cin, cout, 1, stride, groups=groups, bias=False)
            self.bn = nn.BatchNorm2d(cout, eps=eps)
        else:
            self.rbr_1x1 = conv_bn(cin, cout, 1, stride, groups, eps)

    @property
    def se_name(self) -> str:
        return "post_se" if self.se_after_relu else "se"

    @property
    def squeeze_excite(self) -> SqueezeExcite | None:
        return getattr(self, self.se_name, None)

    @property
    def identity(self) -> nn.Module | None:
        return getattr(self, "rbr_identity", None)

    @property
    def outer_norm(self) -> nn.BatchNorm2d | None:
        """The batch norm after the sum of the branches, where the block has one."""
        return getattr(self, "bn", None)

    def branches(self, x: Tensor) -> list[Tensor]:
        """Output of each parallel branch, all [N, C_out, H', W']; one in the deploy form."""
        if self.form == "deploy":
            return [self.rbr_reparam(x)]
        identity = [] if self.identity is None else [self.identity(x)]
        return [self.rbr_dense(x), self.rbr_1x1(x), *identity]

    def joined(self, branches: list[Tensor]) -> Tensor:
        """The sum of the branches' outputs, and the batch norm after it where there is one."""
        first, *others = branches
        total = sum(others, first)
        return total if self.outer_norm is None else self.outer_norm(total)

    def linear(self, x: Tensor) -> Tensor:
        """The part that re-parameterization folds: [N, C_in, H, W] -> [N, C_out, H', W']."""
        return self.joined(self.branches(x))

    def activation(self, x: Tensor) -> Tensor:
        """Squeeze-excitation and ReLU, in the family's order."""
        se = self.squeeze_excite
        if se is None:
            return torch.relu(x)
        y: Tensor = se(torch.relu(x)) if self.se_after_relu else torch.relu(se(x))
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class RepVGG(nn.Module):
    """A whole RepVGG or RepVGGplus network.

    In training mode a network with auxiliary heads returns a dict of logits (``main`` and
    ``<stage>_aux``); otherwise ``forward`` returns the main logits, [N, num_classes].
    """

    def __init__(self, spec: ArchSpec, form: Form) -> None:
        super().__init__()
        self.spec = spec
        self.form = form
        self.recompute = False  # in training, keep no activations inside blocks
        after_relu = spec.family == "repvggplus"
        chain = [RepVGGBlock(b, form, spec.eps, after_relu, spec.block) for b in spec.blocks]
        for block_spec, block in zip(spec.blocks, chain, strict=True):
            _attach(self, block_spec.name, block)
        #: (name, block) in execution order; a tuple, so that torch does not register it twice.
        self.chain = tuple(zip((b.name for b in spec.blocks), chain, strict=True))
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(spec.blocks[-1].out_channels, spec.num_classes)
        self._aux_after: dict[str, str] = {}
        if form == "train":
            for stage in spec.aux_stages:
                last = [block for block in spec.blocks if block.stage == stage][-1]
                setattr(self, f"{stage}_aux", _aux_head(last.out_channels, spec))
                self._aux_after[last.name] = f"{stage}_aux"

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        aux: dict[str, Tensor] = {}
        for name, block in self.chain:
            x = recomputed(block, x) if self.recompute and self.training else block(x)
            if self.training and name in self._aux_after:
                head = self._aux_after[name]
                aux[head] = getattr(self, head)(x)
        logits: Tensor = self.linear(torch.flatten(self.gap(x), 1))
        return {"main": logits, **aux} if aux else logits


def _aux_head(channels: int, spec: ArchSpec) -> nn.Sequential:
    downsample = conv_bn(channels, channels, 3, 2, 1, spec.eps)
    downsample.append(nn.ReLU())
    classifier = nn.Linear(channels, spec.num_classes)
    return nn.Sequential(downsample, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register ``module`` at a dotted path, making the containers on the way."""
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(leaf, module)
