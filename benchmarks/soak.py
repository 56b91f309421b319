"""Check that a stream of hours stays as it began: memory, time per chunk, quality, and silence that stays silent.

    python benchmarks/soak.py CORPUS/test

One encoder and one decoder session of each model code a stream in chunks of 20 ms: files of speech, digital silence,
and white noise at several levels, in an order that depends only on the seed. The stream ends with clips of speech; the
same clips are also coded by new sessions. Measured are the resident memory after each tenth of the stream; the
processor's time for a chunk in the first and the last ten minutes; the level of the output during silence; and PESQ of
the clips. Speech is the files with `clean` in their names, or all files; every fifth of them gives a clip. Writes
`soak.json` beside this file; recipes/cards.py makes the table.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import clean_speech
from spectok import StreamDecoder, StreamEncoder, Tokenizer, pretrained
from spectok.evaluation.metrics import SAMPLE_RATE, pesq_wb
from spectok.evaluation.provenance import weights_of, write_results

Audio = NDArray[np.float32]
CHUNK = SAMPLE_RATE // 50  # samples
KINDS = {"speech": 0.9, "silence": 0.03, "noise": 0.07}  # the chance of each, whenever one part of the stream ends
SILENCE_SECONDS, NOISE_SECONDS = (2, 10, 60, 300), (2, 10, 60)
NOISE_LEVELS = (-20, -35, -50, -65, -80)  # dBFS
SETTLED = 50  # chunks of silence after which the output should be silent
COMPARED = 10 * 60 * 50  # chunks at the start and at the end, whose times are compared: ten minutes
POINTS = 10
EVERY, CLIP_SECONDS = 5, 5


def stream(speech: Sequence[Audio], count: int, seed: int) -> Iterator[tuple[Audio, bool]]:
    """The chunks of a stream, `[CHUNK]` each, and whether each is digital silence that began over a second before.

    Args:
        speech: `[T]` each; one that is chosen is used up to its last complete chunk.
        count: of chunks.
        seed: of the order of the parts.
    """
    rng = np.random.default_rng(seed)
    silence = np.zeros(CHUNK, np.float32)
    while count > 0:
        kind = rng.choice(list(KINDS), p=list(KINDS.values()))
        audio = speech[int(rng.integers(len(speech)))]
        amplitude = 10 ** (rng.choice(NOISE_LEVELS) / 20)
        seconds = rng.choice(NOISE_SECONDS if kind == "noise" else SILENCE_SECONDS)
        chunks = min(count, len(audio) // CHUNK if kind == "speech" else int(seconds) * 50)
        count -= chunks
        for n in range(chunks):
            if kind == "speech":
                yield audio[n * CHUNK : (n + 1) * CHUNK], False
            elif kind == "noise":
                yield (amplitude * rng.standard_normal(CHUNK)).astype(np.float32), False
            else:
                yield silence, n >= SETTLED


def level(energy: float, samples: float) -> float:
    """The level of samples with this sum of squares, in dB relative to a square wave of full scale, at least -200."""
    return round(10 * float(np.log10(max(energy / max(samples, 1), 1e-20))), 2)


def megabytes() -> float:
    """The resident memory of this process in MB (10^6 bytes)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def coded(encoder: StreamEncoder, decoder: StreamDecoder, clip: Audio) -> Audio:
    """The end of a stream through two sessions in chunks, and what they still hold: at least the clip's length."""
    chunks = [decoder.push(encoder.push(clip[start : start + CHUNK])) for start in range(0, len(clip), CHUNK)]
    return np.concatenate([*chunks, decoder.push(encoder.flush())])


def soak(name: str, speech: Sequence[Audio], clips: Sequence[Audio], count: int, seed: int = 0) -> dict[str, Any]:
    """What a stream of `count` chunks, and then the clips, shows of one model.

    Args:
        name: of the model.
        speech: `[T]` each.
        clips: `[T]` each, whole chunks.
        count: of chunks before the clips, at least `POINTS`.
        seed: of the stream.

    Returns:
        "megabytes" after each tenth of the stream; "median_ratio" and "p99_ratio", the quantiles of the times of the
        last chunks relative to those of the first; "silence", the level of the output during digital silence after its
        first second in dBFS, and "silences", that of each single one; "soaked" and "fresh", PESQ-WB of each clip.
    """
    tokenizer = Tokenizer.from_pretrained(name)
    encoder, decoder = tokenizer.stream_encoder(), tokenizer.stream_decoder()
    seconds, memory, heard = np.ones(count), np.ones(POINTS), 0
    silences, was_silent = list[list[float]](), False  # of each the sum of squares and the number of samples
    for n, (chunk, is_silent) in enumerate(stream(speech, count, seed)):
        began = time.process_time()
        audio = decoder.push(encoder.push(chunk))
        seconds[n] = time.process_time() - began
        heard += len(audio)
        if is_silent:
            if not was_silent:
                silences.append([0.0, 0.0])
            silences[-1][0] += float(np.sum(np.square(audio, dtype=np.float64)))
            silences[-1][1] += len(audio)
        was_silent = is_silent
        if (n + 1) * POINTS // count > n * POINTS // count:
            memory[(n + 1) * POINTS // count - 1] = megabytes()
            print(f"{name}: {(n + 1) / 3000:.0f} minutes, {megabytes():.1f} MB", flush=True)
    soaked = coded(encoder, decoder, np.concatenate(clips))[count * CHUNK - heard :]
    ends = np.cumsum([len(clip) for clip in clips])
    later = [pesq_wb(clip, soaked[end - len(clip) : end]) for clip, end in zip(clips, ends, strict=True)]
    fresh = [
        pesq_wb(clip, coded(tokenizer.stream_encoder(), tokenizer.stream_decoder(), clip)[: len(clip)])
        for clip in clips
    ]
    compared = min(COMPARED, count // 2)
    first, last = (np.percentile(part, (50, 99)) for part in (seconds[:compared], seconds[-compared:]))
    median, p99 = np.round(last / first, 3).tolist()
    return {
        "model": name,
        "megabytes": memory.round(2).tolist(),
        "median_ratio": median,
        "p99_ratio": p99,
        "silence": level(*np.sum(np.reshape(silences, (-1, 2)), axis=0)),
        "silences": [level(*silence) for silence in silences],
        "soaked": np.round(later, 4).tolist(),
        "fresh": np.round(fresh, 4).tolist(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="folder of speech")
    parser.add_argument("--hours", type=float, default=3.0, help="of audio before the clips (default: %(default)s)")
    args = parser.parse_args(arguments)
    speech = clean_speech(args.corpus)
    whole = [audio[: len(audio) // CHUNK * CHUNK] for audio in speech[::EVERY]]
    clips = [audio[: CLIP_SECONDS * SAMPLE_RATE] for audio in whole]
    rows = [soak(name, speech, clips, round(args.hours * 3600 * 50)) for name in pretrained.models()]
    write_results(
        Path(__file__).parent / "soak.json", {"hours": args.hours, "rows": rows}, weights_of(pretrained.models())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
