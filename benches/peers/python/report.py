"""The results: a page of Markdown, and the raw figures."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from statistics import median
from typing import Any

from checkpoint import Checkpoint
from machine import Machine
from page_cache import State
from rounds import Effort, Measured, Process
from ways import RESIDENT, Way

SMALL = 2_000_000_000
"""Bytes; a cached model below this has the higher goal."""

Loads = Callable[[Process], float | None]


def first(process: Process) -> float:
    """Milliseconds."""
    return float(process["first"]["seconds"]) * 1e3


def repeated(process: Process) -> float | None:
    """Milliseconds; None where no repeated load was in the state that is measured."""
    loads = [load["seconds"] for load in process["repeated"]]
    return median(loads) * 1e3 if loads else None


def limit(process: Process) -> float | None:
    """Milliseconds of plain reads of as many bytes into memory that is there; None where ckload did not measure them."""
    seconds = process.get("limit_seconds")
    return seconds * 1e3 if seconds else None


def values(processes: Iterable[Process], of: Loads) -> list[float]:
    return [value for value in map(of, processes) if value is not None]


def raw(model: Checkpoint, machine: Machine, date: str, effort: Effort, versions: dict[str, str], measured: Measured) -> dict[str, Any]:
    return {
        "schema": 1,
        "date": date,
        "machine": asdict(machine),
        "versions": versions,
        "effort": asdict(effort),
        "name": model.name,
        "files": len(model.files),
        "tensors": model.tensors,
        "bytes": model.size,
        "state": measured.state,
        "disturbed_rounds": measured.disturbed_rounds,
        "ways": [{"way": way.name, "processes": processes} for way, processes in measured.processes.items()],
    }


def markdown(model: Checkpoint, machine: Machine, effort: Effort, versions: dict[str, str], measured: Measured, left_out: list[Way]) -> str:
    lines = [
        f"`{model.name}`: {model.tensors} tensors, {model.size} bytes, {len(model.files)} files. {machine.cpu}; {machine.cpus} CPUs, "
        f"{machine.memory / 2**30:.1f} GiB of memory, Linux {machine.kernel}, transparent huge pages on `{machine.huge_pages}`. "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        "",
        f"### Page cache {measured.state}",
        "",
        *table(model, measured),
        "",
        f"Medians of {effort.rounds} processes each, in turn; × is the time in that of `{RESIDENT}`. Peak memory (in sizes of the tensors) is "
        "the first load's, of ckload the whole process's.",
    ]
    if measured.disturbed_rounds:
        lines.append(f"Other processes disturbed {measured.disturbed_rounds} rounds.")
    lines += [f"Not measured, since this system refuses io_uring: {way.name}." for way in left_out]
    lines += ["", *goals(model, measured)]
    return "\n".join(lines) + "\n"


def table(model: Checkpoint, measured: Measured) -> Iterable[str]:
    yield "| way | first ms | min to max | × | repeated ms | min to max | × | peak memory |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    ours = next((processes for way, processes in measured.processes.items() if way.name == RESIDENT), [])
    for way, processes in measured.processes.items():
        columns = [cell for of in (first, repeated) for cell in spread(values(processes, of), values(ours, of))]
        peak = median(process["peak_bytes"] for process in processes) / model.size
        yield f"| {way.name} | {' | '.join(columns)} | {peak:.2f} × |"
    if limits := values(ours, limit):
        yield f"| limit: plain reads into memory that is there | – | – | – | {' | '.join(spread(limits, values(ours, repeated)))} | |"


def spread(times: list[float], ours: list[float]) -> list[str]:
    if not times:
        return ["–", "–", "–"]
    ratio = f"{median(times) / median(ours):.2f}" if ours else "–"
    return [f"{median(times):.1f}", f"{min(times):.1f} to {max(times):.1f}", ratio]


def goals(model: Checkpoint, measured: Measured) -> Iterable[str]:
    """ckload beside the fastest of the others."""
    goal = 1.8 if measured.state is State.COLD else 3.0 if model.size < SMALL else 1.5
    ours = next((processes for way, processes in measured.processes.items() if way.name == RESIDENT), [])
    others = {way.name: processes for way, processes in measured.processes.items() if way.prepare}
    rows = []
    for load, of in (("first", first), ("repeated", repeated)):
        best = min(((median(times), name) for name, processes in others.items() if (times := values(processes, of))), default=None)
        if best and (times := values(ours, of)):
            ratio = best[0] / median(times)
            rows.append(f"| {load} | {best[1]} | {ratio:.2f} × | {goal} × | {'met' if ratio >= goal else 'missed'} |")
    if rows:
        rows = [f"| load | the best beside `{RESIDENT}` | speed | goal | |", "|---|---|--:|--:|---|", *rows]
    return rows
