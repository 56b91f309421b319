// Measures the page of `spectok web` in Chromium, and prints the figures as JSON.
//   node test/browser/measure.js URL SPEECH.wav SECONDS
// Opening: the page is opened several times in one browser, so that its files are in the cache. Computing: the time that
// encoding and decoding of the recording take, after one that does not count. Live: the delay from the fake microphone
// to the loudspeaker, as the page shows it ten times a second.
import { readFileSync } from "node:fs";

import { launch } from "./chromium.js";

const [url, speech, seconds] = process.argv.slice(2);
const browser = await launch(speech);
const context = await browser.newContext();
const link = await shared();
const opening = [];
for (let round = 0; round < 6; round++) {
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForSelector("html[data-ready]", { timeout: 60_000 });
  await page.setInputFiles("#file", speech);
  await page.waitForSelector("html[data-clip]", { timeout: 60_000 });
  // From the start of the navigation, less the time in which this script waited between the two.
  const marks = await page.evaluate(() =>
    Object.fromEntries(performance.getEntriesByType("mark").map(({ name, startTime }) => [name, startTime])),
  );
  const { encoding, decoding } = await page.evaluate(() => globalThis.spectok.clip().seconds);
  opening.push({ ready: marks["spectok-ready"] / 1000, encoding, decoding });
  await page.close();
}
const links = [];
for (let round = 0; round < 4; round++) {
  const page = await context.newPage();
  await page.goto(link);
  await page.waitForSelector("html[data-clip]", { timeout: 60_000 });
  links.push((await page.evaluate(() => performance.getEntriesByName("spectok-clip")[0].startTime)) / 1000);
  await page.close();
}

const live = {};
const computing = {};
for (const model of ["spectok-16k-4k", "spectok-16k-800"]) {
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForSelector("html[data-ready]", { timeout: 60_000 });
  await page.check(`input[name=model][value=${model}]`);
  computing[model] = [];
  for (let round = 0; round < 6; round++) {
    const before = (await page.getAttribute("html", "data-clip")) ?? "0";
    await page.setInputFiles("#file", speech);
    await page.waitForFunction((old) => document.documentElement.dataset.clip > old, before, { timeout: 60_000 });
    const found = await page.evaluate(() => {
      const { seconds, decoded, sampleRate } = globalThis.spectok.clip();
      return { ...seconds, length: decoded.length / sampleRate };
    });
    if (round > 0) computing[model].push(found);
  }
  await page.check("#monitor");
  await page.click("#record");
  const delays = [];
  await page.waitForTimeout(3000);
  for (let n = 0; n < 10 * Number(seconds); n++) {
    await page.waitForTimeout(100);
    const delay = parseFloat(await page.textContent("#live-delay"));
    if (Number.isFinite(delay)) delays.push(delay);
  }
  live[model] = { delays, underruns: Number(await page.textContent("#live-underruns")) };
  await page.click("#record");
  await page.waitForFunction(() => document.getElementById("record").textContent === "Record");
  await page.close();
}
console.log(JSON.stringify({ browser: browser.version(), opening, links, computing, live }));
await browser.close();

/** The link of a recording. */
async function shared() {
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForSelector("html[data-ready]", { timeout: 60_000 });
  await page.check("input[name=model][value=spectok-16k-800]");
  await page.setInputFiles("#file", speech);
  await page.waitForSelector("html[data-clip]", { timeout: 60_000 });
  await page.click("#share");
  const address = page.url();
  await page.close();
  return address;
}
