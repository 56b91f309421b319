"""Write a mixture of the test, its sources and what a trained separator makes of it, as FLAC files to listen to.

    python recipes/separation/listen.py RUN --data SOURCES --out FOLDER --without-music

Only mixtures without music that is under the GPL may be published with the project; `--without-music` leaves the music
out of the mixture of the task "cinematic".
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from recipes.separation.evaluate import separated
from recipes.separation.looks import load_separator
from recipes.separation.mixtures import Mixtures
from recipes.separation.upper import halve
from spectok.audio import write_audio
from spectok.errors import InputError, require


def write(run: Path, data: Path, out: Path, number: int, without_music: bool) -> list[Path]:
    """Write `mixture.flac`, and for each source `NAME.flac` and `NAME-estimate.flac`; returns their paths.

    Args:
        run: run folder of recipes/separation/train.py.
        data: folder made by recipes/separation/prepare.py.
        out: folder to write.
        number: of the mixture in the test, from 0.
        without_music: leave the music out; the estimate of the music is still written.

    Raises:
        InputError: there is no such run or mixture, or its task does not keep the music apart.
    """
    model, config = load_separator(run)
    mixtures = Mixtures(data, "test", config.mix)
    require(0 <= number < config.mix.test_mixtures, f"the test has the mixtures 0 to {config.mix.test_mixtures - 1}")
    sources = torch.from_numpy(mixtures.test()[number])
    if without_music:
        require("music" in config.sources, f"the task '{config.mix.task}' does not keep the music apart")
        sources[config.sources.index("music")] = 0
    rate = config.separator.sample_rate
    sources = halve(sources) if rate < mixtures.sample_rate else sources
    with torch.inference_mode():
        estimates = separated(model, sources.sum(0, keepdim=True), config)[0]
    audio = {"mixture": sources.sum(0)}
    audio |= dict(zip(config.sources, sources, strict=True))
    audio |= {f"{name}-estimate": estimate for name, estimate in zip(config.sources, estimates, strict=True)}
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, samples in audio.items():
        paths.append(out / f"{name}.flac")
        write_audio(paths[-1], samples.clip(-1, 1).numpy(), rate)
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of recipes/separation/train.py")
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes/separation/prepare.py")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--mixture", type=int, default=0, metavar="N", help="of the test (default: %(default)s)")
    parser.add_argument("--without-music", action="store_true", help="leave the music out of the mixture")
    args = parser.parse_args(arguments)
    try:
        paths = write(args.run, args.data, args.out, args.mixture, args.without_music)
    except InputError as error:
        print(f"listen: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, paths)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
