"""Tests of the benchmark's pages in a headless browser: they load and work, and report no errors."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectok.bench.page import write_pages
from spectok.bench.run import clips_of, run_benchmark
from spectok.evaluation.coders import Audio, Coded, Uncoded
from spectok.evaluation.items import Item

CHROMIUM = shutil.which("chromium") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="the program chromium is missing")
LISTEN = """<script>
window.complaints = [];
const complain = (event) => complaints.push(event.message || event.target.outerHTML.slice(0, 60));
window.addEventListener("error", complain, true);
console.error = console.warn = (...words) => complaints.push(words.join(" "));
</script>"""
REPORT = """
const figures = [...document.images].map((image) => image.complete && image.naturalWidth > 0);
const rows = [...document.querySelectorAll("table")].map((table) => [table.id, table.tBodies[0].rows.length]);
return { figures, rows: Object.fromEntries(rows) };
"""
PLAYER = """
const started = []; // of every source: seconds of its audio, where it begins, and its first sample
let now = 10;
let last = null;
class Node {
  values = [];
  note = (value) => this.values.push(value);
  gain = { setValueAtTime: this.note, linearRampToValueAtTime: this.note };
  connect(next) { this.next = next; return next; }
  start(when, at) { last = this; started.push([this.buffer.duration, at, this.buffer.getChannelData(0)[0]]); }
  stop() { this.stopped = true; }
}
window.AudioContext = class {
  decodeAudioData(bytes) { return new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes); }
  get currentTime() { return now; }
  resume() {}
  createBufferSource() { return new Node(); }
  createGain() { return new Node(); }
};
const play = document.getElementById("play");
const labels = [...document.querySelectorAll("#codecs label")].map((label) => label.textContent.trim());
const choose = (name) => [...document.querySelectorAll("#codecs input")].find((input) => input.value === name).click();
const settle = async (count) => { while (started.length < count) await new Promise((done) => setTimeout(done, 20)); };
const texts = [play.textContent];
choose("opus-rough"); // nothing plays yet
play.click();
await settle(1);
texts.push(play.textContent);
now += 0.4;
choose("original");
await settle(2);
const gains = [...last.next.values];
now += 0.3;
play.click(); // pause
texts.push(play.textContent, document.getElementById("time").textContent, String(last.stopped));
play.click();
await settle(3);
last.onended();
texts.push(play.textContent, document.getElementById("time").textContent);
document.querySelector("button[data-clip=b][data-codec=spectok-fine]").click();
await settle(4);
texts.push(document.getElementById("clip").value, document.querySelector("#codecs :checked").value);
const focusable = [...document.querySelectorAll("#player select, #player input, #player button")];
const reached = focusable.filter((each) => { each.focus(); return document.activeElement === each; }).length;
const loaded = performance.getEntriesByType("resource").filter((each) => !each.name.startsWith("data:")).length;
return { labels, started, texts, gains, loaded, keys: [reached, focusable.length] };
"""
LISTENING = """
const buttons = () => [...document.querySelectorAll("button")];
const press = (text) => buttons().find((button) => button.textContent.startsWith(text)).click();
HTMLMediaElement.prototype.play = function () { (window.played ??= []).push(this.src); return Promise.resolve(); };
let saved;
URL.createObjectURL = (blob) => { saved = blob; return "#"; };
press("KIND");
let trials = 0;
while (!document.getElementById("done") && trials < 20) {
  trials += 1;
  press("KIND" === "Rate" ? "Reference" : "X");
  for (const slider of document.querySelectorAll("input[type=range]")) {
    slider.value = 40;
    slider.dispatchEvent(new Event("input"));
  }
  press("KIND" === "Rate" ? "Next" : "X is A");
}
press("Download");
return { trials, played: window.played.length, report: JSON.parse(await saved.text()) };
"""


class Rough(Uncoded):
    name = "opus-rough"

    def code(self, audio: Audio) -> Coded:
        return Coded(
            np.round(10 * audio).astype(np.float32) / np.float32(10), len(audio) // 2, len(audio) // 16, 0.01, 0.02
        )


class Fine(Rough):
    name = "spectok-fine"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    speech = np.random.default_rng(0).standard_normal((2, 16000)).astype(np.float32) / 10
    items = []
    for name, audio in zip("ab", speech, strict=True):
        np.save(folder / f"{name}.npy", audio)
        items.append(Item(folder / f"{name}.wav", f"clean_{name}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spectok.bench.run.read_item", lambda item: np.load(item.path.with_suffix(".npy")))
        patch.setattr("spectok.bench.run.latency", lambda coder: 480)
        patch.setattr("spectok.bench.run._score_file", score)
        coders = [Fine(), Rough(), Uncoded()]
        write_pages(run_benchmark(items, coders, folder, []), clips_of(items, coders, folder, 2), folder)
    return folder


def score(task: Any) -> tuple[str, dict[str, dict[str, float]]]:
    _, key, names, _, metrics = task
    return key, {name: {metric: 1.0 + len(name) / 10 for metric in metrics} for name in names}


def browse(page: Path, script: str) -> Any:
    """Run JavaScript at the end of a page; returns its result, and the errors of the page."""
    text = page.read_text(encoding="utf-8")
    answer = f"<script>(async () => {{ {script} }})().catch((error) => String(error)).then((found) => "
    answer += "document.body.innerHTML = `<pre>${btoa(JSON.stringify({ found, complaints }))}</pre>`);</script>"
    copy = page.with_name(f"tested-{page.name}")
    copy.write_text(text.replace("<meta", LISTEN + "<meta", 1).replace("</html>", answer + "</html>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([*command, copy.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    (encoded,) = re.findall("<pre>(.*?)</pre>", done.stdout)
    told = json.loads(base64.b64decode(encoded))
    assert told["complaints"] == []
    return told["found"]


def test_the_report_shows_every_row_figure_and_player(pages: Path) -> None:
    found = browse(pages / "report.html", REPORT)
    assert found["rows"] == {"quality-table": 3, "cost-table": 3, "difference-table": 1}
    assert found["figures"] == [True] * (3 + 2 * 3)


def test_one_player_changes_the_codec_at_the_same_place(pages: Path) -> None:
    found = browse(pages / "report.html", PLAYER)
    assert found["labels"] == ["original", "spectok-fine", "opus-rough"]
    first, second = (float(np.load(pages / f"{name}.npy")[0]) for name in "ab")
    rough, same, again, other = found["started"]
    step = pytest.approx
    assert rough == [step(1.0), 0, step(np.round(10 * first) / 10, abs=1e-4)]
    assert same == [step(1.0), step(0.4), step(first, abs=1e-4)]
    assert again == [step(1.0), step(0.7), step(first, abs=1e-4)]
    assert other == [step(1.0), 0, step(np.round(10 * second) / 10, abs=1e-4)]
    assert found["texts"] == [
        "Play",
        "Pause",
        "Play",
        "0.7 of 1.0 s",
        "true",
        "Play",
        "0.0 of 1.0 s",
        "b",
        "spectok-fine",
    ]
    assert found["gains"] == [0, 1]
    assert found["keys"] == [6, 6]
    assert found["loaded"] == 0


@pytest.mark.parametrize(("kind", "name", "trials"), [("Rate", "mushra", 2), ("Tell", "abx", 4)])
def test_listening_gives_its_answers_as_json(pages: Path, kind: str, name: str, trials: int) -> None:
    found = browse(pages / "abx.html", LISTENING.replace("KIND", kind))
    assert (found["trials"], found["played"]) == (trials, trials)
    report = found["report"]
    assert report["kind"] == name
    assert sorted({answer["clip"] for answer in report["answers"]}) == ["a", "b"]
    if name == "mushra":
        assert all(
            answer["scores"] == dict.fromkeys(("spectok-fine", "opus-rough", "original"), 40)
            for answer in report["answers"]
        )
    else:
        assert sorted(answer["codec"] for answer in report["answers"]) == ["opus-rough"] * 2 + ["spectok-fine"] * 2
        assert all(isinstance(answer["correct"], bool) for answer in report["answers"])
