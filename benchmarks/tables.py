"""The results of the benchmarks as Markdown; recipes/cards.py puts them into the documents."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from spectok.evaluation.catalogue import METRICS
from spectok.evaluation.tables import markdown_table

HERE = Path(__file__).parent
BARS = {  # limits that each released model must stay within, in ONNX Runtime
    "rtf of a stream": 0.03,
    "p99 of a chunk, ms": 5.0,
    "rtf at once": 0.015,
    "cold spectok encode of 5 s, s": 1.0,
    "one more stream, MB": 2.0,
}
PESQ, STOI = METRICS["pesq"].title, METRICS["stoi"].title
NOISE_GOALS = {  # of a robust encoder; the last three are upper limits
    f"{PESQ} recovered at 10 dB SNR": 0.5,
    f"{STOI} recovered at 10 dB SNR": 0.5,
    "fewer changed codes at 20 dB SNR": 0.25,
    "fewer changed codes at 10 dB SNR": 0.25,
    "fewer changed codes at -6 dB gain": 0.5,
    f"{PESQ} lost on clean speech": 0.03,
    f"{STOI} lost on clean speech": 0.005,
    "level of noise alone": -40.0,
}
EXTENSION_BARS = {  # limits of the extension on the speech of VCTK
    "lsd_with": 1.10,  # at most
    "low_band_db": 45.0,  # at least, on the mean of the files
}
KINDS = ("random", "bursts")  # of losses
LOSS_METRICS = ("pesq", "stoi", "distillmos")


def load(file: str) -> Any:
    """The content of a file of results in this folder."""
    return json.loads((HERE / file).read_text(encoding="utf-8"))


def page() -> str:
    """All tables."""
    speed = load("results.json")
    parts = [bars(), timings(speed), agreement(load("agreement.json"))]
    parts += [precision(load("precision.json")["rows"]), install(load("install.json")["rows"])]
    parts += [memory(load("memory.json")), kills(load("kills.json")), context(load("context.json"))]
    parts += [soak(load("soak.json")), groups(load("groups.json")), batches(load("batches.json"))]
    parts += [serve(load("serve.json")), loss(load("loss.json"))]
    parts += [
        noise(load("noise.json")),
        entropy(load("entropy.json")),
        generations(load("generations.json")),
        fuzz(load("fuzz.json")),
        browser(load("browser.json")),
        extension(load("extension.json")),
    ]
    return "\n".join(parts)


def of(rows: list[dict[str, Any]], model: str, engine: str, what: str) -> dict[str, Any]:
    """The row of one benchmark."""
    wanted = {"model": model, "engine": engine, "what": what}
    return next(row for row in rows if wanted.items() <= row.items())


def rtf(row: dict[str, Any]) -> float:
    """Compute seconds per second of audio."""
    return float(row["mean"] / row["audio_seconds"])


def reached(speed: dict[str, Any], model: str) -> dict[str, float]:
    """The values of one model that `BARS` limits."""
    rows = speed["rows"]
    chunk = of(rows, model, "onnx", "encoding and decoding a chunk of 20 ms")
    sides = [of(rows, model, "onnx", f"{side} 30 s at once") for side in ("encoding", "decoding")]
    figures = (
        rtf(chunk),
        1000 * chunk["p99"],
        sum(map(rtf, sides)),
        of(rows, model, "onnx", "spectok encode of 5 s, cold")["p50"],
        of(rows, model, "onnx", "one more stream, three chunks")["bytes"] / 1e6,
    )
    return dict(zip(BARS, figures, strict=True))


def floors(speed: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """The rtf of each model's multiply-accumulates alone, at the core's measured peak, and of reading its weights.

    A chunk of 20 ms reads each weight once, in float32. NaN for what was not measured.
    """
    peak = next(row for row in speed["rows"] if row["what"] == "matrix product")
    macs = {row["model"]: row["macs"] for row in speed["rows"] if row["what"] == "arithmetic"}
    reads = {row["model"]: row["p50"] / 0.02 for row in speed["rows"] if row["what"] == "weights read once"}
    return {model: (count * peak["p50"] / peak["macs"], reads.get(model, math.nan)) for model, count in macs.items()}


def bars() -> str:
    """The limits, and the values of the released models."""
    speed = load("results.json")
    models = list(floors(speed))
    found = {model: reached(speed, model) for model in models}
    rows = [[name, f"{limit:g}", *(f"{found[model][name]:.3g}" for model in models)] for name, limit in BARS.items()]
    for place, of_what in enumerate(("arithmetic", "reading the weights")):
        rates = {model: pair[place] for model, pair in floors(speed).items()}
        floor = [f"{rate:.4f}, x {found[model]['rtf of a stream'] / rate:.1f}" for model, rate in rates.items()]
        if not any(map(math.isnan, rates.values())):
            rows.append([f"floor of the rtf by {of_what}, and the ratio of a stream's rtf to it", "", *floor])
    return markdown_table(["ONNX Runtime, one core", "limit", *models], rows) + "\n"


def timings(speed: dict[str, Any]) -> str:
    """The times of all benchmarks."""
    peak = next(row for row in speed["rows"] if row["what"] == "matrix product")
    facts = speed["provenance"]["machine"]
    versions = ", ".join(f"{name} {release}" for name, release in facts["versions"].items())
    machine = (
        f"One pinned core of: {facts['processor']}; Python {facts['python']}, {versions}. The core's peak, a float32 "
        f"matrix product of numpy: {peak['macs'] / peak['p50'] / 1e9:.0f} GMAC/s."
    )
    rows = []
    for row in speed["rows"]:
        if "audio_seconds" in row:
            milliseconds = [f"{1000 * row[quantile]:.2f}" for quantile in ("p50", "p95", "p99")]
            rows.append([row["model"], row["engine"], row["what"], *milliseconds, f"{rtf(row):.4f}"])
    times = markdown_table(["model", "engine", "what", "p50 ms", "p95 ms", "p99 ms", "rtf"], rows, align="lllrrrr")
    rows = []
    for row in speed["rows"]:
        if "bytes" in row:
            kind = (row["model"], row["engine"])
            counts = [1 / rtf(of(speed["rows"], *kind, what)) for what in ("50 streams in turn", "16 streams in step")]
            rows.append([*kind, *(f"{count:.0f}" for count in counts), f"{row['bytes'] / 1e6:.2f} MB"])
    titles = ["model", "engine", "streams on a core, in turn", "in step", "one more stream"]
    return f"{machine}\n\n{times}\n\n{markdown_table(titles, rows, align='llrrr')}\n"


def agreement(found: dict[str, Any]) -> str:
    """The number of codes that differ from the canonical ones, and the difference of the audio."""
    rows = []
    for row in found["rows"]:
        margins = ", ".join(f"{margin:.1e}" for margin in row["margins"]) or "-"
        facts = [row["model"], row["engine"], row["cut"], f"{row['codes']:,}", str(len(row["margins"])), margins]
        rows.append([*facts, f"{row['nearest']:.1e}"])
    titles = ["model", "engine", "encoded", "codes", "differ", "margins of these", "smallest margin of all codes"]
    codes = markdown_table(titles, rows, align="lllrrlr")
    rows = []
    for row in {(row["model"], row["engine"]): row for row in found["rows"]}.values():
        share = f"{100 * row['astray'] / row['frames']:.2f} %"
        rows.append([row["model"], row["engine"], f"{row['frames']:,}", share, f"{row['audio']:.1e}"])
    titles = [
        "model",
        "engine",
        "frames",
        "other pulse positions",
        "largest difference in the other frames, of full scale",
    ]
    audio = markdown_table(titles, rows, align="llrrr")
    return (
        f"### Codes\n\nFloat32 in both engines compared with float64, on {found['files']} files.\n\n{codes}\n\n"
        "### Audio\n\nThe same codes decoded frame by frame, compared with float64. If rounding moves a pitch to the "
        "neighbouring value of its grid, the pulses have other positions until the next voiced onset, and the samples "
        "cannot be compared."
        f"\n\n{audio}\n"
    )


def precision(found: list[dict[str, Any]]) -> str:
    """Weights of 8 bits compared with float32."""
    rows = []
    for row in found:
        sizes, times = (" -> ".join(f"{value:.2f}" for value in row[key]) for key in ("megabytes", "chunk_ms"))
        pesq = [f"{row[key]['mean']:+.3f} ± {row[key]['half_width_95']:.3f}" for key in ("pesq_decoder", "pesq_both")]
        rows.append([row["model"], str(row["files"]), sizes, times, f"{100 * row['codes_changed']:.1f} %", *pesq])
    quality = [f"{METRICS['pesq'].title}, {side}" for side in ("decoder", "both")]
    written = markdown_table(["model", "files", "MB", "ms per chunk", "changed codes", *quality], rows)
    return (
        "### Weights of 8 bits\n\nMatrix products with float32 -> 8 bits; the released graphs compute in float32. "
        "Their weights are stored in 16 bits. The graphs of 8 bits hold all other weights in 32, so they are larger."
        f"\n\n{written}\n"
    )


def install(found: list[dict[str, Any]]) -> str:
    """The size of the packages, and the times to install them and to the first code."""
    rows = [
        [
            row["name"],
            str(row["packages"]),
            f"{row['megabytes']:,.0f}",
            f"{row['install_seconds']:.0f}",
            f"{row['first_code_seconds']:.2f}",
        ]
        for row in found
    ]
    titles = ["package", "packages", "MB on disk", "s to install", "s to the first code, cold"]
    return f"### Install and cold start\n\n{markdown_table(titles, rows)}\n"


def memory(found: dict[str, Any]) -> str:
    """The peak memory of encoding and decoding long recordings."""
    rows = [
        [f"{row['minutes']:g}", row["command"], f"{row['megabytes']:.0f}", f"{row['seconds']:.0f}"]
        for row in found["rows"]
    ]
    text = f"Resident memory at its peak, {found['model']}, from FLAC and to WAV at 16 kHz.\n"
    return f"### Memory\n\n{text}\n{markdown_table(['minutes', 'command', 'MB', 's'], rows)}\n"


def kills(found: dict[str, Any]) -> str:
    """What live encodings lose when they are killed."""
    packets = found["packets"]
    return (
        f"### Kills\n\n{found['kills']} live encodings were killed after {min(packets)} to {max(packets)} packets of "
        f"20 ms. All {sum(packets):,} packets that were whole in the files had the right codes.\n"
    )


WAYS = {"pool": "processes", "ray": "Ray"}  # of tokenising a corpus
CORPUS_HOURS, CORPUS_CORES, SHARD = 100_000, 64, 1000  # of the plan on paper; recordings of a shard


def core_hours(row: dict[str, Any], cpu_seconds: float) -> float:
    """Hours of audio that an hour of one core encodes."""
    return float(row["hours"] / cpu_seconds * 3600)


def bulk(found: dict[str, Any]) -> str:
    """How much audio `spectok tokenize` encodes in each way, and what a large corpus takes."""
    rows = [
        [
            row["model"],
            WAYS[way["kind"]],
            str(way["workers"]),
            f"{way['seconds']:.0f}",
            f"{way['cpu_seconds']:.0f}",
            f"{core_hours(row, way['cpu_seconds']):.0f}",
        ]
        for row in found["rows"]
        for way in row["ways"]
    ]
    titles = ["model", "runs on", "workers", "seconds", "processor seconds", "hours of audio per core-hour"]
    first = found["rows"][0]
    measured = (
        f"{first['recordings']} recordings, {first['hours']:.2f} hours, in shards of {found['shard_recordings']}, on "
        f"{found['provenance']['machine']['cores']} cores with other work: compare the processor seconds, which "
        "contain the start of all processes, and of Ray.\n"
    )
    return f"{measured}\n{markdown_table(titles, rows, align='llrrrr')}\n"


def large_corpus(found: dict[str, Any]) -> str:
    """What a large corpus of recordings like the measured ones takes, calculated."""
    columns = []
    for row in found["rows"]:
        rate, scale = core_hours(row, row["steady_cpu_seconds"]), CORPUS_HOURS / row["hours"]
        hours = CORPUS_HOURS / rate
        columns.append(
            [
                f"{rate:.0f}",
                f"{hours:,.0f}",
                f"{hours / CORPUS_CORES / 24:.1f}",
                f"{scale * row['tokens'] / 1e9:.1f} billion",
                f"{row['bytes'] / row['hours'] / 1e6:.2f} MB",
                f"{scale * row['bytes'] / 1e9:.0f} GB",
                f"{8 * row['bytes'] / row['tokens']:.1f} (entropy: {row['entropy_bits']:.1f})",
                f"{scale * row['recordings'] / SHARD:,.0f}",
                f"{3600 / rate * SHARD * row['hours'] / row['recordings'] / 60:.1f}",
                f"{scale * row['plan_bytes'] / 1e9:.1f} GB",
            ]
        )
    names = [
        "hours of audio per core-hour",
        "core-hours",
        f"days on {CORPUS_CORES} cores",
        "tokens",
        "an hour of audio",
        "all shards",
        "bits per token",
        f"shards of {SHARD} recordings",
        "minutes of one core for a shard",
        "`plan.parquet`",
    ]
    rows = [[name, *(column[place] for column in columns)] for place, name in enumerate(names)]
    titles = [f"{CORPUS_HOURS:,} hours", *(row["model"] for row in found["rows"])]
    return markdown_table(titles, rows) + "\n"


def context(found: dict[str, Any]) -> str:
    """How close a part that is decoded alone is to the same part of the whole."""
    rows = [
        [
            row["model"],
            f"{row['context'] / 50:g}",
            str(len(row["decibels"])),
            f"{min(row['decibels']):.1f}",
            f"{statistics.median(row['decibels']):.1f}",
        ]
        for row in found["rows"]
    ]
    text = (
        f"A second out of {found['minutes']:g} minutes of speech, decoded after some context by a fresh decoder: power "
        "of the audio above that of its difference from the decoded whole.\n"
    )
    titles = ["model", "context, s", "places", "least, dB", "median, dB"]
    return f"### Parts of a recording\n\n{text}\n{markdown_table(titles, rows)}\n"


def soak(found: dict[str, Any]) -> str:
    """Whether a stream of hours stays as it began."""
    rows = []
    for row in found["rows"]:
        differences = [later - fresh for later, fresh in zip(row["soaked"], row["fresh"], strict=True)]
        quality = [METRICS["pesq"].text(statistics.mean(row[key])) for key in ("fresh", "soaked")]
        rows.append(
            [
                row["model"],
                f"{row['megabytes'][0]:.1f} -> {max(row['megabytes'][1:]):.1f}",
                f"x {row['median_ratio']:.2f}, x {row['p99_ratio']:.2f}",
                f"{row['silence']:.0f}, {max(row['silences']):.0f}",
                " -> ".join(quality),
                f"{statistics.mean(differences):+.3f}, {min(differences):+.2f} to {max(differences):+.2f}",
            ]
        )
    clips, silences = (len(found["rows"][0][key]) for key in ("fresh", "silences"))
    text = (
        f"A stream of {found['hours']:g} hours in chunks of 20 ms: files of speech, digital silence, and noise of -20 "
        "to -80 dBFS. Memory is the resident memory after a tenth of the stream -> the largest after the other tenths. "
        "Times are those of the last ten minutes relative to those of the first. The level of the "
        f"{silences} silences is that of the output from one second after their start. Quality is that of {clips} "
        "clips of speech, each coded by new sessions -> all of them at the end of the stream.\n"
    )
    titles = ["model", "MB", "time of a chunk: median, p99", "silence, dBFS: all, worst", METRICS["pesq"].title]
    return f"### Hours\n\n{text}\n{markdown_table([*titles, 'difference: mean, single clips'], rows)}\n"


def groups(found: dict[str, Any]) -> str:
    """What a group of streams saves over a session for each stream."""
    rows = []
    for row in found["rows"]:
        times = [
            f"{1000 * row[f'{side}_in_turn']:.2f} -> {1000 * row[f'{side}_in_group']:.2f}"
            for side in ("encoder", "decoder")
        ]
        counts = [f"{row['codes']:,}", f"{row['different']:,}"]
        rows.append([row["model"], row["engine"], *times, f"{gain(row):.1f}", *counts])
    text = (
        f"A chunk of 20 ms of each of {found['streams']} streams, as sessions one after the other -> as a group, "
        "measured in turn on one core.\n"
    )
    titles = ["model", "engine", "encoder, ms", "decoder, ms", "gain", "codes", "differ"]
    return f"### Groups of streams\n\n{text}\n{markdown_table(titles, rows, align='llrrrrr')}\n"


SERVED = {  # what the rows of serve.json are about
    "load": "encode and decode",
    "codes": "encode only",
    "twice": "twice the load, no limit",
    "limit": "twice the load, with the limit",
    "kill": "a quarter of the clients killed",
}


def carried_streams(found: dict[str, Any], model: str) -> int:
    """The largest number of streams of a model that the server has carried in real time on one core."""
    rows = [row for row in found["rows"] if (row["model"], row["what"]) == (model, "load")]
    good = [row["streams"] for row in rows if row["refused"] + row["cut"] == 0 and row["p99"] < found["goal"]["p99"]]
    return max(good, default=0)


def serve(found: dict[str, Any]) -> str:
    """What the server carries on one core, and what happens beyond."""
    rows, models = [], list(dict.fromkeys(row["model"] for row in found["rows"]))
    for row in found["rows"]:
        if row["what"] in SERVED:
            times = [f"{1000 * row[key]:.0f}" for key in ("p50", "p99", "longest")]
            shares = [f"{row['cpu_share']:.2f}", f"{row['batch']:.1f}", f"{row['megabytes'][1]:.0f}"]
            counts = [f"{row['streams']}", f"{row['refused']}", *times, f"{row['values']:,}", f"{row['different']:,}"]
            rows.append([row["model"], SERVED[row["what"]], *counts, *shares])
    (worker,) = (row for row in found["rows"] if row["what"] == "worker")
    most = " and ".join(f"{carried_streams(found, model)} of {model}" for model in models)
    others = "Other programs ran on the machine at the same time, with lower priority. " if found["nice"] < 0 else ""
    text = (
        f"Clients send 20 ms of speech every 20 ms for {found['rows'][0]['seconds']:g} s, to a server on one core. "
        "The times are those from when a frame was due to be sent until its output had arrived; a server carries "
        f"streams in real time if their 99th percentile is under {1000 * found['goal']['p99']:.0f} ms: {most}. "
        "Different are codes, or samples by more than one step of 16 bits, from those of the whole recording. "
        f"{others}Loads that were late were tried twice. "
        "Memory grows with the largest batch that was run, and not with time.\n"
    )
    titles = [
        "model",
        "load",
        "streams",
        "refused",
        "p50, ms",
        "p99, ms",
        "longest, ms",
        "codes or samples",
        "different",
    ]
    table = markdown_table([*titles, "share of the core", "streams in a batch", "MB"], rows, align="llrrrrrrrrrr")
    end = (
        f"A worker of two was killed while {worker['streams']} streams ran: {worker['cut']} ended with it, and of the "
        f"{worker['values']:,} codes of the others {worker['different']} differ. After "
        f"{worker['seconds_until_back']:.1f} s two workers served again.\n"
    )
    return f"### Server\n\n{text}\n{table}\n\n{end}"


def saving(row: dict[str, Any], way: str) -> float:
    """The time of one of `batches.WAYS` relative to that of batches by length: the median of the rounds' ratios."""
    pairs = zip(row["seconds"][way], row["seconds"]["by length"], strict=True)
    return float(statistics.median(other / ours for other, ours in pairs))


def batches(found: dict[str, Any]) -> str:
    """The time of batches by length beside that of recordings one by one, and of batches in any order."""
    lengths = found["seconds_of_recordings"]
    rows = [
        [
            row["model"],
            row["engine"],
            f"{saving(row, 'one by one'):.2f}",
            f"{saving(row, 'in any order'):.2f}",
            f"{row['codes']:,}",
            f"{row['different']:,}",
        ]
        for row in found["rows"]
    ]
    text = (
        f"{len(lengths)} recordings of {min(lengths):.1f} to {max(lengths):.1f} s, in batches of "
        f"{found['batch_size']}: the processor's time to encode them one by one, and in batches of the given order, "
        "relative to that of `Tokenizer.encode_batch`, whose batches have similar lengths. Measured in turn on one "
        "core.\n"
    )
    titles = ["model", "engine", "one by one", "in any order", "codes", "differ from one by one"]
    return f"### Batches\n\n{text}\n{markdown_table(titles, rows, align='llrrrr')}\n"


def parts(found: dict[str, Any]) -> str:
    """How close a part that is decoded with context is to the same part of the whole, for docs/tokenizer.md."""
    elsewhere = {(row["model"], row["context"]): row["decibels"] for row in found["elsewhere"]}
    rows = []
    for row in found["rows"]:
        ratios = [row["decibels"], elsewhere.get((row["model"], row["context"]), [])]
        cells = [f"{statistics.median(values):.1f}" if values else "-" for values in ratios]
        rows.append([row["model"], f"{row['context']:,}", f"{row['context'] / 50:g}", *cells])
    titles = ["model", "frames of context", "seconds", "dB, the same sequences", "dB, other sequences"]
    text = (
        "The power of a second of the decoded whole over that of its difference from the same second decoded as a part "
        "of its own, in dB (more is closer; - is not measured). Medians over up to "
        f"{max(len(row['decibels']) for row in found['rows'])} places in {found['minutes']:g} minutes "
        "([benchmarks](../benchmarks/README.md#parts-of-a-recording)):\n"
    )
    return f"{text}\n{markdown_table(titles, rows)}\n"


def loss(found: dict[str, Any]) -> str:
    """Quality when packets are lost, with and without redundancy."""
    rows = []
    for pair in zip(found["rows"][::2], found["rows"][1::2], strict=True):
        first, second = pair
        assert second == {**second, **{name: first[name] for name in ("model", "rate", "kind")}, "redundancy": 1}
        cells = [METRICS[name].text(row[name]) for name in LOSS_METRICS for row in pair]
        rates = [f"{row['bits_per_second']:,}" for row in pair]
        rows.append(
            [first["model"], f"{first['rate']:.0%}", first["kind"] if first["rate"] else "none", *rates, *cells]
        )
    titles = ["codec", "packets lost", "losses", "bits/s", "bits/s, with redundancy"]
    titles += [f"{METRICS[name].title}{kind}" for name in LOSS_METRICS for kind in ("", ", with redundancy")]
    return f"### Loss\n\n{loss_terms(found)}\n\n{markdown_table(titles, rows, align='lrlrrrrrrrr')}\n"


def loss_terms(found: dict[str, Any]) -> str:
    """How the quality at loss was measured, in sentences."""
    files = f"{found['clips']} clean files; {METRICS['distillmos'].title} is over {found['judged']} of them"
    text = (
        f"Packets of one frame, {files}. Losses are random, or in bursts of {found['burst']:g} packets on average. "
        "Bits per second are those of whole packets, without the headers of RTP, UDP and IP. With redundancy each "
        "packet repeats the frame before."
    )
    if not found["opus"]:
        return text
    return (
        f"{text} Opus is {found['opus']} for speech (VoIP) at a target of so many kbit/s as in the name, with its own "
        "concealment; it is told the share of lost packets. At 6 kbit/s its encoder has no redundancy, so that each "
        "packet repeats the one before. The redundancy of opus-18 is that of the encoder, which makes room for it "
        "by a narrower band of frequencies, and leaves it out at 5 % of loss."
    )


def loss_summary(found: dict[str, Any], rate: float) -> str:
    """The quality at one rate of loss, a row for each codec without and with redundancy."""
    rows = []
    for name in dict.fromkeys(row["model"] for row in found["rows"]):
        for redundancy in (0, 1):
            wanted = {"model": name, "redundancy": redundancy, "rate": rate}
            kinds = {row["kind"]: row for row in found["rows"] if wanted.items() <= row.items()}
            cells = [METRICS[metric].text(kinds[kind][metric]) for kind in KINDS for metric in LOSS_METRICS]
            bits = f"{kinds['random']['bits_per_second']:,}"
            rows.append([name, "yes" if redundancy else "no", bits, *cells])
    titles = ["codec", "redundancy", "bits/s"]
    titles += [f"{METRICS[metric].title}, {kind}" for kind in KINDS for metric in LOSS_METRICS]
    return markdown_table(titles, rows, align="llrrrrrrr") + "\n"


def noise_goals(found: dict[str, Any], model: str) -> dict[str, float]:
    """What the robust encoder of a model reaches, beside `NOISE_GOALS`."""
    rows = {
        (row["encoder"], row["condition"]): row
        for row in found["rows"]
        if row["model"] == model and row["noise"] == "all"
    }

    def kept(metric: str) -> float:
        """The part of the difference between clean and noisy speech that is recovered at 10 dB."""
        clean, noisy = (rows["own", condition][metric] for condition in ("clean", "10 dB SNR"))
        return float((rows["robust", "10 dB SNR"][metric] - noisy) / (clean - noisy))

    def fewer(condition: str) -> float:
        """By how much the share of changed codes falls."""
        return 1 - float(rows["robust", condition]["changed"] / rows["own", condition]["changed"])

    lost = {metric: rows["own", "clean"][metric] - rows["robust", "clean"][metric] for metric in ("pesq", "stoi")}
    reached = (
        kept("pesq"),
        kept("stoi"),
        fewer("20 dB SNR"),
        fewer("10 dB SNR"),
        fewer("-6 dB gain"),
        lost["pesq"],
        lost["stoi"],
        float(rows["robust", "noise alone"]["level_db"]),
    )
    return dict(zip(NOISE_GOALS, reached, strict=True))


def noise(found: dict[str, Any]) -> str:
    """What noise and loudness do with each encoder."""
    rows = []
    for row in found["rows"]:
        if row["noise"] == "all":
            cells = [METRICS[name].text(row[name]) if name in row else "" for name in ("pesq", "stoi")]
            changed = f"{row['changed']:.1%}" if "changed" in row and row["condition"] != "clean" else ""
            level = f"{row['level_db']:.1f}" if "level_db" in row else ""
            rows.append([row["model"], row["encoder"], row["condition"], *cells, changed, level])
    titles = ["model", "encoder", "input", PESQ, STOI, "changed codes", "level, dB"]
    text = (
        f"{found['clips']} clean files, each with one recording of noise; two of the three kinds of noise, music and "
        "meetings, do not occur in training. Scores compare with the clean original. Changed codes are those that "
        "differ from the codes that the same encoder gives for the clean file. The level is that of noise alone after "
        "decoding, relative to before.\n"
    )
    models = sorted({row["model"] for row in found["rows"] if row["encoder"] == "robust"})
    reached = {model: noise_goals(found, model) for model in models}
    goals = [
        [name, _goal(name, goal), *(_goal(name, reached[model][name]) for model in models)]
        for name, goal in NOISE_GOALS.items()
    ]
    return (
        f"### Noise and loudness\n\n{text}\n{markdown_table(titles, rows, align='lllrrrr')}\n\n"
        f"{markdown_table(['robust encoder', 'goal', *models], goals)}\n"
    )


def _goal(name: str, value: float) -> str:
    """A value of `NOISE_GOALS` as text."""
    if "level" in name:
        return f"{value:.1f} dB"
    return f"{value:.3f}" if "lost" in name else f"{value:.0%}"


def extension(found: dict[str, Any]) -> str:
    """How near the extended frequencies are to those of recordings at 48 kHz, and what they cost."""
    distillmos, visqol = (METRICS[name].title for name in ("distillmos", "visqol"))
    headings = {"lsd": "distance from 8 to 20 kHz", "distillmos": distillmos, "visqol": f"{visqol}-audio"}
    names = [name for name in headings if f"{name}_with" in found["rows"][0]]
    rows = []
    for row in found["rows"]:
        cells = [f"{row[f'{name}_without']:.2f} -> {row[f'{name}_with']:.2f}" for name in names]
        rows.append(
            [
                row["speech"],
                row["input"],
                str(row["files"]),
                *cells,
                f"{row['low_band_db']:.1f} ({row['low_band_db_worst']:.1f})",
            ]
        )
    titles = ["speech", "input", "files", *(headings[name] for name in names), "low band, dB"]
    costs = [
        [
            cost["model"],
            f"{cost['parameters']:,}",
            f"{cost['macs_per_second'] / 1e6:.1f}",
            *(f"{cost[f'time_{kind}']:.2f}" for kind in ("at_once", "stream")),
        ]
        for cost in found["costs"]
    ]
    text = (
        "Speech at 48 kHz, encoded at 16 kHz and decoded at 48 kHz: resampled -> with the extension. `clean` is the "
        "extension of the original at 16 kHz. The distance is the log-spectral distance in log10 of power (0 is the "
        f"original; the goal on VCTK is at most {EXTENSION_BARS['lsd_with']:.2f}). The low band is how far the "
        "difference from the resampled audio below 7.5 kHz lies under that audio, and in the worst file (goal: at "
        f"least {EXTENSION_BARS['low_band_db']:.0f}). None of these voices is in the training of the extension; "
        "most recordings of OHF end between 14 and 18 kHz.\n"
    )
    titles_of_costs = [
        "model",
        "parameters of the extension",
        "MMAC/s",
        "time of decoding at once",
        "in frames of 20 ms",
    ]
    return (
        f"### Extension to 48 kHz\n\n{text}\n{markdown_table(titles, rows, align='ll' + (len(titles) - 2) * 'r')}\n\n"
        "Times are those of decoding with the extension over those without it, in turn, in ONNX Runtime.\n\n"
        f"{markdown_table(titles_of_costs, costs)}\n"
    )


def saved(row: dict[str, Any]) -> float:
    """The share of the bytes of a file that entropy coding saves."""
    return 1 - float(row["coded_bytes"] / row["plain_bytes"])


def entropy(found: dict[str, Any]) -> str:
    """The bytes of files with entropy coding and without."""
    rows = []
    for row in found["rows"]:
        sizes = [row[f"{how}_bytes"] for how in ("code", "plain", "coded")]
        rates = [f"{8 * size / row['seconds']:,.0f}" for size in sizes]
        share = f"{row['reading_share']:.0%}" if "reading_share" in row else ""
        rows.append([row["model"], row["what"], f"{row['files']:,}", *rates, f"{saved(row):.1%}", share])
    text = (
        "Bits of .spt files per second of audio, of the same codes; all clean files one by one, and as one recording. "
        "Reading is the time to read half a minute with entropy coding, as a share of the time to decode it to audio.\n"
    )
    titles = ["model", "", "files", "codes alone, bits/s", "version 2, bits/s", "version 3, bits/s", "saved", "reading"]
    return f"### Entropy coding\n\n{text}\n{markdown_table(titles, rows, align='llrrrrrr')}\n"


def generations(found: dict[str, Any]) -> str:
    """What is left of speech that is coded again and again."""
    rows = []
    for row in found["rows"]:
        cells = [METRICS[name].text(row[name]) for name in ("pesq", "stoi", "level_db")]
        changed = f"{row['changed']:.1%}" if row["generation"] > 1 else "-"
        rows.append([row["model"], str(row["generation"]), *cells, changed])
    text = (
        f"The decoded audio of each generation is encoded by the next; {found['clips']} clean files, compared with the "
        "originals.\n"
    )
    titles = ["model", "generation", *(METRICS[name].title for name in ("pesq", "stoi", "level_db"))]
    titles.append("codes that differ from the generation before")
    return f"### Generations\n\n{text}\n{markdown_table(titles, rows)}\n"


def gain(row: dict[str, Any]) -> float:
    """The seconds of sessions one after the other, relative to those of a group, encoder and decoder together."""
    sums = [sum(row[f"{side}_{how}"] for side in ("encoder", "decoder")) for how in ("in_turn", "in_group")]
    return float(sums[0] / sums[1])


def fuzz(found: dict[str, Any]) -> str:
    """How many inputs each tool has made of valid ones, and the part that was refused."""
    rows, limits = found["rows"], found["limits"]
    tools = {row["tool"]: {other["seed"] for other in rows if other["tool"] == row["tool"]} for row in rows}
    lines = []
    for name in {row["input"]: None for row in rows}:
        of_input = [row for row in rows if row["input"] == name]
        counts = [sum(row["executions"] for row in of_input if row["tool"] == tool) for tool in tools]
        refused = sum(row["refused"] for row in of_input) / sum(counts)
        lines.append([name, *(f"{count:,}" for count in counts), f"{100 * refused:.0f} %"])
    seeds = "; ".join(f"{tool} {', '.join(map(str, sorted(numbers)))}" for tool, numbers in tools.items())
    text = (
        f"{sum(row['executions'] for row in rows):,} inputs that three tools made of valid ones were each read, or "
        f"refused with one `InputError`, within {limits['seconds']:g} s of processor time and {limits['MB']} MB of "
        f"memory. Seeds: {seeds}."
    )
    return f"### Damaged inputs\n\n{text}\n\n" + markdown_table(["input", *tools, "refused"], lines) + "\n"


def browser(found: dict[str, Any]) -> str:
    """What the page of `spectok web` takes in a browser."""
    rows = []
    for row in found["rows"]:
        sides = [f"{row['encoding']:.1%}", f"{row['decoding']:.1%}"]
        delay = f"{row['live_delay_ms']['p50']:.0f} ms, {row['live_delay_ms']['p95']:.0f} ms"
        sizes = [f"{row['page'][how] / 1e6:.1f} MB" for how in ("raw", "gzip")]
        rows.append([row["model"], *sides, f"{row['ratio']:.1f}", delay, str(row["underruns"]), *sizes])
    titles = ["model", "encoding", "decoding", "times Python", "live delay, p50, p95", "underruns", "page", "gzip"]
    first = found["first_code_s"]
    text = (
        f"The page of `spectok web` in {found['browser']}, headless, with one thread. From the start of opening, with "
        f"the page's files in the browser's cache, the first codes of a recording of 4 s take {first['median']:.1f} s "
        f"(median of {found['opened']}, at most {first['most']:.1f} s), and a link with 4 s of speech is shown after "
        f"{found['link_s']:.1f} s. Encoding and decoding are in shares of the recording's length; *times Python* "
        "compares their sum with that of Python on the same core. The live delay is from the microphone to the "
        "loudspeaker, without that of the devices. The page's bytes are those of all files that one model needs.\n"
    )
    return f"### In a browser\n\n{text}\n{markdown_table(titles, rows)}\n"
