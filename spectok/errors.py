"""The one exception that is meant for the user's eyes."""


class InputError(ValueError):
    """What the user gave cannot be used. The message is one sentence that says why; the CLI prints it and exits 2."""
