"""Compares what ckload finds in checkpoints with what their reference readers find; `run`, beside this file, sets it up."""

import argparse
import fnmatch
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fetch
import reference
import write_arrays
import write_gguf
import write_torch
from reference import Contents, Refused, Tensor

SHOWN = 4
"""So many differences of a checkpoint are listed."""


class CkloadError(Exception):
    """ckload ended with an error, or printed what is no report."""


@dataclass(frozen=True)
class Case:
    name: str
    path: Path
    write: Callable[[Path], None] | None = None
    """Makes a checkpoint that is there only while it is compared."""


@dataclass(frozen=True)
class Outcome:
    tensors: int
    differences: list[str]
    remark: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests/oracle/run", description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", help="compare the checkpoints whose names contain or match this")
    parser.add_argument("--list", action="store_true", help="list the checkpoints' names, and compare nothing")
    parser.add_argument("--ckload", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, required=True, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    cases = [case for case in all_cases(arguments.folder) if wanted(case.name, arguments.only)]
    if not cases:
        sys.exit(f"error: no checkpoint is called {arguments.only}; --list shows what they are called")
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return
    width = max(len(case.name) for case in cases)
    failed = 0
    for case in cases:
        outcome = run(case, arguments.ckload)
        failed += bool(outcome.differences)
        verdict = "differs" if outcome.differences else "ok"
        print(f"{case.name:{width}}  {outcome.tensors:6,}  {verdict}  {outcome.remark}".rstrip(), flush=True)
        for difference in outcome.differences[:SHOWN]:
            print(f"    {difference}", flush=True)
        if len(outcome.differences) > SHOWN:
            print(f"    and {len(outcome.differences) - SHOWN} more", flush=True)
    print(f"\noracle: {len(cases) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


def all_cases(folder: Path) -> Iterator[Case]:
    for name, path in fetch.fetch(folder / "checkpoints").items():
        yield Case(name, path)
    for name, write in (write_arrays.FIXTURES | write_gguf.FIXTURES | write_torch.FIXTURES).items():
        yield Case(name, folder / "fixtures" / name, write)


def wanted(name: str, pattern: str | None) -> bool:
    return pattern is None or pattern in name or fnmatch.fnmatch(name, pattern)


def run(case: Case, ckload: Path) -> Outcome:
    if case.write is None:
        return compare(case.path, ckload)
    folder = case.path.parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        case.write(case.path)
        return compare(case.path, ckload)
    finally:
        shutil.rmtree(folder)


def compare(path: Path, ckload: Path) -> Outcome:
    """What differs for one checkpoint. What has no bytes to compare, ckload must refuse."""
    try:
        expected = reference.read(path)
    except Refused as refusal:
        try:
            verify(path, ckload)
        except CkloadError as error:
            return Outcome(0, [], f"refused, as it must be: {error}")
        return Outcome(0, [f"ckload accepts it, though {refusal}"])
    except Exception as error:  # whatever it is, the other checkpoints are compared
        return Outcome(0, [f"the reference reader fails: {type(error).__name__}: {error}"])
    try:
        found = verify(path, ckload)
        differences = list(compare_tensors(expected, found))
        if expected.metadata is not None:
            differences += compare_metadata(expected.metadata, report(path, ckload, "inspect")["metadata"])
    except CkloadError as error:
        return Outcome(0, [f"ckload: {error}"])
    return Outcome(len(expected.tensors), differences, "metadata too" if expected.metadata else "")


def verify(path: Path, ckload: Path) -> dict[str, Tensor]:
    tensors = {}
    for entry in report(path, ckload, "verify")["tensors"]:
        if entry["name"] in tensors:
            raise CkloadError(f"lists {entry['name']!r} twice")
        tensors[entry["name"]] = Tensor(entry["dtype"], tuple(entry["shape"]), entry["sha256"])
    return tensors


def report(path: Path, ckload: Path, command: str) -> Any:
    """The JSON that `ckload COMMAND PATH --json` prints."""
    result = subprocess.run([ckload, command, path, "--json"], capture_output=True, text=True, check=False)
    try:
        printed = json.loads(result.stdout)
    except ValueError:
        said = (result.stderr.strip() or result.stdout.strip() or "nothing").splitlines()[0]
        raise CkloadError(f"{command} ended with {result.returncode} and said: {said}") from None
    if "error" in printed:
        raise CkloadError(printed["error"]["message"])
    if result.returncode != 0:
        raise CkloadError(f"{command} ended with {result.returncode} though its report names no error")
    return printed


def compare_tensors(expected: Contents, found: dict[str, Tensor]) -> Iterator[str]:
    if not expected.named and len(found) == 1:
        found = dict(zip(expected.tensors, found.values(), strict=True))
    for name, tensor in expected.tensors.items():
        if name not in found:
            yield f"{name!r}: missing, expected {tensor.dtype} {list(tensor.shape)}"
        else:
            yield from compare_tensor(name, tensor, found[name])
    for name in found.keys() - expected.tensors.keys():
        other = expected.more(name)
        if other is None:
            yield f"{name!r}: {found[name].dtype} {list(found[name].shape)}, which the reference does not have"
        else:
            yield from compare_tensor(name, other, found[name])


def compare_tensor(name: str, expected: Tensor, found: Tensor) -> Iterator[str]:
    if found.dtype != expected.dtype:
        yield f"{name!r}: dtype {found.dtype}, expected {expected.dtype}"
    if found.shape != expected.shape:
        yield f"{name!r}: shape {list(found.shape)}, expected {list(expected.shape)}"
    if found.sha256 != expected.sha256:
        yield f"{name!r}: SHA-256 {found.sha256[:16]}…, expected {expected.sha256[:16]}…"


def compare_metadata(expected: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for key in expected.keys() | found.keys():
        if key not in found:
            yield f"metadata {key!r}: missing"
        elif key not in expected:
            yield f"metadata {key!r}: the reference does not have it"
        elif not same(expected[key], found[key]):
            yield f"metadata {key!r}: {short(found[key])}, expected {short(expected[key])}"


def same(expected: Any, found: Any) -> bool:
    """Equal in type too: `1`, `1.0` and `True` are three values."""
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(same, expected, found))
    return type(expected) is type(found) and expected == found


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


if __name__ == "__main__":
    main()
