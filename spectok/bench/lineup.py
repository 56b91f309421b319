"""Which codecs a benchmark compares: the released models, every rival that can run here, and the original itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from spectok import pretrained
from spectok.bench.costs import sizes
from spectok.bench.decoded import DecodedFiles
from spectok.bench.rivals import RIVALS
from spectok.errors import require
from spectok.evaluation.coders import Coder, Runnable, SpectokCoder, Uncoded


class Lineup(NamedTuple):
    """The codecs of a benchmark."""

    coders: list[Coder]  # whose quality is measured, and costs if they can be run
    weightless: list[Runnable]  # neural codecs whose weights are not here: only their costs are measured
    notices: list[str]  # a sentence for each rival that is left out, wholly or in part


def lineup(names: Sequence[str] | None = None, decoded: Sequence[DecodedFiles] = ()) -> Lineup:
    """The released models, the rivals with these names, by default all, files decoded elsewhere, and the original.

    Raises:
        InputError: there is no rival of that name, or decoded files have the name of another codec.
    """
    rivals: list[Any] = list(RIVALS.values())
    weightless: list[Runnable] = []
    notices = [notice for each in decoded if (notice := each.notice)]
    try:
        from spectok.bench.neural import NEURAL

        rivals += NEURAL.values()
    except ModuleNotFoundError as error:
        notices.append(f"left out: neural rivals need more packages: pip install 'spectok[neural]' ({error})")
    known = [rival.name for rival in rivals]
    unknown = sorted(set(names or ()) - set(known))
    require(not unknown, f"there is no rival {', '.join(unknown)}; there are {', '.join(known)}")
    taken = {name.lower() for name in (*pretrained.models(), *known, Uncoded.name)}
    for each in decoded:
        require(each.name.lower() not in taken, f"--decoded {each.name}: another codec has that name")
        taken.add(each.name.lower())
    coders: list[Coder] = [
        SpectokCoder.from_pretrained(name, more=sizes(pretrained.find(name))) for name in pretrained.models()
    ]
    for rival in rivals:
        if names and rival.name not in names:
            continue
        if rival.missing:
            notices.append(f"left out: {rival.missing}")
        elif rival.without_weights:
            notices.append(f"measured without quality: {rival.without_weights}")
            weightless.append(rival)
        else:
            coders.append(rival)
    return Lineup([*coders, *decoded, Uncoded()], weightless, notices)
