"use strict";
// One player for all codecs. The element "sounds" holds {clip: {codec: FLAC in base64}}. Every codec's audio is decoded
// before it is needed, and a change of codec starts it where the other one was; samples are played as they are.
const SOUNDS = JSON.parse(document.getElementById("sounds").textContent);
const [clips, codecs, button, slider, time] = ["clip", "codecs", "play", "position", "time"].map((id) => document.getElementById(id));
const FADE = 0.005; // s, against a click at a change of codec
const decoded = new Map(); // promises of audio, by clip and codec
let context = null;
let current = null; // what plays: {source, gain, began}, the last in seconds of the context's clock
let paused = 0; // seconds into the clip, if nothing plays
let turn = 0; // counts what was asked for, so that only the last of it begins

const codec = () => codecs.querySelector(":checked").value;
const seconds = () => Number(clips.selectedOptions[0].dataset.seconds);
const position = () => Math.min(current ? context.currentTime - current.began : paused, seconds());

function audio(clip, name) {
  const key = `${clip}\n${name}`;
  if (!decoded.has(key)) {
    const bytes = Uint8Array.from(atob(SOUNDS[clip][name]), (letter) => letter.charCodeAt(0));
    decoded.set(key, context.decodeAudioData(bytes.buffer));
  }
  return decoded.get(key);
}

function stop() {
  turn += 1;
  if (!current) return;
  paused = position();
  const { source, gain } = current;
  current = null;
  gain.gain.setValueAtTime(1, context.currentTime);
  gain.gain.linearRampToValueAtTime(0, context.currentTime + FADE);
  source.stop(context.currentTime + FADE);
}

async function play() {
  context ??= new AudioContext();
  context.resume();
  const mine = (turn += 1);
  const clip = clips.value;
  const buffer = await audio(clip, codec());
  if (mine !== turn) return;
  const at = position() < seconds() ? position() : 0;
  stop();
  const source = context.createBufferSource();
  const gain = context.createGain();
  source.buffer = buffer;
  source.connect(gain).connect(context.destination);
  gain.gain.setValueAtTime(0, context.currentTime);
  gain.gain.linearRampToValueAtTime(1, context.currentTime + FADE);
  source.onended = () => {
    if (current?.source !== source) return;
    current = null;
    paused = 0;
    show();
  };
  source.start(0, at);
  current = { source, gain, began: context.currentTime - at };
  show();
  for (const name of Object.keys(SOUNDS[clip])) audio(clip, name);
}

function show() {
  button.textContent = current ? "Pause" : "Play";
  slider.max = seconds();
  slider.value = position();
  time.textContent = `${position().toFixed(1)} of ${seconds().toFixed(1)} s`;
  if (current) requestAnimationFrame(show);
}

button.onclick = () => {
  if (!current) return play();
  stop();
  show();
};
codecs.onchange = () => { if (current) play(); };
clips.onchange = () => {
  const playing = current !== null;
  stop();
  paused = 0;
  show();
  if (playing) play();
};
slider.oninput = () => {
  const at = Number(slider.value);
  const playing = current !== null;
  stop();
  paused = at;
  if (playing) play();
  else show();
};
for (const each of document.querySelectorAll("button[data-codec]")) {
  each.onclick = () => {
    if (clips.value !== each.dataset.clip) {
      stop();
      paused = 0;
      clips.value = each.dataset.clip;
    }
    [...codecs.querySelectorAll("input")].find((input) => input.value === each.dataset.codec).checked = true;
    play();
  };
}
show();
