"""Rounds in which every way runs once, each in a process of its own, in an order that rotates."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import checkpoint
import child
import memory
import page_cache
from checkpoint import Checkpoint
from machine import CpuTime
from page_cache import State
from ways import Way

PATIENCE = 6
"""A disturbed round is measured again up to so many times, all rounds together."""
PAUSE_SECONDS = 2
"""Before that the others get some time to finish."""
DIRECT_SHARE = 0.01
"""A load by ckload counts as one from the page cache if it read no more than this past it."""

Process = dict[str, Any]
"""What a process reports: `first` (a load into new memory), `repeated` (those after it), `peak_bytes` and `digest`; ckload also `limit_seconds`."""


class MeasureError(Exception):
    """A way failed, or made other tensors."""


@dataclass(frozen=True)
class Effort:
    rounds: int
    repeated: int
    """Loads after the first in each process."""
    undisturbed: bool
    """Whether rounds that other processes disturbed are measured again."""


@dataclass
class Measured:
    state: State
    disturbed_rounds: int
    """Rounds that count although others disturbed them."""
    processes: dict[Way, list[Process]]


def measure(model: Checkpoint, state: State, ways: list[Way], effort: Effort) -> Measured:
    digest = model.digest
    for form in {way.format for way in ways}:
        for file in model.files_of(form):
            # Pages that a writer left are smaller than those that come from reading, and copying out of them takes longer.
            page_cache.drop(file)
    measured = Measured(state, 0, {way: [] for way in ways})
    patience = PATIENCE if effort.undisturbed else 0
    done = 0
    while done < effort.rounds:
        print(f"{model.name}, {state}, round {done + 1} of {effort.rounds} …", file=sys.stderr, flush=True)
        processes, disturbed = run_round(model, state, ways[done % len(ways) :] + ways[: done % len(ways)], effort.repeated, digest)
        if disturbed and patience > 0:
            patience -= 1
            time.sleep(PAUSE_SECONDS)
            continue
        measured.disturbed_rounds += disturbed
        for way, process in processes.items():
            measured.processes[way].append(process)
        done += 1
    return measured


def run_round(model: Checkpoint, state: State, ways: list[Way], repeated: int, digest: str) -> tuple[dict[Way, Process], bool]:
    """Runs every way once, in this order; tells whether other processes disturbed it."""
    processes = {}
    disturbed = False
    for way in ways:
        make_ready(model, state, way, ways)
        before = CpuTime.now()
        start = start_python if way.prepare else start_ckload
        process = processes[way] = start(model, state, way, repeated)
        disturbed |= CpuTime.now().disturbed_since(before)
        if process.get("digest", digest) != digest:
            raise MeasureError(f"{way.name} made other tensors than the files hold")
    return processes, disturbed


def make_ready(model: Checkpoint, state: State, way: Way, ways: list[Way]) -> None:
    """Leaves only this way's files in the page cache, as all formats together may be more than fits."""
    for form in {other.format for other in ways} - {way.format}:
        for file in model.files_of(form):
            page_cache.drop(file)
    page_cache.prepare(state, model.files_of(way.format))


def start_python(model: Checkpoint, state: State, way: Way, repeated: int) -> Process:
    files = [str(file) for file in model.files_of(way.format)]
    command = [sys.executable, "-W", "ignore", child.__file__, way.name, state, str(repeated), str(model.size), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MeasureError(f"{way.name}: {(done.stderr or done.stdout).strip()}")
    process: Process = json.loads(done.stdout.splitlines()[-1])
    return process


def start_ckload(model: Checkpoint, state: State, way: Way, repeated: int) -> Process:
    """The times are ckload's own: from the path to the last tensor, less the start of the process."""
    memory.touch_and_free(model.size)
    page_cache.prepare(state, model.files)
    report = checkpoint.report(model.ckload, *way.options, "--repeat", str(repeated + 1), str(model.path))
    stayed_cold = all(page_cache.holds(State.COLD, file) for file in model.files)

    def in_state(run: dict[str, Any]) -> bool:
        if state is State.WARM:
            return bool(run["io"]["direct_bytes"] <= DIRECT_SHARE * run["bytes"])
        # It adds nothing to the page cache where it reads past it; where it cannot, only the first load was cold.
        return stayed_cold

    first, *others = report["runs"]
    return {
        "first": load_of(first),
        "repeated": [load_of(run) for run in others if in_state(run)],
        "peak_bytes": report["peak_rss_bytes"],
        # What plain reads into memory that is there would take, as ckload measures it right after its loads; it has none of small models.
        "limit_seconds": model.size / limit["bytes_per_second"] if (limit := report["models"][0].get("limit")) else None,
    }


def load_of(run: dict[str, Any]) -> dict[str, Any]:
    return {"seconds": run["open_seconds"] + run["seconds"], "page_faults": run["page_faults"]}
