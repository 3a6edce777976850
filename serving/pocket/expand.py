"""The packaged pocket target as a standard Hugging Face directory: `python -m serving.pocket.expand --out DIR`."""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from serving.pocket.quantise import PACKAGED, TOKENIZER_FILES, WEIGHTS, unpack

MARKER = "expanded.json"
COPIED = ("config.json", "generation_config.json", *TOKENIZER_FILES)


def package_sha256(package: Path) -> str:
    """Hex SHA-256 over the packaged weights and the files that are copied; FileNotFoundError where one is missing."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, *COPIED):
        digest.update((package / name).read_bytes())
    return digest.hexdigest()


def is_expanded(folder: Path, sha256: str) -> bool:
    """True where `folder` holds the expansion of the package with this checksum."""
    marker = folder / MARKER
    return marker.exists() and json.loads(marker.read_text(encoding="utf-8"))["package_sha256"] == sha256


def expand(dest_dir: Path, package: Path = PACKAGED) -> Path:
    """Write fp32 `model.safetensors`, configs and tokenizer into `dest_dir` and return it.

    Does nothing where it is done already. The directory appears by a rename, so a reader never sees half of one.
    Raises FileNotFoundError where the package is missing, ValueError where `dest_dir` holds something else.
    """
    sha256 = package_sha256(package)
    if is_expanded(dest_dir, sha256):
        return dest_dir
    if dest_dir.exists() and any(dest_dir.iterdir()) and not (dest_dir / MARKER).exists():
        raise ValueError(f"{dest_dir} is not empty and is no expanded target; name another directory")
    dest_dir.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{dest_dir.name}.", dir=dest_dir.parent))
    try:
        _write(unfinished, package, sha256)
        _put_in_place(unfinished, dest_dir, sha256)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return dest_dir


def _write(folder: Path, package: Path, sha256: str) -> None:
    folder.chmod(0o755)
    for name in COPIED:
        shutil.copyfile(package / name, folder / name)
    state = {name: tensor.contiguous() for name, tensor in unpack(load_file(package / WEIGHTS)).items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / MARKER).write_text(json.dumps({"package_sha256": sha256}) + "\n", encoding="utf-8")


def _put_in_place(unfinished: Path, dest_dir: Path, sha256: str) -> None:
    """Rename into place; where another process won with the same package, its directory stays."""
    if dest_dir.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{dest_dir.name}.old.", dir=dest_dir.parent))
        os.replace(dest_dir, old)
        shutil.rmtree(old)
    try:
        os.replace(unfinished, dest_dir)
    except OSError:
        if not is_expanded(dest_dir, sha256):
            raise


def main() -> None:
    """Read the command line and expand the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=PACKAGED)
    given = parser.parse_args()
    print(expand(given.out, given.package))


if __name__ == "__main__":
    main()
