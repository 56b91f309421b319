// Uses the page of `spectok web` in Chromium as a person would, and prints what happened as JSON.
//   node test/browser/browse.js URL SPEECH.wav [FOLDER FOR SCREENSHOTS]
// The fake microphone plays SPEECH.wav.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { launch } from "./chromium.js";

const [url, speech, folder] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await launch(speech);
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true });
const errors = [];
const requests = new Set();
const found = {};

async function open(address) {
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => requests.add(new URL(request.url()).origin));
  await page.goto(address);
  await page.waitForSelector("html[data-ready]", { timeout: 60_000 });
  return page;
}

/** Wait for the page to show another recording than before. */
async function clipAfter(page, action) {
  const before = (await page.getAttribute("html", "data-clip")) ?? "0";
  await action();
  await page.waitForFunction((old) => document.documentElement.dataset.clip > old, before, { timeout: 60_000 });
  return shown(page);
}

/** The recording on the page, its arrays in base64. */
function shown(page) {
  return page.evaluate(() => {
    const { codes, original, sampleRate, decoded, spt } = globalThis.spectok.clip();
    const text = (array) => {
      if (array === undefined) return null;
      const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
      let binary = "";
      for (const byte of bytes) binary += String.fromCharCode(byte);
      return btoa(binary);
    };
    return { codes: [...codes], original: text(original), decoded: text(decoded), sampleRate, spt: text(spt) };
  });
}

async function drop(page, name, bytes) {
  const data = await page.evaluateHandle(
    ([name, text]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
      return transfer;
    },
    [name, bytes.toString("base64")],
  );
  await page.dispatchEvent("body", "drop", { dataTransfer: data });
}

async function saved(page, selector) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
  return { name: download.suggestedFilename(), content: readFileSync(await download.path()).toString("base64") };
}

const axeReport = async (page) => {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  return violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map((node) => node.html) }));
};
const screenshot = async (page, name) => 
  folder && (await page.screenshot({ path: `${folder}/${name}.jpg`, type: "jpeg", quality: 38, fullPage: true }));

const page = await open(url);
found.axeEmpty = await axeReport(page);
const wav = readFileSync(speech);
found.dropped = await clipAfter(page, () => drop(page, "speech.wav", wav));
found.facts = await page.$$eval("#facts div", (rows) => rows.map((row) => row.innerText));
found.savedSpt = await saved(page, "#save-spt");
found.savedWav = await saved(page, "#save-wav");

// The versions are switched by keys, while the recording plays.
await page.focus("#seek"); // as after a move of the slider
await page.keyboard.press(" ");
await page.waitForFunction(() => Number(document.getElementById("seek").value) > 0.2);
const side = () => page.$eval("input[name=side]:checked", (radio) => radio.value);
const position = () => page.$eval("#seek", (range) => Number(range.value));
const before = await position();
await page.keyboard.press("a");
const first = await side();
await page.keyboard.press("b");
found.versions = [first, await side()];
await page.waitForFunction((old) => Number(document.getElementById("seek").value) > old, before);
found.playing = await page.textContent("#play");
await page.keyboard.press(" ");
const paused = await position();
await page.keyboard.press("ArrowLeft");
found.moved = [paused, await position()];

await screenshot(page, "web-light");
await page.click("#talk summary");
found.axe = await axeReport(page);
await page.setViewportSize({ width: 390, height: 844 });
await page.emulateMedia({ colorScheme: "dark" });
await page.waitForTimeout(100);
await screenshot(page, "web-dark");
found.widest = await page.evaluate(() => document.documentElement.scrollWidth);
found.axeDark = await axeReport(page);
await page.setViewportSize({ width: 1280, height: 900 });

found.other = await clipAfter(page, () => page.check("input[name=model][value=spectok-16k-800]"));
await page.click("#share");
found.link = page.url();
const linked = await context.newPage();
linked.on("pageerror", (error) => errors.push(String(error)));
await linked.goto(found.link);
await linked.waitForSelector("html[data-clip]", { timeout: 60_000 });
found.shared = await shown(linked);
found.linked = await clipAfter(linked, () => linked.setInputFiles("#file", { name: "again.spt", mimeType: "", buffer: Buffer.from(found.other.spt, "base64") }));
await linked.close();

// Links that are damaged give a sentence, and nothing else happens.
const whole = found.link.split("#")[0];
const text = found.link.split("#spt=")[1];
const bad = ["", "A", "!!!", "A".repeat(20_000), text.slice(0, -8), `${text.slice(0, 60)}AAAA${text.slice(64)}`, `${text}AAAA`];
found.refused = [];
for (const fragment of bad) {
  const hostile = await open(`${whole}#spt=${fragment}`);
  found.refused.push(await hostile.$eval("#status", (status) => [status.className, status.textContent]));
  await hostile.close();
}

// The microphone, with and without hearing oneself.
await page.check("#monitor");
found.live = await clipAfter(page, async () => {
  await page.click("#record");
  await page.waitForFunction(() => parseFloat(document.getElementById("live-seconds").textContent) > 3, null, {
    timeout: 60_000,
  });
  found.reading = await page.$$eval("#live div", (rows) => rows.map((row) => row.innerText));
  await page.click("#record");
});
found.timing = await page.evaluate(() => performance.getEntriesByType("mark").map(({ name, startTime }) => [name, startTime]));
Object.assign(found, { errors, requests: [...requests] });
console.log(JSON.stringify(found));
await browser.close();
