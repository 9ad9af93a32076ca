"""TensorRT-RTX's runtime cache: kernels compiled for this GPU, kept in a file beside the engine.

As trusted as the engine is: whoever can write beside it can replace either.
"""

from __future__ import annotations

from pathlib import Path

from ...engine.rtx_api import IRuntimeCache
from ...errors import UserError
from ...transaction import whole_file


class RuntimeCacheFile:
    """``<engine>.cache``. ``used``: the runtime took what was there.

    Nothing that goes wrong with it is fatal; ``warnings`` say what did. Call its methods with a
    CUDA context current: the runtime holds the cache against the GPU.
    """

    def __init__(self, engine: Path) -> None:
        self.path = engine.with_name(f"{engine.name}.cache")
        self.used = False
        self.warnings: list[str] = []
        self._stored = b""

    def fill(self, cache: IRuntimeCache) -> None:
        """Read the file into the runtime's cache; one that does not fit is set aside."""
        try:
            self._stored = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self.warnings.append(f"{self.path}: cannot be read ({error.strerror}); not used")
            return
        try:
            self.used = cache.deserialize(self._stored)
        except RuntimeError:  # how pybind11 hands on what the library throws
            self.used = False
        if not self.used:
            self._stored = b""
            self._set_aside()

    def save(self, cache: IRuntimeCache) -> None:
        """Write the file where something was compiled that it does not hold."""
        try:
            fresh = bytes(cache.serialize())
        except (RuntimeError, TypeError) as error:  # TypeError: of no memory at all
            self.warnings.append(f"the runtime cache is not kept: {error}")
            return
        if not fresh or fresh == self._stored:
            return
        try:
            with whole_file(self.path) as temporary:
                temporary.write_bytes(fresh)
        except UserError as error:
            self.warnings.append(f"the runtime cache is not kept: {error}")
            return
        self._stored = fresh

    def _set_aside(self) -> None:
        aside = self.path.with_name(f"{self.path.name}.unusable")
        try:
            self.path.replace(aside)
        except OSError as error:
            where = f"could not be moved away ({error.strerror})"
        else:
            where = f"is now {aside.name}"
        self.warnings.append(
            f"{self.path}: is damaged, or of another GPU, driver or TensorRT-RTX; it is not used "
            f"and {where}, and kernels are compiled anew"
        )
