"""The doctor's findings as lines."""

from __future__ import annotations

from collections.abc import Sequence

from ..steps.doctor import Finding

_MARK = {True: "ok", False: "--", None: "  "}


def doctor_text(findings: Sequence[Finding]) -> str:
    """One line a part; under a missing part, the line that installs it."""
    width = max(len(finding.part) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARK[finding.usable]}  {finding.part.ljust(width)}  {finding.detail}")
        if finding.remedy:
            lines.append(f"    {' ' * width}  -> {finding.remedy}")
    return "\n".join(lines)
