"""TensorRT's own words, handed on as it speaks them."""

from __future__ import annotations

from collections.abc import Callable

from .module import TensorRT


def make_logger(trt: TensorRT, say: Callable[[str, str], None]) -> object:
    """A TensorRT logger that calls ``say(severity, message)``.

    ``severity`` is error, warning, info or verbose. Keep a reference to the logger for as long as
    what was made with it lives: TensorRT does not.
    """
    names = {
        trt.Logger.INTERNAL_ERROR: "error",
        trt.Logger.ERROR: "error",
        trt.Logger.WARNING: "warning",
        trt.Logger.INFO: "info",
        trt.Logger.VERBOSE: "verbose",
    }

    class Relay(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 asks for the base class by name

        def log(self, severity: object, message: str) -> None:
            say(names[severity], message.strip())

    return Relay()
