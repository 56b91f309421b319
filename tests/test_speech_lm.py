"""A model that speaks: recordings, transcripts, tokens, a tiny language model that learns them by heart, and speech."""

import csv
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from recipes.speech_lm import evaluate, speak, tables, train, transcripts
from recipes.speech_lm.data import Recording, collate, epoch_of_batches, read_tokens, sequence
from recipes.speech_lm.model import (
    BEGIN,
    CHARACTERS,
    END,
    FIRST_CHARACTER,
    IGNORED,
    PAD,
    SIZE,
    TEXT,
    code_bits,
    codec_of,
    join,
    load,
    network,
    opening,
    pick,
    spell,
    split,
)
from spectok.audio import read_audio, write_audio
from spectok.cli.main import main as spectok
from spectok.errors import InputError
from spectok.evaluation.tokens import cross_entropies
from spectok.tokenizer import Tokenizer
from spectok.weights import load_tensors

ROOT = Path(__file__).parent.parent
MODEL = "spectok-16k-800"
TINY = [
    "--width=64",
    "--layers=2",
    "--heads=2",
    "--context=1024",
    "--positions=1024",
    "--learning-rate=0.01",
    "--quiet",
]
STEPS = 120


def documented(work: Path, command: str, *more: str) -> int:
    """Run the only command of docs/speech_lm.md that begins like this, with further options; returns its exit code."""
    page = (ROOT / "docs" / "speech_lm.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.split("```sh\n")[1].split("```")[0].splitlines() if line.startswith(command))
    folders = {"CORPUS": str(work / "corpus"), "WORK": str(work), "speech.wav": str(work / "speech.wav")}
    for name in ("continued.wav", "spoken.wav"):
        folders[name] = str(work / name)
    words = [re.sub("|".join(folders), lambda found: folders[found[0]], word) for word in shlex.split(line)]
    mains = {"spectok": spectok}
    for script in (transcripts, train, speak, evaluate):
        mains[f"recipes/speech_lm/{script.__name__.rsplit('.')[-1]}.py"] = script.main
    return mains[words[command.startswith("python")]]([*words[1 + command.startswith("python") :], *more])


@pytest.fixture(scope="module")
def work(speech: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, its transcripts and tokens: two parts of one recording, which are the same in every split."""
    folder = tmp_path_factory.mktemp("speech_lm")
    (folder / "corpus").mkdir()
    rows = []
    for part, number in itertools.product(("train", "valid", "test"), (0, 1)):
        file = f"{part}-{number}.wav"
        write_audio(folder / "corpus" / file, speech[40000 * number : 40000 * (number + 1)], 16000)
        rows.append({"file": file, "split": part, "speaker": f"s{number}", "language": "en"})
    rows.append({"file": "missing.wav", "split": "noise", "speaker": "", "language": ""})
    with (folder / "corpus" / "manifest.csv").open("w", newline="", encoding="utf-8") as manifest:
        writer = csv.DictWriter(manifest, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert documented(folder, "python recipes/speech_lm/transcripts.py") == 0
    for part in ("train", "valid", "test"):
        assert documented(folder, f"spectok tokenize WORK/{part}", "--jobs=1", "--quiet") == 0
    return folder


@pytest.fixture(scope="module")
def run(work: Path) -> Path:
    """A run that has learned the tokens by heart."""
    assert documented(work, "python recipes/speech_lm/train.py", f"--steps={STEPS}", *TINY) == 0
    return work / "run"


def recordings(work: Path) -> list[Recording]:
    return read_tokens(work / "tokens" / "train")[0]


@pytest.mark.parametrize("codes", [[], [0], [65535, 256, 255, 1]])
def test_codes_are_split_and_joined(codes: list[int]) -> None:
    ids = split(codes)
    assert ids.tolist() == [part for code in codes for part in (code % 256, 256 + code // 256)]
    assert join(np.array([BEGIN, *ids, END, PAD])).tolist() == codes


def test_wrong_codes_and_ids_are_refused() -> None:
    for wrong in (-1, 65536):
        with pytest.raises(InputError, match="codes must be from 0 to 255, but code "):
            split([0, wrong])
    with pytest.raises(InputError, match="id 1 is 5, but must be from 256 to 511"):
        join(np.array([3, 5]))


def test_a_text_is_spelt_in_the_ids_after_those_of_the_codes() -> None:
    assert (
        "".join(CHARACTERS[number - FIRST_CHARACTER] for number in spell(" It's  10 m\u00e4nner!")) == "it's 10 m nner"
    )
    assert spell("a-z").max() < SIZE == 555
    assert opening().tolist() == [BEGIN]
    assert opening("a").tolist() == [BEGIN, FIRST_CHARACTER + CHARACTERS.index("a"), TEXT]


def test_sequences_have_the_text_in_half_of_the_cases_and_never_with_a_part_of_the_speech() -> None:
    recording = Recording("a", np.arange(100), "", "some text")
    generator = np.random.default_rng(0)
    whole = [sequence(recording, 300, generator) for _ in range(200)]
    with_text = [ids for ids in whole if TEXT in ids]
    assert 70 <= len(with_text) <= 130
    assert {tuple(ids) for ids in with_text} == {(*opening("some text"), *split(np.arange(100)), END)}
    assert {tuple(ids) for ids in whole if TEXT not in ids} == {(BEGIN, *split(np.arange(100)), END)}
    parts = [sequence(recording, 41, generator) for _ in range(200)]
    assert {len(ids) for ids in parts} == {41}
    starts = {int(join(ids)[0]) for ids in parts}
    assert starts <= set(range(81)) and len(starts) > 60
    assert not any(TEXT in ids for ids in parts)


def test_an_epoch_has_every_recording_once_in_batches_of_similar_length() -> None:
    many = [Recording(str(n), np.full(5 + n, n), "", "") for n in range(50)]
    batches = epoch_of_batches(many, 64, 256, np.random.default_rng(0))
    assert sorted(int(join(ids)[0]) for batch in batches for ids in batch) == list(range(50))
    assert max(len(batch) * max(map(len, batch)) for batch in batches) <= 256
    filled = sum(len(batch) * max(map(len, batch)) for batch in batches)
    assert sum(len(ids) for batch in batches for ids in batch) > 0.9 * filled
    other = epoch_of_batches(many, 64, 256, np.random.default_rng(1))
    assert [batch[0].tolist() for batch in other] != [batch[0].tolist() for batch in batches]


def test_the_text_and_the_filling_are_not_predicted() -> None:
    first, second = np.array([*opening("ab"), *split([1]), END]), np.array([BEGIN, *split([7])])
    inputs, labels = collate([first, second])
    assert inputs.tolist() == [first.tolist(), [*second, PAD, PAD, PAD, PAD]]
    assert labels[0].tolist() == [BEGIN, IGNORED, IGNORED, IGNORED, 1, 256, END]
    assert labels[1].tolist() == [BEGIN, 7, 256, IGNORED, IGNORED, IGNORED, IGNORED]


def test_the_chain_from_recordings_to_tokens(work: Path) -> None:
    found = recordings(work)
    codes = Tokenizer.from_pretrained(MODEL).encode(read_audio(work / "corpus" / "train-0.wav")[0])
    assert [(each.name, each.speaker) for each in found] == [("train-0.wav", "s0"), ("train-1.wav", "s1")]
    assert (found[0].codes == codes).mean() > 0.98  # batches round differently
    assert "minutes the staircase" in found[0].text and "extraordinary" in found[1].text
    kept = [json.loads(line) for line in (work / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {entry["path"] for entry in kept[:4]} == {"valid-0.wav", "valid-1.wav", "test-0.wav", "test-1.wav"}
    assert [entry["path"] for entry in kept[4:]] == ["train-0.wav", "train-1.wav"]


def test_transcripts_go_on_after_a_stop(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (work / "transcripts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "transcripts.jsonl").write_text("".join(lines[:4]) + lines[4][:20], encoding="utf-8")
    heard: list[int] = []

    def transcript(audio: NDArray[np.float32], language: str) -> str:
        heard.append(len(audio))
        return "again"

    monkeypatch.setattr(transcripts, "transcript", transcript)
    assert transcripts.main([str(work / "corpus"), "--out", str(tmp_path)]) == 0
    assert heard == [40000, len(read_audio(work / "corpus" / "train-1.wav")[0])]
    kept = [json.loads(line) for line in (tmp_path / "transcripts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["text"] for entry in kept[4:]] == ["again", "again"]


def test_the_perplexity_falls_below_that_of_three_codes(work: Path, run: Path) -> None:
    """On the tokens that all models have learned."""
    codes = [each.codes for each in recordings(work)]
    unigram, _, trigram = cross_entropies(codes, codes, 65536)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    bits = log[-1]["bits_per_code"]
    assert trigram < unigram < 12
    assert bits < 1 < trigram
    assert log[-1]["bits_per_second"] == pytest.approx(50 * bits) and log[-1]["perplexity"] == pytest.approx(2**bits)
    best = min(entry["bits_per_code"] for entry in log if entry["kind"] == "valid")
    own = code_bits(load(run), [split(each) for each in codes]).sum() / sum(map(len, codes))
    assert own == pytest.approx(best, abs=1e-3)


def test_bits_of_a_long_recording_are_those_of_its_parts() -> None:
    """A model of equal probabilities needs the same bits for every id, in every window."""
    model = network(Tokenizer.from_pretrained(MODEL), 8, 1, 2, 32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    ids = [split(np.arange(n)) for n in (1, 15, 16, 40, 100)]
    expected = [len(each) * np.log2(SIZE) for each in ids]
    assert code_bits(model, ids) == pytest.approx(expected, rel=1e-6)
    assert code_bits(model, ids[:3], ["a", "bc", "def"]) == pytest.approx(expected[:3], rel=1e-6)


def test_a_text_is_context() -> None:
    model = network(Tokenizer.from_pretrained(MODEL), 16, 1, 2, 64)
    ids = [split([1, 2, 3])]
    assert code_bits(model, ids, ["one"])[0] != pytest.approx(code_bits(model, ids)[0], abs=1e-6)
    with pytest.raises(InputError, match="the text of recording 0 is longer than the context of the model"):
        code_bits(model, ids, ["a" * 64])


def test_a_resumed_run_learns_what_an_uninterrupted_one_does(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def options(out: str) -> list[str]:
        return [str(work / "tokens"), "--out", str(tmp_path / out), "--steps=6", "--valid-minutes=100", *TINY]

    assert train.main(options("whole")) == 0
    step = train.Run.train_step

    def stop_after_three(run: train.Run) -> tuple[float, float]:
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run)

    monkeypatch.setattr(train.Run, "train_step", stop_after_three)
    assert train.main(options("parts")) == 128 + signal.SIGTERM
    assert "stopped by signal 15; --resume continues" in capsys.readouterr().err
    monkeypatch.undo()
    assert load_tensors(tmp_path / "parts" / "checkpoint.safetensors")[1]["step"] == "3"
    assert train.main(options("parts")) == 2
    assert "already holds a run; add --resume to continue it" in capsys.readouterr().err
    assert train.main([*options("parts"), "--resume", "--width=32"]) == 2
    assert "was started with other settings: width differ" in capsys.readouterr().err
    assert train.main([*options("parts"), "--resume"]) == 0
    whole, parts = (load_tensors(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and len(whole) > 40
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_torchrun_trains(work: Path, tmp_path: Path) -> None:
    """Two processes read different batches of one epoch, and have the same weights."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["recipes/speech_lm/train.py", str(work / "tokens"), "--out", str(tmp_path / "run"), "--steps=4", *TINY]
    done = subprocess.run(
        [*command, "--positions=300"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(entry["kind"], entry["step"], entry["epoch"]) for entry in log] == [("valid", 4, 3)]
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["processes"] == 2
    assert log[0]["bits_per_code"] < 18.2  # 2 log2(555), that of equal probabilities


def test_the_documented_commands_speak(work: Path, run: Path, speech: NDArray[np.float32]) -> None:
    write_audio(work / "speech.wav", speech[:8240], 16000)
    assert documented(work, "python recipes/speech_lm/speak.py WORK/run continued.wav") == 0
    assert len(read_audio(work / "continued.wav")[0]) == 320 * (25 + 250) - 160
    assert documented(work, "python recipes/speech_lm/speak.py WORK/run spoken.wav") == 0
    assert 0 < len(read_audio(work / "spoken.wav")[0]) <= 320 * 250 - 160


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_a_prompt_is_continued_to_the_exact_length(work: Path, run: Path, tmp_path: Path, seconds: float) -> None:
    """What was learned by heart goes on as it did in the recording."""
    codes = recordings(work)[0].codes
    prompt = tmp_path / "prompt.wav"
    write_audio(prompt, read_audio(work / "corpus" / "train-0.wav")[0][: 320 * 25 + 240], 16000)  # 25 frames and delay
    options = ["--seconds", str(seconds), "--temperature=0"]
    assert speak.main([str(run), str(tmp_path / "out.wav"), "--prompt", str(prompt), *options]) == 0
    audio, rate = read_audio(tmp_path / "out.wav")
    frames = 25 + round(50 * seconds)
    assert (rate, len(audio)) == (16000, 320 * frames - 160)
    expected = Tokenizer.from_pretrained(MODEL).decode(codes[:frames])[: len(audio)]
    assert np.corrcoef(audio, expected)[0, 1] > 0.99


def test_a_text_is_spoken_until_its_end(work: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    recording = recordings(work)[1]
    model = load(run)
    before = speak.before_codes(model, [], recording.text, 200)
    written = [int(codes[0]) for codes in speak.write_codes(model, before, 200, speak.Sampling(0), may_end=True)]
    assert written == recording.codes.tolist()
    options = ["--text", recording.text, "--temperature=0", "--seconds=4"]
    assert speak.main([str(run), str(tmp_path / "out.wav"), *options]) == 0
    assert len(read_audio(tmp_path / "out.wav")[0]) == 320 * len(recording.codes) - 160
    told = re.fullmatch(
        r"first audio after ([\d.]+) s; ([\d.]+) s of new speech in ([\d.]+) s, real-time factor ([\d.]+)\n",
        capsys.readouterr().err,
    )
    assert told is not None
    first, seconds, needed, factor = map(float, told.groups())
    assert seconds == pytest.approx(len(recording.codes) / 50, abs=0.01)
    assert 0 < first < needed and factor == pytest.approx(needed / seconds, abs=0.02)


def test_audio_is_written_while_codes_are_drawn(run: Path) -> None:
    """Each frame is decoded before the next is drawn, and the blocks are those of the whole."""
    model = load(run)
    events: list[str] = []
    drawn = speak.write_codes

    def watched(*args: Any, **options: Any) -> Any:
        for codes in drawn(*args, **options):
            events.append("drawn")
            yield codes

    blocks: list[NDArray[np.float32]] = []

    def write(audio: NDArray[np.float32]) -> None:
        events.append("written")
        blocks.append(audio)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speak, "write_codes", watched)
        spoken = speak.speak(model, codec_of(model), write, 10, speak.Sampling(1.0, 0.9, 3), text="but in less")
    assert events == ["drawn", "written"] * spoken.frames and spoken.frames > 1
    assert [len(block) for block in blocks] == [160] + [320] * (spoken.frames - 1)


def test_drawing_with_the_cache_is_drawing_without() -> None:
    model = network(Tokenizer.from_pretrained(MODEL), 16, 2, 2, 64, seed=1).eval()
    before = torch.tensor([[BEGIN, *split([7, 900])], [BEGIN, *split([65535, 3])]])
    written = np.stack(list(speak.write_codes(model, before, 8, speak.Sampling(0))), axis=1)
    ids = before
    with torch.no_grad():
        for step in range(16):
            first = 256 * (step % 2)
            drawn = model(input_ids=ids).logits[:, -1, first : first + 256].argmax(-1) + first
            ids = torch.cat([ids, drawn[:, None]], 1)
    assert written.tolist() == [join(row[5:].numpy()).tolist() for row in ids]


def test_ids_are_drawn_by_temperature_and_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(20000, 1)
    generator = torch.Generator().manual_seed(0)

    def shares(temperature: float, top_p: float) -> list[float]:
        return (torch.bincount(pick(logits, temperature, top_p, generator), minlength=4) / 20000).tolist()

    assert shares(0, 1.0) == [1.0, 0, 0, 0]
    assert shares(1.0, 1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.02)
    assert shares(1.0, 0.6) == pytest.approx([0.625, 0.375, 0, 0], abs=0.02)
    assert shares(1.0, 0.1) == [1.0, 0, 0, 0]
    squares = np.square([0.5, 0.3, 0.15, 0.05])
    assert shares(0.5, 1.0) == pytest.approx(list(squares / squares.sum()), abs=0.02)


def test_results_of_the_evaluation(work: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On what was learned by heart the model's continuation is the true one."""
    limits = {"PROMPT_FRAMES": 25, "NEW_FRAMES": 50, "LEAST_FRAMES": 75, "TEXT_FRAMES": 130, "TIMED": 1}
    for name, value in limits.items():
        monkeypatch.setattr(evaluate, name, value)
    monkeypatch.setattr(evaluate, "SAMPLINGS", (speak.Sampling(0.1, 1.0),))
    assert documented(work, "python recipes/speech_lm/evaluate.py", "--files=2", "--texts=2") == 0
    results = json.loads((work / "results.json").read_text(encoding="utf-8"))
    bits = results["tokens"]["bits"]
    assert bits["model"] < 1 < bits["codes_3"] < bits["codes_1"] and bits["model"] == bits["model_on_train"]
    kinds = results["continuation"]["kinds"]
    assert kinds["model"]["distillmos"]["mean"] == pytest.approx(kinds["true"]["distillmos"]["mean"], abs=0.05)
    assert kinds["model"]["speaker"]["mean"] == pytest.approx(kinds["true"]["speaker"]["mean"], abs=0.02)
    assert kinds["true"]["bits_per_character"] < results["continuation"]["shuffled_characters"]
    errors = {name: each["mean"] for name, each in results["text"]["wer"].items()}
    assert errors["model"] == pytest.approx(errors["codec"], abs=0.3)  # one ends half a frame before the other
    assert errors["another_text"] > 0.8
    assert results["text"]["ended"] == 1
    assert 0 < results["time"]["first_audio"] < 50 * results["time"]["real_time_factor"]
    assert results["provenance"]["weights"].keys() == {MODEL}
    monkeypatch.setattr(tables, "RESULTS", work / "results.json")
    page = tables.page()
    assert (
        f"| the language model | {2 ** bits['model']:,.0f} | {bits['model']:.2f} | {50 * bits['model']:.0f} |" in page
    )
    assert re.findall(r"^### (.*)", page, re.MULTILINE) == ["Perplexity", "Continuation", "Speaking a text", "Time"]


def test_the_sampling_with_the_best_rating_is_chosen_unless_it_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet, good, poor = (speak.Sampling(temperature) for temperature in (0.5, 0.9, 1.0))
    loudness = {quiet: 0.05, good: 0.1, poor: 0.2}  # of a continuation; that of the prompt is 0.1
    ratings = iter([4.0, 3.0, 2.0])
    monkeypatch.setattr(evaluate, "SAMPLINGS", (quiet, good, poor))
    monkeypatch.setattr(evaluate, "continuations", lambda model, valid, sampling: [loudness[sampling]])
    monkeypatch.setattr(evaluate, "hear", lambda codec, recording, codes: (np.full(9, 0.1), np.full(9, codes)))
    monkeypatch.setattr(evaluate, "distillmos_of", lambda audio: next(ratings))
    model: Any = None
    rows = evaluate.choose(model, model, [Recording("a", np.zeros(0, np.int64), "", "")])
    assert [row["temperature"] for row in rows] == [0.9, 1.0, 0.5]
    assert [row["level"] for row in rows] == pytest.approx([0, 6.02, -6.02], abs=0.01)


def refused(main: Any, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one sentence with which a script refuses its arguments."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.split(": ", 1)[1].strip()


def test_bad_input_is_refused_with_one_sentence(work: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    tokens, out = work / "tokens", tmp_path / "out"
    assert "cannot read" in refused(transcripts.main, capsys, tmp_path, "--out", out)
    (tmp_path / "manifest.csv").write_text("file,split\na.wav,train\n", encoding="utf-8")
    assert "needs the columns file, language" in refused(transcripts.main, capsys, tmp_path, "--out", out)
    header = "file,split,speaker,language\n"
    (tmp_path / "manifest.csv").write_text(f"{header}a.wav,train,a,en\n", encoding="utf-8")
    assert "has no speech of the split valid" in refused(transcripts.main, capsys, tmp_path, "--out", out)

    assert refused(train.main, capsys, tokens, "--out", out) == "give a budget: --minutes or --steps"
    assert refused(train.main, capsys, tokens, "--out", out, "--steps=-1") == "the budget must be positive"
    assert "holds no run" in refused(train.main, capsys, tokens, "--out", out, "--steps=1", "--resume")
    assert "holds no tokens-*.parquet" in refused(train.main, capsys, tmp_path, "--out", out, "--steps=1")
    assert "multiple of twice the heads" in refused(train.main, capsys, tokens, "--out", out, "--steps=1", "--width=9")
    damaged = tmp_path / "damaged" / "train"
    damaged.mkdir(parents=True)
    (damaged / "tokens-000000.parquet").write_bytes(b"no table")
    assert "cannot read the tokens in" in refused(train.main, capsys, damaged.parent, "--out", out, "--steps=1")

    wav = tmp_path / "out.wav"
    assert "there is no language model in" in refused(speak.main, capsys, tmp_path, wav, "--text=a")
    assert "no English letters" in refused(speak.main, capsys, run, wav, "--text=…")
    assert "seconds must be positive" in refused(speak.main, capsys, run, wav, "--text=a", "--seconds=0")
    assert "top-p must be over 0" in refused(speak.main, capsys, run, wav, "--text=a", "--top-p=2")
    assert "must not be negative" in refused(speak.main, capsys, run, wav, "--text=a", "--temperature=-1")
    room = "the model has room for at most 509 frames with this text, but 1000 are asked for"
    assert refused(speak.main, capsys, run, wav, "--text=abc", "--seconds=20") == room
    short = tmp_path / "short.wav"
    write_audio(short, np.zeros(100, np.float32), 16000)
    assert "a prompt of 100 samples is shorter than" in refused(speak.main, capsys, run, wav, "--prompt", short)
    assert not wav.exists()
    assert "there is no language model in" in refused(evaluate.main, capsys, tokens, tmp_path)


def test_tokens_of_other_weights_are_refused(work: Path, tmp_path: Path) -> None:
    (path,) = (work / "tokens" / "valid").glob("tokens-*.parquet")
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[b"spectok"]) | {"weight_hash": "0" * 16}
    pq.write_table(table.replace_schema_metadata({b"spectok": json.dumps(facts)}), tmp_path / path.name)
    with pytest.raises(InputError, match=r"are of other weights than spectok-16k-800 has now; tokenize again$"):
        read_tokens(tmp_path)


def test_other_codecs_are_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(InputError, match=r"must have one code of 65,536 entries per frame, but .* has 8 of 1,024"):
        network(Tokenizer.from_pretrained("spectok-16k-4k"), 16, 1, 2, 64)
    shutil.copytree(run / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    config["codec"]["weight_hash"] = "0" * 16
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match="the language model writes codes of other weights of spectok-16k-800"):
        codec_of(load(tmp_path))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot read the language model in"):
        load(tmp_path)
