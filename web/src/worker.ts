/**
 * The part of {@link RemoteTokenizer} that runs in a worker: it calls what the messages ask for, in their order.
 *
 * A worker script needs one line: `serveTokenizers(self)`.
 */
import { InputError, require } from "./errors.js";
import type { ModelFiles } from "./files.js";
import { Loop } from "./live.js";
import { StreamDecoder, StreamEncoder } from "./sessions.js";
import { Tokenizer } from "./tokenizer.js";

/** A call of a method of an object in the worker. */
export interface Call {
  id: number;
  /** Number of the object; 0 is the worker itself. */
  target: number;
  method: string;
  args: unknown[];
  /** The number that the object which the call creates shall have. */
  creates?: number;
}

/** The answer to a call. */
export interface Answer {
  id: number;
  result?: unknown;
  error?: { message: string; isInput: boolean };
}

/** Something that happened in the worker: bytes that arrived, or codes of a live stream. */
export interface Event {
  target: number;
  event: unknown;
}

interface Scope {
  onmessage: ((message: MessageEvent<Call>) => void) | null;
  postMessage(message: Answer | Event): void;
}

type Method = (...args: never[]) => unknown;

/**
 * Answer the calls of {@link RemoteTokenizer} in this worker.
 *
 * @param scope - the `self` of the worker.
 */
export function serveTokenizers(scope: Scope): void {
  const objects = new Map<number, Promise<unknown>>();
  scope.onmessage = ({ data: { id, target, method, args, creates } }) => {
    const result = call(target, method, args, creates);
    if (creates !== undefined) {
      objects.set(creates, result);
      result.catch(() => undefined); // the answer has the error
    }
    result.then(
      (found) => scope.postMessage({ id, result: creates === undefined ? found : described(found) }),
      (error: unknown) => {
        const isInput = error instanceof InputError;
        scope.postMessage({ id, error: { message: error instanceof Error ? error.message : String(error), isInput } });
      },
    );
  };

  async function call(target: number, method: string, args: unknown[], creates?: number): Promise<unknown> {
    const tell = (event: unknown): void => scope.postMessage({ target: creates ?? target, event });
    if (target === 0) {
      require(method === "load", `the worker has no method ${method}`);
      return Tokenizer.fromPretrained(args[0] as string | ModelFiles, tell);
    }
    if (method === "release") return objects.delete(target);
    const object = await objects.get(target);
    if (object instanceof Tokenizer && method === "loop") {
      const [rate, microphone, speaker] = args as [number, MessagePort, MessagePort | undefined];
      return new Loop(object, rate, microphone, speaker, tell);
    }
    const found = methodsOf(object)[method];
    require(found !== undefined, `the worker has no method ${method}`);
    return found(...(args as never[]));
  }
}

/** The methods of an object that may be called from outside. */
function methodsOf(object: unknown): Record<string, Method> {
  if (object instanceof Tokenizer) {
    return {
      encode: object.encode.bind(object),
      decode: object.decode.bind(object),
      streamEncoder: object.streamEncoder.bind(object),
      streamDecoder: object.streamDecoder.bind(object),
      prepare: () => Promise.all([object.engine.load("encoder"), object.engine.load("decoder")]).then(() => undefined),
    };
  }
  if (object instanceof StreamEncoder || object instanceof StreamDecoder) {
    return {
      push: object.push.bind(object) as Method,
      flush: object.flush.bind(object),
      reset: object.reset.bind(object),
    };
  }
  return object instanceof Loop ? { stop: object.stop.bind(object) } : {};
}

/** What the other side is told of a new object. */
function described(object: unknown): unknown {
  if (!(object instanceof Tokenizer)) return undefined;
  return { json: object.json, sha256: object.engine.sha256, entropy: object.entropy };
}
