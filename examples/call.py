"""A call over a socket: one side sends the codes of a file as it would be spoken, the other plays them into a file.

    python examples/call.py speech.wav heard.wav

Both sides run here, as two threads that share nothing but the connection. Each frame of 20 ms travels as its codes,
packed into as few bytes as they need: 10 for the eight 10-bit codes of spectok-16k-4k.
"""

import argparse
import socket
import threading
from pathlib import Path

import numpy as np
import soundfile

from spectok import Tokenizer


class Packing:
    """The codes of a frame to bytes and back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokens = tokenizer.tokens_per_frame
        self.places = np.arange((tokenizer.codebook_size - 1).bit_length())  # of the bits of a code
        self.size = -(-self.tokens * len(self.places) // 8)  # bytes

    def pack(self, frame: np.ndarray) -> bytes:
        """Codes `[tokens]` to bytes."""
        return np.packbits(frame[:, None] >> self.places & 1, bitorder="little").tobytes()

    def unpack(self, content: bytes) -> np.ndarray:
        """Bytes to codes, int64 `[tokens]`."""
        bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
        return bits[: self.tokens * len(self.places)].reshape(self.tokens, -1) @ (1 << self.places)


def speak(connection: socket.socket, source: Path, model: str) -> None:
    """Encode a file chunk by chunk and send each frame when it is complete."""
    tokenizer = Tokenizer.from_pretrained(model)
    encoder, packing = tokenizer.stream_encoder(sample_rate=soundfile.info(source).samplerate), Packing(tokenizer)
    with connection:
        for chunk in soundfile.blocks(source, blocksize=960, dtype="float32"):
            for frame in encoder.push(chunk).reshape(-1, packing.tokens):
                connection.sendall(packing.pack(frame))
        for frame in encoder.flush().reshape(-1, packing.tokens):
            connection.sendall(packing.pack(frame))


def listen(connection: socket.socket, out: Path, model: str) -> int:
    """Decode frames as they arrive and write the audio; returns the bytes received."""
    tokenizer = Tokenizer.from_pretrained(model)
    decoder, packing, received = tokenizer.stream_decoder(), Packing(tokenizer), 0
    with (
        connection,
        connection.makefile("rb") as stream,
        soundfile.SoundFile(out, "w", tokenizer.sample_rate, 1) as file,
    ):
        while content := stream.read(packing.size):
            received += len(content)
            file.write(decoder.push(packing.unpack(content)))
    return received


def main(arguments: list[str] | None = None) -> None:
    """Connect the two sides and wait for the end of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="spectok-16k-4k")
    args = parser.parse_args(arguments)

    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    speaker = threading.Thread(target=speak, args=(here, args.source, args.model))
    speaker.start()
    received = listen(there, args.out, args.model)
    speaker.join()
    seconds = soundfile.info(args.source).duration
    print(f"{received} bytes for {seconds:.1f} s: {8 * received / seconds / 1000:.1f} kbit/s")


if __name__ == "__main__":
    main()
