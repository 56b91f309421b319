"""The measured part of docs/speech_lm.md, from the results of `evaluate.py`."""

import json
from pathlib import Path
from typing import Any

from spectok.evaluation.catalogue import METRICS
from spectok.evaluation.tables import markdown_table, mean, number

RESULTS = Path(__file__).with_name("results.json")
CODE_MODELS = {
    "codes_1": "one code (unigram)",
    "codes_2": "two codes",
    "codes_3": "three codes (trigram)",
    "parts_1": "one part",
    "parts_2": "two parts",
    "parts_3": "three parts",
    "model": "the language model",
    "model_on_train": "the language model, on training recordings",
}
KINDS = {
    "true": "what was said, as the codec decodes it",
    "model": "the language model",
    "shuffled": "the codes of what was said, in random order",
}
TEXTS = {
    "codec": "the recording of the text, as the codec decodes it",
    "model": "the language model",
    "another_text": "the language model, compared with another text",
}


def page() -> str:
    """All tables, as Markdown."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    return "\n\n".join([extent(found), perplexity(found), continuation(found), text(found), time(found)]) + "\n"


def extent(found: dict[str, Any]) -> str:
    """What was trained, on what, for how long."""
    run, machine = found["run"], found["run"]["machine"]
    settings, last = run["settings"], found["curve"][-1]
    place = f"{run['threads']} thread of {machine['processor']}" if run["device"] == "cpu" else "a GPU"
    passes = last["ids"] / (2 * run["codes"])
    return (
        f"{run['parameters'] / 1e6:.1f} million parameters ({settings['layers']} layers of width {settings['width']}), "
        f"trained for {last['seconds'] / 60:.0f} minutes on "
        f"{place}: {last['step']:,} steps, {last['ids'] / 1e6:.1f} million ids, about {passes:.1f} passes over "
        f"{run['hours']:.1f} hours of speech. {run['with_text']:,} of {run['recordings']:,} recordings have a "
        "transcript."
    )


def perplexity(found: dict[str, Any]) -> str:
    """Bits of the test recordings."""
    tokens, rate = found["tokens"], found["frame_rate"]
    rows = [[title, *_bits(tokens["bits"][name], rate)] for name, title in CODE_MODELS.items()]
    titles = ["model of", "perplexity of a code", "bits of a code", "bits per second"]
    written = f"### Perplexity\n\n{tokens['test_codes']:,} codes of the test split:\n\n{markdown_table(titles, rows)}"
    if not tokens["with_text"]:
        return written
    bits = tokens["bits"]
    return (
        f"{written}\n\nOn the {tokens['with_text']} test recordings that fit into the context together with their "
        f"text, the language model needs {bits['same_without_text']:.2f} bits for a code without the text and "
        f"{bits['same_with_text']:.2f} with it."
    )


def _bits(bits: float, rate: float) -> list[str]:
    return [f"{2**bits:,.0f}", number(bits, 2), number(rate * bits, 0)]


def continuation(found: dict[str, Any]) -> str:
    """Continuations of prompts."""
    measured, best = found["continuation"], found["sampling"][0]
    rows = []
    for kind, title in KINDS.items():
        row = measured["kinds"][kind]
        words = [number(row["words_per_second"], 1), number(row["bits_per_character"], 2)]
        voices = [mean(row["speaker"], 2), mean(row["other_speakers"], 2), f"{100 * row['speaker_found']:.0f} %"]
        rows.append([title, mean(row["distillmos"], 2), mean(row["level"], 1), *words, *voices])
    titles = [
        "continuation",
        METRICS["distillmos"].title,
        "words per second",
        "bits per character",
        "similarity to the prompt",
    ]
    titles += ["to prompts of others", "speaker found"]
    titles.insert(2, "level, dB")
    settings = [
        [f"{each['temperature']:g}", f"{each['top_p']:g}", number(each["distillmos"], 2), number(each["level"], 1)]
        for each in found["sampling"]
    ]
    examples = [f"| {each['true'] or '-'} | {each['model'] or '-'} |" for each in measured["examples"]]
    return (
        f"### Continuation\n\n{measured['files']} prompts of 3 s, {measured['speakers']} speakers; 5 s of new speech "
        f"at temperature {best['temperature']:g} and top-p {best['top_p']:g}, chosen on the validation split:\n\n"
        f"{markdown_table(titles, rows)}\n\nThe characters of what was said, in random order, have "
        f"{number(measured['shuffled_characters'], 2)} bits each.\n\nWhat Whisper hears in every eighth of them:\n\n"
        + "\n".join(["| what was said | the language model |", "|---|---|", *examples])
        + "\n\nThe settings on the validation split:\n\n"
        + markdown_table(
            ["temperature", "top-p", METRICS["distillmos"].title, METRICS["level_db"].heading], settings, align="rrrr"
        )
    )


def text(found: dict[str, Any]) -> str:
    """Spoken texts."""
    measured = found["text"]
    rows = [[title, mean(measured["wer"][name], 2)] for name, title in TEXTS.items()]
    return (
        f"### Speaking a text\n\n{measured['texts']} texts of the test split, without a prompt. Mean "
        f"{METRICS['distillmos'].title} "
        f"{mean(measured['distillmos'], 2)}, mean length {measured['seconds']:.1f} s; "
        f"{100 * measured['ended']:.0f} % were ended by the model. Word error rate of Whisper's transcript, at most "
        f"1:\n\n"
        f"{markdown_table(['speech', METRICS['wer'].title], rows)}"
    )


def time(found: dict[str, Any]) -> str:
    """How fast it speaks."""
    measured, machine = found["time"], found["provenance"]["machine"]
    return (
        f"### Time\n\nMedians over {measured['prompts']} prompts of 3 s, one thread of {machine['processor']}: "
        f"{measured['first_audio']:.2f} s from the prompt to the first new audio; "
        f"{measured['real_time_factor']:.2f} s for a second of speech, of which {measured['processor_seconds']:.2f} s "
        "on the processor."
    )
