/**
 * The `.spt` file: a header and codes in packets, each with a checksum.
 *
 * The documentation of the Python package `spectok.container` specifies the bytes of versions 1 to 3.
 */

export { makeHeader, type Header, type HeaderFields } from "./header.js";
export { readHeader, readSpt, type SptContent } from "./reader.js";
export { SptWriter, writeSpt } from "./writer.js";
