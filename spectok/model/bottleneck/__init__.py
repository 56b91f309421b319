"""Compression of the frequency axis by learnable queries, or by one of the methods that they are compared with."""
