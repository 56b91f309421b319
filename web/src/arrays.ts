/** Joins typed arrays. */

/** Pieces of one kind as one array, for example `joined(Float32Array, chunks)`. */
export function joined<Kind extends Float32Array | Int32Array | Uint8Array>(
  kind: new (length: number) => Kind,
  pieces: readonly Kind[],
): Kind {
  const whole = new kind(pieces.reduce((length, piece) => length + piece.length, 0));
  let place = 0;
  for (const piece of pieces) {
    whole.set(piece, place);
    place += piece.length;
  }
  return whole;
}
