"""The codec: audio to codes to audio.

Encoder   STFT -> power law -> tower -> bottleneck -(+)-> GRUs -> latent [B, F, K, D]
                          `---> dense spectral path --'
Decoder   quantized -> GRUs -> bottleneck -> tower -(+)-> power law -> postfilter -> excitation -> inverse STFT
                         `---> dense spectral path --'

The excitation generates the phases that the codes do not carry (excitation.py); the postfilter raises the contrast of
the spectrum at those frequencies (postfilter.py). A robust encoder has a leveller before the STFT (leveller.py), and a
denoiser after the power law (denoiser.py).
"""

import math

import torch
from torch import Tensor, nn

from spectok.config import CodecConfig, TowerConfig
from spectok.model.bottleneck.queries import QueryCompression, QueryExpansion
from spectok.model.concealment import Concealment, repeated
from spectok.model.denoiser import Denoiser
from spectok.model.excitation import Estimate, Excitation, RandomSigns
from spectok.model.latent import DenseAnalysis, DenseSynthesis, LatentGRU
from spectok.model.layers import CausalConv2d, FrequencyDown, FrequencyUp, RNN2d, linear
from spectok.model.leveller import Leveller
from spectok.model.macs import macs_per_second
from spectok.model.postfilter import Postfilter
from spectok.model.quantizer import FSQuantizer, Quantized, SoftLimit, VectorQuantizer
from spectok.model.silence import Silence
from spectok.model.spectrum import STFT, InverseSTFT, PowerLaw
from spectok.model.streaming import Residual, Serial, State, Streaming, in_series

NETWORK_STATES = 3  # of the parts of the decoder's state belong to the network, the others to excitation and synthesis
SPECTRUM_GAIN = 10.0  # scales the power-law spectrum of speech, whose rms is about 0.1, to an rms of about 1


def _rnn(stage: int, positions: int, tower: TowerConfig) -> list[Streaming]:
    """The RNN2d of a stage, which is counted from the spectrum; an empty list if the stage has none."""
    if tower.rnn_stages == "finest" and stage > 0:
        return []
    layer = RNN2d(tower.channels[stage + 1], positions, tower.activation, tower.norm)
    return [layer.as_residual() if tower.residual else layer]


class Encoder(Streaming):
    """Audio `[B, T]` to latent `[B, F, K, D]`; T is a multiple of `frame_length`."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        tower, bottleneck, quantizer = config.tower, config.bottleneck, config.quantizer
        positions, latent_dim = config.spectrum.positions, config.latent_dim
        self.leveller = Leveller(config.spectrum.hop_length, config.sample_rate) if config.leveller else None
        self.stft = STFT(config.spectrum, positions)
        self.power_law = PowerLaw(config.spectrum.power)
        hidden = config.denoiser_hidden
        self.denoiser = Denoiser(positions, hidden) if hidden else None
        layers: list[nn.Module] = [CausalConv2d(2, tower.channels[0], tower.input_kernel, positions)]
        for i, stride in enumerate(zip(tower.time_strides, tower.frequency_strides, strict=True)):
            before, after = tower.channels[i : i + 2]
            layers.append(FrequencyDown(before, after, tower.kernel, positions, stride, tower.activation))
            positions //= stride[1]
            layers += _rnn(i, positions, tower)
        self.tower = Serial(*layers)
        self.bottleneck = QueryCompression(bottleneck, tower.channels[-1], positions, latent_dim, config.sample_rate)
        self.dense = (
            DenseAnalysis(
                config.spectrum.positions, math.prod(tower.time_strides), config.encoder_dense_rank, latent_dim
            )
            if config.encoder_dense_rank
            else None
        )
        self.context = Serial(
            *(Residual(LatentGRU(latent_dim, config.gru_hidden)) for _ in range(config.encoder_gru_layers))
        )
        self.slots = (quantizer.tokens_per_frame, quantizer.codebook_dim)
        self.project = linear(latent_dim, math.prod(self.slots))
        self.limit = SoftLimit(math.prod(self.slots))
        codes = config.silence_codes
        self.silence = Silence(codes, quantizer, config.frame_length) if codes else None
        parts = (self.leveller, self.stft, self.denoiser, self.tower, self.context)
        self.timing = in_series([part for part in parts if part is not None])

    def init_state(self, batch: int) -> State:
        """States of leveller, STFT, denoiser, tower, latent GRUs and silence."""
        return (
            self.leveller.init_state(batch) if self.leveller is not None else (),
            self.stft.init_state(batch),
            self.denoiser.init_state(batch) if self.denoiser is not None else (),
            self.tower.init_state(batch),
            self.context.init_state(batch),
            self.silence.init_state(batch) if self.silence is not None else (),
        )

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Consume a multiple of frame_length samples."""
        spectrum, before = self.analyse(x, state)
        latent, after = self.latent(spectrum, x, state)
        return latent, (*before, *after)

    def latent(self, spectrum: Tensor, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The second part of a step: the latent `[B, F, K, D]`.

        Args:
            spectrum: from `analyse`.
            x: audio as in `step`.
            state: a state of the encoder, of which the last three parts are used and returned: those of tower, latent
                GRUs and silence.
        """
        features, tower_state = self.tower.step(spectrum.permute(0, 2, 3, 1), state[3])
        frames = self.bottleneck(features)
        if self.dense is not None:
            frames = frames + self.dense(spectrum)
        frames, context_state = self.context.step(frames, state[4])
        latent = self.limit(self.project(frames)).unflatten(-1, self.slots)
        silence_state: State = ()
        if self.silence is not None:
            latent, silence_state = self.silence.replace(latent, x, state[5])
        return latent, (tower_state, context_state, silence_state)

    def analyse(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The first part of a step: the spectrum `[B, 2, F * hops, Q]`, after the denoiser if there is one.

        Args:
            x: audio as in `step`.
            state: a state of the encoder, of which the first three parts are used and returned: those of leveller, STFT
                and denoiser.
        """
        leveller_state: State = ()
        denoiser_state: State = ()
        if self.leveller is not None:
            x, leveller_state = self.leveller.step(x, state[0])
        spectrum, stft_state = self.stft.step(x, state[1])
        spectrum = self.power_law.compress(spectrum) * SPECTRUM_GAIN
        if self.denoiser is not None:
            spectrum, denoiser_state = self.denoiser.step(spectrum, state[2])
        return spectrum, (leveller_state, stft_state, denoiser_state)


class Decoder(Streaming):
    """Quantized latent `[B, F, K, D]` to audio `[B, T]`, `synthesis_delay` samples behind the encoder's input."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        tower, bottleneck, quantizer = config.tower, config.bottleneck, config.quantizer
        latent_dim = config.latent_dim
        positions = config.spectrum.positions // math.prod(tower.frequency_strides)
        inputs = quantizer.tokens_per_frame * quantizer.codebook_dim
        self.project = linear(inputs, latent_dim)
        hidden = config.concealment_hidden
        self.concealment = Concealment(inputs, hidden, latent_dim) if hidden else None
        self.context = Serial(
            *(Residual(LatentGRU(latent_dim, config.gru_hidden)) for _ in range(config.decoder_gru_layers))
        )
        self.bottleneck = QueryExpansion(bottleneck, tower.channels[-1], positions, latent_dim, config.sample_rate)
        layers: list[nn.Module] = []
        for i in reversed(range(len(tower.time_strides))):
            stride = (tower.time_strides[i], tower.frequency_strides[i])
            layers += _rnn(i, positions, tower)
            after, before = tower.channels[i : i + 2]
            layers.append(FrequencyUp(before, after, tower.kernel, positions, stride, tower.activation))
            positions *= stride[1]
        layers.append(CausalConv2d(tower.channels[0], 2, tower.input_kernel, positions))
        self.tower = Serial(*layers)
        self.dense = (
            DenseSynthesis(positions, math.prod(tower.time_strides), config.decoder_dense_rank, latent_dim)
            if config.decoder_dense_rank
            else None
        )
        self.power_law = PowerLaw(config.spectrum.power)
        self.excitation: Excitation | RandomSigns | None = None
        if config.excitation.kind == "pulses":
            hops = math.prod(tower.time_strides)
            self.excitation = Excitation(config.excitation, config.spectrum, config.sample_rate, latent_dim, hops)
        elif config.excitation.kind == "signs":
            first = config.excitation.first_bin(config.spectrum.n_fft, config.sample_rate)
            self.excitation = RandomSigns(first, positions)
        has_postfilter = config.excitation.kind != "none" and config.excitation.contrast > 0
        self.postfilter = Postfilter(config.excitation, config.spectrum, config.sample_rate) if has_postfilter else None
        self.inverse_stft = InverseSTFT(config.spectrum, positions)
        excitation = [] if self.excitation is None else [self.excitation]
        self.timing = in_series([self.context, self.tower, *excitation, self.inverse_stft])

    def init_state(self, batch: int) -> State:
        """States of concealment, latent GRUs, tower, excitation and inverse STFT."""
        excitation = self.excitation.init_state(batch) if self.excitation is not None else ()
        return (
            self.concealment.init_state(batch) if self.concealment is not None else (),
            self.context.init_state(batch),
            self.tower.init_state(batch),
            excitation,
            self.inverse_stft.init_state(batch),
        )

    def drawn_state(self, batch: int) -> State:
        """The initial state of `synthesize` in training: zero, but the excitation starts at a random position."""
        excitation = self.excitation.drawn_state(batch) if self.excitation is not None else ()
        return excitation, self.inverse_stft.init_state(batch)

    def step(self, x: Tensor, state: State, lost: Tensor | None = None) -> tuple[Tensor, State]:
        """Consume frames, of which some may be lost (see `estimate`); return frame_length samples for each."""
        spectrum, before = self.spectrum_step(x, state, lost)
        audio, synthesis_state = self.inverse_stft.step(spectrum, state[-1])
        return audio, (*before, synthesis_state)

    def spectrum_step(self, x: Tensor, state: State, lost: Tensor | None = None) -> tuple[Tensor, State]:
        """A step without the inverse STFT: the spectrum of the output, `[B, 2, F * hops, Q]`, for the extension.

        Args:
            x: as in `step`.
            state: a state of the decoder, or all but its last part, which is not used and not returned.
            lost: as in `estimate`.
        """
        estimate, network_state = self.estimate(x, state[:NETWORK_STATES], lost)
        if self.postfilter is not None:  # not in `estimate` or `synthesize`, which training calls
            estimate = estimate._replace(spectrum=self.postfilter(estimate.spectrum))
        spectrum, excitation_state = self._excite(estimate, state[NETWORK_STATES])
        return spectrum, (*network_state, excitation_state)

    def estimate(self, x: Tensor, state: State, lost: Tensor | None = None) -> tuple[Estimate, State]:
        """Run the network, the first part of a step.

        Args:
            x: quantized frames `[B, F, K, D]`.
            state: the first NETWORK_STATES parts of the decoder's state, those of concealment, latent GRUs and tower.
            lost: which frames are lost, bool `[B, F]`; in their place `x` repeats the last frame that arrived.
        """
        quantized, concealment_state = x.flatten(2), state[0]
        frames = self.project(quantized)
        if self.concealment is not None:
            flags = torch.zeros_like(quantized[..., :1]) if lost is None else lost[..., None].to(quantized.dtype)
            correction, concealment_state = self.concealment.step(torch.cat([quantized, flags], dim=-1), state[0])
            frames = frames + correction
        frames, context_state = self.context.step(frames, state[1])
        features, tower_state = self.tower.step(self.bottleneck(frames), state[2])
        spectrum = features.permute(0, 3, 1, 2)
        if self.dense is not None:
            spectrum = spectrum + self.dense(frames)
        spectrum = self.power_law.expand(spectrum / SPECTRUM_GAIN)
        voicing = pitch = None
        if isinstance(self.excitation, Excitation):
            voicing, pitch = self.excitation.controls(frames)
        return Estimate(spectrum, voicing, pitch), (concealment_state, context_state, tower_state)

    def synthesize(self, estimate: Estimate, state: State, pitch: Tensor | None = None) -> tuple[Tensor, State]:
        """Run excitation and inverse STFT, the second part of a step: frame_length samples for each frame.

        Args:
            estimate: the output of `estimate`; it can be synthesized several times, from different states.
            state: the states of excitation and inverse STFT, the last two parts of the decoder's state.
            pitch: for an `Excitation`, grid points `[B, F * hops]` to use instead of the network's estimate.
        """
        spectrum, excitation_state = self._excite(estimate, state[0], pitch)
        audio, synthesis_state = self.inverse_stft.step(spectrum, state[1])
        return audio, (excitation_state, synthesis_state)

    def _excite(self, estimate: Estimate, state: State, pitch: Tensor | None = None) -> tuple[Tensor, State]:
        """The spectrum of the output, and the state of the excitation."""
        return (estimate.spectrum, ()) if self.excitation is None else self.excitation.step(estimate, state, pitch)

    @torch.no_grad()
    def amplify_(self, gain: float) -> None:
        """Multiply the output audio by `gain`, by scaling the weights of the layers that output the spectrum."""
        output = self.tower.layers[-1]
        assert isinstance(output, CausalConv2d)
        for layer in (output.conv, *([self.dense.layers[-1]] if self.dense is not None else [])):
            for parameter in layer.parameters():
                parameter.mul_(gain ** (1 / self.power_law.power))


class Codec(nn.Module):
    """Encoder, quantizer, decoder. Steps take whole frames and keep no state; sessions.py takes chunks of any size."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = (FSQuantizer if config.quantizer.kind == "fsq" else VectorQuantizer)(config.quantizer)
        self.decoder = Decoder(config)

    def init_state(self, batch: int) -> tuple[State, State]:
        """The zero states of encoder and decoder."""
        return self.encoder.init_state(batch), self.decoder.init_state(batch)

    def encode_step(self, audio: Tensor, state: State) -> tuple[Tensor, State]:
        """Audio `[B, T]`, T a multiple of frame_length, to codes `[B, T / frame_length * K]`, int64."""
        latent, state = self.encoder.step(audio, state)
        return self.quantizer.encode(latent).flatten(1), state

    def decode_step(self, codes: Tensor, state: State, lost: Tensor | None = None) -> tuple[Tensor, State]:
        """Codes `[B, N]`, N a multiple of tokens_per_frame, to audio `[B, N / K * frame_length]`.

        Args:
            codes: in place of lost frames they repeat the last frame that arrived.
            state: the decoder's.
            lost: which frames are lost, bool `[B, F]`; by default none.
        """
        return self.decoder.step(self._quantized(codes), state, lost)

    def spectrum_step(self, codes: Tensor, state: State, lost: Tensor | None = None) -> tuple[Tensor, State]:
        """`decode_step` without the inverse STFT: the input of an extension, as `Decoder.spectrum_step` returns it."""
        return self.decoder.spectrum_step(self._quantized(codes), state, lost)

    def _quantized(self, codes: Tensor) -> Tensor:
        """Codes `[B, N]` to the decoder's input `[B, F, K, D]`."""
        frames = codes.reshape(codes.shape[0], -1, self.config.quantizer.tokens_per_frame)
        quantized: Tensor = self.quantizer.decode(frames)
        return quantized

    def forward(self, audio: Tensor) -> tuple[Tensor, Quantized]:
        """Audio `[B, T]`, T a multiple of frame_length, to the delayed reconstruction and the quantizer's output."""
        quantized: Quantized = self.quantizer(self.encoder(audio))
        return self.decoder(quantized.quantized), quantized

    def estimate(
        self, audio: Tensor, state: tuple[State, ...], lost: Tensor | None = None
    ) -> tuple[Estimate, Quantized, tuple[State, State]]:
        """For training: run all layers that have parameters, from audio to the input of `Decoder.synthesize`.

        Args:
            audio: `[B, T]`, T a multiple of frame_length.
            state: the encoder's state, and the first NETWORK_STATES parts of the decoder's.
            lost: which frames are lost on their way to the decoder, bool `[B, F]`, never the first; by default none.
        """
        latent, encoder_state = self.encoder.step(audio, state[0])
        quantized: Quantized = self.quantizer(latent)
        frames = quantized.quantized if lost is None else repeated(quantized.quantized, lost)
        estimate, decoder_state = self.decoder.estimate(frames, state[1], lost)
        return estimate, quantized, (encoder_state, decoder_state)

    @property
    def num_parameters(self) -> int:
        """The number of learnable parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def frame_length(self) -> int:
        """Samples per code frame."""
        return int(self.encoder.timing.time_stride)

    @property
    def latency_samples(self) -> int:
        """Algorithmic latency in samples: the length of a frame plus the delay of the decoder's output."""
        timing = self.encoder.timing.then(self.decoder.timing)
        return int(timing.block + timing.latency)

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.config.sample_rate / self.frame_length

    @property
    def token_rate(self) -> float:
        """Tokens per second."""
        return self.config.token_rate

    @property
    def bitrate(self) -> float:
        """Bits per second of the codes."""
        return self.config.bitrate

    def macs_per_second(self) -> dict[str, float]:
        """Multiply-accumulates per second of audio, for "encoder" and "decoder" (macs.py)."""
        return macs_per_second(self, self.frame_length, self.frame_rate)
