"""Random blocks of every family as tensors; kinds come from names, channels from the draw."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from repvgg_deploy.reparam.family import BlockFamily

State = dict[str, Tensor]

#: What a step is, by the last part of its name; a new name in the table has to come here.
KINDS = {
    **dict.fromkeys(["conv", "0", "c", "rbr_1x1", "pos_enc", "pe", "conv1"], "conv"),
    **dict.fromkeys(["conv_3x3", "conv_1x1"], "conv"),
    **dict.fromkeys(["bn", "norm", "1", "identity", "rbr_identity", "rbr_skip"], "norm"),
    **dict.fromkeys(["branch_norm", "bn_3x3", "bn_1x1", "bn_identity"], "norm"),
    **dict.fromkeys(["gamma", "layer_scale", "alpha", "weight"], "scale"),
    "l": "linear",
}
#: Where a checkpoint has the blocks of the families that are told apart by place; {} is a number.
PLACES = {
    "qarepvgg": ("stage1.{}", "backbone.stage2.{}", "stage3_second.blocks.{}"),
    **dict.fromkeys(
        ["yolov6-qarepvgg", "yolov6-qarepvgg-v2"],
        ("blocks.{}", "neck.Rep_p{}.conv1", "backbone.ERBlock_{}.0", "m{}.stem"),
    ),
    "zcls": ("stage{}.1.0", "backbone.stage1.{}.0"),
    "repvgg": ("stage{}.1", "backbone.layer{}.2", "stage3_first.blocks.{}"),
    "yolov6": ("backbone.ERBlock_{}.1", "neck.Rep_p{}.conv1"),
    "rtdetrv2": ("stages.{}.blocks.0", "backbone.stages.{}.b"),
    "yolov9": ("model.{}", "model.{}.m.0.cv1"),
    "timm-fastvit": ("stages.{}.pos_emb", "net.stages.{}.pos_emb"),
    "fastvit": ("network.{}", "backbone.network.{}"),
    "repvit": ("net{}.classifier", "net{}.head"),
    "repopt-vgg": ("stage1.{}", "backbone.stage2.{}"),
}
#: Where any of the others may stand.
ANYWHERE = ("blocks.{}", "net.b{}.body")
DTYPES = (torch.float32, torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)


def kind_of(step: str) -> str:
    return KINDS[step.rpartition(".")[2]]


def mixes(steps: tuple[str, ...]) -> bool:
    """Whether a branch has a kernel; one without passes the input on."""
    return any(kind_of(step) in ("conv", "linear") for step in steps)


def under(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)


@dataclass
class Made:
    """One block: its place, its channels, and in ``state`` its tensors under their full keys."""

    path: str
    family: BlockFamily
    choice: int
    state: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.choice)
        self.noise = torch.Generator().manual_seed(self.choice)
        #: A depthwise kernel without a batch norm, which is all that names it a block.
        self.lone = any(branch.depthwise for branch in self.family.branches)
        self.branches = self._pick_branches()
        self._pick_channels()
        pick = self.random.choice
        linear = any(kind_of(step) == "linear" for steps in self.branches for step in steps)
        #: MegEngine's grouped kernels are [g, out/g, in/g, kh, kw], its norms [1, C, 1, 1]
        self.five = self.groups > 1 and not linear and not self.lone and pick((True, False))
        self.flat_norms = linear or pick((True, True, False))
        self.dtype, self.norm_dtype = pick(DTYPES), pick((None, None, torch.float32))
        sides = {branch.steps: branch.kernel for branch in self.family.branches}
        for steps in self.branches:
            before = mixes(steps)
            for step in steps:
                name, kind = under(self.path, step), kind_of(step)
                if kind == "scale":
                    self._scale(name)
                elif kind == "norm":
                    self._norm(name, self.inputs if before else self.outputs)
                else:
                    self._kernel(name, kind, sides.get(steps))
                    before = False
        if self.family.outer_norm:
            self._norm(under(self.path, self.family.outer_norm), self.outputs)

    def _pick_branches(self) -> list[tuple[str, ...]]:
        """The steps of each branch, at least one with a kernel."""
        picked: list[tuple[str, ...]] = []
        for branch in self.family.branches:
            numbered = any("{n}" in step for step in branch.steps)
            count = self.random.choice((0, 1, 2, 3) if numbered else (0, 1))
            for number in range(count if branch.optional else 1):
                picked.append(tuple(step.replace("{n}", str(number)) for step in branch.steps))
        if not any(map(mixes, picked)):
            first = next(b.steps for b in self.family.branches if mixes(b.steps))
            picked.append(tuple(step.replace("{n}", "0") for step in first))
        return picked

    def _pick_channels(self) -> None:
        """An identity needs as many channels in as out; one without tensors is told from them.

        Documented in docs/families.md: a grouped block as wide as its input is taken for a dense
        one that widens, so ``passes`` is False there. Likewise nothing could tell a dense block
        with one input channel from a depthwise one; that is not drawn.
        """
        pick, size = self.random.choice, self.random.choice((1, 2, 3, 4, 6, 8))
        steps = [step for branch in self.branches for step in branch]
        self.groups, self.inputs, self.outputs = 1, size, size
        self.passes = any(branch and not mixes(branch) for branch in self.branches)
        if any(kind_of(step) == "linear" for step in steps):
            self.inputs = pick((1, 2, 5))
        elif self.passes:
            self.groups = pick([g for g in range(1, size + 1) if size % g == 0])
        elif () in self.branches:
            kinds = ("square", "depthwise", "wider", "narrower", "grouped")
            kind = "depthwise" if self.lone else pick(kinds)
            strided = self.family.strided and re.search(self.family.strided, self.path)
            self.passes = kind in ("square", "depthwise") and not strided
            if kind == "depthwise":
                self.groups = size
            elif kind == "wider":
                self.inputs, self.outputs = size + 1, size + pick((2, 3))
            elif kind == "narrower":
                self.inputs = size + 2
            elif kind == "grouped":
                self.groups, self.inputs, self.outputs = 2, 2 * size + 2, 2 * size + 2
        else:
            self.groups = pick((1, 1, 2, 3, size))
            self.inputs, self.outputs = (self.groups * pick((1, 2, 3)) for _ in range(2))

    def _put(self, key: str, tensor: Tensor, dtype: torch.dtype | None = None) -> None:
        self.state.setdefault(key, tensor.to(dtype or self.dtype))

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.noise)

    def _kernel(self, name: str, kind: str, side: int | None) -> None:
        pick, width = self.random.choice, self.inputs // self.groups
        size = (side, side) if side else pick([(k, k) for k in (1, 3, 3, 5, 7)] + [(3, 5), (5, 1)])
        if kind == "linear":
            size = ()
        out = (self.groups, self.outputs // self.groups) if self.five else (self.outputs,)
        self._put(f"{name}.weight", self._randn(*out, width, *size))
        if pick((True, False, False)):
            bias = (self.outputs,) if self.flat_norms else (1, self.outputs, 1, 1)
            self._put(f"{name}.bias", self._randn(*bias))

    def _scale(self, name: str) -> None:
        channels = self.outputs
        shapes = [(channels, 1, 1), (1, channels, 1, 1), (1,), ()]
        if "." in name.removeprefix(self.path).strip("."):  # a layer of its own, which shapes it
            shapes.append((channels,))
        self._put(name, self._randn(*self.random.choice(shapes)))

    def _norm(self, name: str, channels: int) -> None:
        gamma, beta, mean = (self._randn(channels) for _ in range(3))
        var = torch.rand(channels, generator=self.noise) * 1.5 + 0.05
        odd = self.random.randrange(channels)
        hazard = self.random.choice(("", "", "", "tiny", "huge", "dead", "no mean", "all dead"))
        if hazard in ("tiny", "huge"):
            var[odd] = {"tiny": 1e-7, "huge": 1e3}[hazard]
        if hazard in ("dead", "all dead"):
            gamma[odd if hazard == "dead" else slice(None)] = 0
        if hazard == "no mean":
            mean.zero_()
        shape = (channels,) if self.flat_norms else (1, channels, 1, 1)
        values = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
        for leaf, value in values.items():
            self._put(f"{name}.{leaf}", value.reshape(shape), self.norm_dtype)
        if self.random.choice((True, False)):
            self._put(f"{name}.num_batches_tracked", torch.tensor(7), torch.int64)
