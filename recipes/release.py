"""Turn a finished run into a released model: `pretrained/<name>/` and its line in `pretrained/index.toml`.

    python recipes/release.py runs/4k

The name is the configuration's. The averaged weights are copied, their hash goes into the index, and what the run was
(its recipe, seconds, steps) into `training.json`, from which the model card is written by `recipes/cards.py`.
"""

import argparse
import json
import shutil
import sys
import tomllib
from pathlib import Path

from spectok import pretrained
from spectok.config import require
from spectok.errors import InputError
from spectok.files import atomic_write


def release(run: Path, root: Path) -> str:
    """Copy the release form of a run under `root`; returns the model's name."""
    model = pretrained.find(run / "release")
    name = model.config.name
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    last: dict[str, dict[str, float]] = {
        kind: next((entry for entry in reversed(entries) if entry["kind"] == kind), {}) for kind in ("train", "valid")
    }
    require(bool(last["train"]), f"{run} has an empty log")
    facts = {"run": json.loads((run / "run.json").read_text(encoding="utf-8")), **last}
    folder, index = root / name, root / "index.toml"
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {}
    if index.exists():
        hashes = {key: entry["sha256"] for key, entry in tomllib.loads(index.read_text(encoding="utf-8")).items()}
    hashes[name] = model.sha256
    texts = {
        folder / "config.json": model.config.to_json(),
        folder / "training.json": json.dumps(facts, indent=2) + "\n",
        index: "\n".join(f'["{key}"]\nsha256 = "{sha256}"\n' for key, sha256 in sorted(hashes.items())),
    }
    with atomic_write(folder / "model.safetensors") as temporary:
        shutil.copyfile(model.weights, temporary)
    for path, text in texts.items():
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return name


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
