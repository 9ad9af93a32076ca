"""Tensors that a file declares: described first, checked, and only then read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor


class Damaged(Exception):
    """The file contradicts itself; the text is the reason, without the path."""


class Refused(Exception):
    """A pickle refers to something beyond tensors and numbers; the text is its name."""


class Unusual(Exception):
    """A tensor that is not plain numbers in memory; the text says what kind."""


class Sealed:
    """What no pickle sets attributes of: the machine would, past every check of the values."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Damaged("it sets attributes of what has none")


class Declared(Sealed, ABC):
    """A tensor of a file, not in memory yet."""

    __slots__ = ()

    @abstractmethod
    def read(self) -> Tensor:
        """Its numbers.

        Raises:
            Damaged: the bytes are not there, or do not match their checksum.
            Unusual: a sparse or quantized tensor, say.
        """


class UnusualTensor(Declared):
    """Known by name, and never read."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def read(self) -> Tensor:
        raise Unusual(self.kind)
