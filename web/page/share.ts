/** Links that hold the codes of a recording after the #, which browsers do not send to any server. */
import { InputError } from "../src/index.js";

/** The longest recording that a link can hold, in seconds. */
export const SHARED_SECONDS = 10;
const KEY = "#spt=";
const MOST_CHARACTERS = 12_000; // ten seconds at 4 kbit/s are 5,000 bytes, which are 6,700 characters

/** The part of an address after and with the #, for the content of a `.spt` file. */
export function toFragment(spt: Uint8Array): string {
  const binary = Array.from(spt, (byte) => String.fromCharCode(byte)).join("");
  return KEY + btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/**
 * The `.spt` file in the part of an address after and with the #; undefined if there is none.
 *
 * @throws InputError if it is too long or not base64url.
 */
export function fromFragment(fragment: string): Uint8Array | undefined {
  if (!fragment.startsWith(KEY)) return undefined;
  const text = fragment.slice(KEY.length);
  if (text.length > MOST_CHARACTERS) throw new InputError("the link is too long");
  if (!/^[A-Za-z0-9_-]*$/.test(text)) throw new InputError("the link is damaged");
  try {
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(binary, (character) => character.charCodeAt(0));
  } catch {
    throw new InputError("the link is damaged");
  }
}
