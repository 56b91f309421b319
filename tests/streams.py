"""Streams that the tests of several modules need."""

import io


class Pipe(io.RawIOBase):
    """A stream that cannot seek: over `content` if it is read, into `written` if it is written."""

    def __init__(self, content: bytes = b"") -> None:
        self.inner = io.BytesIO(content)
        self.written = bytearray()

    def readable(self):
        return True

    def writable(self):
        return True

    def readinto(self, buffer):
        return self.inner.readinto(buffer)

    def write(self, data):
        self.written += data
        return len(data)
