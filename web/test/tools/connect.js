// Sends recordings to a server with the client of the built package, for the Python tests; needs a global WebSocket.
//   node --experimental-websocket test/tools/connect.js URL SPEECH.i16 CODES.u16
// Prints what came back, in base64: codes for the speech, audio for the codes, what one member of a room hears of another,
// and the sentences with which the server refuses.
import { readFileSync } from "node:fs";

import { Client } from "../../dist/index.js";

const [url, speech, codes] = process.argv.slice(2);
const read = (path, kind) => {
  const bytes = readFileSync(path);
  return new kind(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
};
const model = "spectok-16k-800";
const audio = read(speech, Int16Array);
const sent = read(codes, Uint16Array);

/** What comes back for chunks of a stream, and for another stream on the same connection. */
async function run(hello, data, size) {
  const client = await Client.connect(url, hello);
  const streams = [];
  for (let stream = 0; stream < 2; stream++) {
    const pieces = [];
    client.onData = (received) => pieces.push(Buffer.from(received.buffer, received.byteOffset, received.byteLength));
    for (let start = 0; start < data.length; start += size) client.send(data.slice(start, start + size));
    await client.flush();
    streams.push(Buffer.concat(pieces).toString("base64"));
  }
  const closed = new Promise((resolve) => (client.onClose = resolve));
  client.close();
  return { streams, ready: client.ready, reason: await closed };
}

async function relay() {
  const hello = { model, mode: "relay", room: "kitchen" };
  const [one, other] = [await Client.connect(url, hello), await Client.connect(url, hello)];
  const heard = [];
  const whole = new Promise((resolve) => {
    other.onData = (received) => {
      heard.push(...received);
      if (heard.length === sent.length) resolve();
    };
  });
  for (let start = 0; start < sent.length; start += 7) one.send(sent.slice(start, start + 7));
  await whole;
  const third = await Client.connect(url, hello).catch((error) => error.message);
  one.close();
  other.close();
  return { heard, third };
}

const refused = [];
for (const hello of [{ model: "none", mode: "encode" }, { model, mode: "sing" }, { model, mode: "encode", weights: "0".repeat(16) }]) {
  refused.push(await Client.connect(url, hello).catch((error) => [error.name, error.message]));
}
refused.push(await Client.connect("ws://127.0.0.1:9", { model, mode: "encode" }).catch((error) => [error.name, error.message]));
console.log(
  JSON.stringify({
    encoded: await run({ model, mode: "encode" }, audio, 1000),
    floats: await run({ model, mode: "encode", sampleRate: 16000 }, Float32Array.from(audio, (sample) => sample / 32768), 5000),
    decoded: await run({ model, mode: "decode" }, sent, 11),
    relay: await relay(),
    refused,
  }),
);
