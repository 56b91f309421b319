/** The models that lie beside the page, as `models/index.json` lists them. */
import { RemoteTokenizer } from "../src/index.js";

/** One entry of `models/index.json`. */
export interface ModelEntry {
  name: string;
  weights: string; // 16 hexadecimal digits
  bitrate: number; // bits per second of the codes
  bytes: number; // of all files
}

const FOLDER = "models/";

/** Loads each model once, in one worker. */
export class Models {
  readonly #loaded = new Map<string, Promise<RemoteTokenizer>>();
  readonly #worker = new Worker("worker.js", { type: "module" });

  private constructor(readonly entries: ModelEntry[]) {}

  static async fetch(): Promise<Models> {
    const answer = await fetch(`${FOLDER}index.json`);
    if (!answer.ok) throw new Error("the models are missing beside the page");
    return new Models((await answer.json()) as ModelEntry[]);
  }

  /** Load a model; `progress` is told the share that has arrived. */
  load(name: string, progress: (share: number) => void = () => undefined): Promise<RemoteTokenizer> {
    let tokenizer = this.#loaded.get(name);
    if (tokenizer === undefined) {
      const size = this.entries.find((entry) => entry.name === name)?.bytes ?? 1;
      tokenizer = RemoteTokenizer.fromPretrained(this.#worker, `${FOLDER}${name}/`, (bytes) =>
        progress(Math.min(1, bytes / size)),
      );
      this.#loaded.set(name, tokenizer);
      tokenizer.catch(() => this.#loaded.delete(name));
    }
    return tokenizer;
  }
}
