"""Inputs and outputs that the user recorded from the user's own model, in an .npz file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..archives import check_arrays, too_large
from ..errors import UserError
from ..files import sha256_file
from ..runners.onnx_session import Arrays

#: A checkpoint is a zip file too, of hundreds of members.
_MOST_ARRAYS = 64
RECORD_IT = "numpy.savez('truth.npz', x=x.numpy(), y=model.eval()(x).detach().numpy())"


@dataclass(frozen=True)
class Truth:
    """``arrays`` are x and y, or the inputs and outputs by the names that the model gives them."""

    path: Path
    sha256: str
    arrays: Arrays

    def match(
        self, model: Path, inputs: Sequence[str], outputs: Sequence[str]
    ) -> tuple[Arrays, Arrays]:
        """What goes into a model of these inputs and outputs, and what was recorded of it.

        Raises:
            UserError: an input is missing, no output is there, or an array is neither.
        """
        names = set(self.arrays)
        if set(inputs) <= names and names & set(outputs) and names <= {*inputs, *outputs}:
            given = {name: self.arrays[name] for name in inputs}
            return given, {name: self.arrays[name] for name in outputs if name in names}
        if names == {"x", "y"} and len(inputs) == len(outputs) == 1:
            return {inputs[0]: self.arrays["x"]}, {outputs[0]: self.arrays["y"]}
        raise UserError(
            f"{self.path}: holds the arrays {_listed(sorted(names))}, and {model} takes "
            f"{_listed(inputs)} and gives {_listed(outputs)}; record them under these names, or as "
            "x and y where there is one of each."
        )


def read_truth(path: Path) -> Truth:
    """Recorded inputs and outputs from an .npz file; nothing in it is unpickled.

    Raises:
        UserError: no such file, not an .npz file, damaged, too large for the memory, Python
            objects, no samples, no numbers, NaN or infinity.
    """
    try:
        check_arrays(path)
        with path.open("rb") as stream:
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise ValueError("it is one array, an .npy file")
            if len(content.files) > _MOST_ARRAYS:
                raise ValueError(f"it has {len(content.files)} members")
            arrays = {name: np.asarray(content[name]) for name in content.files}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; record it with {RECORD_IT}.") from error
    except MemoryError as error:
        raise too_large(path) from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path}: is not an .npz file of plain arrays ({str(error)[:200].rstrip('.')}); record "
            f"it with {RECORD_IT}."
        ) from error
    if len(arrays) < 2:
        raise UserError(
            f"{path}: holds the arrays {_listed(sorted(arrays))}; it takes inputs and outputs, x "
            f"and y: {RECORD_IT}."
        )
    for name, values in arrays.items():
        _check(path, name, values)
    return Truth(path, sha256_file(path), arrays)


def _check(path: Path, name: str, values: NDArray[Any]) -> None:
    if values.dtype.kind not in "fiub":
        raise UserError(f"{path}: its array {name!r} holds {values.dtype}, not numbers.")
    if values.ndim == 0 or values.size == 0:
        raise UserError(
            f"{path}: its array {name!r} has shape {values.shape}, so it holds no samples; record "
            "at least one."
        )
    if not np.isfinite(values).all():
        raise UserError(
            f"{path}: its array {name!r} holds NaN or infinity; record samples without."
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(map(repr, names[:6])) + more if names else "(none)"
