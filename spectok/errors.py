"""The one exception whose message is written for users."""


class InputError(ValueError):
    """An input, argument or file cannot be used. The message gives the reason in one sentence.

    The command line prints the message and exits with code 2.
    """
