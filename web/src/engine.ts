/** Runs a model's graphs in ONNX Runtime Web: whole frames in, whole frames out, with the state between them. */
import * as ort from "onnxruntime-web/wasm";

import type { CodecConfig } from "./config.js";
import { InputError, require } from "./errors.js";
import { readMetadata } from "./graph.js";
import { Queue } from "./queue.js";

/** Of the network: "encoder" from audio to codes, "decoder" from codes to audio. */
export type Side = "encoder" | "decoder";

/** The state of one stream, which callers keep and pass on; an empty one stands for the beginning of a stream. */
export type State = Readonly<Record<string, ort.Tensor>>;

const WEIGHTS = "model.safetensors"; // the name by which the graphs refer to the weights
const SPECTRUM = "spectrum"; // output of the graph of a decoder, for an extension
const LOST = "lost"; // input of the graph of a decoder that conceals lost frames
const runs = new Queue(); // ONNX Runtime has one stack for all sessions: a step begins when the one before has ended
const ARRAYS = { float32: Float32Array, int64: BigInt64Array } as const;

interface Graph {
  session: ort.InferenceSession;
  stream: string; // name of the input with audio or codes
  output: string;
  states: { name: string; after: string; shape: number[]; kind: keyof typeof ARRAYS }[]; // shapes without the batch
  conceals: boolean;
}

/** The two graphs of a model. Each is loaded at its first step, so that encoding alone does not load the decoder. */
export class Engine {
  readonly #graphs = new Map<Side, Promise<Graph>>();

  /**
   * @param config - of the model.
   * @param weights - content of `model.safetensors`.
   * @param sha256 - of the weights, 64 hexadecimal digits.
   * @param files - gives the content of `encoder.onnx` or `decoder.onnx`.
   */
  constructor(
    readonly config: CodecConfig,
    readonly weights: Uint8Array,
    readonly sha256: string,
    readonly files: (side: Side) => Promise<Uint8Array>,
  ) {}

  /** Load a graph now, so that the first step does not have to. */
  async load(side: Side): Promise<void> {
    await this.#graph(side);
  }

  /** Encode whole frames of audio, `[T]`; returns their codes, `[N]`, and the state after them. */
  async encodeStep(audio: Float32Array, state: State): Promise<[Int32Array, State]> {
    const [output, after] = await this.#run("encoder", new ort.Tensor("float32", audio, [1, audio.length]), state);
    return [Int32Array.from(output.data as BigInt64Array, Number), after];
  }

  /** Decode whole frames of codes, `[N]`; returns their audio, `[T]`, and the state after them. */
  async decodeStep(codes: Int32Array, state: State, lost?: boolean): Promise<[Float32Array, State]> {
    const input = new ort.Tensor("int64", BigInt64Array.from(codes, BigInt), [1, codes.length]);
    const [output, after] = await this.#run("decoder", input, state, lost);
    return [output.data as Float32Array, after];
  }

  async #run(side: Side, input: ort.Tensor, state: State, lost = false): Promise<[ort.Tensor, State]> {
    const graph = await this.#graph(side);
    const feeds: Record<string, ort.Tensor> = { [graph.stream]: input };
    for (const { name, shape, kind } of graph.states) {
      const size = shape.reduce((product, length) => product * length, 1);
      feeds[name] = state[name] ?? new ort.Tensor(kind, new ARRAYS[kind](size) as never, [1, ...shape]);
    }
    if (graph.conceals) {
      const frames = (input.dims[1] ?? 0) / this.config.tokensPerFrame;
      feeds[LOST] = new ort.Tensor("bool", new Uint8Array(frames).fill(Number(lost)), [1, frames]);
    }
    const wanted = [graph.output, ...graph.states.map(({ after }) => after)];
    const outputs = await runs.run(() => graph.session.run(feeds, wanted));
    const after: Record<string, ort.Tensor> = {};
    for (const { name, after: output } of graph.states) after[name] = outputs[output]!;
    return [outputs[graph.output]!, after];
  }

  #graph(side: Side): Promise<Graph> {
    let graph = this.#graphs.get(side);
    if (graph === undefined) {
      graph = this.#load(side);
      this.#graphs.set(side, graph);
      graph.catch(() => this.#graphs.delete(side)); // a failed download can be tried again
    }
    return graph;
  }

  async #load(side: Side): Promise<Graph> {
    const content = await this.files(side);
    require(
      readMetadata(content)["weights"] === this.sha256,
      `${side}.onnx was made from other weights than those of the model`,
    );
    ort.env.wasm.numThreads = 1; // frames are too small to be shared between threads
    let session: ort.InferenceSession;
    try {
      session = await ort.InferenceSession.create(content, {
        executionProviders: ["wasm"],
        externalData: [{ path: WEIGHTS, data: this.weights }],
        graphOptimizationLevel: "basic", // the exported graph is optimised already
        logSeverityLevel: 4,
      });
    } catch (error) {
      throw new InputError(`cannot load ${side}.onnx: ${String(error).split("\n")[0]}`);
    }
    const [first, ...others] = session.inputMetadata;
    const [output, ...after] = session.outputNames.filter((name) => name !== SPECTRUM);
    require(first !== undefined && output !== undefined, `${side}.onnx has no input or no output`);
    const states = others.filter(({ name }) => name !== LOST);
    require(states.length === after.length, `${side}.onnx has states that do not go in and out`);
    return {
      session,
      stream: first.name,
      output,
      conceals: states.length < others.length,
      states: states.map((input, place) => {
        require(input.isTensor, `${side}.onnx has the state ${input.name}, which is not a tensor`);
        const kind = input.type;
        require(kind === "float32" || kind === "int64", `${side}.onnx has the state ${input.name} of type ${kind}`);
        return { name: input.name, after: after[place]!, shape: input.shape.slice(1).map(Number), kind };
      }),
    };
  }
}
