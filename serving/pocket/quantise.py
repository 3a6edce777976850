"""Package the pocket target as int8 with one scale per row: `python -m serving.pocket.quantise --run DIR`.

A matrix W [R, C] is stored as int8 Q [R, C] and fp32 s [R] with s = max|W| / 127 per row, so that
|W - s Q| <= s / 2. Norm weights stay fp32. The tied embedding is stored once.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from serving.pocket.expand import PACKAGED, TOKENIZER_FILES, WEIGHTS
from serving.pocket.model import TargetShape
from serving.pocket.tokenizer import EOS_ID

SCALE_SUFFIX = ".scale"


def quantise(weight_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Return (int8 [R, C], fp32 scale [R]); an all-zero row gets scale 1."""
    largest = weight_RC.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    return (weight_RC / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def dequantise(weight_RC: Tensor, scale_R: Tensor) -> Tensor:
    """The fp32 matrix [R, C] that an int8 one stands for."""
    return weight_RC.float() * scale_R[:, None]


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Quantise every matrix of a state dict; one-dimensional tensors are kept in fp32."""
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.ndim == 2:
            packed[name], packed[name + SCALE_SUFFIX] = (part.contiguous() for part in quantise(tensor.float()))
        else:
            packed[name] = tensor.float().contiguous()
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The fp32 state dict that `pack` stored."""
    return {
        name: dequantise(tensor, packed[name + SCALE_SUFFIX]) if name + SCALE_SUFFIX in packed else tensor
        for name, tensor in packed.items()
        if not name.endswith(SCALE_SUFFIX)
    }


def write_package(state: dict[str, Tensor], tokenizer_dir: Path, folder: Path, shape: TargetShape) -> None:
    """Write the package: config, generation config, tokenizer files and the int8 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    generation = {"bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": EOS_ID, "do_sample": False}
    for name, content in (("config.json", shape.hf_config()), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_dir / name, folder / name)
    save_file(pack(state), folder / WEIGHTS, metadata={"format": "pt"})


def main() -> None:
    """Read the command line and package the checkpoint of a training run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the --out of serving.pocket.train")
    parser.add_argument("--package", type=Path, default=PACKAGED)
    given = parser.parse_args()
    state = torch.load(given.run / "checkpoint.pt", weights_only=True)["target"]
    write_package(state, given.run, given.package, TargetShape())


if __name__ == "__main__":
    main()
