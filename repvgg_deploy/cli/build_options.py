"""The options of an engine build, gathered into the value that the build takes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..engine.options import BuildOptions, Profile
from .options import LARGEST_BATCH, TargetList

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


class BatchProfile(click.ParamType[Profile]):
    """``1,32,128`` as the smallest, tuned-for and largest batch."""

    name = "MIN,OPT,MAX"

    def convert(self, value: Any, param: Any, ctx: Any) -> Profile:
        if isinstance(value, Profile):
            return value
        match = re.fullmatch(r"([1-9]\d{0,4}),([1-9]\d{0,4}),([1-9]\d{0,4})", value)
        sizes = [int(size) for size in match.groups()] if match else []
        if not sizes or sorted(sizes) != sizes or sizes[-1] > LARGEST_BATCH:
            self.fail(
                f"{value!r} is no profile; write three batch sizes up to {LARGEST_BATCH}, "
                "ascending: 1,32,128.",
                param,
                ctx,
            )
        return Profile(*sizes)


class MemorySize(click.ParamType[int]):
    """``512M`` or ``4G`` in bytes; K, M and G are powers of 1024, as trtexec has them."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([1-9]\d{0,11})([KMG]?)(?:i?B)?", value, re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is no memory size; write 512M or 4G.", param, ctx)
        return int(match[1]) * _UNITS[match[2].upper()]


_OPTIONS = (
    click.option(
        "--profile",
        "profiles",
        multiple=True,
        type=BatchProfile(),
        help="Smallest, tuned-for and largest batch of the engine; repeat it for several profiles. "
        "[default: 1,32,128]",
    ),
    click.option(
        "--target",
        "targets",
        type=TargetList(),
        help="GPUs to build a TensorRT-RTX engine for, e.g. sm86,sm89. [default: all possible]",
    ),
    click.option(
        "--workspace",
        type=MemorySize(),
        help="GPU memory that kernels may use, e.g. 4G. [default: all]",
    ),
    click.option(
        "--opt-level",
        type=click.IntRange(0, 5),
        help="How long the builder searches, 0 to 5. [default: TensorRT's]",
    ),
    click.option(
        "--tf32/--no-tf32",
        default=False,
        show_default=True,
        help="Let float32 layers round their inputs to TF32.",
    ),
    click.option(
        "--version-compatible", is_flag=True, help="Load in newer TensorRT too (not RTX)."
    ),
    click.option(
        "--hardware-compatible", is_flag=True, help="Run on every GPU from Ampere on (not RTX)."
    ),
    click.option("--refittable", is_flag=True, help="Let the weights be replaced later."),
)
#: Parameters of the above, and of the rest that means nothing without an engine.
ENGINE_ONLY = (
    *("profiles", "targets", "workspace", "opt_level", "tf32", "version_compatible"),
    *("hardware_compatible", "refittable", "flavour", "timing_cache", "build_log"),
)


def build_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which gets them as ``build``."""

    @functools.wraps(command)
    def gathered(
        *args: Any,
        profiles: tuple[Profile, ...],
        targets: list[str] | None,
        workspace: int | None,
        opt_level: int | None,
        tf32: bool,
        version_compatible: bool,
        hardware_compatible: bool,
        refittable: bool,
        **others: Any,
    ) -> None:
        build = BuildOptions(
            profiles=profiles,
            targets=tuple(targets or ()),
            workspace=workspace,
            opt_level=opt_level,
            tf32=tf32,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            refittable=refittable,
        )
        command(*args, build=build, **others)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered


flavour = click.option(
    "--flavour",
    type=click.Choice(["auto", "tensorrt", "rtx"]),
    default="auto",
    show_default=True,
    help="Which TensorRT builds; auto: TensorRT where it is installed with a GPU, else RTX.",
)
timing_cache = click.option(
    "--timing-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Kernel timings to begin with and to add to; made if it is not there (not RTX).",
)
build_log = click.option(
    "--build-log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all that the builder says there.",
)
