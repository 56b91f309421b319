"""Training: losses, data, loop and checkpoints. It imports the model, never the reverse."""
