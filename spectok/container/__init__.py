"""The `.spt` file: codes with a header, in packets that have a checksum each. `writer.py` has the specification."""

from spectok.container.packets import Header, Packet
from spectok.container.reader import Reader
from spectok.container.writer import Writer, read_spt, write_spt

__all__ = ["Header", "Packet", "Reader", "Writer", "read_spt", "write_spt"]
