"""Finding the regions of a graph that one convolution can hold, on sizes alone.

One pass forwards: every linear tensor is written as a sum of convolutions of *source* tensors, and
a source is replaced by its own form while everything that reads it lies inside. Then one pass
backwards picks the largest forms that start from a single source.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..geometry import Geometry, NotOneConv
from .index import GraphIndex, describe
from .operators import Operation

#: A sum of branches may start from this many tensors while its parts are still being put together.
OPEN_SOURCES = 4


@dataclass(frozen=True)
class Term:
    """The convolution of one source, which the nodes of the form read ``reads`` times."""

    geometry: Geometry
    reads: int


@dataclass
class Form:
    """A tensor as a sum over sources; ``macs_fused`` is what one convolution of each would cost.

    ``macs`` is what its convolutions cost for one of its pixels; ``additions`` is what its average
    pools do. Those multiply nothing, so they are no reason to allow a region a costlier kernel.
    """

    terms: dict[str, Term]
    nodes: int
    convs: int
    macs: int
    additions: int
    macs_fused: int


@dataclass(frozen=True)
class Region:
    """``nodes`` (numbers, in order; the last one makes the end tensor) as one convolution."""

    nodes: tuple[int, ...]
    source: str
    form: Form


class Forms:
    """The form of every linear tensor; ``refused`` says of a source why it was not replaced."""

    def __init__(
        self, index: GraphIndex, operations: dict[int, Operation], allow_costlier: bool
    ) -> None:
        self._index = index
        self._operations = operations
        self._allow_costlier = allow_costlier
        self.forms: dict[str, Form] = {}
        self.refused: dict[str, str] = {}
        for number in sorted(operations):
            output = index.nodes[number].output[0]
            self.forms[output] = self._grow(_start(operations[number]))

    def _grow(self, form: Form) -> Form:
        """Replace sources until none can be."""
        progress = True
        while progress:
            progress = False
            for name in [name for name in form.terms if name in self.forms]:
                try:
                    self._check_inside(name, form.terms[name].reads)
                    self._absorb(form, name)
                except NotOneConv as reason:
                    self.refused[name] = str(reason)
                else:
                    self.refused.pop(name, None)
                    progress = True
        return form

    def _check_inside(self, name: str, reads: int) -> None:
        """Nothing outside the region may read a tensor that is going to vanish."""
        if name in self._index.held:
            raise NotOneConv(f"tensor {name!r} {self._index.held[name]}")
        readers = self._index.readers[name]
        if len(readers) == reads:
            return
        for number in readers[:OPEN_SOURCES]:  # an example will do, and the pass stays linear
            if number not in self._operations:
                raise NotOneConv(f"{describe(self._index.nodes[number])} reads {name!r} as well")
        raise NotOneConv(f"{name!r} has several readers that no single convolution holds")

    def _absorb(self, form: Form, name: str) -> None:
        """Replace the source ``name`` of ``form`` by that tensor's own form; or NotOneConv."""
        inner, outer = self.forms[name], form.terms[name]
        changed: dict[str, Term] = {}
        cost = form.macs_fused - outer.geometry.multiply_adds
        for source, term in inner.terms.items():
            geometry, reads = term.geometry.then(outer.geometry), term.reads
            if source in form.terms:
                other = form.terms[source]
                cost -= other.geometry.multiply_adds
                geometry, reads = other.geometry + geometry, other.reads + reads
            cost += geometry.multiply_adds
            changed[source] = Term(geometry, reads)
        sources = len(form.terms) - 1 + sum(source not in form.terms for source in changed)
        if sources > max(OPEN_SOURCES, len(form.terms)):
            raise NotOneConv(f"its branches start from more than {OPEN_SOURCES} tensors")
        height, width = outer.geometry.stride
        macs = form.macs + inner.macs * height * width
        additions = form.additions + inner.additions * height * width
        # A pool among several sources is not done yet: the kernel of a branch may take it in.
        limit = macs + (additions if sources > 1 else 0)
        if cost > limit and not self._allow_costlier:
            raise NotOneConv(
                f"one convolution would take {cost:,} multiply-adds a pixel where the branches "
                f"take {macs:,}"
            )
        del form.terms[name]
        form.terms.update(changed)
        form.nodes, form.convs = form.nodes + inner.nodes, form.convs + inner.convs
        form.macs, form.additions, form.macs_fused = macs, additions, cost


def _start(operation: Operation) -> Form:
    """A node on its own."""
    reads = Counter(operation.inputs)
    terms = {name: Term(operation.geometry, count) for name, count in reads.items()}
    cost = operation.geometry.multiply_adds
    conv = operation.is_conv
    return Form(terms, 1, int(conv), cost if conv else 0, 0 if conv else cost, cost * len(terms))


def select_regions(
    index: GraphIndex, operations: dict[int, Operation], forms: dict[str, Form]
) -> list[Region]:
    """The largest single-source forms with a Conv and something to fold, in graph order."""
    regions: list[Region] = []
    taken: set[int] = set()
    for number in sorted(operations, reverse=True):
        form = forms[index.nodes[number].output[0]]
        if number in taken or len(form.terms) > 1 or not form.convs or form.nodes < 2:
            continue
        (source,) = form.terms
        nodes = _between(index, operations, source, number)
        taken.update(nodes)
        regions.append(Region(nodes, source, form))
    return regions[::-1]


def _between(
    index: GraphIndex, operations: dict[int, Operation], source: str, end: int
) -> tuple[int, ...]:
    found, queue = {end}, [end]
    while queue:
        for name in operations[queue.pop()].inputs:
            if name != source and index.producer[name] not in found:
                found.add(index.producer[name])
                queue.append(index.producer[name])
    return tuple(sorted(found))
