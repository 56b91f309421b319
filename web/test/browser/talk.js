// Lets two pages of `spectok web` talk to each other through a server, and prints what they sent and received as JSON.
//   node test/browser/talk.js URL SERVER SPEECH.wav

import { launch } from "./chromium.js";

const [url, server, speech] = process.argv.slice(2);
const browser = await launch(speech);
const errors = [];
const pages = [];
for (let side = 0; side < 2; side++) {
  const page = await (await browser.newContext()).newPage();
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(url);
  await page.waitForSelector("html[data-ready]", { timeout: 60_000 });
  await page.click("#talk summary");
  await page.fill("#talk-address", server);
  await page.click("#talk-button");
  await page.waitForFunction(() => document.getElementById("talk-button").textContent === "Leave", null, { timeout: 60_000 });
  pages.push(page);
}
const count = (page, id) => page.$eval(`#talk-${id}`, (element) => parseInt(element.textContent) || 0);
for (const page of pages) {
  await page.waitForFunction(() => parseInt(document.getElementById("talk-received").textContent) >= 100, null, { timeout: 60_000 });
}
await pages[0].click("#talk-button");
await pages[0].waitForFunction(() => document.getElementById("talk-button").textContent === "Connect");
await pages[1].waitForTimeout(300);
const found = [];
for (const page of pages) found.push({ sent: await count(page, "sent"), received: await count(page, "received") });
const status = await pages[0].textContent("#status");
await pages[1].click("#talk-button");
await pages[1].waitForFunction(() => document.getElementById("talk-button").textContent === "Connect");
const played = await pages[1].evaluate(() => globalThis.spectok.heard());
console.log(JSON.stringify({ found, status, played, errors }));
await browser.close();
