"""Settings and fixtures of all tests: seeds, one thread, recorded speech, and a tiny codec of each kind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recipes.prepare import prepare
from spectok.audio import read_audio, write_audio
from spectok.config import BottleneckConfig, CodecConfig, QuantizerConfig, SpectrumConfig, TowerConfig

SPECTRUM = SpectrumConfig(n_fft=64, hop_length=16, synthesis_length=32)
TOWER = TowerConfig(channels=(4, 8), frequency_strides=(2,), time_strides=(2,))
QUERY = CodecConfig(
    name="tiny-query",
    spectrum=SPECTRUM,
    tower=TOWER,
    bottleneck=BottleneckConfig(queries=4, heads=2),
    quantizer=QuantizerConfig(tokens_per_frame=2, levels=(4, 4, 4), codebook_size=64, codebook_dim=3),
    latent_dim=12,
    encoder_dense_rank=6,
    decoder_dense_rank=10,
    gru_hidden=9,
)
FLAT_TOWER = TowerConfig(
    channels=(4, 6, 8, 10), frequency_strides=(4, 4, 2), time_strides=(1, 2, 1), kernel=(3, 4), residual=False
)
FLAT = CodecConfig(
    name="tiny-flat",
    spectrum=SPECTRUM,
    tower=FLAT_TOWER,
    bottleneck=BottleneckConfig(kind="flat"),
    quantizer=QuantizerConfig(tokens_per_frame=3, levels=(5, 3), codebook_size=15, codebook_dim=2),
    latent_dim=12,
    encoder_dense_rank=0,
    decoder_dense_rank=0,
    encoder_gru_layers=0,
    decoder_gru_layers=0,
)
VQ = CodecConfig(
    name="tiny-vq",
    spectrum=SPECTRUM,
    tower=TOWER,
    bottleneck=BottleneckConfig(queries=3, heads=4),
    quantizer=QuantizerConfig(kind="vq", tokens_per_frame=4, codebook_size=32, codebook_dim=3, pool_size=256),
    latent_dim=12,
    encoder_dense_rank=6,
    decoder_dense_rank=0,
    gru_hidden=9,
    encoder_gru_layers=0,
    decoder_gru_layers=2,
)


def missed(reached: str) -> pytest.MarkDecorator:
    """The mark of a test of a goal that is not reached; it fails if the goal is reached, or anything else happens."""
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=reached)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def speech() -> NDArray[np.float32]:
    """Four seconds of recorded speech, float32 `[T]` at 16 kHz."""
    return read_audio(Path(__file__).parent / "data" / "librispeech_84_16k.flac", 16000)[0]


@pytest.fixture(scope="session")
def prepared(speech: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder with the speech: the first half for validation, two other parts for training."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, clip in (("0", speech[:32000]), ("1", speech[32000:]), ("2", speech[16000:48000])):
        write_audio(folder / f"{name}.wav", clip, 16000)
    prepare(folder, folder / "prepared", 16000)
    return folder / "prepared"


@pytest.fixture
def query_config() -> CodecConfig:
    return QUERY


@pytest.fixture
def flat_config() -> CodecConfig:
    return FLAT


@pytest.fixture
def vq_config() -> CodecConfig:
    return VQ
