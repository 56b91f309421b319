"""The command that encodes a corpus: tokenize."""

import argparse
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from spectok.cli.files import status_line
from spectok.errors import InputError, require

if TYPE_CHECKING:
    from spectok.bulk.shards import Counts

logger = logging.getLogger(__name__)


def tokenize(args: argparse.Namespace) -> None:
    """Encode a corpus as Parquet files of tokens."""
    try:
        from spectok.bulk import run
        from spectok.bulk.summary import REJECTED
    except ModuleNotFoundError as error:
        raise InputError(f"spectok tokenize needs pyarrow: pip install 'spectok[bulk]' ({error})") from error
    require(args.jobs is None or args.jobs > 0, f"--jobs is {args.jobs}, but must be positive")
    began = time.monotonic()
    with status_line() as show:
        show("looking for recordings")

        def report(finished: int, total: int, done: "Counts", new: "Counts") -> None:
            seconds = time.monotonic() - began
            show(
                f"{finished}/{total} shards: {done.recordings} recordings, {done.rejected} rejected, "
                f"{done.seconds / 3600:.2f} h, {new.seconds / 3600 / max(seconds, 1e-3):.4f} h/s"
            )
            logger.info("%d of %d shards are finished", finished, total)

        found = run.tokenize(
            args.sources,
            args.out,
            model=args.model,
            engine=args.engine,
            device=args.device,
            jobs=args.jobs,
            ray=args.ray,
            shard_recordings=args.shard_recordings,
            shard_hours=args.shard_hours,
            batch=args.batch,
            root=args.root,
            report=report,
        )
    if not args.quiet:
        numbers = f"{found['recordings']:,} recordings, {found['hours']:.2f} hours, {found['tokens']:,} tokens"
        print(f"{numbers}, {found['token_statistics']['entropy_bits']:.2f} bits of entropy per token")
    if found["rejected"]:
        rejected = f"{found['rejected']} of {found['recordings'] + found['rejected']} recordings were rejected"
        raise InputError(f"{rejected}; the reasons are in {Path(args.out) / REJECTED}")
