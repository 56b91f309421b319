"""spectok: a lightweight, streaming, single-codebook neural speech codec and tokenizer.

    import spectok

    tokenizer = spectok.Tokenizer.from_pretrained("spectok-16k-4k")
    codes = tokenizer.encode("speech.wav")

Importing it imports neither onnxruntime nor torch; making a `Tokenizer` imports the one that runs it.
"""

from importlib.metadata import version

from spectok.config import CodecConfig
from spectok.errors import InputError
from spectok.sessions import StreamDecoder, StreamEncoder
from spectok.tokenizer import Tokenizer

__version__ = version("spectok")
__all__ = ["CodecConfig", "InputError", "StreamDecoder", "StreamEncoder", "Tokenizer", "__version__"]
