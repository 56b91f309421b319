"""Measure a language model of speech tokens on the test split, with its sampling chosen on the validation split.

    python recipes/speech_lm/evaluate.py TOKENS RUN

TOKENS has the folders train, valid and test, which `spectok tokenize` has written. Writes `results.json` beside this
file, from which recipes/cards.py makes the table in docs/speech_lm.md. What is measured:

- Bits per code of the model and of models of 1, 2 and 3 codes (`spectok.evaluation.tokens.cross_entropies`), which have
  learned from the same training codes. The models of 1 to 3 parts see each code as the same two parts of 8 bits as the
  language model.
- Continuations of 5 s after prompts of 3 s, beside what was really said, as the codec decodes it, and beside the codes
  of that in random order: DistillMOS; the level beside that of the prompt; the words that Whisper hears, by the bits
  per character of a model of 5 characters that has learned from the training transcripts; and whether Resemblyzer hears
  the speaker of the prompt.
- The word error rate of Whisper's transcript of a spoken text.
- The time to the first audio, and that for a second of speech, of one thread.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM

from recipes.speech_lm.data import Recording, read_tokens
from recipes.speech_lm.model import (
    CHARACTERS,
    CODEBOOK_SIZE,
    FIRST_CHARACTER,
    PART_SIZE,
    PARTS,
    code_bits,
    codec_of,
    load,
    opening,
    spell,
    split,
)
from recipes.speech_lm.speak import Sampling, speak, write_codes
from spectok.errors import InputError, require
from spectok.evaluation.evaluate import plain
from spectok.evaluation.judges import distillmos_of, embedding, transcript, word_error_rate
from spectok.evaluation.metrics import interval
from spectok.evaluation.provenance import weights_of, write_results
from spectok.evaluation.tokens import ORDERS, cross_entropies
from spectok.tokenizer import Tokenizer

OUT = Path(__file__).with_name("results.json")
PROMPT_FRAMES, NEW_FRAMES, LEAST_FRAMES = 150, 250, 250  # of a prompt, of its continuation, and of a whole recording
SAMPLINGS = (Sampling(0.7, 1.0), Sampling(0.8, 0.95), Sampling(0.9, 1.0), Sampling(1.0, 0.95), Sampling(1.0, 1.0))
KINDS = ("true", "model", "shuffled")
QUIETER = 3.0  # dB
CHARACTER_ORDER = 5
LEAST_CHARACTERS, MOST_CHARACTERS = 20, 120  # of a text to speak
TEXT_FRAMES = 350  # at most
TIMED = 5  # prompts

Audio = NDArray[np.float32]


def per_code(model: LlamaForCausalLM, train: Sequence[Recording], test: Sequence[Recording]) -> dict[str, Any]:
    """Bits per code of the test recordings by the models of codes and of parts, and by the language model."""
    learned, measured = ([recording.codes for recording in each] for each in (train, test))
    count = sum(map(len, measured))
    found = dict(zip(map("codes_{}".format, ORDERS), cross_entropies(learned, measured, CODEBOOK_SIZE), strict=True))
    first, second = ([split(codes) % PART_SIZE for codes in each] for each in (learned, measured))
    bits = cross_entropies(first, second, PART_SIZE, PARTS)
    found |= {f"parts_{order}": PARTS * value for order, value in zip(ORDERS, bits, strict=True)}
    found["model"] = float(code_bits(model, [split(codes) for codes in measured]).sum() / count)
    seen = train[:: max(1, len(train) // len(test))]
    of_seen = code_bits(model, [split(recording.codes) for recording in seen]).sum()
    found["model_on_train"] = float(of_seen / sum(len(recording.codes) for recording in seen))
    context = model.config.max_position_embeddings
    texts = [each for each in test if each.text and len(opening(each.text)) + PARTS * len(each.codes) <= context]
    if texts:
        ids, total = [split(each.codes) for each in texts], sum(len(each.codes) for each in texts)
        found["same_without_text"] = float(code_bits(model, ids).sum() / total)
        found["same_with_text"] = float(code_bits(model, ids, [each.text for each in texts]).sum() / total)
    return {"test_codes": count, "with_text": len(texts), "bits": found}


def prompts(recordings: Sequence[Recording], most: int) -> list[Recording]:
    """At most so many recordings that are long enough, evenly spaced in the list."""
    long = [recording for recording in recordings if len(recording.codes) >= LEAST_FRAMES]
    require(bool(long), f"no recording has {LEAST_FRAMES} frames")
    return [long[place] for place in sorted({round(n) for n in np.linspace(0, len(long) - 1, most)})]


def continuations(model: LlamaForCausalLM, recordings: Sequence[Recording], sampling: Sampling) -> NDArray[np.int64]:
    """The codes `[R, NEW_FRAMES]` that the model writes after the first `PROMPT_FRAMES` of each recording."""
    ids = np.stack([np.concatenate([opening(), split(each.codes[:PROMPT_FRAMES])]) for each in recordings])
    return np.stack(list(write_codes(model, torch.tensor(ids), NEW_FRAMES, sampling)), axis=1)


def hear(tokenizer: Tokenizer, recording: Recording, codes: NDArray[np.int64]) -> tuple[Audio, Audio]:
    """The prompt of a recording and what follows, `[T]` each, as the codec decodes them in one stream."""
    audio = tokenizer.decode(np.concatenate([recording.codes[:PROMPT_FRAMES], codes]))
    at = PROMPT_FRAMES * tokenizer.frame_length
    return audio[:at], audio[at:]


def level(prompt: Audio, audio: Audio) -> float:
    """How much louder audio is than its prompt, in dB."""
    return float(10 * np.log10((np.mean(audio**2) + 1e-10) / (np.mean(prompt**2) + 1e-10)))


def choose(model: LlamaForCausalLM, tokenizer: Tokenizer, valid: Sequence[Recording]) -> list[dict[str, Any]]:
    """DistillMOS and level of the continuations of the validation recordings for each of `SAMPLINGS`, the best first.

    The best has the highest DistillMOS of those that are on average not more than `QUIETER` dB quieter than the prompt.
    DistillMOS alone does not notice where a model falls silent.
    """
    rows = []
    for sampling in SAMPLINGS:
        written = continuations(model, valid, sampling)
        heard = [hear(tokenizer, *each) for each in zip(valid, written, strict=True)]
        rating = float(np.mean([distillmos_of(audio) for _, audio in heard]))
        rows.append(
            {**sampling._asdict(), "distillmos": rating, "level": float(np.mean([level(*each) for each in heard]))}
        )
        print(rows[-1], flush=True)
    return sorted(rows, key=lambda row: (row["level"] < -QUIETER, -row["distillmos"]))


def judge_continuations(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    test: Sequence[Recording],
    texts: Sequence[str],
    sampling: Sampling,
) -> dict[str, Any]:
    """What continuations are worth, for each of `KINDS`; `texts` are the training transcripts."""
    written = continuations(model, test, sampling)
    generator = np.random.default_rng(sampling.seed)
    speakers = [recording.speaker for recording in test]
    heard: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    words: dict[str, list[str]] = {kind: [] for kind in KINDS}
    voices: list[NDArray[np.float32]] = []
    for recording, codes in zip(test, written, strict=True):
        true = recording.codes[PROMPT_FRAMES : PROMPT_FRAMES + NEW_FRAMES]
        of_kind = {"true": true, "model": codes, "shuffled": generator.permutation(true)}
        for kind, chosen in of_kind.items():
            prompt, audio = hear(tokenizer, recording, chosen)
            seconds = len(audio) / tokenizer.sample_rate
            heard[kind].append((distillmos_of(audio), embedding(audio), seconds, level(prompt, audio)))
            words[kind].append(str(transcript(audio, "en")))
        voices.append(embedding(prompt))
        print(f"{recording.name}: {words['true'][-1]} | {words['model'][-1]}", flush=True)
    found: dict[str, Any] = {}
    for kind in KINDS:
        ratings, embeddings, lengths, levels = zip(*heard[kind], strict=True)
        same = np.array(embeddings) @ np.array(voices).T
        others = [
            float(np.mean([same[n, m] for m, other in enumerate(speakers) if other != speaker]))
            for n, speaker in enumerate(speakers)
        ]
        nearest = [speakers[int(row.argmax())] == speaker for row, speaker in zip(same, speakers, strict=True)]
        found[kind] = {
            "distillmos": interval(ratings).as_dict(),
            "level": interval(levels).as_dict(),
            "speaker": interval(same.diagonal()).as_dict(),
            "other_speakers": interval(others).as_dict(),
            "speaker_found": float(np.mean(nearest)),
            "words_per_second": sum(len(text.split()) for text in words[kind]) / sum(lengths),
            "bits_per_character": per_character(texts, words[kind]),
        }
    mixed = ["".join(generator.permutation(list(text))) for text in words["true"]]
    return {
        "files": len(test),
        "speakers": len(set(speakers)),
        "kinds": found,
        "shuffled_characters": per_character(texts, mixed),
        "examples": [{kind: words[kind][n] for kind in ("true", "model")} for n in range(0, len(test), 8)],
    }


def per_character(learned: Sequence[str], measured: Sequence[str]) -> float | None:
    """Bits per character of texts by a model of `CHARACTER_ORDER` characters; None if they are empty."""
    known, new = ([spell(text) - FIRST_CHARACTER for text in texts if text] for texts in (learned, measured))
    return cross_entropies(known, new, len(CHARACTERS), longest=CHARACTER_ORDER)[-1] if known and new else None


def judge_texts(
    model: LlamaForCausalLM, tokenizer: Tokenizer, test: Sequence[Recording], sampling: Sampling, most: int
) -> dict[str, Any]:
    """The word error rate of spoken texts: the transcripts of test recordings."""
    chosen = [each for each in test if LEAST_CHARACTERS <= len(each.text) <= MOST_CHARACTERS]
    chosen = [chosen[place] for place in sorted({round(n) for n in np.linspace(0, len(chosen) - 1, most)})]
    require(len(chosen) > 1, "fewer than two test recordings have a text of the right length")
    errors: dict[str, list[float]] = {"codec": [], "model": [], "another_text": []}
    seconds, ratings, ended = [], [], 0
    for number, recording in enumerate(chosen):
        blocks: list[Audio] = []
        spoken = speak(model, tokenizer, blocks.append, TEXT_FRAMES, sampling, text=recording.text)
        audio = np.concatenate([*blocks, np.zeros(tokenizer.frame_length, np.float32)])
        words = str(transcript(audio, "en"))
        print(f"{recording.text} | {words}", flush=True)
        errors["codec"].append(word_error_rate(recording.text, transcript(tokenizer.decode(recording.codes), "en")))
        errors["model"].append(word_error_rate(recording.text, words))
        errors["another_text"].append(word_error_rate(chosen[number - 1].text, words))
        ratings.append(distillmos_of(audio))
        seconds.append(spoken.frames / tokenizer.frame_rate)
        ended += spoken.frames < TEXT_FRAMES
    return {
        "texts": len(chosen),
        "wer": {name: interval(values).as_dict() for name, values in errors.items()},
        "distillmos": interval(ratings).as_dict(),
        "seconds": float(np.mean(seconds)),
        "ended": ended / len(chosen),
    }


def time_prompts(
    model: LlamaForCausalLM, tokenizer: Tokenizer, test: Sequence[Recording], sampling: Sampling
) -> dict[str, float]:
    """Medians over prompts: seconds to the first audio, and seconds and processor seconds for a second of speech."""
    rows = []
    for recording in test[:TIMED]:
        prompt = tokenizer.decode(recording.codes[:PROMPT_FRAMES])
        begun = time.process_time()
        spoken = speak(model, tokenizer, lambda audio: None, NEW_FRAMES, sampling, prompt)
        new = spoken.frames / tokenizer.frame_rate
        rows.append((spoken.first_audio, spoken.seconds / new, (time.process_time() - begun) / new))
    names = ("first_audio", "real_time_factor", "processor_seconds")
    return dict(zip(names, map(float, np.median(rows, axis=0)), strict=True)) | {"prompts": len(rows)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", type=Path, help="folder with the folders train, valid and test")
    parser.add_argument("run", type=Path, help="run folder of train.py")
    parser.add_argument("--files", type=int, default=40, help="at most so many continuations (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=24, help="at most so many texts (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="(default: results.json beside this file)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        require(min(args.files, args.texts) > 1, "there must be at least two files and two texts")
        model = load(args.run)
        tokenizer = codec_of(model)
        train, valid, test = (read_tokens(args.tokens / name)[0] for name in ("train", "valid", "test"))
        facts = json.loads((args.run / "run.json").read_text(encoding="utf-8"))
        log = [json.loads(line) for line in (args.run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        names = ("step", "ids", "seconds", "bits_per_code")
        curve = [{name: entry[name] for name in names} for entry in log if entry["kind"] == "valid"]
        results: dict[str, Any] = {"codec": tokenizer.config.name, "frame_rate": tokenizer.frame_rate, "run": facts}
        results["curve"] = curve
        results["tokens"] = per_code(model, train, test)
        print(results["tokens"], flush=True)
        results["sampling"] = choose(model, tokenizer, prompts(valid, args.files // 3 + 1))
        best = Sampling(*(results["sampling"][0][name] for name in Sampling._fields))
        long, texts = prompts(test, args.files), [recording.text for recording in train if recording.text]
        results["continuation"] = judge_continuations(model, tokenizer, long, texts, best)
        results["text"] = judge_texts(model, tokenizer, test, best, args.texts)
        results["time"] = time_prompts(model, tokenizer, long, best)
        write_results(args.out, plain(results), weights_of([tokenizer.config.name]))
    except InputError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
