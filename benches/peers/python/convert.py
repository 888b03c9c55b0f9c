"""Writes a checkpoint in the format of another loader: `convert.py FORMAT OUT FILE...`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def write_torch(tensors: "dict[str, torch.Tensor]", out: Path) -> None:
    import torch

    torch.save(tensors, out)


def write_tensorizer(tensors: "dict[str, torch.Tensor]", out: Path) -> None:
    from tensorizer import TensorSerializer

    serializer = TensorSerializer(str(out))
    serializer.write_state_dict(tensors)
    serializer.close()


WRITERS: "dict[str, Callable[[dict[str, torch.Tensor], Path], None]]" = {"torch": write_torch, "tensorizer": write_tensorizer}


def main() -> None:
    from safetensors.torch import load_file

    form, out, *files = sys.argv[1:]
    WRITERS[form]({name: tensor for file in files for name, tensor in load_file(file).items()}, Path(out))


if __name__ == "__main__":
    main()
