"""How one kind of re-parameterizable block is described: names, and nothing else.

Names stand below a block's own path. They are attribute paths and state-dict keys at once, so one
description serves checkpoints and torch modules.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Stands in a name for 0, 1, 2, ...: one branch for each number that a block has.
NUMBER = "{n}"


@dataclass(frozen=True)
class Branch:
    """A linear path from a block's input to the sum of its branches.

    ``steps`` name convolutions, linear layers, batch norms and scale parameters in the order in
    which they are applied (their tensors say which is which); none: the identity.
    """

    steps: tuple[str, ...] = ()
    #: A block may lack this branch.
    optional: bool = False
    #: Size of the branch's kernel, where the names alone could mean another kind of block.
    kernel: int | None = None
    #: The kernel has one input channel a group, where the names alone could mean other layers.
    depthwise: bool = False
    #: What the steps have to be, a letter each: ``k`` a convolution or linear layer (a kernel),
    #: ``n`` a batch norm, ``s`` a scale; steps beyond them may be anything.
    kinds: str = ""
    #: In place of steps: average pooling of this size, stride 1, zeros padded and counted.
    average_pool: int | None = None
    #: Where a module keeps a branch without tensors; None there: this block lacks it.
    attribute: str = ""
    #: What the branch is multiplied with in the sum.
    factor: float = 1.0


def conv_bn(
    path: str,
    conv: str = "conv",
    bn: str = "bn",
    *,
    optional: bool = False,
    kernel: int | None = None,
) -> Branch:
    """A convolution and its batch norm under a common path."""
    steps = (f"{path}.{conv}", f"{path}.{bn}")
    return Branch(steps, optional=optional, kernel=kernel, kinds="kn")


def norm(path: str) -> Branch:
    """A batch norm alone: the identity branch of blocks that keep their shape."""
    return Branch((path,), optional=True, kinds="n")


@dataclass(frozen=True)
class BlockFamily:
    """One kind of block of one code base: the sum of ``branches``, then ``tail``.

    A branch without tensors is assumed where a block has as many channels out as in; a module
    says so itself.
    """

    #: Code base, as ``--family`` names it.
    family: str
    #: Name of the class there.
    block: str
    branches: tuple[Branch, ...]
    #: The convolution that takes the branches' place; empty: the block itself becomes one.
    fused: str
    #: Batch norm's eps. No state dict holds it; modules say their own.
    eps: float = 1e-5
    #: Batch norm after the sum.
    outer_norm: str = ""
    #: The code base's own deploy form keeps that batch norm, so its state dict does too.
    keeps_outer_norm: bool = False
    #: What of ``tail`` stands between the sum and that batch norm: in a block that has it the
    #: batch norm stays as well.
    before_outer_norm: str = ""
    #: Modules after the sum in the order of forward; a block may lack any of them.
    tail: tuple[str, ...] = ()
    #: Pattern of the paths where a checkpoint has these blocks, if names alone could mean others.
    where: str = ""
    #: Elsewhere the same names are mostly other things, so that only ``--family`` looks there.
    only_there: bool = False
    #: Pattern of the paths of blocks that downsample, and so have no identity whatever their shape.
    strided: str = ""
    #: The code base's own deploy form keeps the branches beside the convolution.
    keeps_branches: bool = False
    #: Plain layers that the code base folds too. Checkpoints have them beside other blocks of it
    #: only, and in modules they are not looked for.
    companion: bool = False
    #: Pattern of the keys that only training needs, auxiliary heads for example.
    training_only: str = ""
    #: Found only when asked for, since another family has the same keys.
    on_request: bool = False
    #: What someone should know who meets this family in a checkpoint.
    note: str = ""

    @property
    def is_plain_layer(self) -> bool:
        """One layer with its batch norm, under names so common that they prove no code base."""
        return self.companion or (len(self.branches) == 1 and not self.where)
