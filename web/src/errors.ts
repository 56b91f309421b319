/** Input that cannot be used: a damaged file, a wrong shape, a code that does not exist. The message is one sentence. */
export class InputError extends Error {
  override name = "InputError";
}

/** Throw an {@link InputError} unless a condition holds. */
export function require(condition: boolean, message: string): asserts condition {
  if (!condition) throw new InputError(message);
}
