"""Measures Python's loaders of checkpoints beside ckload; `run`, beside this file, sets it up."""

import argparse
import ctypes
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import checkpoint
import report
import rounds
import ways
from machine import this_machine
from page_cache import State, StateError
from rounds import Effort

PACKAGES = ("safetensors", "torch", "runai-model-streamer", "fastsafetensors", "tensorizer")


def main() -> None:
    arguments = parse()
    ckload, folder = arguments.ckload, arguments.folder
    (folder / "models").mkdir(parents=True, exist_ok=True)
    effort = Effort(
        rounds=arguments.rounds or (1 if arguments.quick else 5),
        repeated=1 if arguments.quick else arguments.repeated,
        undisturbed=not arguments.quick,
    )
    chosen = [way for way in ways.ALL if not arguments.ways or any(word in way.name for word in arguments.ways)]
    if not chosen:
        sys.exit(f"error: no way is called so; there are: {', '.join(way.name for way in ways.ALL)}")
    left_out = [] if io_uring_works() else [way for way in chosen if way.uses_io_uring]
    chosen = [way for way in chosen if way not in left_out]
    machine = this_machine()
    date = datetime.now(UTC).date().isoformat()
    versions = {name: metadata.version(name) for name in PACKAGES}
    versions["ckload"] = subprocess.run([ckload, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    for argument in arguments.model or (["gpt2-tiny"] if arguments.quick else ["gpt2", "llama"]):
        model = checkpoint.find(argument, ckload, folder / "models")
        for state in [State(arguments.state)] if arguments.state else State:
            measured = rounds.measure(model, state, chosen, effort)
            page = report.markdown(model, machine, effort, versions, measured, left_out)
            print(page, flush=True)
            if arguments.save:
                to = arguments.save / f"{date}-{machine.slug}" / f"python-{model.name}-{state}"
                to.parent.mkdir(parents=True, exist_ok=True)
                to.with_name(to.name + ".md").write_text(page)
                raw = report.raw(model, machine, date, effort, versions, measured)
                to.with_name(to.name + ".json").write_text(json.dumps(raw, indent=2) + "\n")
                print(f"written to {to.parent}", file=sys.stderr)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/peers/python/run", description=__doc__)
    parser.add_argument(
        "model",
        nargs="*",
        metavar="MODEL",
        help="a safetensors file, an index or a folder; NAME=MODEL gives the results a name; gpt2 and llama are written once. Default: these two",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run of less than a minute on a small model, whose figures mean nothing")
    parser.add_argument("--rounds", type=positive, metavar="N", help="rounds; medians are over these. Default: 5")
    parser.add_argument("--repeated", type=positive, metavar="N", default=3, help="loads after the first in each process. Default: 3")
    parser.add_argument("--state", choices=list(State), help="only this state of the page cache. Default: both")
    parser.add_argument("--ways", action="append", metavar="WORD", help="only ways whose name contains one of these words. Default: all")
    parser.add_argument("--save", type=Path, metavar="DIR", help="also write the results to DIR/<date>-<machine>/")
    parser.add_argument("--ckload", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, required=True, help=argparse.SUPPRESS)
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def io_uring_works() -> bool:
    """Whether the system makes a ring for us: a container may forbid it although the kernel has it."""
    io_uring_setup = 425
    parameters = ctypes.create_string_buffer(120)
    ring: int = ctypes.CDLL(None).syscall(io_uring_setup, 1, parameters)
    if ring >= 0:
        os.close(ring)
    return ring >= 0


if __name__ == "__main__":
    try:
        main()
    except (checkpoint.CheckpointError, rounds.MeasureError, StateError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
