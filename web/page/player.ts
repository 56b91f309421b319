/** Plays two versions of a recording at the same place, of which one is heard. */

const FADE_SECONDS = 0.01; // from one version to the other

/** Which version is heard. */
export type Version = "original" | "decoded";

/** A player with one position for both versions. */
export class Player {
  onEnd: () => void = () => undefined;
  #context: AudioContext | undefined;
  #buffers: Partial<Record<Version, AudioBuffer>> = {};
  #gains: Partial<Record<Version, GainNode>> = {};
  #sources: AudioBufferSourceNode[] = [];
  #version: Version = "decoded";
  #began = 0; // time of the context at which position 0 would have been played
  #paused = 0; // position in seconds
  #playing = false;

  /** Load a recording; audio at rates that browsers cannot play must be resampled before. */
  load(versions: Partial<Record<Version, Float32Array>>, sampleRate: number): void {
    this.pause();
    this.#paused = 0;
    this.#buffers = {};
    for (const [version, audio] of Object.entries(versions) as [Version, Float32Array][]) {
      const buffer = new AudioBuffer({ length: Math.max(1, audio.length), sampleRate });
      buffer.copyToChannel(audio as Float32Array<ArrayBuffer>, 0);
      this.#buffers[version] = buffer;
    }
  }

  get playing(): boolean {
    return this.#playing;
  }

  get duration(): number {
    return Math.max(0, ...Object.values(this.#buffers).map((buffer) => buffer.duration));
  }

  /** In seconds. */
  get position(): number {
    const now = this.#playing ? (this.#context?.currentTime ?? 0) - this.#began : this.#paused;
    return Math.min(Math.max(0, now), this.duration);
  }

  /** Hear one of the versions; the other goes on silently. */
  choose(version: Version): void {
    this.#version = version;
    const now = this.#context?.currentTime ?? 0;
    for (const [name, gain] of Object.entries(this.#gains)) {
      gain.gain.setTargetAtTime(name === version ? 1 : 0, now, FADE_SECONDS / 3);
    }
  }

  play(): void {
    this.pause();
    const context = (this.#context ??= new AudioContext());
    void context.resume();
    const from = this.#paused >= this.duration - 0.01 ? 0 : this.#paused;
    const start = context.currentTime + 0.02;
    for (const [version, buffer] of Object.entries(this.#buffers) as [Version, AudioBuffer][]) {
      const source = new AudioBufferSourceNode(context, { buffer });
      const gain = new GainNode(context, { gain: version === this.#version ? 1 : 0 });
      source.connect(gain).connect(context.destination);
      source.start(start, from);
      this.#gains[version] = gain;
      this.#sources.push(source);
    }
    const [first] = this.#sources;
    if (first) {
      first.onended = () => {
        this.pause();
        this.onEnd();
      };
    }
    this.#began = start - from;
    this.#playing = true;
  }

  pause(): void {
    this.#paused = this.position;
    this.#playing = false;
    for (const source of this.#sources) {
      source.onended = null;
      source.stop();
      source.disconnect();
    }
    this.#sources = [];
    this.#gains = {};
  }

  /** Go to a position in seconds. */
  seek(position: number): void {
    const goesOn = this.#playing;
    this.pause();
    this.#paused = Math.min(Math.max(0, position), this.duration);
    if (goesOn && this.#paused < this.duration - 0.01) this.play();
  }
}
