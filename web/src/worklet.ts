/**
 * Two processors for an AudioWorklet: `spectok-recorder` passes what it hears to a port, and `spectok-player` plays
 * what it gets from a port. The port of each is sent to it in a message. The recorder tells the number of its first
 * frame on the port of its node, and ends after the message "stop".
 */

// The types of the scope of an AudioWorklet are not part of TypeScript's.
declare const currentFrame: number;
declare const sampleRate: number;
declare function registerProcessor(name: string, processor: new (options: never) => unknown): void;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}

const MESSAGE_SECONDS = 0.005; // the recorder collects as many samples before it passes them on
const REPORT_SECONDS = 0.1; // between two reports of the player
const CHECK_SECONDS = 1; // between two checks whether too much is waiting
const RING_SECONDS = 3; // the longest audio that can arrive in one message

/** What a player reports ten times a second. */
export interface PlayerReport {
  /** Samples that wait to be played. */
  waiting: number;
  /** How often there was nothing to play although the stream had begun. */
  underruns: number;
  /** Samples that were left out, because too many were waiting. */
  dropped: number;
  /** Seconds from the recording of a sample to its playing, without the delay of the devices. */
  delay: number;
}

class Recorder extends AudioWorkletProcessor {
  #out: MessagePort | undefined;
  #chunk: Float32Array[] = [];
  #length = 0;
  #begun = false;

  constructor() {
    super();
    this.port.onmessage = ({ data, ports }: MessageEvent<string>) => {
      this.#out = data === "stop" ? undefined : ports[0];
    };
  }

  process(inputs: Float32Array[][]): boolean {
    const heard = inputs[0]?.[0];
    if (this.#out === undefined || heard === undefined) return true;
    if (!this.#begun) this.port.postMessage(currentFrame); // of the first sample
    this.#begun = true;
    this.#chunk.push(heard.slice());
    this.#length += heard.length;
    if (this.#length >= MESSAGE_SECONDS * sampleRate) {
      const audio = new Float32Array(this.#length);
      let place = 0;
      for (const piece of this.#chunk) {
        audio.set(piece, place);
        place += piece.length;
      }
      this.#out.postMessage(audio, [audio.buffer]);
      this.#chunk = [];
      this.#length = 0;
    }
    return true;
  }
}

/**
 * Options: `target`, the samples that shall wait before the first is played; `most`, the samples above which the oldest
 * are left out at once. What is above the target for a second is left out with a fade. A message on the port of the
 * node itself, a number, says at which frame sample 0 was recorded.
 */
class Player extends AudioWorkletProcessor {
  readonly #target: number;
  readonly #most: number;
  readonly #ring: Float32Array; // sample n of the stream is at place n modulo its length
  #written = 0; // samples of the stream that have arrived
  #played = 0; // samples of the stream that were played or left out
  #recorded = 0; // frame at which sample 0 was recorded
  #playing = false;
  #underruns = 0;
  #dropped = 0;
  #reported = 0;
  #lowest = Number.POSITIVE_INFINITY; // number of samples that waited, since the last check
  #checked = 0;

  constructor({ processorOptions }: { processorOptions: { target: number; most: number } }) {
    super();
    this.#target = Math.round(processorOptions.target);
    this.#most = Math.round(processorOptions.most);
    this.#ring = new Float32Array(this.#most + Math.ceil(RING_SECONDS * sampleRate));
    this.port.onmessage = ({ data, ports }: MessageEvent<number | string>) => {
      if (typeof data === "number") this.#recorded = data;
      const [audio] = ports;
      if (audio) audio.onmessage = (message: MessageEvent<Float32Array>) => this.#add(message.data);
    };
  }

  get #waiting(): number {
    return this.#written - this.#played;
  }

  #add(audio: Float32Array): void {
    for (const sample of audio) this.#ring[this.#written++ % this.#ring.length] = sample;
    if (this.#waiting > this.#most) this.#drop(this.#waiting - this.#target);
  }

  #drop(count: number): void {
    this.#played += count;
    this.#dropped += count;
  }

  #sample(ahead: number): number {
    return this.#ring[(this.#played + ahead) % this.#ring.length]!;
  }

  process(_: Float32Array[][], outputs: Float32Array[][]): boolean {
    const output = outputs[0]?.[0];
    if (output === undefined) return true;
    this.#playing ||= this.#waiting >= this.#target;
    if (this.#playing && this.#waiting < output.length) {
      this.#playing = false; // wait until there is enough again
      this.#underruns += 1;
    }
    if (this.#playing) this.#play(output);
    for (const other of outputs[0]!.slice(1)) other.set(output);
    if (currentFrame - this.#reported >= REPORT_SECONDS * sampleRate) {
      this.#reported = currentFrame;
      const delay = (currentFrame + output.length - this.#recorded - this.#played) / sampleRate;
      const report: PlayerReport = { waiting: this.#waiting, underruns: this.#underruns, dropped: this.#dropped, delay };
      this.port.postMessage(report);
    }
    return true;
  }

  /** Play the next samples; every second, fade over what has waited for all of the second. */
  #play(output: Float32Array): void {
    this.#lowest = Math.min(this.#lowest, this.#waiting - output.length);
    let surplus = 0;
    if (currentFrame - this.#checked >= CHECK_SECONDS * sampleRate) {
      surplus = Math.max(0, this.#lowest - this.#target);
      this.#checked = currentFrame;
      this.#lowest = Number.POSITIVE_INFINITY;
    }
    for (let n = 0; n < output.length; n++) {
      const later = (n + 1) / output.length;
      output[n] = surplus ? this.#sample(n) * (1 - later) + this.#sample(n + surplus) * later : this.#sample(n);
    }
    this.#played += output.length;
    this.#drop(surplus);
  }
}

registerProcessor("spectok-recorder", Recorder);
registerProcessor("spectok-player", Player);
