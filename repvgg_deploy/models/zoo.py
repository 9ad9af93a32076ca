"""The published variants by name, and the figures their papers print."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from .spec import (
    AUX_STAGES,
    PLAIN_STRIDES,
    STAGES,
    ArchSpec,
    Block,
    BlockSpec,
    Family,
    Strides,
    block_name,
    first_stride,
    strides_text,
)

#: Output channels of stages 0 to 4.
Widths = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Variant:
    """A named architecture: depths, width multipliers a and b, groups, squeeze-excitation.

    ``se_ratio`` is the squeeze factor (0: none). ``paper_top1`` is ImageNet top-1 in percent as
    published (RepVGG paper, tables 4 and 5; D2se and L2pse: the official repository), measured by
    the authors and not by us; ``image_size`` the resolution it was measured at.
    """

    name: str
    depths: tuple[int, int, int, int]
    a: float
    b: float
    groups: int = 1
    family: Family = "repvgg"
    se_ratio: int = 0
    image_size: int = 224
    paper_top1: str | None = None

    @property
    def widths(self) -> Widths:
        """Output channels of stages 0 to 4."""
        first = int(64 * self.a)
        return min(64, first), first, int(128 * self.a), int(256 * self.a), int(512 * self.b)

    def spec(
        self,
        num_classes: int = 1000,
        *,
        block: Block = "repvgg",
        in_channels: int = 3,
        widths: Widths | None = None,
        strides: Strides = PLAIN_STRIDES,
    ) -> ArchSpec:
        """The architecture, in other ``widths`` where given; UserError as of make_spec."""
        return make_spec(
            depths=self.depths,
            widths=widths or self.widths,
            groups=self.groups,
            family=self.family,
            se_ratio=self.se_ratio,
            num_classes=num_classes,
            in_channels=in_channels,
            block=block,
            strides=strides,
        )


def make_spec(
    depths: tuple[int, int, int, int],
    widths: Widths,
    *,
    num_classes: int,
    groups: int = 1,
    family: Family = "repvgg",
    se_ratio: int = 0,
    in_channels: int = 3,
    block: Block = "repvgg",
    strides: Strides = PLAIN_STRIDES,
) -> ArchSpec:
    """Lay out a RepVGG from depths (stages 1-4), widths and strides (stages 0-4).

    ``groups`` applies to every even layer, counted from stage 0 as layer 0 (RepVGG paper,
    section 4.1: g2 and g4 models). Stage 3 of a RepVGGplus strides in its first half.

    Raises:
        UserError: qarepvgg blocks with squeeze-excitation before the ReLU. QARepVGG's own code has
            it before the batch norm after the sum, where it does not fold.
    """
    if block == "qarepvgg" and family == "repvgg" and se_ratio:
        raise UserError(
            "--block qarepvgg: has no form that folds with squeeze-excitation before the ReLU, as "
            "RepVGG-D2se has it; use --block repvgg, or RepVGGplus-L2pse, which has it after."
        )

    def lay_out(name: str, layer: int, cin: int, cout: int, stride: int) -> BlockSpec:
        grouped = groups if layer >= 2 and layer % 2 == 0 else 1
        squeezed = cout // se_ratio if se_ratio else 0
        return BlockSpec(name, cin, cout, stride, grouped, squeezed)

    blocks = [lay_out("stage0", 0, in_channels, widths[0], strides[0])]
    for stage, depth, width in _stage_layout(family, depths, widths):
        stride = first_stride(family, stage, strides)
        for index in range(depth):
            name = block_name(family, stage, index)
            cin = blocks[-1].out_channels
            blocks.append(lay_out(name, len(blocks), cin, width, stride if index == 0 else 1))
    aux = AUX_STAGES if family == "repvggplus" else ()
    return ArchSpec(family, tuple(blocks), num_classes, aux, block=block)


def _stage_layout(
    family: Family, depths: tuple[int, int, int, int], widths: Widths
) -> list[tuple[str, int, int]]:
    """(stage, depth, width) in order; RepVGGplus halves stage 3."""
    if family == "repvggplus":
        half = depths[2] // 2
        split = [depths[0], depths[1], half, depths[2] - half, depths[3]]
        wide = [widths[1], widths[2], widths[3], widths[3], widths[4]]
    else:
        split, wide = list(depths), list(widths[1:])
    return list(zip(STAGES[family], split, wide, strict=True))


_A, _B, _D = (2, 4, 14, 1), (4, 6, 16, 1), (8, 14, 24, 1)

ZOO: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("RepVGG-A0", _A, 0.75, 2.5, paper_top1="72.41"),
        Variant("RepVGG-A1", _A, 1, 2.5, paper_top1="74.46"),
        Variant("RepVGG-A2", _A, 1.5, 2.75, paper_top1="76.48"),
        Variant("RepVGG-B0", _B, 1, 2.5, paper_top1="75.14"),
        Variant("RepVGG-B1", _B, 2, 4, paper_top1="78.37"),
        Variant("RepVGG-B1g2", _B, 2, 4, groups=2, paper_top1="77.78"),
        Variant("RepVGG-B1g4", _B, 2, 4, groups=4, paper_top1="77.58"),
        Variant("RepVGG-B2", _B, 2.5, 5, paper_top1="78.78"),
        Variant("RepVGG-B2g2", _B, 2.5, 5, groups=2),
        Variant("RepVGG-B2g4", _B, 2.5, 5, groups=4, paper_top1="78.50"),
        Variant("RepVGG-B3", _B, 3, 5, paper_top1="80.52*"),
        Variant("RepVGG-B3g2", _B, 3, 5, groups=2),
        Variant("RepVGG-B3g4", _B, 3, 5, groups=4, paper_top1="80.21*"),
        Variant("RepVGG-D2se", _D, 2.5, 5, se_ratio=16, image_size=320, paper_top1="83.55"),
        Variant(
            "RepVGGplus-L2pse", _D, 2.5, 5, family="repvggplus", se_ratio=4, image_size=320,
            paper_top1="84.06",
        ),
    )
}  # fmt: skip


def named_spec(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    widths: tuple[int, ...] | None = None,
    block: Block = "repvgg",
    strides: Strides = PLAIN_STRIDES,
) -> ArchSpec:
    """A named architecture, slimmer or wider where ``widths`` says so.

    Raises:
        UserError: no architecture of that name, or it cannot have those widths or blocks.
    """
    variant = ZOO.get(name)
    if variant is None:
        raise UserError(f"--arch {name}: unknown; known are {', '.join(ZOO)}.")
    if widths is None:
        return variant.spec(num_classes, block=block, in_channels=in_channels, strides=strides)
    given = ",".join(map(str, widths))
    if len(widths) != 5 or min(widths) < 1:
        raise UserError(
            f"--widths {given}: give five numbers of channels, one for each of the stages 0 to 4."
        )
    step = max(variant.groups, variant.se_ratio, 1)
    if any(width % step for width in widths):
        raise UserError(f"--widths {given}: {name} needs multiples of {step}.")
    stem, one, two, three, four = widths
    slim = (stem, one, two, three, four)
    return variant.spec(
        num_classes, block=block, in_channels=in_channels, widths=slim, strides=strides
    )


def variant_name(spec: ArchSpec) -> str | None:
    """The zoo name whose blocks are exactly these, whatever the class count; else None."""
    return next((v.name for v in ZOO.values() if v.spec().blocks == spec.blocks), None)


def describe(spec: ArchSpec) -> str:
    """``RepVGG-A0`` or ``custom (repvgg, depths 1-2-3-1, widths 16-16-32-64-128, ...)``."""
    name = variant_name(spec)
    if name is None:
        depths, widths = ("-".join(map(str, values)) for values in (spec.depths, spec.widths))
        groups = f", groups {max(spec.groups)}" if max(spec.groups) > 1 else ""
        se = ", SE" if spec.has_se else ""
        plain = spec.strides == PLAIN_STRIDES
        strides = "" if plain else f", strides {strides_text(spec.strides)}"
        name = f"custom ({spec.family}, depths {depths}, widths {widths}{strides}{groups}{se})"
    kind = ", qarepvgg blocks" if spec.block == "qarepvgg" else ""
    return f"{name}{kind}, {spec.num_classes} classes"
