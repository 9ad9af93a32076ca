"""Which GPUs TensorRT-RTX can build a network for ahead of time, judged by the network's types.

Checked by building on 2026-11-21 with TensorRT-RTX 1.7.1.116: Turing (sm75) has no float32 matrix
product and no bf16, and fp8 begins with Ada (sm89).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..errors import UserError
from .precision import LayerTypes
from .rtx_api import TensorRTRTX

_NO_BF16 = frozenset({"sm75"})
_NO_FP32_PRODUCT = frozenset({"sm75"})
_NO_FP8 = frozenset({"sm75", "sm80", "sm86"})


def known_targets(trt: TensorRTRTX) -> list[str]:
    """Every compute capability that this TensorRT-RTX builds for, like ``sm86``."""
    return [name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")]


def obstacle(target: str, types: Collection[str], product_types: Collection[str]) -> str:
    """Why a network cannot run there, empty where it can.

    ``types`` are all that its weighted layers use, ``product_types`` those of matrix products.
    """
    if "fp8" in types and target in _NO_FP8:
        return "it has no fp8, which begins with sm89"
    if "bf16" in types and target in _NO_BF16:
        return "it has no bf16, which begins with sm80"
    if "fp32" in product_types and target in _NO_FP32_PRODUCT:
        return "TensorRT-RTX has no float32 matrix product for it, and the classifier is one"
    return ""


def check_targets(
    known: Collection[str],
    asked: Iterable[str],
    types: Collection[str],
    product_types: Collection[str],
    version: str,
) -> None:
    """Refuse targets that do not exist, or that the types rule out.

    Raises:
        UserError: the first such target, and what to do.
    """
    for target in asked:
        if target not in known:
            raise UserError(
                f"target {target}: TensorRT-RTX {version} builds for {', '.join(known)}."
            )
        if reason := obstacle(target, types, product_types):
            raise UserError(f"target {target}: {reason}; leave it out, or use another precision.")


def pick_targets(trt: TensorRTRTX, asked: Collection[str], layers: list[LayerTypes]) -> list[str]:
    """The targets asked for, or else all that can run the network.

    Raises:
        UserError: a target that does not exist or cannot run it, or none can.
    """
    types = {kind for row in layers for kind in (row.input, row.weight, row.output)}
    of_products = (row for row in layers if row.kind == "matrix product")
    products = {kind for row in of_products for kind in (row.input, row.output)}
    known = known_targets(trt)
    check_targets(known, asked, types, products, trt.__version__)
    possible = [target for target in known if not obstacle(target, types, products)]
    if not possible:
        raise UserError(f"none of {', '.join(known)} can run this network; use another precision.")
    return list(asked) or possible
