"""The encoder of the speech recogniser Whisper base: what it hears, for a loss and for discriminators.

Its weights are those of the metric "wer" (evaluation/judges.py), and come with the packages of the extra `bench`. For a
codec that was trained with it, "wer_moonshine", of another recogniser, is therefore the better measure.
"""

import struct
from collections.abc import Iterator

import torch
import torchaudio
from torch import Tensor, nn

from spectok.errors import InputError
from spectok.evaluation.judges import whisper_weights

SAMPLE_RATE = 16000
N_FFT, HOP_LENGTH, N_MELS = 400, 160, 80
WIDTH, HEADS, LAYERS = 512, 8, 6
FLOOR = 1e-5  # power of a mel band that counts as silence, about that of a sine at -70 dB; Whisper's own is 1e-10
COMPARED = (2, 4, LAYERS)  # the layers whose outputs are compared
DTYPES = {0: torch.float32, 4: torch.float16}  # by their numbers in a file of CTranslate2


class WhisperEncoder(nn.Module):
    """The encoder of Whisper base (A. Radford et al., arXiv 2212.04356), with its weights, which are not trained.

    Args:
        dtype: of the products with the weights; all else is computed in float32.

    Raises:
        InputError: the packages with the weights are missing.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        bank = torchaudio.functional.melscale_fbanks(
            N_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, N_MELS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        for name, tensor in encoder_weights():
            is_product = "linear" in name or "conv" in name
            self.register_buffer(name.replace("/", "_"), tensor.to(dtype) if is_product else tensor, persistent=False)

    def forward(self, audio: Tensor) -> list[Tensor]:
        """The outputs of the layers `COMPARED`, `[B, T // 320, 512]` each, for audio `[B, T]` of at most 30 s."""
        x = self.log_mel(audio).to(self.dtype)
        x = nn.functional.gelu(nn.functional.conv1d(x, *self._affine("conv1"), padding=1))
        x = nn.functional.gelu(nn.functional.conv1d(x, *self._affine("conv2"), stride=2, padding=1))
        x = x.transpose(1, 2).float()
        x = x + self.get_buffer("position_encodings_encodings")[: x.shape[1]]
        outputs = []
        for layer in range(LAYERS):
            x = x + self._attention(self._norm(x, f"layer_{layer}_self_attention_"), f"layer_{layer}_self_attention")
            x = x + self._dense(self._norm(x, f"layer_{layer}_ffn_"), f"layer_{layer}_ffn")
            if layer + 1 in COMPARED:
                outputs.append(x)
        outputs[-1] = self._norm(outputs[-1], "")  # what Whisper's decoder gets
        return outputs

    def log_mel(self, audio: Tensor) -> Tensor:
        """Whisper's input `[B, 80, T // 160]`: log10 of mel powers, at most 80 dB below their largest."""
        window = self.get_buffer("window")
        spectrum = torch.stft(audio, N_FFT, HOP_LENGTH, window=window, pad_mode="reflect", return_complex=True)
        power = torch.view_as_real(spectrum[..., :-1]).square().sum(-1)
        logs = (power.transpose(1, 2) @ self.get_buffer("bank") + FLOOR).log10().transpose(1, 2)
        return (torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8) + 4) / 4

    def _affine(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gain, bias = (self.get_buffer(f"{name}layer_norm_{part}") for part in ("gamma", "beta"))
        return nn.functional.layer_norm(x, (WIDTH,), gain, bias)

    def _attention(self, x: Tensor, name: str) -> Tensor:
        together = self._linear(x, f"{name}_linear_0").float()
        query, key, value = together.unflatten(2, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self._linear(mixed.transpose(1, 2).flatten(2), f"{name}_linear_1")

    def _dense(self, x: Tensor, name: str) -> Tensor:
        return self._linear(nn.functional.gelu(self._linear(x, f"{name}_linear_0")), f"{name}_linear_1")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return nn.functional.linear(x.to(self.dtype), *self._affine(name))


def encoder_weights() -> Iterator[tuple[str, Tensor]]:
    """Names and values of the encoder's weights, in float32, from the file in the format of CTranslate2."""
    try:
        data = b"".join(part.read_bytes() for part in whisper_weights())
    except ModuleNotFoundError as error:
        raise InputError(f"the loss of the recogniser needs the weights of Whisper: {error}") from error
    place = 0

    def take(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{form}", data, place)
        place += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal place
        length = take("H")
        place += length
        return data[place - length : place - 1].decode()  # without the zero at its end

    take("I")  # version of the file
    text()  # kind of the model
    take("I")  # its revision
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        dtype, size = take("B"), take("I")
        if name.startswith("encoder/") and dtype in DTYPES:
            values = torch.frombuffer(bytearray(data[place : place + size]), dtype=DTYPES[dtype])
            yield name.removeprefix("encoder/"), values.reshape(shape).float()
        place += size


def hearing_distance(original: list[Tensor], decoded: list[Tensor]) -> Tensor:
    """Mean absolute difference of features `[B, F, D]`, relative to the originals' mean deviation in each dimension.

    Two unrelated clips have about 1.4.
    """
    terms = []
    for real, fake in zip(original, decoded, strict=True):
        spread = (real - real.mean((0, 1))).abs().mean((0, 1))
        terms.append(((fake - real).abs().mean((0, 1)) / spread.clamp_min(1e-3)).mean())
    return torch.stack(terms).mean()
