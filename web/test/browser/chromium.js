// Chromium with a fake microphone, for the scripts beside it. CHROMIUM is its path, by default chromium of the PATH.
import { execFileSync } from "node:child_process";

import { chromium } from "playwright-core";

/** Start the browser; its microphone plays a WAV file again and again. */
export function launch(speech) {
  const executablePath = process.env.CHROMIUM || execFileSync("which", ["chromium"], { encoding: "utf8" }).trim();
  return chromium.launch({
    executablePath,
    args: [
      "--no-sandbox",
      "--use-fake-ui-for-media-stream",
      "--use-fake-device-for-media-stream",
      `--use-file-for-fake-audio-capture=${speech}`,
      "--autoplay-policy=no-user-gesture-required",
    ],
  });
}
