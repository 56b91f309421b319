/** A conversation between two browsers: codes of 0.8 kbit/s, which a server passes on. */
import { Client, type RemoteTokenizer } from "../src/index.js";
import { Microphone } from "./microphone.js";

/** Where the conversation takes place. */
export interface Place {
  address: string;
  room: string;
  token: string;
}

const MOST_WAITING = 4000; // bytes to be sent, above which the connection is too slow and codes are left out

/** One side of a conversation. */
export class Talk {
  /** Codes that were sent and received. */
  sent = 0;
  received = 0;
  /** The level of the loudest chunk that was played, from 0 to 1. */
  loudest = 0;
  onChange: () => void = () => undefined;
  onClose: (reason: string) => void = () => undefined;

  private constructor(
    readonly client: Client,
    readonly microphone: Microphone,
    readonly stop: () => Promise<void>,
  ) {}

  /** Open the microphone and join a room. */
  static async start(tokenizer: RemoteTokenizer, place: Place): Promise<Talk> {
    const microphone = await Microphone.open(); // first: a server closes a connection on which nothing moves
    let client: Client;
    try {
      client = await Client.connect(place.address, {
        model: tokenizer.config.name,
        weights: tokenizer.weightHash,
        mode: "relay",
        room: place.room,
        ...(place.token ? { token: place.token } : {}),
      });
    } catch (error) {
      await microphone.stop();
      await microphone.close();
      throw error;
    }
    const sampleRate = microphone.context.sampleRate;
    const decoder = tokenizer.streamDecoder({ sampleRate });
    const loop = tokenizer.loop(sampleRate, microphone.heard, undefined, (codes) => {
      if (client.waiting > MOST_WAITING || client.socket.readyState !== WebSocket.OPEN) return;
      client.send(codes);
      talk.sent += codes.length;
      talk.onChange();
    });
    const talk = new Talk(client, microphone, async () => {
      await microphone.stop();
      try {
        await loop.stop();
      } finally {
        client.close();
        await decoder.release();
        await microphone.close();
      }
    });
    client.onData = (data) => {
      talk.received += data.length;
      talk.onChange();
      void decoder.push(Int32Array.from(data)).then(
        (audio) => {
          for (const sample of audio) talk.loudest = Math.max(talk.loudest, Math.abs(sample));
          microphone.speaker.postMessage(audio, [audio.buffer]);
        },
        () => undefined, // codes that are not in the codebook are not played
      );
    };
    client.onClose = (reason) => talk.onClose(reason);
    return talk;
  }
}
