"""Activations of a model on calibration images, counted batch by batch as they come.

ONNX Runtime always gets the same number of images at a time and runs them on one thread, whatever
the size of the batches they come in. So the results depend neither on that size nor on the number
of cores: not in the last bit. Cores share the work by each running images of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from ..errors import UserError
from ..reparam.graph.files import read_proto
from ..runners.onnx_session import Arrays, OrtSession
from .histograms import ChannelHistograms, Histogram
from .threads import in_parallel

#: Values of the input that are run at a time: one image of 224 px, or 42 of 32 px.
_VALUES_AT_ONCE = 2**17

#: What errors call a model that came without its file.
NAMELESS = Path("the ONNX model")

Batches = Iterable[NDArray[np.float32]]
_Kind = TypeVar("_Kind", Histogram, ChannelHistograms)
_Result = TypeVar("_Result")


def collect(
    model: ModelProto | Path, tensors: Sequence[str], batches: Batches
) -> dict[str, Histogram]:
    """The histogram of each of these tensors, by name; UserError as :func:`activations`."""
    return _collect(model, tensors, batches, lambda name, values: Histogram(name))


def collect_channels(
    model: ModelProto | Path, tensors: Sequence[str], batches: Batches
) -> dict[str, ChannelHistograms]:
    """The same, a histogram for each channel; ``total()`` of each is what :func:`collect` gives."""
    return _collect(
        model, tensors, batches, lambda name, values: ChannelHistograms(name, values.shape[1])
    )


def activations(
    model: ModelProto | Path, tensors: Sequence[str], batches: Batches
) -> Iterator[Arrays]:
    """What the model's ``tensors`` hold, a few images at a time: float32 [n, C, ...] by name.

    Inner tensors, outputs, and the input itself, in the order of the images. Only those at hand
    are kept. ``batches`` are float32 [n, C, H, W].

    Raises:
        UserError: no such tensor, not a float32 model of one input, no images, images that hold
            NaN or infinity, or that the model does not take.
    """
    return _with_each(model, tensors, batches, lambda arrays: arrays)


def _collect(
    model: ModelProto | Path,
    tensors: Sequence[str],
    batches: Batches,
    new: Callable[[str, NDArray[np.float32]], _Kind],
) -> dict[str, _Kind]:
    found: dict[str, _Kind] = {}
    locks = {name: Lock() for name in tensors}

    def count(arrays: Arrays) -> None:
        for name, lock in locks.items():
            with lock:
                if name not in found:
                    found[name] = new(name, arrays[name])
                found[name].add(arrays[name])

    for _ in _with_each(model, tensors, batches, count):
        pass
    return {name: found[name] for name in locks}


def _with_each(
    model: ModelProto | Path,
    tensors: Sequence[str],
    batches: Batches,
    use: Callable[[Arrays], _Result],
) -> Iterator[_Result]:
    """What ``use`` makes of the tensors of each chunk of images, called on several threads."""
    path = model if isinstance(model, Path) else NAMELESS
    graph = _exposed(read_proto(model) if isinstance(model, Path) else model, tensors, path)
    session = OrtSession(path, graph.SerializeToString(), for_threads=True)
    name, fixed = _image_input(session, path)

    def run(chunk: tuple[NDArray[np.float32], int]) -> _Result:
        images, kept = chunk
        arrays = {**session.run({name: images}), name: images}
        checked = {tensor: _checked(arrays[tensor], tensor, images, path) for tensor in tensors}
        return use({tensor: values[:kept] for tensor, values in checked.items()})

    empty = True
    for result in in_parallel(run, _in_chunks(batches, fixed)):
        empty = False
        yield result
    if empty:
        raise UserError("there are no calibration images; give at least one, better 500.")


def _exposed(model: ModelProto, tensors: Sequence[str], path: Path) -> ModelProto:
    """A copy that gives these tensors as outputs too."""
    computed = {output for node in model.graph.node for output in node.output if output}
    given = {value.name for value in model.graph.input}
    for name in tensors:
        if name not in computed | given:
            raise UserError(f"{path}: has no tensor {name!r}; give the output of one of its nodes.")
    exposed = ModelProto()
    exposed.CopyFrom(model)
    shown = {value.name for value in model.graph.output} | given
    inner = [name for name in dict.fromkeys(tensors) if name not in shown]
    exposed.graph.output.extend(ValueInfoProto(name=name) for name in inner)
    return exposed


def _image_input(session: OrtSession, path: Path) -> tuple[str, int | None]:
    """Name of the only input, and the number of images it takes, None where that is free."""
    if len(session.inputs) != 1 or session.inputs[0][1] != "tensor(float)":
        kinds = {name: kind for name, kind, _ in session.inputs}
        raise UserError(
            f"{path}: its inputs are {kinds}; calibrate a float32 model with one image input."
        )
    name, _, shape = session.inputs[0]
    return name, shape[0] if shape and isinstance(shape[0], int) else None


def _in_chunks(batches: Batches, fixed: int | None) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Always the same number of images, and how many of them count.

    The last chunk is filled up with its own last image.
    """
    images = (image for batch in batches for image in batch)
    for first in islice(images, 1):
        size = fixed or max(1, _VALUES_AT_ONCE // max(first.size, 1))
        held = [first, *islice(images, size - 1)]
        while held:
            if {image.shape for image in held} != {first.shape}:
                raise UserError("the calibration images differ in size; bring them to one size.")
            chunk = np.stack(held + held[-1:] * (size - len(held)))
            if not np.isfinite(chunk).all():
                raise UserError("a calibration image holds NaN or infinity; mend or drop it.")
            yield chunk, len(held)
            held = list(islice(images, size))


def _checked(
    values: NDArray[Any], name: str, images: NDArray[np.float32], path: Path
) -> NDArray[np.float32]:
    if values.dtype != np.float32 or values.ndim < 2 or len(values) != len(images):
        raise UserError(
            f"{path}: its tensor {name!r} is {values.dtype} of shape {list(values.shape)} for "
            f"{len(images)} images; only float32 tensors [images, channels, ...] can be calibrated."
        )
    return values
