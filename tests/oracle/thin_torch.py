"""Makes torch importable without the GPU libraries that its wheel for Linux is linked against.

`pip install torch` brings 2.8 GB, of which 2.2 GB are libraries that nothing here calls, but without which the loader of shared libraries
refuses torch's own. In the place of each that is missing this module puts an empty one, beside torch's: every symbol that torch looks
for is there and none does anything. What the symbols are is read from torch's libraries, so a newer torch needs no change here.
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

GPU_LIBRARY = re.compile(r"lib(cu|nv|nccl)")
GPU_SYMBOL = re.compile(r"cu|nv|nccl")
# The driver is looked for at run time only, and torch must find that there is none.
DRIVER = "libcuda.so.1"


@dataclass
class Linkage:
    """What some shared libraries define, and what they want of others."""

    libraries: set[str] = field(default_factory=set)
    """The libraries that are needed, by the names the loader looks for."""
    defined: set[str] = field(default_factory=set)
    wanted: dict[str, str] = field(default_factory=dict)
    """Undefined symbols, and the version of each; empty where it has none."""
    version_of: dict[str, str] = field(default_factory=dict)
    """The library that each version of symbols belongs to."""


def readelf(option: str, library: Path) -> str:
    command = ["readelf", "--wide", option, str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def linkage(libraries: list[Path]) -> Linkage:
    found = Linkage()
    for library in libraries:
        found.libraries |= set(re.findall(r"\(NEEDED\).*\[(.*)\]", readelf("--dynamic", library)))
        owner = ""
        for line in readelf("--version-info", library).splitlines():
            if match := re.search(r"File: (\S+)", line):
                owner = match[1]
            elif owner and (match := re.search(r"Name: (\S+)\s+Flags", line)):
                found.version_of.setdefault(match[1], owner)
        for line in readelf("--dyn-syms", library).splitlines():
            columns = line.split()
            if len(columns) < 8 or not columns[0].endswith(":"):
                continue
            name, _, version = columns[7].partition("@")
            if columns[6] != "UND":
                found.defined.add(name)
            elif columns[4] == "GLOBAL":
                found.wanted.setdefault(name, version.lstrip("@"))
    return found


def write_stand_in(path: Path, symbols: dict[str, str]) -> None:
    """Links a library that defines `symbols`, each in its version."""
    with tempfile.TemporaryDirectory() as folder:
        source, versions = Path(folder, "empty.s"), Path(folder, "versions")
        labels = [f".globl {name}\n.type {name}, @function\n{name}:\n" for name in symbols]
        source.write_text("".join(labels) + ".quad 0\n")
        command = ["cc", "-shared", "-nostdlib", f"-Wl,-soname,{path.name}", "-o", str(path), str(source)]
        named = sorted({version for version in symbols.values() if version})
        for version in named:
            members = " ".join(f"{name};" for name, its in symbols.items() if its == version)
            with versions.open("a") as file:
                file.write(f"{version} {{ global: {members} }};\n")
        if named:
            command.append(f"-Wl,--version-script={versions}")
        subprocess.run(command, check=True)


def main() -> None:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit("error: torch is not installed here")
    folder = Path(spec.origin).parent / "lib"
    libraries = sorted(folder.glob("*.so*")) + sorted(folder.parent.parent.glob("nvidia/*/lib/*.so*"))
    found = linkage(libraries)
    missing = {name for name in found.libraries if GPU_LIBRARY.match(name)} - {file.name for file in libraries} - {DRIVER}
    wanted = {name: version for name, version in found.wanted.items() if name not in found.defined}
    unversioned = {name: "" for name, version in wanted.items() if not version and GPU_SYMBOL.match(name)}
    for library in sorted(missing):
        own = {name: version for name, version in wanted.items() if version and found.version_of.get(version) == library}
        write_stand_in(folder / library, own | unversioned)


if __name__ == "__main__":
    main()
