"""Inputs for a proof of ONNX graphs: made of seeded noise, or given in a NumPy file."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..archives import check_arrays, too_large
from ..errors import UserError
from ..runners.onnx_session import FLOAT_TYPES, Arrays, OrtSession

BATCH = 2
ROUNDS = 4
#: What dynamic dimensions are tried at, smallest first.
SIDES = (32, 64, 128)
#: A checkpoint is a zip file too: of its hundred members these many are named.
_LISTED = 6
#: Numbers in one input that noise is made for, 1 GB of them.
_MOST = 2**28
OTHER_INPUTS = "give inputs in an .npz file whose arrays bear the input names"


def read_inputs(path: Path) -> Arrays:
    """Arrays of an .npz file by name, or the one of an .npy file; UserError where it is neither."""
    try:
        check_arrays(path)
        content = np.load(path)
        if isinstance(content, np.ndarray):
            return {"": content}
        with content:
            return dict(content)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the path of an .npz or .npy file.") from error
    except MemoryError as error:
        raise too_large(path) from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path}: is not an .npz or .npy file, or damaged; {OTHER_INPUTS}."
        ) from error


def made_up_inputs(session: OrtSession, model: Path) -> list[Arrays]:
    """Noise that the model takes: batch 2, other dynamic sides 32, or larger if it refuses.

    ROUNDS of it, since where a tensor has few values (a squeeze-excitation of a fixed batch) one
    round may meet a lucky reference.

    Raises:
        UserError: inputs that noise cannot stand for, or that the model does not run on.
    """
    refusal = None
    for side in SIDES:
        generator = np.random.default_rng(0)
        rounds = [
            {
                name: _noise(generator, name, kind, shape, side, model)
                for name, kind, shape in session.inputs
            }
            for _ in range(ROUNDS)
        ]
        try:
            session.run(rounds[0])
        except UserError as error:
            refusal = error
        else:
            return rounds
    raise UserError(f"{model}: does not run on made-up inputs; {OTHER_INPUTS} ({refusal})")


def _noise(
    generator: np.random.Generator,
    name: str,
    kind: str,
    shape: list[int | str | None],
    side: int,
    model: Path,
) -> NDArray[Any]:
    if kind not in FLOAT_TYPES:
        raise UserError(
            f"{model}: its input {name!r} is a {kind}, which noise is not; {OTHER_INPUTS}."
        )
    sizes = [size if isinstance(size, int) else side for size in shape]
    if shape and not isinstance(shape[0], int):
        sizes[0] = BATCH
    if not 0 <= prod(sizes) <= _MOST:
        raise UserError(
            f"{model}: its input {name!r} has the shape {shape}, too large to be made up; "
            f"{OTHER_INPUTS}."
        )
    return generator.standard_normal(sizes).astype(FLOAT_TYPES[kind])


def match_inputs(inputs: Arrays, session: OrtSession, model: Path) -> Arrays:
    """``inputs`` by the model's names; one array goes to a model's one input, whatever its name.

    Integers and bools (images) become floats where the model takes those.

    Raises:
        UserError: a missing input, one too many, no samples, or no numbers.
    """
    kinds = {name: kind for name, kind, _ in session.inputs}
    names = list(kinds)
    if len(inputs) == len(names) == 1:
        inputs = dict(zip(names, inputs.values(), strict=True))
    if sorted(names) != sorted(inputs):
        given = sorted(inputs)
        more = f" and {len(given) - _LISTED} more" if len(given) > _LISTED else ""
        raise UserError(
            f"{model}: takes the inputs {sorted(names)}, and these were given: "
            f"{given[:_LISTED]}{more}."
        )
    for name, values in inputs.items():
        if values.size == 0:
            raise UserError(f"input {name!r} holds no samples; a proof on nothing proves nothing.")
        if kinds[name] in FLOAT_TYPES and values.dtype.kind not in "fiub":
            raise UserError(f"input {name!r} holds {values.dtype}, and {model} takes numbers.")
    return {
        name: values.astype(FLOAT_TYPES[kinds[name]])
        if kinds[name] in FLOAT_TYPES and values.dtype.kind in "iub"
        else values
        for name, values in inputs.items()
    }
