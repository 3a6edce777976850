"""The packaged pocket target as a standard Hugging Face directory."""

import hashlib
import shutil
from pathlib import Path

from serving.model_sources.prepared import Origin, prepare

PACKAGED = Path(__file__).parent / "target"
WEIGHTS = "model.int8.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
COPIED = ("config.json", "generation_config.json", *TOKENIZER_FILES)


def origin(package: Path = PACKAGED) -> Origin:
    """Named by a SHA-256 over the packaged files; FileNotFoundError where one is missing."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, *COPIED):
        digest.update((package / name).read_bytes())
    return Origin("pocket", "Pocket target", "Apache-2.0", digest.hexdigest())


def write(folder: Path, package: Path = PACKAGED) -> None:
    """Fill an empty directory: fp32 `model.safetensors`, configs and tokenizer."""
    from safetensors.torch import load_file, save_file  # torch takes seconds, and a start mostly finds all done

    from serving.pocket.quantise import unpack

    for name in COPIED:
        shutil.copyfile(package / name, folder / name)
    state = {name: tensor.contiguous() for name, tensor in unpack(load_file(package / WEIGHTS)).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def expand(dest_dir: Path, package: Path = PACKAGED) -> Path:
    """The directory, written once; raises what `prepare` raises."""
    return prepare(dest_dir, origin(package), lambda folder: write(folder, package))
