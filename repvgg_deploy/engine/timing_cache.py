"""TensorRT's timing cache: kernels measured by earlier builds, so that the next is faster."""

from __future__ import annotations

from pathlib import Path

from . import api
from .request import BuildRequest


def use_timing_cache(config: api.IBuilderConfig, request: BuildRequest) -> bool:
    """Whether the cache of an earlier build is of use here; an empty one always is."""
    if request.new_cache is None:
        return True
    if request.timing_cache is not None:
        earlier = config.create_timing_cache(Path(request.timing_cache).read_bytes())
        if earlier is not None and config.set_timing_cache(earlier, False):
            return True
    empty = config.create_timing_cache(b"")
    if empty is not None:
        config.set_timing_cache(empty, False)
    return request.timing_cache is None


def store_timing_cache(config: api.IBuilderConfig, request: BuildRequest) -> None:
    """For the next build, where one is wanted."""
    if request.new_cache is None:
        return
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        Path(request.new_cache).write_bytes(cache.serialize())
    except OSError as error:  # a full disk; the system does not name the file
        raise OSError(error.errno, error.strerror, request.new_cache) from error
