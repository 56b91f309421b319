"""The network in PyTorch, and nothing but the network."""
