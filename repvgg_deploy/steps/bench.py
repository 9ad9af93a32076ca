"""bench: networks against one another, on every runtime present."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..bench.environment import environment
from ..bench.record import BenchRecord
from ..errors import CheckFailed, UserError
from ..sidecar import write_json
from ..workspace import ModelFolder
from .bench_analysis import add_explanations, add_rooflines
from .bench_engines import BuildLike, EngineBench
from .bench_faith import Yardstick
from .bench_field import Field, Settings, enter, first_notes
from .bench_lane import Lane, reason_of
from .bench_model import proof_line
from .bench_output import check_output
from .bench_results import Results
from .bench_runtimes import DEVICES, ENGINE_RUNTIMES, opener, pick_runtimes
from .bench_server import serve_lanes
from .bench_subjects import FUSED, find_origin
from .contest import Progress, Rules, hold_contest


@dataclass(frozen=True)
class Outcome:
    """``record`` is what lies at ``path``. ``differing`` names results that are not what they
    ought to be; ``missed`` are sentences on what was asked for and gave no time."""

    path: Path
    record: BenchRecord
    differing: list[str]
    missed: list[str]
    interrupted: bool


@dataclass
class _Run:
    """A run under way."""

    settings: Settings
    field: Field
    rules: Rules
    yardstick: Yardstick
    progress: Progress
    results: Results

    def networks(self, runtime: str) -> None:
        """Every entrant that the runtime can run, at every batch size."""
        threads, in_flight = self.settings.threads, self.settings.in_flight
        lanes = [
            Lane(entrant, opened, entrant.subject.precision, DEVICES.get(runtime, "none"))
            for entrant in self.field.entrants
            if (opened := opener(runtime, entrant, threads, in_flight)) is not None
        ]
        if (load := self.settings.load) is not None:
            batches, seed = self.settings.batches, self.settings.seed
            serve_lanes(runtime, lanes, batches, load, seed, self.yardstick, self.results)
            return
        for batch in self.settings.batches if lanes else []:
            contest, held = hold_contest(
                runtime, batch, lanes, self.rules, self.yardstick, self.progress
            )
            self.results.add(contest, held, lanes)

    def engines(self, flavours: list[str], build_like: BuildLike | None) -> None:
        """Those of the workspace, where they are asked for or nothing is, and those named."""
        model, asked = self.field.model, bool(self.settings.runtimes)
        unfused = {} if model is None else {k: v for k, v in model.networks.items() if k != FUSED}
        engines = EngineBench(
            self.settings.batches,
            self.rules,
            unfused,
            build_like,
            self.settings.builds,
            asked,
            self.yardstick,
            self.progress,
            self.results,
        )
        if model is not None and (flavours or not asked):
            engines.run(model.folder, model.fused, flavours)
        for engine in self.field.engines:
            engines.measure(engine.path, str(engine.path), {}, find_origin(engine.path))


def bench(
    settings: Settings,
    folder: ModelFolder | None,
    files: Sequence[Path],
    output: Path,
    *,
    command: str,
    build_like: BuildLike | None = None,
    progress: Progress = lambda runtime, batch, share: None,
) -> Outcome:
    """Measure a model's networks, named ``files`` and references; write the record to ``output``.

    ``folder`` None: the files and references alone. ``build_like`` builds engines to compare with.

    Raises:
        UserError: a runtime that is not here, a file that cannot be used, an ``output`` that cannot
            be written or holds something else, or nothing was measured.
        CheckFailed: nothing was measured, since the results are not what they ought to be.
        KeyboardInterrupt: before anything was measured.
    """
    wanted = pick_runtimes(settings.runtimes)
    check_output(output, ours=folder is not None)
    torch.set_num_threads(settings.threads)
    entered = enter(settings, folder, files)
    results = Results(notes=list(first_notes(settings, entered, wanted)))
    rules = Rules(settings.duration, settings.seed, settings.baseline)
    run = _Run(settings, entered, rules, Yardstick(entered.entrants), progress, results)
    missed: list[str] = []
    try:
        for runtime in wanted:
            if runtime not in ENGINE_RUNTIMES:
                run.networks(runtime)
        if settings.load is None:
            run.engines([name for name in wanted if name in ENGINE_RUNTIMES], build_like)
    except KeyboardInterrupt:
        if not results.measured:
            raise
        results.interrupt()
    except Exception as error:  # of engines; what was measured before them is kept
        if not results.measured:
            raise
        reason = reason_of(error, max(settings.batches))
        (results.differing if isinstance(error, CheckFailed) else missed).append(reason)
    if not results.measured:
        reason = next(iter(missed), results.any_failure())
        kind = CheckFailed if results.differing else UserError
        raise kind(f"nothing could be measured: {reason.removesuffix('.')}.")
    if not results.interrupted:
        missed += _missed(settings, results)
    record = _analysed(_record(settings, entered, results, command), settings, results)
    write_json(output, record)
    return Outcome(output, record, results.differing, missed, results.interrupted)


def _missed(settings: Settings, results: Results) -> list[str]:
    """Of the runtimes that were asked for."""
    failures = {name: results.first_failure(name) for name in settings.runtimes}
    return [
        f"runtime {name}: nothing could be measured: {reason}"
        for name, reason in failures.items()
        if reason is not None
    ]


def _analysed(record: BenchRecord, settings: Settings, results: Results) -> BenchRecord:
    """With shares and explanations; as it is where Ctrl-C has come or comes now."""
    if not results.interrupted:
        try:
            if settings.roofline:
                record = add_rooflines(record, results.entrants, settings.threads)
            return add_explanations(record, results.entrants)
        except KeyboardInterrupt:
            results.interrupt()
    return replace(record, notes=list(dict.fromkeys([*record.notes, *results.notes])))


def _record(settings: Settings, entered: Field, results: Results, command: str) -> BenchRecord:
    model = entered.model
    return BenchRecord(
        command=command,
        scenario=settings.scenario,
        model=None if model is None else model.folder.name,
        architecture=None if model is None else model.fused.architecture,
        proof=None if model is None else proof_line(model.fused),
        settings=asdict(settings),
        environment=environment(settings.threads),
        subjects=[entrant.subject for entrant in results.entrants.values()],
        contests=results.contests,
        served=results.served,
        notes=results.notes,
    )
