"""The checkpoints that are loaded: as safetensors files, and once converted to the other loaders' formats."""

import hashlib
import json
import mmap
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import convert
from digest import Tensor, digest

SYNTHESIZED = {"gpt2": ("gpt2", "gpt2.safetensors"), "llama": ("llama", "llama"), "gpt2-tiny": ("gpt2", "--size", "tiny", "gpt2-tiny.safetensors")}
"""Those that ckload can write: what `ckload synth` is asked for, the file or folder last."""


class CheckpointError(Exception):
    """A checkpoint cannot be used, or two readers disagree about it."""


@dataclass(frozen=True)
class Checkpoint:
    name: str
    path: Path
    ckload: Path
    folder: Path
    """Of what is written."""

    @cached_property
    def contents(self) -> dict[str, Any]:
        """As `ckload inspect` tells."""
        contents: dict[str, Any] = report(self.ckload, "inspect", str(self.path))
        if contents["format"] != "safetensors":
            raise CheckpointError(f"{self.path} is of {contents['format']}, and the loaders here read safetensors")
        return contents

    @property
    def files(self) -> list[Path]:
        return [Path(file["path"]) for file in self.contents["files"]]

    @property
    def tensors(self) -> int:
        return len(self.contents["tensors"])

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor["bytes"] for tensor in self.contents["tensors"])

    def files_of(self, form: str) -> list[Path]:
        """Its files in a format; converts it if need be, which takes a while."""
        if form == "safetensors":
            return self.files
        state = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]
        out = self.folder / f"{self.name}-{key}.{form}"
        if not out.exists():
            print(f"{self.name}: converting to the format of {form}", file=sys.stderr)
            partial = out.with_suffix(".partial")
            subprocess.run([sys.executable, convert.__file__, form, partial, *self.files], check=True)
            partial.rename(out)
        return [out]

    @cached_property
    def digest(self) -> str:
        """Of the tensors as they stand in the files. ckload, too, must find them so."""
        found = {tensor["name"]: tensor["sha256"] for tensor in report(self.ckload, "verify", str(self.path))["tensors"]}
        with ExitStack() as stack:
            for name, _shape, data in self.mapped(stack):
                if hashlib.sha256(data).hexdigest() != found[name]:
                    raise CheckpointError(f"ckload verify finds other bytes for {name}")
                data.release()
        with ExitStack() as stack:
            return digest(self.mapped(stack))

    def mapped(self, stack: ExitStack) -> Iterator[Tensor]:
        maps = []
        for file in self.files:
            opened = stack.enter_context(file.open("rb"))
            maps.append(memoryview(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)))
        for tensor in self.contents["tensors"]:
            start = tensor["offset"]
            yield tensor["name"], tensor["shape"], maps[tensor["file"]][start : start + tensor["bytes"]]


def report(ckload: Path, *arguments: str) -> Any:
    """What ckload reports as JSON."""
    done = subprocess.run([ckload, *arguments, "--json"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CheckpointError(f"ckload {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
    return json.loads(done.stdout)


def find(argument: str, ckload: Path, folder: Path) -> Checkpoint:
    """The checkpoint that an argument means: the word for one that is written here once, `NAME=MODEL` or a path."""
    if argument in SYNTHESIZED:
        *options, file = SYNTHESIZED[argument]
        path = folder / file
        if not path.exists():
            print(f"{argument}: writing it", file=sys.stderr)
            partial = path.with_name(f"partial-{file}")
            # What an interrupted run has left is replaced.
            subprocess.run([ckload, "synth", *options, "--force", "--quiet", partial], check=True)
            partial.rename(path)
        return Checkpoint(argument, path, ckload, folder)
    name, _, path_text = argument.rpartition("=")
    return Checkpoint(name or "model", Path(path_text).resolve(), ckload, folder)
