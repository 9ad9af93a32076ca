"""A report as one HTML page that opens from disk, and as markdown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...optional import require
from ...sqnr import from_json, sqnr_text
from ..text import shown
from .pictures import pictures
from .summary import summarize
from .tables import basename, by_contest, flat, operator_names, tradeoff, tree, worst
from .training import runs
from .values import FORMATS

if TYPE_CHECKING:
    from jinja2 import Environment

    from ...steps.lineage.record import Report

_TEMPLATES = Path(__file__).parent / "templates"
_STATUSES = {
    "intact": "intact", "differs": "NOT AS RECORDED", "stale": "OUT OF DATE", "missing": "MISSING",
    "unrecorded": "no sidecar",
}  # fmt: skip
_MOODS = {
    "intact": "good", "proved": "good", "nothing to prove": "good", "unrecorded": "open",
    "not proved": "open",
}  # fmt: skip
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~&$])")
_DASH = "\N{EN DASH}"


def html(report: Report, json_name: str) -> str:
    """``json_name`` is the file beside it that holds the same.

    Raises:
        UserError: the extra ``report`` is not installed.
    """
    require("matplotlib")
    markup = require("jinja2").utils.markupsafe.Markup
    environment = _environment(escape=True)
    environment.filters["number"] = lambda value, name: FORMATS[name](value)
    drawn = {name: markup(svg) for name, svg in pictures(report).items()}
    style = markup((_TEMPLATES / "style.css").read_text())
    return _render(environment, "report.html", report, json_name, svg=drawn, style=style)


def markdown(report: Report, json_name: str) -> str:
    """Without the plots; otherwise as :func:`html`."""
    environment = _environment(escape=False)
    environment.filters["number"] = _number
    environment.filters["shown"] = lambda text: _MARKUP.sub(r"\\\1", shown(text))
    text = _render(environment, "report.md", report, json_name)
    return re.sub(r"\n{3,}", "\n\n", text)


def _environment(*, escape: bool) -> Environment:
    jinja2 = require("jinja2")
    environment: Environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        shown=shown, line=shown, basename=basename, worst=worst, exact=json.dumps,
        sqnr=lambda value: sqnr_text(from_json(value)),
    )  # fmt: skip
    environment.globals.update(mood=lambda word: _MOODS.get(word, "bad"), statuses=_STATUSES)
    return environment


def _render(
    environment: Environment, name: str, report: Report, json_name: str, **more: Any
) -> str:
    speed, evaluation = report.speed, report.evaluation
    return environment.get_template(name).render(
        report=report,
        json_name=json_name,
        answers=summarize(report),
        tree=tree(report.files),
        tradeoff=tradeoff(report),
        doubts={} if speed is None else by_contest(speed.doubts),
        changed=[one.file for one in evaluation.networks if one.changed] if evaluation else [],
        operator_names=operator_names(report),
        runs=runs(report),
        environment=[] if speed is None else list(flat(speed.environment)),
        settings=[] if speed is None else list(flat(speed.settings, "not given")),
        **more,
    )


def _number(value: float | None, name: str = "plain") -> str:
    return _DASH if value is None else FORMATS[name](value)
