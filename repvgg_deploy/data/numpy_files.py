"""Arrays from .npy and .npz files, which may hold anything."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..archives import check_arrays, too_large
from ..errors import UserError


def read_arrays(path: Path, wanted: Sequence[tuple[str, ...]]) -> list[NDArray[Any] | None]:
    """For each of ``wanted`` the first array of those names, None where there is none.

    A .npy file has one array, which is the first; it is left on disk and read as it is used.

    Raises:
        UserError: no such file, another kind of file, a damaged one, one that would inflate beyond
            all measure or does not fit into memory, or not even the first array.
    """
    try:
        check_arrays(path)
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(content, np.ndarray):
            return [content, *[None] * (len(wanted) - 1)]
        with content:
            keys = [next((n for n in names if n in content.files), None) for names in wanted]
            if keys[0] is None:
                raise KeyError(f"its arrays are {content.files[:10]}")
            return [None if key is None else content[key] for key in keys]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give a .npy or .npz file of images.") from error
    except MemoryError as error:
        raise too_large(path) from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        name = wanted[0][0]
        raise UserError(
            f"{path}: is no .npy file and no .npz file with an array {' or '.join(wanted[0])} "
            f"({str(error)[:200]}); save the images with numpy.savez(path, {name}=images)."
        ) from error
