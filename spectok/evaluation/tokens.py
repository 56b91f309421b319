"""Measures the tokens of a codec as the vocabulary of a language model: entropies, repeatability, and what BPE saves.

Whatever is learned is learned on one half of the files and measured on the other half, in both directions, and the
results of both are averaged over all tokens. No speaker is in both halves, if the speakers are known. A small corpus
therefore makes the tokens look worse than they are, never better.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spectok import pretrained
from spectok.audio import read_audio
from spectok.errors import InputError
from spectok.evaluation.evaluate import histogram, plain
from spectok.evaluation.items import Item
from spectok.evaluation.metrics import codebook_use, interval
from spectok.evaluation.provenance import provenance
from spectok.resampling import resample, restore
from spectok.tokenizer import Tokenizer

ORDERS = (1, 2, 3)  # of the models of n tokens
MERGES = (0, 500, 2000, 8000)  # of BPE
REPEATED_FILES = 40  # at most so many files, evenly spaced in the list, are encoded again and again
TRIPS = (1, 2, 5, 10)  # encodings and decodings before a file is encoded once more
RATES = (8000, 24000, 44100)  # Hz
NOISES = (20, 10)  # dB of speech above pink noise
GAINS = (6, -6)  # dB
SILENCE_SECONDS = 60
FIRST_CHARACTER = 0x10000  # BPE works on text: code c is the character with this number plus c

CONDITIONS = (
    "cut at a frame",
    "cut in a frame",
    *(f"noise {decibels} dB" for decibels in NOISES),
    *(f"gain {decibels:+d} dB" for decibels in GAINS),
    *(f"{rate} Hz" for rate in RATES),
    *(f"{trip} round trips" for trip in TRIPS),
)
UNITS = ("tokens", "frames")  # of which the equal share is counted
FACTS = ("sample_rate", "frame_rate", "tokens_per_frame", "codebook_size", "bitrate")

Audio = NDArray[np.float32]
Codes = NDArray[np.int64]


class Encoded(NamedTuple):
    """The codes of a file and the share that it has in the results."""

    codes: Codes  # [F, K]
    seconds: float  # of its frames


def divide(speakers: Sequence[str], sizes: Sequence[float], count: int = 2) -> list[list[int]]:
    """Divide files into parts of about the same size, so that no speaker is in two of them.

    Args:
        speakers: of each file; files with an empty one are divided as if each had its own. If all files have the same
            speaker, they are divided likewise, and that speaker is in all parts.
        sizes: of each file, in any unit.
        count: number of parts; there are fewer if there are fewer speakers.

    Returns:
        The indices of the files of each part, in ascending order.

    Raises:
        InputError: there are fewer than two files.
    """
    if len(speakers) < 2:
        raise InputError("there must be at least two files: what is learned on one half is measured on the other")
    known = speakers if len(set(speakers)) > 1 else [""] * len(speakers)
    groups: dict[Any, list[int]] = {}
    for index, speaker in enumerate(known):
        groups.setdefault(speaker or index, []).append(index)
    parts: list[list[int]] = [[] for _ in range(min(count, len(groups)))]
    totals = [0.0] * len(parts)
    for members in sorted(groups.values(), key=lambda each: -sum(sizes[index] for index in each)):
        smallest = totals.index(min(totals))
        parts[smallest] += members
        totals[smallest] += sum(sizes[index] for index in members)
    return [sorted(part) for part in parts]


def cross_entropies(
    learned: Sequence[Codes], measured: Sequence[Codes], size: int, places: int = 1, longest: int = max(ORDERS)
) -> list[float]:
    """Bits per token of models of 1, 2, 3 and more tokens that were learned on other files.

    The models are interpolated with absolute discounting (Ney, Essen and Kneser, 1994): in a context that was followed
    by n tokens, of which t were different, a token that followed c times has the probability
    (c - d) / n + d * t / n * p, without the first term for c = 0, where p is its probability in the next shorter
    context. The discount d of each length of context is that of the paper, from the numbers of pairs of context and
    token that were seen once and twice; one of each is added to them, so that it is neither 0 nor 1. Where nearly
    everything is seen once, d is nearly 1, and a longer context changes little. Below the shortest context all tokens
    are equally likely. The context of each model is the place in the frame and the tokens before, of which those before
    the start of a file are one more symbol.

    Args:
        learned: codes `[N]` of each file to learn from, frame after frame.
        measured: codes `[N]` of each file to measure.
        size: number of different codes.
        places: number of codes in a frame.
        longest: number of tokens of the last model.

    Returns:
        The mean of -log2 of the probability of the measured tokens, for models of 1 token up to `longest`.
    """
    both = [*learned, *measured]
    token = np.concatenate(both)
    context = np.concatenate([np.arange(len(codes)) % places for codes in both])
    boundary = sum(map(len, learned))
    probability = np.full(len(token) - boundary, 1 / size)
    bits = []
    for order in range(1, longest + 1):
        if order > 1:
            earlier = np.concatenate([np.append(np.full(order - 1, size), codes)[: len(codes)] for codes in both])
            context = np.unique(context * (size + 1) + earlier, return_inverse=True)[1]
        event = np.unique(context * size + token, return_inverse=True)[1]
        seen, contexts = event[:boundary], int(context.max()) + 1
        followed = np.bincount(context[:boundary], minlength=contexts)[context[boundary:]]
        first_of_kind = np.unique(seen, return_index=True)[1]
        kinds = np.bincount(context[first_of_kind], minlength=contexts)[context[boundary:]]
        counts = np.bincount(seen, minlength=int(event.max()) + 1)
        once, twice = (int((counts == number).sum()) + 1 for number in (1, 2))
        discount = once / (once + 2 * twice)
        kept = np.maximum(counts[event[boundary:]] - discount, 0.0) + discount * kinds * probability
        probability = np.where(followed > 0, kept / np.maximum(followed, 1), probability)
        bits.append(float(-np.log2(probability).mean()))
    return bits


def bpe_lengths(learned: Sequence[Codes], measured: Sequence[Codes], merges: Sequence[int]) -> list[tuple[int, int]]:
    """What byte pair encoding (Sennrich et al., ACL 2016), learned on other files, makes of the codes of files.

    A merge replaces two neighbours by one new token. Only pairs that occur at least twice are merged.

    Args:
        learned: codes `[N]` of each file to learn from.
        measured: codes `[N]` of each file to measure.
        merges: the wanted numbers of merges.

    Returns:
        For each wanted number, the number of merges that were learned, which is smaller if there are no more pairs, and
        the number of tokens of the measured files.
    """
    from tokenizers import Tokenizer as Pairs
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    texts = [[_text(codes) for codes in files] for files in (learned, measured)]
    alphabet = sorted(set("".join(texts[0] + texts[1])))
    trained = Pairs(BPE())
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + max(merges), min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(texts[0], trainer)
    found = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    lengths = []
    for wanted in merges:
        used = found[:wanted]
        names = dict.fromkeys([*alphabet, *(first + second for first, second in used)])
        pairs = Pairs(BPE({name: number for number, name in enumerate(names)}, used))
        lengths.append((len(used), sum(len(pairs.encode(text).ids) for text in texts[1])))
    return lengths


def _text(codes: Codes) -> str:
    return "".join(chr(FIRST_CHARACTER + code) for code in codes.tolist())


def pink_noise(samples: int, seed: int = 0) -> Audio:
    """Noise of power 1 whose power density falls with 1 / frequency, float32 `[samples]`."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    spectrum[0] = 0.0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    noise = np.fft.irfft(spectrum, samples)
    return np.asarray(noise / (np.sqrt(np.mean(noise**2)) or 1.0), np.float32)


def same(codes: Codes, other: Codes, skipped: int = 0) -> tuple[float, float]:
    """The share of equal tokens, and that of frames whose tokens are all equal.

    Args:
        codes: `[F, K]`.
        other: `[G, K]`, of which frame 0 is compared with frame `skipped` of the codes. Frames that only one of the two
            has are not compared.
        skipped: number of frames.

    Returns:
        The two shares, from 0 to 1; NaN if no frames can be compared.
    """
    compared = min(len(codes) - skipped, len(other))
    if compared <= 0:
        return math.nan, math.nan
    equal = codes[skipped : skipped + compared] == other[:compared]
    return float(equal.mean()), float(equal.all(axis=1).mean())


def encodings(tokenizer: Tokenizer, audio: Audio, codes: Codes) -> Iterator[tuple[str, Codes, int]]:
    """Encode a file under other conditions.

    Args:
        tokenizer: the codec.
        audio: `[T]` at the codec's sample rate.
        codes: of the audio, `[F, K]`.

    Yields:
        The name of each of `CONDITIONS`, the codes `[G, K]`, and the number of frames that were cut off at the start.
        The conditions that cut off a second are missing for audio of less than two.
    """

    def encode(changed: Audio) -> Codes:
        return tokenizer.encode(changed, layout="frames")

    rate, frames = tokenizer.sample_rate, round(tokenizer.frame_rate)
    cut = frames * tokenizer.frame_length
    if len(audio) >= 2 * cut:
        yield "cut at a frame", encode(audio[cut:]), frames
        yield "cut in a frame", encode(audio[cut + tokenizer.frame_length // 4 :]), frames
    noise = np.sqrt(np.mean(audio**2)) * pink_noise(len(audio))
    for decibels in NOISES:
        yield f"noise {decibels} dB", encode(audio + noise * np.float32(10 ** (-decibels / 20))), 0
    for decibels in GAINS:
        yield f"gain {decibels:+d} dB", encode(audio * np.float32(10 ** (decibels / 20))), 0
    for other in RATES:
        yield f"{other} Hz", encode(restore(resample(audio, rate, other), other, rate, len(audio))), 0
    again = codes
    for trip in range(1, max(TRIPS) + 1):
        decoded = tokenizer.decode(again, len(audio), layout="frames")
        again = encode(np.clip(decoded, -1, 1))  # as a 16-bit file limits it
        if trip in TRIPS:
            yield f"{trip} round trips", again, 0


def frames_of_silence(tokenizer: Tokenizer) -> int:
    """The number of different frames of codes in a minute of digital silence."""
    silence = np.zeros(SILENCE_SECONDS * tokenizer.sample_rate, np.float32)
    return len(np.unique(tokenizer.encode(silence, layout="frames"), axis=0))


def statistics(
    files: Sequence[Encoded], halves: Sequence[Sequence[int]], size: int
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Use of the codebook, entropies and BPE of the codes of all files.

    Args:
        files: the codes of at least two files.
        halves: the indices of the files of two parts, as `divide` returns them.
        size: number of different codes.

    Returns:
        `used`, `entropy` (as `codebook_use` defines them) and `tokens`; a row for each of `ORDERS`, with
        `bits_per_token` and `bits_per_second`; and a row for each of `MERGES`, with the mean number of merges that were
        `learned` and `tokens_per_second`.
    """
    places = files[0].codes.shape[1]
    flat, seconds = [file.codes.reshape(-1) for file in files], sum(file.seconds for file in files)
    tokens = sum(map(len, flat))
    use = codebook_use(histogram("the codec", np.concatenate(flat), size))
    bits, lengths = np.zeros(len(ORDERS)), np.zeros((len(MERGES), 2))
    for learned, measured in (halves, halves[::-1]):
        known, unknown = ([flat[index] for index in part] for part in (learned, measured))
        bits += np.array(cross_entropies(known, unknown, size, places)) * sum(map(len, unknown))
        lengths += np.array(bpe_lengths(known, unknown, MERGES))
    entropies = [
        {"order": order, "bits_per_token": float(total / tokens), "bits_per_second": float(total / seconds)}
        for order, total in zip(ORDERS, bits, strict=True)
    ]
    pairs = [
        {"merges": merges, "learned": float(learned / 2), "tokens_per_second": float(count / seconds)}
        for merges, (learned, count) in zip(MERGES, lengths, strict=True)
    ]
    return {"used": use.used, "entropy": use.entropy, "tokens": tokens}, entropies, pairs


def measure_tokens(
    items: Sequence[Item],
    models: Sequence[str | Path],
    probe: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure the tokens of models on files.

    Args:
        items: at least two files.
        models: names or folders, each with another configured name.
        probe: also train and measure the linear probes of probes.py, which takes minutes.
        progress: called with `(done, total)`, in files: each is counted once for each model.

    Returns:
        A dict that can be written as JSON, with None for NaN: `provenance`, `files`, `seconds`, `speakers` (0 if they
        are not known), `repeated` (the number of files that were encoded again) and `models`. Each model, by its name,
        has the facts `sample_rate`, `frame_rate`, `tokens_per_frame`, `codebook_size` and `bitrate`; `codebook`,
        `entropies` and `bpe` as `statistics` returns them; `same`, by condition the shares of equal `tokens` and
        `frames`, means over files with intervals; `silence`, the number of different frames in a minute of it; and
        `probes`, if wanted, as `measure_probes` returns them.

    Raises:
        InputError: there are fewer than two files, a file or a model cannot be read, or two models have one name.
    """
    tokenizers = {model: Tokenizer.from_pretrained(model) for model in models}
    names = [tokenizer.config.name for tokenizer in tokenizers.values()]
    if len(set(names)) < len(models):
        raise InputError(f"each model must have its own name, but they are {', '.join(map(str, models))}")
    speakers = [item.speaker for item in items]
    divide(speakers, [1.0] * len(items))  # to fail before the work
    found: dict[str, Any] = {"speakers": len(set(speakers) - {""}), "models": {}}
    for number, (model, tokenizer) in enumerate(tokenizers.items()):
        encoded, again = _encode(tokenizer, items, progress, number, len(tokenizers))
        seconds = [file.seconds for file in encoded]
        codebook, entropies, pairs = statistics(encoded, divide(speakers, seconds), tokenizer.codebook_size)
        shares = {
            name: {unit: interval(values).as_dict() for unit, values in zip(UNITS, np.transpose(both), strict=True)}
            for name, both in again.items()
        }
        facts: dict[str, Any] = {name: getattr(tokenizer, name) for name in FACTS}
        measured = {"facts": facts, "codebook": codebook, "entropies": entropies, "bpe": pairs, "same": shares}
        found["models"][tokenizer.config.name] = measured | {"silence": frames_of_silence(tokenizer)}
        if probe:
            from spectok.evaluation.probes import PARTS, measure_probes

            codes, parts = [file.codes for file in encoded], divide(speakers, seconds, PARTS)
            found["models"][tokenizer.config.name]["probes"] = measure_probes(items, model, codes, parts)
        found |= {"files": len(items), "seconds": sum(seconds), "repeated": len(items[:: _step(items)])}
    weights = {name: pretrained.find(model).sha256 for name, model in zip(names, tokenizers, strict=True)}
    result: dict[str, Any] = plain({"provenance": provenance(weights)} | found)
    return result


def _step(items: Sequence[Item]) -> int:
    """The distance in the list of the files that are encoded again."""
    return -(-len(items) // REPEATED_FILES)


def _encode(
    tokenizer: Tokenizer,
    items: Sequence[Item],
    progress: Callable[[int, int], None] | None,
    number: int,
    models: int,
) -> tuple[list[Encoded], dict[str, list[tuple[float, float]]]]:
    """Encode all files, and some of them again: their codes, and by condition the shares that `same` returns."""
    encoded: list[Encoded] = []
    again: dict[str, list[tuple[float, float]]] = {name: [] for name in CONDITIONS}
    for place, item in enumerate(items):
        audio = read_audio(item.path, tokenizer.sample_rate)[0]
        codes = tokenizer.encode(audio, layout="frames")
        encoded.append(Encoded(codes, len(codes) / tokenizer.frame_rate))
        if place % _step(items) == 0:
            shares = {name: same(codes, other, skipped) for name, other, skipped in encodings(tokenizer, audio, codes)}
            for name, values in again.items():
                values.append(shares.get(name, (math.nan, math.nan)))
        if progress is not None:
            progress(number * len(items) + place + 1, models * len(items))
    return encoded, again
