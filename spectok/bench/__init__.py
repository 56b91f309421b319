"""The benchmark: compares the quality and the costs of spectok and other codecs on the same files."""
