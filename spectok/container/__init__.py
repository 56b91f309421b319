"""The `.spt` file: a header and codes in packets, each with a checksum. The specification is in `writer.py`."""

from spectok.container.packets import Header, Packet
from spectok.container.reader import Reader
from spectok.container.writer import Writer, read_spt, write_spt

__all__ = ["Header", "Packet", "Reader", "Writer", "read_spt", "write_spt"]
