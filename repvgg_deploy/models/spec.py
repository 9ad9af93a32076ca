"""What a RepVGG network is, as plain values: no torch, no weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..rebuild import rebuild

Family = Literal["repvgg", "repvggplus"]
Form = Literal["train", "deploy"]
#: What a block is made of in training; fused, both are one convolution.
Block = Literal["repvgg", "qarepvgg"]

#: Of the first block of stages 0 to 4; every other block has stride 1.
Strides = tuple[int, int, int, int, int]
#: The official ones. No state dict holds strides.
PLAIN_STRIDES: Strides = (2, 2, 2, 2, 2)
LARGEST_STRIDE = 8

#: Stage modules after stage 0, in execution order, with the number of their stage. RepVGGplus
#: splits stage 3 in two halves; the second starts at stride 1, so it has no number.
STAGES: dict[Family, dict[str, int | None]] = {
    "repvgg": {"stage1": 1, "stage2": 2, "stage3": 3, "stage4": 4},
    "repvggplus": {
        "stage1": 1, "stage2": 2, "stage3_first": 3, "stage3_second": None, "stage4": 4,
    },
}  # fmt: skip

#: RepVGGplus stages that carry an auxiliary classifier in training.
AUX_STAGES: tuple[str, ...] = ("stage1", "stage2", "stage3_first")

#: torch's BatchNorm2d default, used by both official families; no state dict holds it.
OFFICIAL_EPS = 1e-5


def block_name(family: Family, stage: str, index: int) -> str:
    """Module path of a block, as the official code names it."""
    return f"{stage}.blocks.{index}" if family == "repvggplus" else f"{stage}.{index}"


def first_stride(family: Family, stage: str, strides: Strides) -> int:
    """Stride of the first block of a stage module after stage 0."""
    number = STAGES[family][stage]
    return 1 if number is None else strides[number]


def as_strides(values: Iterable[int]) -> Strides:
    """Five numbers as strides.

    Raises:
        ValueError: not five numbers from 1 to LARGEST_STRIDE.
    """
    given = list(values)
    if len(given) != len(PLAIN_STRIDES) or not all(1 <= one <= LARGEST_STRIDE for one in given):
        raise ValueError(f"strides are five numbers from 1 to {LARGEST_STRIDE}, not {given}")
    stem, one, two, three, four = given
    return stem, one, two, three, four


def strides_text(strides: Iterable[int], separator: str = "-") -> str:
    """``2-2-2-2-2``."""
    return separator.join(map(str, strides))


@dataclass(frozen=True)
class BlockSpec:
    """One RepVGG block: 3x3 (+ 1x1 + identity), optional squeeze-excitation, ReLU.

    ``se_channels`` is the squeezed width, 0 where the block has no squeeze-excitation.
    """

    name: str
    in_channels: int
    out_channels: int
    stride: int
    groups: int = 1
    se_channels: int = 0

    @property
    def has_identity(self) -> bool:
        """An identity branch exists where shapes allow it (RepVGG paper, section 3.2)."""
        return self.in_channels == self.out_channels and self.stride == 1

    @property
    def stage(self) -> str:
        return self.name.split(".", 1)[0]


@dataclass(frozen=True)
class ArchSpec:
    """A whole network: its blocks in execution order, then pooling and a linear classifier.

    The family says where squeeze-excitation stands: before the ReLU in ``repvgg`` (D2se),
    after it in ``repvggplus`` (L2pse). ``block`` is that of the training form: qarepvgg has no
    batch norm on the 1x1 and identity branches, and one after the sum (QARepVGG, arXiv 2212.01593).
    """

    family: Family
    blocks: tuple[BlockSpec, ...]
    num_classes: int
    aux_stages: tuple[str, ...] = ()
    eps: float = OFFICIAL_EPS
    block: Block = "repvgg"

    @property
    def in_channels(self) -> int:
        return self.blocks[0].in_channels

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks in each stage after stage 0."""
        return tuple(len(self._stage(stage)) for stage in STAGES[self.family])

    @property
    def widths(self) -> tuple[int, ...]:
        """Output channels of stage 0 and of each stage after it."""
        stages = [self._stage(stage)[-1] for stage in STAGES[self.family]]
        return tuple(block.out_channels for block in (self.blocks[0], *stages))

    @property
    def strides(self) -> Strides:
        """Stride of the first block of stages 0 to 4."""
        numbered = [stage for stage, number in STAGES[self.family].items() if number is not None]
        firsts = [self._stage(stage)[0] for stage in numbered]
        return as_strides(block.stride for block in (self.blocks[0], *firsts))

    @property
    def groups(self) -> tuple[int, ...]:
        """The distinct group counts in use, ascending."""
        return tuple(sorted({block.groups for block in self.blocks}))

    @property
    def has_se(self) -> bool:
        return any(block.se_channels for block in self.blocks)

    def _stage(self, stage: str) -> list[BlockSpec]:
        return [block for block in self.blocks if block.stage == stage]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ArchSpec:
        """What ``to_dict`` gave, or the JSON of it.

        Raises:
            TypeError, ValueError: it does not describe a network.
        """
        spec = rebuild(cls, data)
        try:
            spec.strides  # noqa: B018
        except IndexError as error:
            raise ValueError("a stage has no blocks") from error
        return spec
