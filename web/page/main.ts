/** The page: opens or records speech, shows it beside its codes, plays it, and saves or shares it. */
import { InputError, readHeader, type RemoteTokenizer, writeWav } from "../src/index.js";
import { type Clip, encoded, fromSpt, open } from "./clip.js";
import { Microphone } from "./microphone.js";
import { Models } from "./models.js";
import { drawCodes, drawSpectrogram } from "./pictures.js";
import { Player, type Version } from "./player.js";
import { fromFragment, SHARED_SECONDS, toFragment } from "./share.js";
import { Talk } from "./talk.js";

const MOST_RECORDED = 300; // seconds
const TALKING = "spectok-16k-800"; // the model of conversations

const element = <Kind extends HTMLElement = HTMLElement>(id: string): Kind => document.getElementById(id) as Kind;
const button = (id: string): HTMLButtonElement => element<HTMLButtonElement>(id);
const input = (id: string): HTMLInputElement => element<HTMLInputElement>(id);

const player = new Player();
let models: Models;
let clip: Clip | undefined;
let recording: { stop: () => Promise<void> } | undefined;
let talk: Talk | undefined;
let lastTalk: Talk | undefined;

function say(text: string, isError = false): void {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

/** Run something the user asked for, and show why it failed if it does. */
async function attempt(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    say(error instanceof InputError ? `${message[0]?.toUpperCase()}${message.slice(1)}.` : message, true);
  }
}

const running = new Set<() => Promise<void>>();

/** As `attempt`, but nothing if the same is still going on, as after a double click. */
async function once(work: () => Promise<void>): Promise<void> {
  if (running.has(work)) return;
  running.add(work);
  await attempt(work);
  running.delete(work);
}

let requests = 0;

/** Begin something whose result will be shown; returns whether nothing else was begun since then. */
function begin(): () => boolean {
  const mine = ++requests;
  return () => mine === requests;
}

function chosenModel(): string {
  const chosen = document.querySelector<HTMLInputElement>("input[name=model]:checked");
  if (chosen === null) throw new InputError("the list of the models has not arrived; wait a moment, or reload the page");
  return chosen.value;
}

function chooseModel(name: string): void {
  document.querySelector<HTMLInputElement>(`input[name=model][value="${name}"]`)!.checked = true;
}

function load(name: string): Promise<RemoteTokenizer> {
  return models.load(name, (share) => say(`Loading ${name}: ${Math.round(100 * share)} %`));
}

async function openFile(file: File): Promise<void> {
  say(`Opening ${file.name} …`);
  const isLatest = begin();
  const opened = await open(file);
  const name = file.name.replace(/\.[^.]*$/, "") || "recording";
  if (opened.kind === "spt") await openSpt(name, opened.bytes, isLatest);
  else await show(encoded(name, opened.audio, opened.sampleRate, await load(chosenModel())), isLatest);
}

async function openSpt(name: string, bytes: Uint8Array, isLatest: () => boolean, most?: number): Promise<void> {
  const { weightHash } = readHeader(bytes);
  const entry = models.entries.find(({ weights }) => weights === weightHash);
  if (entry === undefined) throw new InputError(`${name} was written by a model that is not on this page`);
  await show(fromSpt(name, bytes, await load(entry.name), most), isLatest);
}

/** Show a recording, unless another one was asked for since then. */
async function show(made: Promise<Clip>, isLatest: () => boolean): Promise<void> {
  if (isLatest()) say("Computing …");
  const next = await made;
  if (!isLatest()) return;
  clip = next;
  chooseModel(clip.tokenizer.config.name);
  performance.mark("spectok-clip");
  const { original, decoded, sampleRate, codes, spt, seconds } = clip;
  const { tokensPerFrame, codebookSize, frameRate, latencySamples, sampleRate: inside, bitrate } = clip.tokenizer.config;
  const length = decoded.length / sampleRate;
  element("clip").hidden = false;
  player.load(original ? { original, decoded } : { decoded }, sampleRate);
  chooseVersion("decoded");
  follow();
  document.querySelector<HTMLInputElement>("input[name=side][value=original]")!.disabled = !original;
  draw();
  element("fact-length").textContent = `${length.toFixed(2)} s`;
  element("fact-rate").textContent = `${(bitrate / 1000).toFixed(1)} kbit/s: ${frameRate * tokensPerFrame} codes a second, each one of ${codebookSize.toLocaleString("en")}`;
  element("fact-size").textContent = `${spt.length.toLocaleString("en")} bytes, ${((8 * spt.length) / length / 1000).toFixed(2)} kbit/s`;
  element("fact-delay").textContent = `${(1000 * latencySamples) / inside} ms`;
  const share = (time: number): string => `${((100 * time) / length).toFixed(1)} %`;
  element("fact-time").textContent = original
    ? `${share(seconds.encoding)} of the length to encode, ${share(seconds.decoding)} to decode`
    : `${share(seconds.decoding)} of the length to decode`;
  const tooLong = length > SHARED_SECONDS;
  button("share").disabled = tooLong;
  button("share").title = tooLong ? `A link holds up to ${SHARED_SECONDS} seconds.` : "";
  say(`${clip.name}: ${length.toFixed(1)} s in ${codes.length.toLocaleString("en")} codes.`);
  document.documentElement.dataset["clip"] = String(Number(document.documentElement.dataset["clip"] ?? 0) + 1);
}

function draw(): void {
  if (clip === undefined) return;
  const { original, decoded, sampleRate, codes, tokenizer } = clip;
  drawSpectrogram(element<HTMLCanvasElement>("original-picture"), original, sampleRate);
  drawCodes(element<HTMLCanvasElement>("codes-picture"), codes, tokenizer.config.tokensPerFrame, tokenizer.config.codebookSize);
  drawSpectrogram(element<HTMLCanvasElement>("decoded-picture"), decoded, sampleRate);
}

function chooseVersion(version: Version): void {
  const radio = document.querySelector<HTMLInputElement>(`input[name=side][value=${version}]`)!;
  if (radio.disabled) return;
  radio.checked = true;
  player.choose(version);
}

function togglePlay(): void {
  if (player.playing) player.pause();
  else player.play();
  follow();
}

let frame = 0;

/** Show the position, again and again while it changes. */
function follow(): void {
  cancelAnimationFrame(frame);
  input("seek").max = String(player.duration);
  input("seek").value = String(player.position);
  element("time").textContent = `${player.position.toFixed(1)} s`;
  element("playhead").style.left = `${(100 * player.position) / Math.max(player.duration, 1e-3)}%`;
  button("play").textContent = player.playing ? "Pause" : "Play";
  button("play").classList.toggle("on", player.playing);
  input("seek").setAttribute("aria-valuetext", `${player.position.toFixed(1)} of ${player.duration.toFixed(1)} seconds`);
  if (player.playing) frame = requestAnimationFrame(follow);
}

function seek(position: number): void {
  player.seek(position);
  follow();
}

async function toggleRecording(): Promise<void> {
  if (recording) {
    const { stop } = recording;
    recording = undefined;
    await stop();
    return;
  }
  const tokenizer = await load(chosenModel());
  await tokenizer.prepare();
  const microphone = await Microphone.open();
  const { sampleRate } = microphone.context;
  const loop = tokenizer.loop(sampleRate, microphone.heard, input("monitor").checked ? microphone.speaker : undefined);
  const began = performance.now();
  const shown = setInterval(() => {
    const seconds = (performance.now() - began) / 1000;
    element<HTMLMeterElement>("level").value = microphone.level;
    element("live-seconds").textContent = `${seconds.toFixed(1)} s`;
    if (seconds > MOST_RECORDED && recording) void once(toggleRecording);
  }, 100);
  microphone.onReport = ({ delay, underruns, waiting }) => {
    if (!input("monitor").checked || waiting === 0) return;
    element("live-delay").textContent = `${Math.round(1000 * delay)} ms`;
    element("live-underruns").textContent = String(underruns);
  };
  microphone.onLost = () => {
    if (recording) void once(toggleRecording);
  };
  showRecording(true);
  say(`Recording, up to ${MOST_RECORDED / 60} minutes …`);
  recording = {
    stop: async () => {
      clearInterval(shown);
      showRecording(false);
      await microphone.stop();
      const { codes, heard, seconds } = await loop.stop().finally(() => microphone.close());
      if (heard.length === 0) throw new InputError("the microphone gave no sound");
      await show(encoded("recording", heard, sampleRate, tokenizer, { codes, seconds }), begin());
    },
  };
}

function showRecording(isOn: boolean): void {
  button("record").textContent = isOn ? "Stop" : "Record";
  button("record").classList.toggle("on", isOn);
  input("monitor").disabled = isOn;
  for (const radio of document.querySelectorAll<HTMLInputElement>("input[name=model]")) radio.disabled = isOn;
  element("live").hidden = !isOn;
  for (const id of ["live-delay", "live-underruns"]) element(id).textContent = "–";
}

async function toggleTalk(): Promise<void> {
  if (talk) {
    await talk.stop();
    return;
  }
  const tokenizer = await load(TALKING);
  await tokenizer.prepare();
  say("Connecting …");
  talk = await Talk.start(tokenizer, {
    address: input("talk-address").value,
    room: input("talk-room").value,
    token: input("talk-token").value,
  });
  lastTalk = talk;
  showTalk(true);
  say("Connected.");
  talk.onChange = () => {
    if (talk === undefined) return;
    element("talk-sent").textContent = `${talk.sent} codes`;
    element("talk-received").textContent = `${talk.received} codes`;
  };
  talk.onClose = (reason) => {
    const ended = talk;
    talk = undefined;
    showTalk(false);
    say(reason ? `The conversation has ended: ${reason}.` : "The conversation has ended.", reason !== "");
    if (reason) void ended?.stop().catch(() => undefined);
  };
}

function showTalk(isOn: boolean): void {
  button("talk-button").textContent = isOn ? "Leave" : "Connect";
  button("talk-button").classList.toggle("on", isOn);
}

function save(name: string, content: Uint8Array, type: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content as Uint8Array<ArrayBuffer>], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function copyLink(): Promise<void> {
  if (clip === undefined) return;
  history.replaceState(null, "", toFragment(clip.spt));
  try {
    await navigator.clipboard.writeText(location.href);
    say(`The link is copied: ${location.href.length} characters.`);
  } catch {
    say(`The link is in the address bar: ${location.href.length} characters.`);
  }
}

async function openLink(): Promise<void> {
  const bytes = fromFragment(location.hash);
  if (bytes === undefined) return;
  say("Opening the link …");
  try {
    await openSpt("shared", bytes, begin(), SHARED_SECONDS);
  } catch (error) {
    throw error instanceof InputError ? new InputError(`The link cannot be used: ${error.message}`) : error;
  }
}

function keyPressed(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  const type = target instanceof HTMLInputElement ? target.type : "";
  const isTyping = type === "text" || type === "password";
  if (clip === undefined || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions: Record<string, () => void> = {
    a: () => chooseVersion("original"),
    b: () => chooseVersion("decoded"),
    ArrowLeft: () => seek(player.position - 1),
    ArrowRight: () => seek(player.position + 1),
    " ": togglePlay,
  };
  const takesSpace = target.matches("button, summary, input:not([type=range])");
  if ((event.key === " " && takesSpace) || (event.key.startsWith("Arrow") && type === "radio")) return;
  const action = actions[event.key];
  if (action === undefined) return;
  event.preventDefault();
  action();
}

function listModels(): void {
  for (const { name, bitrate } of models.entries) {
    const label = document.createElement("label");
    label.className = "choice";
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "model", value: name, checked: name === models.entries[0]?.name });
    radio.addEventListener("change", () => void attempt(changeModel));
    label.append(radio, ` ${name}, ${(bitrate / 1000).toFixed(1)} kbit/s`);
    element("models").append(label);
  }
}

async function changeModel(): Promise<void> {
  const isLatest = begin();
  let tokenizer: RemoteTokenizer;
  try {
    tokenizer = await load(chosenModel());
  } catch (error) {
    if (clip && isLatest()) chooseModel(clip.tokenizer.config.name);
    throw error;
  }
  if (clip?.original) await show(encoded(clip.name, clip.original, clip.sampleRate, tokenizer), isLatest);
  else if (isLatest()) say(`${tokenizer.config.name} is loaded.`);
}

async function start(): Promise<void> {
  models = await Models.fetch();
  listModels();
  if (location.hash) await attempt(openLink);
  if (clip === undefined && !element("status").classList.contains("error")) {
    const tokenizer = await load(chosenModel());
    await tokenizer.prepare();
    if (clip === undefined) say("Ready.");
  }
  performance.mark("spectok-ready");
  document.documentElement.dataset["ready"] = "yes";
}

input("file").addEventListener("change", () => {
  const file = input("file").files?.[0];
  if (file) void attempt(() => openFile(file));
  input("file").value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const file = event.dataTransfer?.files[0];
  if (file) void attempt(() => openFile(file));
});
document.addEventListener("keydown", keyPressed);
window.addEventListener("hashchange", () => void attempt(openLink));
let drawnWidth = 0;
window.addEventListener("resize", () => {
  const width = element("pictures").clientWidth;
  if (width === drawnWidth) return; // on a telephone the height changes when its address bar goes
  drawnWidth = width;
  draw();
});
player.onEnd = follow;
button("record").addEventListener("click", () => void once(toggleRecording));
button("play").addEventListener("click", togglePlay);
element("pictures").addEventListener("click", (event) => {
  const { left, width } = element("pictures").getBoundingClientRect();
  seek((player.duration * (event.clientX - left)) / width);
});
input("seek").addEventListener("input", () => seek(Number(input("seek").value)));
for (const radio of document.querySelectorAll<HTMLInputElement>("input[name=side]")) {
  radio.addEventListener("change", () => chooseVersion(radio.value as Version));
}
button("save-spt").addEventListener("click", () => clip && save(`${clip.name}.spt`, clip.spt, "application/octet-stream"));
button("save-wav").addEventListener(
  "click",
  () => clip && save(`${clip.name}.wav`, writeWav(clip.decoded, clip.sampleRate), "audio/wav"),
);
button("share").addEventListener("click", () => void attempt(copyLink));
element<HTMLFormElement>("talk-form").addEventListener("submit", (event) => {
  event.preventDefault();
  void once(toggleTalk);
});
// For the console of the browser, and for tests.
Object.assign(globalThis, { spectok: { clip: () => clip, heard: () => lastTalk?.loudest } });
void attempt(start);
