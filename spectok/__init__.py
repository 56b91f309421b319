"""spectok: a lightweight, streaming, single-codebook neural speech codec and tokenizer.

    import spectok

    tokenizer = spectok.Tokenizer.from_pretrained("spectok-16k-4k")
    codes = tokenizer.encode("speech.wav")

`import spectok` imports neither onnxruntime nor torch. Creating a `Tokenizer` imports the one that it uses.
"""

import os
from importlib.metadata import version

# ONNX Runtime 1.32 records events in the home directory when it is imported, to send them over the network.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from spectok.container import read_spt, write_spt
from spectok.errors import InputError
from spectok.groups import StreamGroup
from spectok.pretrained import models
from spectok.sessions import StreamDecoder, StreamEncoder
from spectok.tokenizer import Tokenizer

__version__ = version("spectok")
__all__ = [
    "InputError",
    "StreamDecoder",
    "StreamEncoder",
    "StreamGroup",
    "Tokenizer",
    "models",
    "read_spt",
    "write_spt",
]
