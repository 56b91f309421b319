"""Continue the speech of a recording, or speak a text, with a language model that `train.py` has written.

    python recipes/speech_lm/speak.py RUN out.wav --prompt speech.wav --seconds 5
    python recipes/speech_lm/speak.py RUN out.wav --text "the old man went out to the sea"
    python recipes/speech_lm/speak.py RUN - --prompt speech.wav | aplay

Each frame of 20 ms is decoded and written as soon as the model has drawn its code. With a prompt, the output is the
prompt as the codec decodes it, and then `--seconds` of new speech; the last frame lacks the decoder's delay of 10 ms.
With a text, the model may end its speech earlier. The time to the first audio and the real-time factor, which is the
time that was needed for a second of speech, are printed to stderr; both are without the time to load the models.
"""

import argparse
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from recipes.speech_lm.model import END, PART_SIZE, PARTS, codec_of, load, opening, pick, spell, split
from spectok.audio import read_audio, writing_audio
from spectok.errors import InputError, require
from spectok.tokenizer import Tokenizer

# How Transformers calls the argument, which had the second name before.
CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"


class Sampling(NamedTuple):
    """How ids are drawn."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0


class Spoken(NamedTuple):
    """What was written, and how fast."""

    frames: int  # new ones
    first_audio: float  # seconds from the start to the first new audio; NaN without a frame
    seconds: float  # from the start to the end


@torch.inference_mode()
def write_codes(
    model: LlamaForCausalLM, before: Tensor, frames: int, sampling: Sampling, may_end: bool = False
) -> Iterator[NDArray[np.int64]]:
    """Draw the codes of one frame after the other.

    Args:
        model: the language model.
        before: ids `[B, S]`, after which the codes come.
        frames: the most frames.
        sampling: how ids are drawn.
        may_end: whether a row may end earlier. The iterator ends when all rows have ended.

    Yields:
        Codes `[B]` of the next frame; -1 for a row that has ended.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    ended = torch.zeros(len(before), dtype=torch.bool, device=before.device)
    pending, cache = before, DynamicCache()
    for _ in range(frames):
        code = torch.zeros_like(before[:, 0])
        for part in range(PARTS):
            known = model(input_ids=pending, use_cache=True, logits_to_keep=1, **{CACHE: cache}).logits[:, -1]
            first, logits = part * PART_SIZE, torch.full_like(known, -torch.inf)
            logits[:, first : first + PART_SIZE] = known[:, first : first + PART_SIZE]
            if may_end and part == 0:
                logits[:, END] = known[:, END]
            drawn = pick(logits, sampling.temperature, sampling.top_p, generator)
            ended |= drawn == END
            drawn = torch.where(ended, first, drawn)
            code += (drawn - first) * PART_SIZE**part
            pending = drawn[:, None]
        if ended.all():
            return
        yield torch.where(ended, -1, code).cpu().numpy()


def before_codes(model: LlamaForCausalLM, codes: Any, text: str, frames: int) -> Tensor:
    """The ids `[1, S]` after which `frames` frames are to be drawn; of a long prompt its last part.

    Raises:
        InputError: they do not fit into the context of the model.
    """
    ids, start = split(codes), opening(text)
    room = model.config.max_position_embeddings - len(start) - PARTS * frames
    fits = room >= (PARTS if len(ids) else 0)
    most = (model.config.max_position_embeddings - len(start)) // PARTS - (1 if len(ids) else 0)
    what = "with this text" if text else "after a prompt"
    require(fits, f"the model has room for at most {max(0, most)} frames {what}, but {frames} are asked for")
    kept = ids[max(0, len(ids) - room // PARTS * PARTS) :]
    return torch.tensor(np.concatenate([start, kept]), device=model.device)[None]


def speak(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    write: Callable[[NDArray[np.float32]], Any],
    frames: int,
    sampling: Sampling,
    prompt: NDArray[np.float32] | None = None,
    text: str = "",
) -> Spoken:
    """Write speech while its codes are drawn.

    Args:
        model: the language model.
        tokenizer: its codec.
        write: called with the audio `[T]` of the prompt, and then of each new frame, at the codec's sample rate.
        frames: of new speech; with a text the most of them.
        sampling: how codes are drawn.
        prompt: audio `[T]` at the codec's sample rate, or None.
        text: to speak, if there is no prompt.

    Raises:
        InputError: the prompt is shorter than a frame and the delay of the codec, or the frames do not fit into the
            context of the model.
    """
    start, first, count = time.perf_counter(), float("nan"), 0
    decoder = tokenizer.stream_decoder()
    codes = np.zeros(0, np.int64)
    if prompt is not None:
        codes = tokenizer.stream_encoder().push(prompt)  # without the last frame, which would end in added silence
        require(len(codes) > 0, f"a prompt of {len(prompt)} samples is shorter than a frame and the codec's delay")
    before = before_codes(model, codes, text, frames)
    if len(codes):
        write(decoder.push(codes))
    for code in write_codes(model, before, frames, sampling, may_end=bool(text)):
        write(decoder.push(code))
        count += 1
        if count == 1:
            first = time.perf_counter() - start
    return Spoken(count, first, time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and speak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of train.py")
    parser.add_argument("out", help="a .wav or .flac file, or - for a WAV stream to stdout")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", type=Path, metavar="AUDIO", help="speech to continue")
    what.add_argument("--text", help="to speak: English letters, digits and apostrophes")
    parser.add_argument("--seconds", type=float, default=5.0, help="of new speech (default: %(default)g)")
    parser.add_argument(
        "--temperature", type=float, default=Sampling().temperature, help="0 takes the likeliest (default: %(default)g)"
    )
    parser.add_argument(
        "--top-p", type=float, default=Sampling().top_p, help="share of the probability (default: %(default)g)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (default: %(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        require(args.seconds > 0, f"the seconds must be positive, not {args.seconds:g}")
        require(args.temperature >= 0, f"the temperature must not be negative, but is {args.temperature:g}")
        require(0 < args.top_p <= 1, f"top-p must be over 0 and at most 1, not {args.top_p:g}")
        require(args.text is None or len(spell(args.text)) > 0, "the text has no English letters or digits")
        model = load(args.run)
        tokenizer = codec_of(model)
        prompt = read_audio(args.prompt, tokenizer.sample_rate)[0] if args.prompt else None
        frames = max(1, round(args.seconds * tokenizer.frame_rate))
        sampling = Sampling(args.temperature, args.top_p, args.seed)
        out = sys.stdout.buffer if args.out == "-" else args.out
        with writing_audio(out, tokenizer.sample_rate) as write:
            done = speak(model, tokenizer, write, frames, sampling, prompt, args.text or "")
    except InputError as error:
        print(f"speak: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the player has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    seconds = done.frames / tokenizer.frame_rate
    factor = done.seconds / seconds if done.frames else float("nan")
    print(
        f"first audio after {done.first_audio:.2f} s; {seconds:.2f} s of new speech in {done.seconds:.2f} s, "
        f"real-time factor {factor:.2f}",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
