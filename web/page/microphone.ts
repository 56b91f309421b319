/** The microphone and the loudspeaker of a live stream, in an AudioContext with two worklets. */
import { InputError } from "../src/index.js";
import type { PlayerReport } from "../src/worklet.js";

const TARGET_SECONDS = 0.02; // audio that waits before the first sample is played
const MOST_SECONDS = 0.25; // above which the oldest audio is left out

/** An open microphone, and if it is wanted a loudspeaker. */
export class Microphone {
  onReport: (report: PlayerReport) => void = () => undefined;
  /** Is called if the microphone goes away, for example because it was unplugged. */
  onLost: () => void = () => undefined;
  readonly #meter: AnalyserNode;
  readonly #samples = new Float32Array(1024);

  private constructor(
    readonly context: AudioContext,
    readonly stream: MediaStream,
    readonly recorder: AudioWorkletNode,
    /** Gets chunks of audio from the microphone. */
    readonly heard: MessagePort,
    /** Plays the chunks of audio that are sent to it. */
    readonly speaker: MessagePort,
  ) {
    this.#meter = new AnalyserNode(context, { fftSize: this.#samples.length });
  }

  /** Ask for the microphone and open it; audio is at the rate of the device, `context.sampleRate`. */
  static async open(): Promise<Microphone> {
    if (!navigator.mediaDevices) throw new Error("the browser gives the microphone only to pages of https or 127.0.0.1");
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    } catch (error) {
      const reasons: Record<string, string> = {
        NotAllowedError: "the browser does not let this page use the microphone; allow it beside the address",
        NotFoundError: "no microphone was found",
      };
      throw new InputError(reasons[(error as Error).name] ?? `the microphone cannot be used: ${(error as Error).message}`);
    }
    const context = new AudioContext({ latencyHint: "interactive" });
    try {
      await context.audioWorklet.addModule("worklet.js");
      await context.resume();
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      await context.close();
      throw error;
    }
    const [heard, recorded] = [new MessageChannel(), new MessageChannel()];
    const recorder = new AudioWorkletNode(context, "spectok-recorder", { numberOfOutputs: 0, channelCount: 1 });
    const player = new AudioWorkletNode(context, "spectok-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { target: TARGET_SECONDS * context.sampleRate, most: MOST_SECONDS * context.sampleRate },
    });
    const microphone = new Microphone(context, stream, recorder, heard.port2, recorded.port2);
    for (const track of stream.getTracks()) track.onended = () => microphone.onLost();
    recorder.port.onmessage = ({ data }: MessageEvent<number>) => player.port.postMessage(data);
    player.port.onmessage = ({ data }: MessageEvent<PlayerReport>) => microphone.onReport(data);
    player.port.postMessage("audio", [recorded.port1]);
    recorder.port.postMessage("audio", [heard.port1]);
    const source = new MediaStreamAudioSourceNode(context, { mediaStream: stream });
    source.connect(recorder);
    source.connect(microphone.#meter);
    player.connect(context.destination);
    return microphone;
  }

  /** The level of the last samples in dB of full scale. */
  get level(): number {
    this.#meter.getFloatTimeDomainData(this.#samples);
    const power = this.#samples.reduce((sum, sample) => sum + sample * sample, 0) / this.#samples.length;
    return 10 * Math.log10(power + 1e-10);
  }

  /** Stop listening; what was heard has then been sent to the port. */
  async stop(): Promise<void> {
    this.recorder.port.postMessage("stop");
    for (const track of this.stream.getTracks()) track.stop();
    await new Promise((resolve) => setTimeout(resolve, 50)); // the last chunks are on their way
  }

  /** Free the devices. */
  async close(): Promise<void> {
    await this.context.close();
  }
}
