"""Turn a finished run into a released model: `pretrained/<name>/` and its line in `pretrained/index.toml`.

    python recipes/release.py runs/4k

The name is the configuration's. The averaged weights are copied, their hash goes into the index, and what the run was
(its recipe, seconds, steps) into `training.json`, from which the model card is written by `recipes/card.py`.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

from spectok import pretrained
from spectok.config import require
from spectok.errors import InputError


def release(run: Path, root: Path) -> str:
    """Copy the release form of a run under `root`; returns the model's name."""
    model = pretrained.find(run / "release")
    name = model.config.name
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(run / "release" / file, folder / file)
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    require(bool(entries), f"{run} has an empty log")
    last: dict[str, dict[str, float]] = {
        kind: next((e for e in reversed(entries) if e["kind"] == kind), {}) for kind in ("train", "valid")
    }
    facts = {"run": json.loads((run / "run.json").read_text(encoding="utf-8")), **last}
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    hashes = {path.parent.name: _sha256(path) for path in sorted(root.glob("*/model.safetensors"))}
    lines = [f'[{released}]\nsha256 = "{sha256}"\n' for released, sha256 in hashes.items()]
    (root / "index.toml").write_text("\n".join(lines), encoding="utf-8")
    return name


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Parse the arguments and release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of recipes/train.py")
    parser.add_argument("--root", type=Path, default=pretrained.CHECKOUT, help="(default: pretrained/)")
    args = parser.parse_args()
    try:
        print(f"released {release(args.run, args.root)}")
    except (InputError, OSError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
