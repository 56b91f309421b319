"""The ids and the network of the language model, and the bits that it needs for a code.

A codebook of 65,536 entries is too large for a corpus of a few hours: most of its entries occur a few times only. Each
code is therefore written as two ids of 8 bits, first `code % 256` and then `code // 256`. For FSQ with 4 levels these
are the digits 0 to 3 and 4 to 7 of the grid. A sequence is

    begin  [characters of the text  text]  ids of the codes  end

without the part in brackets where no text is known. `text` is the special token that ends the text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from spectok.errors import InputError, require
from spectok.tokenizer import Tokenizer
from spectok.vocabulary import Vocabulary

PARTS, PART_SIZE = 2, 256  # ids of a code, and different ids of each part
CODEBOOK_SIZE = PART_SIZE**PARTS
VOCABULARY = Vocabulary(PART_SIZE, PARTS, separate=True)
BEGIN, END, PAD, TEXT = map(VOCABULARY.id_of, ("begin", "end", "pad", "text"))
CHARACTERS = " '0123456789abcdefghijklmnopqrstuvwxyz"  # others are left out of a text
FIRST_CHARACTER = VOCABULARY.end_of_ids
SIZE = FIRST_CHARACTER + len(CHARACTERS)  # of the whole vocabulary
IGNORED = -100  # the label of ids that are not to be predicted

Ids = NDArray[np.int64]

disable_progress_bar()  # of reading and writing weights


def split(codes: Any) -> Ids:
    """The ids `[2 N]` of codes `[N]`.

    Raises:
        InputError: a code is not from 0 to 65,535.
    """
    codes = np.asarray(codes, np.int64)
    high, low = np.divmod(codes, PART_SIZE)
    ids: Ids = VOCABULARY.encode(np.stack([low, high], axis=-1).reshape(-1))
    return ids


def join(ids: Ids) -> Ids:
    """The codes `[N]` of ids `[2 N]`; special tokens before and after them are left out.

    Raises:
        InputError: an id is not one of its part of a code, or the last code is not complete.
    """
    low, high = VOCABULARY.decode(ids).reshape(-1, PARTS).T
    codes: Ids = np.asarray(low + PART_SIZE * high)
    return codes


def spell(text: str) -> Ids:
    """The ids `[C]` of a text: of its letters in lower case, digits, apostrophes and single spaces."""
    kept = "".join(letter if letter in CHARACTERS else " " for letter in text.lower())
    return np.array([FIRST_CHARACTER + CHARACTERS.index(letter) for letter in " ".join(kept.split())], np.int64)


def opening(text: str = "") -> Ids:
    """The ids before those of the codes: `begin`, and for a text its characters and `text`."""
    return np.array([BEGIN, *spell(text), TEXT] if text else [BEGIN], np.int64)


def network(tokenizer: Tokenizer, width: int, layers: int, heads: int, context: int, seed: int = 0) -> LlamaForCausalLM:
    """A Llama with random weights, whose input and output embeddings are the same.

    The embeddings of the codes begin as a random projection of the quantizer's vectors, plus noise, so that codes of
    similar sounds begin with similar probabilities.

    Args:
        tokenizer: of the codes; its name and the hash of its weights are kept in the configuration.
        width: of the hidden states, a multiple of `heads`; that of the feed-forward layers is 2.75 times as large.
        layers: number of layers.
        heads: number of attention heads.
        context: number of positions.
        seed: of the weights.

    Raises:
        InputError: the codec does not have one code of 16 bits per frame, or the sizes do not fit each other.
    """
    name = tokenizer.config.name
    fits = tokenizer.codebook_size == CODEBOOK_SIZE and tokenizer.tokens_per_frame == 1
    found = f"{tokenizer.tokens_per_frame} of {tokenizer.codebook_size:,}"
    require(fits, f"the codec must have one code of {CODEBOOK_SIZE:,} entries per frame, but {name} has {found}")
    divides = min(width, layers, heads) > 0 and width % (2 * heads) == 0
    require(divides, f"the width must be a multiple of twice the heads, but they are {width} and {heads}")
    require(context >= 8, f"the context must be at least 8 positions, not {context}")
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": SIZE,
        "hidden_size": width,
        "intermediate_size": round(2.75 * width),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "codec": {"name": name, "weight_hash": tokenizer.weight_hash},
    }
    config = LlamaConfig(**settings)
    model = LlamaForCausalLM(config)
    spread, table = config.initializer_range, model.model.embed_tokens.weight
    with torch.no_grad():
        for part in range(PARTS):
            vectors = torch.tensor(tokenizer.code_vectors(np.arange(PART_SIZE) * PART_SIZE**part))
            vectors = (vectors - vectors.mean(0)) / vectors.std(0).norm()  # the digits of the other part become 0
            rows = slice(part * PART_SIZE, (part + 1) * PART_SIZE)
            table[rows] = spread * (vectors @ torch.randn(vectors.shape[1], width)) + 0.5 * table[rows]
    return model


def load(folder: Path) -> LlamaForCausalLM:
    """The model that `train.py` has written to RUN/model.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    folder = folder / "model"
    require((folder / "config.json").is_file(), f"there is no language model in {folder}")
    try:
        model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of several libraries, which have no common base class
        raise InputError(f"cannot read the language model in {folder}: {error}") from error
    require(hasattr(model.config, "codec") and model.config.vocab_size == SIZE, f"{folder} holds another kind of model")
    model.eval()
    return model


def codec_of(model: LlamaForCausalLM) -> Tokenizer:
    """The codec whose codes a model writes.

    Raises:
        InputError: it is not there, or has other weights now.
    """
    known = model.config.codec
    tokenizer = Tokenizer.from_pretrained(known["name"])
    same = tokenizer.weight_hash == known["weight_hash"]
    require(same, f"the language model writes codes of other weights of {known['name']}")
    return tokenizer


@torch.inference_mode()
def code_bits(model: LlamaForCausalLM, recordings: Sequence[Ids], texts: Sequence[str] | None = None) -> NDArray[Any]:
    """The bits that a model needs for the codes of recordings; `end` is not counted.

    A recording that is longer than the context is read in parts that overlap by half of it, each after `begin`.

    Args:
        model: the language model.
        recordings: ids `[2 N]` of the codes of each recording.
        texts: of each recording; by default none.

    Returns:
        Bits, float64 `[R]`: the sum over the codes of each recording.
    """
    context, sums = model.config.max_position_embeddings, []
    for number, ids in enumerate(recordings):
        before = opening(texts[number] if texts else "")
        room, total, done = (context - len(before)) // PARTS * PARTS, 0.0, 0
        require(room >= 2 * PARTS, f"the text of recording {number} is longer than the context of the model")
        while done < len(ids):
            start = 0 if done == 0 else done - room // (2 * PARTS) * PARTS
            part = ids[start : start + room]
            row = torch.tensor(np.concatenate([before, part]), device=model.device)[None]
            logits = model(input_ids=row).logits[0, len(before) - 1 + done - start : -1].float()
            total += float(functional.cross_entropy(logits, row[0, len(before) + done - start :], reduction="sum"))
            done = start + len(part)
        sums.append(total / np.log(2))
    return np.array(sums)


def pick(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    """Draw an id from each row: the likeliest ids whose probabilities make up `top_p` (A. Holtzman et al., 2020).

    Args:
        logits: `[B, V]`; ids that are not allowed have minus infinity.
        temperature: divides the logits; 0 takes the likeliest id.
        top_p: over 0, at most 1.
        generator: of the random numbers, on the CPU.

    Returns:
        Ids `[B]`.
    """
    if temperature == 0:
        return logits.argmax(-1)
    sorted_, order = (logits.float() / temperature).softmax(-1).sort(descending=True)
    sorted_ = torch.where(sorted_.cumsum(-1) - sorted_ < top_p, sorted_, 0.0)
    drawn = torch.multinomial(sorted_.cpu(), 1, generator=generator).to(order.device)
    return order.gather(-1, drawn)[:, 0]
