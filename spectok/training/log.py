"""The log of a run: log.jsonl, samples/, and the same for TensorBoard in tensorboard/."""

import json
import math
from pathlib import Path

import numpy as np
from matplotlib.image import imread
from torch.utils.tensorboard import SummaryWriter

from spectok.audio import write_audio
from spectok.config import CodecConfig
from spectok.files import write_text
from spectok.plotting import comparison, save
from spectok.training.validation import Validation


class RunLog:
    """Values, audio and spectrograms of a run. A resumed run appends to the same files.

    Args:
        folder: the run folder.
        config: the codec's configuration, for its sample rate and frame rate.
        step: where the run goes on. What a killed run has logged of later steps is removed.
    """

    def __init__(self, folder: Path, config: CodecConfig, step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.config = folder, config
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        path = folder / "log.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            write_text(path, "".join(f"{line}\n" for line in lines if _is_before(line, step)))

    def scalars(self, kind: str, step: int, seconds: float, values: dict[str, float]) -> None:
        """Write one line of log.jsonl, and a point on each curve; values that are not finite become null."""
        rounded = {name: float(f"{value:.5g}") if math.isfinite(value) else None for name, value in values.items()}
        entry = {"kind": kind, "step": step, "seconds": round(seconds, 1), **rounded}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
        for name, value in values.items():
            self.board.add_scalar(f"{kind}/{name}", value, step)

    def validation(self, step: int, seconds: float, result: Validation) -> None:
        """Write the metrics, and the first clips as audio and spectrograms."""
        self.scalars("valid", step, seconds, result.metrics)
        config, samples = self.config, self.folder / "samples"
        samples.mkdir(exist_ok=True)
        for n, clip in enumerate(result.clips):
            figure = comparison(clip.original, clip.decoded, clip.codes, config.sample_rate, config.frame_rate)
            save(figure, samples / f"{n}.png")
            self.board.add_image(f"spectrogram/{n}", imread(samples / f"{n}.png"), step, dataformats="HWC")
            for kind, audio in (("original", clip.original), ("decoded", clip.decoded)):
                write_audio(samples / f"{n}_{kind}.wav", audio, config.sample_rate)
                self.board.add_audio(f"{kind}/{n}", audio[None], step, config.sample_rate)
        use = np.repeat(np.arange(len(result.histogram)), result.histogram)
        self.board.add_histogram("codes", use, step, bins=np.linspace(0, len(result.histogram), 65))

    def close(self) -> None:
        """Write buffered values and close the files."""
        self.board.close()


def _is_before(line: str, step: int) -> bool:
    """Whether a line of the log is whole, and of a step that is not after the given one."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except ValueError:  # a kill has cut it off
        return False
