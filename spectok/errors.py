"""The one exception whose message is written for users, and how messages are shown."""

MAX_SHOWN = 400  # characters of a sentence


class InputError(ValueError):
    """An input, argument or file cannot be used. The message gives the reason in one sentence.

    The command line prints the message and exits with code 2. Several arguments are the sentences of several inputs.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


def require(condition: bool, sentence: str) -> None:
    """Raise `InputError(sentence)` unless `condition` holds."""
    if not condition:
        raise InputError(sentence)


def shown(text: str, most: int = MAX_SHOWN) -> str:
    r"""A text that may contain names from outside, as one line for a terminal.

    Control characters, line breaks and bytes that are no text become escapes such as `\x1b`. Of a longer text than
    `most` characters the middle is left out.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte in the name of a file
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else ascii(character)[1:-1]
