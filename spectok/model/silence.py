"""Digital silence: one frame of codes for as long as the input is exactly zero."""

import torch
from torch import Tensor, nn

from spectok.codebook import grid
from spectok.config import QuantizerConfig
from spectok.model.streaming import State

HOLD_FRAMES = 25  # frames of zeros after which a frame counts as silence: half a second at 50 Hz


class Silence(nn.Module):
    """Replace the latent `[B, F, K, D]` of silent frames by one that gives the codes `silence_codes`.

    Without this, the recurrent layers of an encoder need a minute to settle on digital silence, or wander between many
    codes for ever. A frame is silent if its samples and those of the `HOLD_FRAMES` frames before it are all zero; there
    is silence before the start of a stream. The replacement does not change the encoder's other states.

    Args:
        codes: of one frame, K integers.
        quantizer: a scalar quantizer (fsq).
        frame_length: samples in a frame.
    """

    def __init__(self, codes: tuple[int, ...], quantizer: QuantizerConfig, frame_length: int) -> None:
        super().__init__()
        self.frame_length = frame_length
        levels = torch.tensor(quantizer.levels)
        points = torch.from_numpy(grid(quantizer.levels)[list(codes)])  # [K, D], from -1 to 1
        middles = points * ((levels - 1) / levels)  # of the regions of the codes: the outermost end at -1 and 1
        self.register_buffer("latent", torch.atanh(middles), persistent=False)
        self.latent: Tensor

    def init_state(self, batch: int) -> State:
        """Which of the last `HOLD_FRAMES` frames held a sample other than zero, 0 or 1, `[B, HOLD_FRAMES]`."""
        return (self.latent.new_zeros(batch, HOLD_FRAMES),)

    def replace(self, latent: Tensor, audio: Tensor, state: State) -> tuple[Tensor, State]:
        """The latent with silent frames replaced, and the next state.

        Args:
            latent: `[B, F, K, D]`.
            audio: the samples of its frames, `[B, F * frame_length]`.
            state: from `init_state` or an earlier call.
        """
        sounds = (audio.unflatten(1, (-1, self.frame_length)) != 0).any(-1).to(self.latent.dtype)
        recent = torch.cat([state[0], sounds], dim=1)
        is_silent = nn.functional.max_pool1d(recent[:, None], HOLD_FRAMES + 1, 1)[:, 0] == 0
        return torch.where(is_silent[..., None, None], self.latent, latent), (recent[:, -HOLD_FRAMES:],)
