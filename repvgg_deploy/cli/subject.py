"""SUBJECT: a file, or a checkpoint on the Hugging Face hub, fetched first."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource

from ..engine.engine_file import is_engine
from ..files import is_onnx
from .console import say

#: Parameters that mean something for one kind of subject only.
FOR_CHECKPOINTS = ("eps", "family", "ema", "strides", "pth", "form", "device")
FOR_GRAPHS = ("output", "allow_costlier")
FOR_ENGINES = ("strip", "plain")


@dataclass(frozen=True)
class Subject:
    """``origin`` and ``name`` are the hub's for what came from there, else None."""

    path: Path
    origin: str | None = None
    name: str | None = None

    @property
    def is_onnx(self) -> bool:
        return is_onnx(self.path) and not self.is_engine

    @property
    def is_engine(self) -> bool:
        """Whatever its name; a checkpoint and an ONNX model begin otherwise."""
        return is_engine(self.path)


def take(subject: str) -> Subject:
    """Where the file lies; UserError where the hub does not give it."""
    from ..checkpoint.hub import fetch, parse_hub

    wanted = parse_hub(subject)
    if wanted is None:
        return Subject(Path(subject))
    found = fetch(wanted)
    say(f"{found.origin}: {found.path}")
    return Subject(found.path, found.origin, found.name)


def check_options(subject: Subject) -> None:
    """Refuse options that would have no effect on this kind of subject."""
    if subject.is_engine:
        others = (*FOR_CHECKPOINTS, *FOR_GRAPHS)
        return refuse_options(others, f"{subject.path} is a TensorRT engine")
    if subject.is_onnx:
        refuse_options(FOR_CHECKPOINTS, f"{subject.path} is an ONNX model")
    else:
        refuse_options(FOR_GRAPHS, f"{subject.path} is a checkpoint, no ONNX model")
    return refuse_options(FOR_ENGINES, f"{subject.path} is no TensorRT engine")


def refuse_options(names: Container[str], reason: str) -> None:
    """Usage error where the user gave an option of these names; unused ones are never ignored."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            option = "/".join((parameter.opts[-1], *parameter.secondary_opts))
            raise click.UsageError(f"{option} has no effect here: {reason}.")
