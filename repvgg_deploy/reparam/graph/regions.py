"""Finding the regions of a graph that one convolution can hold, on sizes alone.

One pass forwards: every linear tensor is written as a sum of convolutions of *source* tensors, and
a source is replaced by its own form while everything that reads it lies inside. Then one pass
backwards picks the largest forms that start from a single source.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Form:
    """A tensor as a sum over sources.

    ``macs`` is what its convolutions cost for one of its pixels; ``additions`` is what its average
    pools do. Those multiply nothing, so they are no reason to allow a region a costlier kernel.
    """

    terms: dict[str, Term]
    nodes: int
    convs: int
    macs: int
    additions: int

    @property
    def macs_fused(self) -> int:
        return sum(term.geometry.multiply_adds for term in self.terms.values())


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
                    form = self._absorb(form, name)
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

    def _absorb(self, form: Form, name: str) -> Form:
        """``form`` with the source ``name`` replaced by that tensor's own form."""
        inner, outer = self.forms[name], form.terms[name]
        terms = {source: term for source, term in form.terms.items() if source != name}
        for source, term in inner.terms.items():
            geometry, reads = term.geometry.then(outer.geometry), term.reads
            if source in terms:
                geometry, reads = terms[source].geometry + geometry, terms[source].reads + reads
            terms[source] = Term(geometry, reads)
        if len(terms) > max(OPEN_SOURCES, len(form.terms)):
            raise NotOneConv(f"its branches start from more than {OPEN_SOURCES} tensors")
        height, width = outer.geometry.stride
        result = Form(
            terms,
            form.nodes + inner.nodes,
            form.convs + inner.convs,
            form.macs + inner.macs * height * width,
            form.additions + inner.additions * height * width,
        )
        # A pool among several sources is not done yet: the kernel of a branch may take it in.
        limit = result.macs + (result.additions if len(terms) > 1 else 0)
        if result.macs_fused > limit and not self._allow_costlier:
            raise NotOneConv(
                f"one convolution would take {result.macs_fused:,} multiply-adds a pixel where "
                f"the branches take {result.macs:,}"
            )
        return result


def _start(operation: Operation) -> Form:
    """A node on its own."""
    terms: dict[str, Term] = {}
    for name in operation.inputs:
        terms[name] = Term(operation.geometry, operation.inputs.count(name))
    cost = operation.geometry.multiply_adds
    return Form(terms, 1, *((1, cost, 0) if operation.is_conv else (0, 0, cost)))


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
