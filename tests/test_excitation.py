"""The excitation, which generates the phases that the codes do not carry: pulses and noise, or random signs."""

import math

import pytest
import torch
from torch import Tensor

from spectok.config import EXCITATION_PERIOD, ExcitationConfig, SpectrumConfig
from spectok.model.contract import verify_streaming
from spectok.model.excitation import CYCLE, NOISE_FRAMES, PITCH_STEPS, Estimate, Excitation, PitchGrid, PulseTrain
from spectok.model.excitation import RandomSigns as Signs
from spectok.model.spectrum import STFT, InverseSTFT
from spectok.model.streaming import State, Streaming

CONFIG, SPECTRUM, RATE = ExcitationConfig(kind="pulses"), SpectrumConfig(), 16000
GRID = PitchGrid(CONFIG)
HOP = SPECTRUM.hop_length
SMALL = SpectrumConfig(n_fft=64, hop_length=16, synthesis_length=32)
FREQUENCIES = GRID.frequencies()
PITCHES = pytest.mark.parametrize("point", [0, 137, 500, 800, GRID.size - 1])


def pulse_train(band_limit: float = CONFIG.band_limit) -> PulseTrain:
    return PulseTrain(GRID, HOP, RATE, band_limit)


def excitation(spectrum: SpectrumConfig = SPECTRUM, above: float = 1500.0) -> Excitation:
    torch.manual_seed(0)
    config = ExcitationConfig(kind="pulses", above=above)
    return Excitation(config, spectrum, RATE, latent_dim=12, hops=2)


def frequency_of(audio: Tensor, near: float) -> float:
    """The frequency of the partial of `audio` `[T]` next to `near` Hz, from its phase difference between two halves."""
    audio = audio.double()
    half = len(audio) // 2
    times = torch.arange(len(audio), dtype=torch.float64)
    turned = audio * torch.exp(-2j * math.pi * near / RATE * times)
    window = torch.hann_window(half, dtype=torch.float64)
    first, second = (turned[:half] * window).sum(), (turned[half : 2 * half] * window).sum()
    return near + float(torch.angle(second * first.conj())) / (2 * math.pi * half) * RATE


def excited(layer: Excitation | Signs, estimate: Estimate) -> Tensor:
    """The output of a layer for an estimate, from the zero state."""
    return layer.step(estimate, layer.init_state(len(estimate.spectrum)))[0]


class Planes(Streaming):
    """An excitation layer on one tensor `[B, F, 3 + 1, Q]`: spectrum, voicing, and the pitch in the last plane."""

    def __init__(self, layer: Excitation | Signs) -> None:
        super().__init__()
        self.layer, self.timing = layer, layer.timing

    def init_state(self, batch: int) -> State:
        return self.layer.init_state(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if isinstance(self.layer, Signs):
            return self.layer.step(Estimate(x[:, :, :2].transpose(1, 2)), state)
        pitch = ((x[:, :, 3, 0] * 300).long() % (2 * GRID.size)) - GRID.size
        estimate = Estimate(x[:, :, :2].transpose(1, 2), x[:, :, 2, : CONFIG.voicing_bands], torch.zeros(()))
        return self.layer.step(estimate, state, pitch)


@pytest.mark.parametrize("above", [0.0, 1500.0])
def test_the_excitation_keeps_the_contract(above: float) -> None:
    layer = excitation(SMALL, above)
    layer.pitch_head = layer.voicing_head = torch.nn.Sequential()  # they are not part of the step
    verify_streaming(Planes(layer), torch.randn(2, 30, 4, 32), output_time_axis=2)


def test_streaming_gives_exactly_the_offline_phase() -> None:
    layer = pulse_train()
    pitches = torch.randint(-GRID.size, GRID.size, (2, 997), generator=torch.Generator().manual_seed(3))
    whole, end = layer.step(pitches, layer.init_state(2))
    for size in (1, 2, 7, 100):
        state, pieces = layer.init_state(2), []
        for chunk in pitches.split(size, dim=1):
            piece, state = layer.step(chunk, state)
            pieces.append(piece)
        assert all(torch.equal(a, b) for a, b in zip(state, end, strict=True))
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=2e-3)  # the peaks are 16
    assert end[0].dtype == torch.int64
    assert 0 <= int(end[0].min()) <= int(end[0].max()) < CYCLE


@PITCHES
def test_pulses_have_the_given_pitch(point: int) -> None:
    audio = pulse_train()(torch.full((1, 200), point))[0, 10 * HOP :]
    given = float(FREQUENCIES[point])
    for harmonic in (1, 5):
        cents = 1200 * math.log2(frequency_of(audio, harmonic * given) / (harmonic * given))
        assert abs(cents) < 0.01  # relative to the grid, which is within 1.7 cents


def test_the_grid_is_within_two_cents_of_every_pitch_in_its_range() -> None:
    frequencies = torch.logspace(math.log10(55), math.log10(520), 9999, dtype=torch.float64)
    nearest = FREQUENCIES[GRID.index(frequencies)]
    cents = 1200 * torch.log2(nearest / frequencies).abs()
    assert float(cents.max()) < 1.75
    assert GRID.index(torch.tensor([0.0, 20.0, 9000.0])).tolist() == [0, 0, GRID.size - 1]
    assert float(FREQUENCIES[0]) == pytest.approx(55) and float(FREQUENCIES[-1]) == pytest.approx(520)


@PITCHES
def test_pulses_have_nothing_above_the_band_limit(point: int) -> None:
    audio = pulse_train()(torch.full((1, 300), point))[0, 10 * HOP :].double()
    power = torch.fft.rfft(audio * torch.hann_window(len(audio), dtype=torch.float64)).abs().square()
    frequencies = torch.fft.rfftfreq(len(audio), 1 / RATE)
    above, below = power[frequencies > CONFIG.band_limit + 5].mean(), power[frequencies < CONFIG.band_limit].mean()
    assert 10 * math.log10(above / below) < -90


def test_a_glide_has_nothing_above_the_band_limit_and_no_clicks() -> None:
    """Over a second from 110 to 220 Hz, where the number of harmonics changes 35 times."""
    points = GRID.index(110 * 2 ** (torch.arange(100) / 100))[None]
    layer = pulse_train(band_limit=4000.0)
    spectrum = STFT(SpectrumConfig(n_fft=640, hop_length=160, synthesis_length=320))(layer(points))[0, :, 5:]
    power = spectrum.square().sum(0)  # [F, bins of 25 Hz]
    assert 10 * math.log10(power[:, 176:].mean() / power[:, :150].mean()) < -50  # from 4.4 kHz up
    assert 10 * math.log10(power[:, 176:].max() / power[:, :150].mean()) < -35


@PITCHES
def test_both_sources_have_unit_density(point: int) -> None:
    """Power within 0.3 dB of 1 in every 800 Hz: white noise of variance 1 has it in the codec's transform."""
    layer = excitation(above=0.0)
    harmonic = layer.stft(layer.pulses(torch.full((1, 500), point)))[0, :, 5:].square().sum(0).mean(0)
    noise = layer.noise.unflatten(1, (2, -1)).square().sum(1).mean(0)
    assert layer.noise.shape == (NOISE_FRAMES, 2 * SPECTRUM.positions)
    for power, last in ((noise, 160), (harmonic, 144)):
        for first in range(0, last, 48 if point > 500 else 16):  # at high pitches, some bands contain one more harmonic
            part = power[first : first + (48 if point > 500 else 16)]
            assert abs(10 * math.log10(part.mean())) < (1.5 if power is harmonic and point > 500 else 0.75)
    assert abs(10 * math.log10(noise.mean())) < 0.1
    assert abs(10 * math.log10(harmonic[:150].mean())) < 0.3


def test_an_hour_does_not_drift() -> None:
    """The phase after an hour in pieces equals that computed with integers, and the pulses are at the right places."""
    layer, point, hops = pulse_train(), 777, 360_000
    increment = int(layer.advances[point]) // (HOP - 1)
    state = (torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), point))
    for _ in range(36):
        _, state = layer.step(torch.full((1, hops // 36), point), state)
    assert int(state[0]) == hops * HOP * 2 * increment % CYCLE
    later, _ = layer.step(torch.full((1, 100), point), state)
    start = int(state[0]) / CYCLE
    phases = start + float(FREQUENCIES[point]) / RATE * torch.arange(1, 100 * HOP + 1, dtype=torch.float64)
    first = torch.cos(2 * math.pi * phases)
    amplitude = 2 * float((later[0].double() * first).mean())
    assert amplitude == pytest.approx(2 * math.sqrt(float(FREQUENCIES[point]) / RATE), rel=1e-2)


def test_pulses_are_the_sum_of_their_harmonics() -> None:
    layer, point = pulse_train(), 600
    frequency = float(FREQUENCIES[point])
    state = (torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), point))
    audio, _ = layer.step(torch.full((1, 3), point), state)
    phase = 2 * math.pi * frequency / RATE * torch.arange(1, 3 * HOP + 1, dtype=torch.float64)
    harmonics = [torch.cos(k * phase) for k in range(1, int(CONFIG.band_limit / frequency) + 1)]
    expected = 2 * math.sqrt(frequency / RATE) * torch.stack(harmonics).sum(0)
    torch.testing.assert_close(audio[0].double(), expected, rtol=0, atol=2e-3)  # its peak is 4.9


def test_silence_stays_silent_and_the_coded_phases_are_kept() -> None:
    layer = excitation()
    spectrum = torch.randn(1, 2, 40, SPECTRUM.positions)
    voicing, pitch = torch.zeros(1, 40, CONFIG.voicing_bands), torch.randn(1, 40, CONFIG.pitch_classes + 1)
    output = excited(layer, Estimate(spectrum, voicing, pitch))
    assert layer.first == 30
    assert torch.equal(output[..., :30], spectrum[..., :30])
    assert not torch.isclose(output[..., 30:], spectrum[..., 30:]).any()
    assert not excited(layer, Estimate(torch.zeros_like(spectrum), voicing, pitch)).any()


@pytest.mark.parametrize(("voicing", "is_voiced"), [(30.0, True), (-30.0, False)])
def test_voicing_chooses_between_pulses_and_noise(voicing: float, is_voiced: bool) -> None:
    layer = excitation(above=0.0)
    flat = torch.cat([torch.ones(1, 1, 300, SPECTRUM.positions), torch.zeros(1, 1, 300, SPECTRUM.positions)], dim=1)
    point = int(GRID.index(torch.tensor(200.0)))
    controls = torch.full((1, 300, CONFIG.voicing_bands), voicing), torch.zeros(1, 300, CONFIG.pitch_classes + 1)
    output, _ = layer.step(Estimate(flat, *controls), layer.init_state(1), torch.full((1, 300), point))
    audio = InverseSTFT(SPECTRUM, SPECTRUM.positions)(output)[0, 10 * HOP :]
    power = torch.fft.rfft(audio[:46400] * torch.hann_window(46400)).abs().square()
    harmonic = float(FREQUENCIES[point]) * 46400 / RATE  # bins between harmonics
    places = torch.arange(len(power)) / harmonic
    near = (places - places.round()).abs() < 0.1
    share = float(power[near].sum() / power.sum())
    assert share > 0.99 if is_voiced else share == pytest.approx(0.2, abs=0.02)


def test_the_pitch_is_the_mean_around_the_likeliest_class() -> None:
    places = torch.arange(72.0)
    near = -(places - 20.3).square() / 2
    octave = -(places - 42.2).square() / 2 - 0.5  # nearly as likely, but far away
    classes = torch.logsumexp(torch.stack([near, octave]), dim=0)

    def decoded(classes: Tensor, unvoiced: float = -9.0) -> int:
        return int(GRID.decode(torch.cat([classes, torch.tensor([unvoiced])])))

    point = decoded(classes)
    assert point == pytest.approx(20.3 * PITCH_STEPS, abs=2)
    assert decoded(classes, unvoiced=1.0) < 0
    assert decoded(torch.eye(72)[0] * 50) == 0
    assert decoded(torch.eye(72)[71] * 50) == GRID.size - 1
    assert float(GRID.position(torch.tensor(55.0))) == 0
    assert float(GRID.position(torch.tensor(520.0))) == pytest.approx(71)


def test_the_phase_is_reset_at_onsets() -> None:
    """Streams with different earlier pitches have the same phase from the next onset on, and not before."""
    layer = pulse_train()
    pitches = torch.full((2, 12), 700)
    pitches[:, 4:6] = -1 - 700  # unvoiced
    pitches[1, :3] = 650
    audio, (phase, _) = layer.step(pitches, layer.init_state(2))
    hops = audio.unflatten(1, (12, HOP))
    assert torch.equal(hops[0, 6:], hops[1, 6:]) and int(phase[0]) == int(phase[1])
    assert not torch.isclose(hops[0, 5], hops[1, 5]).all()
    fresh, _ = layer.step(pitches[:1, 6:], (torch.zeros(1, 1, dtype=torch.int64), pitches[:1, 5:6]))
    assert torch.equal(fresh[0], audio[0, 6 * HOP :])


def test_training_states_are_random_in_pulses_and_noise() -> None:
    layer = excitation()
    torch.manual_seed(5)
    (phase, pitch), stft, place = layer.drawn_state(50)
    assert len(set(phase.flatten().tolist())) == 50 and int(phase.min()) >= 0 and int(phase.max()) < CYCLE
    assert len(set(place.flatten().tolist())) > 30 and int(place.min()) >= 0 and int(place.max()) < NOISE_FRAMES
    assert not pitch.any() and not stft[0].any()


def test_random_signs_keep_the_contract() -> None:
    verify_streaming(Planes(Signs(3, 7)), torch.randn(2, 300, 2, 7), output_time_axis=2)


def test_random_signs_are_fair_and_differ_along_both_axes() -> None:
    signs = excited(Signs(50, 160), Estimate(torch.ones(1, 1, 128, 160)))[0, 0]
    assert torch.equal(signs[:, :50], torch.ones(128, 50))
    drawn = signs[:, 50:]
    assert torch.equal(drawn.abs(), torch.ones(128, 110))
    deviation = 1 / math.sqrt(drawn.numel())
    for value in (drawn, drawn[1:] * drawn[:-1], drawn[:, 1:] * drawn[:, :-1]):
        assert abs(float(value.mean())) < 3 * deviation


def test_random_signs_repeat_after_their_period() -> None:
    layer, ones = Signs(1, 40), torch.ones(2, 2, 300, 40)
    signs = excited(layer, Estimate(ones))
    assert torch.equal(signs[:, :, 128:256], signs[:, :, :128])
    two = Estimate(ones[:, :, :2])
    assert torch.equal(layer.step(two, (torch.tensor([[0], [126]]),))[0][1, 0], signs[0, 0, [126, 127]])
    assert torch.equal(layer.step(two, (torch.tensor([[0], [127]]),))[0][1, 0], signs[0, 0, [127, 0]])


def test_random_signs_remove_the_buzz_of_repeated_frames() -> None:
    """A signal that repeats in every hop has its energy at multiples of the frame rate; random signs remove most."""
    frame = torch.randn(1, 2, 1, 161, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 400, 1)

    def share(spectrum: Tensor) -> float:
        audio = InverseSTFT(SPECTRUM)(spectrum)[0, 160:]
        audio = audio[: len(audio) // 1600 * 1600]
        energy = torch.fft.rfft(audio).abs().square()
        return float(energy[:: len(audio) // 160].sum() / energy.sum())

    assert share(frame) == pytest.approx(1, abs=1e-6)
    signed = excited(Signs(1, 160), Estimate(frame[..., :160]))
    assert share(torch.nn.functional.pad(signed, (0, 1))) < 0.05


def test_both_fixed_sequences_begin_again_after_the_common_period() -> None:
    assert math.lcm(NOISE_FRAMES, Signs.PERIOD) == EXCITATION_PERIOD
