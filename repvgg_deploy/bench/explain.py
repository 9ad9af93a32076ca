"""Why a network is no faster than the baseline of its contest."""

from __future__ import annotations

from .causes import Case, causes
from .operators import Graphs
from .record import BenchRecord, Contest, Explanation, Measured

#: Kinds of subjects that are made to be faster than a baseline.
_FASTER = ("fused", "onnx", "engine")


def explain(record: BenchRecord, graphs: Graphs) -> list[Explanation]:
    """For each subject that was to be faster than the baseline of its contest and is not, beyond
    noise: every known cause that holds, or one explanation that none does.

    ``graphs`` may lack runtimes that do not tell what they run.
    """
    found = []
    for contest in record.contests:
        for measured in contest.measured:
            case = _case(record, contest, measured, graphs)
            if case is not None:
                found += [
                    Explanation(contest.runtime, contest.batch, measured.label, cause, text)
                    for cause, text in causes(case).items()
                ]
    return found


def _case(record: BenchRecord, contest: Contest, measured: Measured, graphs: Graphs) -> Case | None:
    """None: nothing has to be explained."""
    theirs, ratio = contest.of(contest.baseline), measured.ratio
    if theirs is None or ratio is None or (ratio.low is not None and ratio.low > 1):
        return None
    case = Case(record, contest, measured, theirs, graphs)
    subject = case.subject(measured.label)
    return case if subject is not None and subject.kind in _FASTER else None
