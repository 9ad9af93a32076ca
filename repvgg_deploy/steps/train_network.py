"""The network that a run trains: from the zoo, or with a checkpoint's weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import UserError
from ..models.network import RepVGG
from ..models.spec import PLAIN_STRIDES, ArchSpec, Block, Strides
from ..models.zoo import Widths, describe, named_spec
from ..train.initial import fine_tuned_spec, new_network, take_weights
from ..train.record import Initial
from .weights import WeightsFile


@dataclass(frozen=True)
class Structure:
    """``arch`` is a name of the zoo; ``widths`` and ``strides`` replace its own. None: not said."""

    arch: str | None
    widths: Widths | None
    block: Block | None
    strides: Strides | None = None

    def spec(self, num_classes: int, in_channels: int) -> ArchSpec:
        """The architecture, which has a name.

        Raises:
            UserError: widths or blocks that it cannot have.
        """
        assert self.arch is not None
        return named_spec(
            self.arch,
            num_classes,
            in_channels=in_channels,
            widths=self.widths,
            block=self.block or "repvgg",
            strides=self.strides or PLAIN_STRIDES,
        )


@dataclass(frozen=True)
class Start:
    """A checkpoint to start from; ``origin`` is where it came from, if not from its path."""

    weights: WeightsFile
    origin: str | None
    keep_head: bool


def fresh_network(structure: Structure, num_classes: int, channels: int, seed: int) -> RepVGG:
    """Of random weights, the same for the same seed.

    Raises:
        UserError: an architecture that cannot be.
    """
    return new_network(structure.spec(num_classes, channels), seed)


def started_network(
    start: Start, structure: Structure, num_classes: int, channels: int, seed: int
) -> tuple[RepVGG, Initial]:
    """With a checkpoint's weights, and which those are.

    Raises:
        UserError: the checkpoint is fused or no whole network, or not of the structure, the images'
            channels, or, with its head kept, their classes.
    """
    path, whole = start.weights.path, start.weights.network
    check_structure(start.weights, structure)
    check_channels(start.weights, channels)
    try:
        spec = fine_tuned_spec(whole.spec, num_classes, start.keep_head)
        network = new_network(spec, seed)
        taken = take_weights(network, whole.spec, whole.form, whole.state, start.keep_head)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return network, initial(start, taken.taken, taken.fresh)


def initial(start: Start, taken: list[str], fresh: dict[str, str]) -> Initial:
    """For the record of the run."""
    checkpoint, whole = start.weights.checkpoint, start.weights.network
    origin = start.origin or str(checkpoint.path.resolve())
    return Initial(origin, checkpoint.sha256, whole.layout.name, taken, fresh)


def check_structure(weights: WeightsFile, structure: Structure) -> None:
    """UserError where a checkpoint is not of the structure that is asked for."""
    path, spec = weights.path, weights.network.spec
    if structure.arch is not None:
        strides = structure.strides or spec.strides
        asked = replace(structure, strides=strides).spec(spec.num_classes, spec.in_channels)
        if (asked.family, asked.blocks) != (spec.family, spec.blocks):
            raise UserError(
                f"{path}: holds {describe(spec)}, not {describe(asked)}; leave out --arch and "
                "--widths to train what it holds."
            )
    elif structure.widths not in (None, spec.widths):
        raise UserError(
            f"{path}: has widths {','.join(map(str, spec.widths))}, not "
            f"{','.join(map(str, structure.widths or ()))}; leave out --widths."
        )
    if structure.block not in (None, spec.block):
        raise UserError(
            f"{path}: has {spec.block} blocks, not {structure.block} ones; leave out --block."
        )


def check_channels(weights: WeightsFile, channels: int) -> None:
    """UserError where a checkpoint is for images of other channels."""
    taken = weights.network.spec.in_channels
    if taken != channels:
        raise UserError(
            f"{weights.path}: takes images of {taken} channels, and these have {channels} after "
            f"preprocessing; give --channels {taken}, with --mean and --std as it was trained with."
        )
