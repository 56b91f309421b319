"""Measure how many streams `spectok serve` carries on one core, and what it does beyond.

    python benchmarks/serve.py                        # about three minutes; leave the machine alone meanwhile
    python benchmarks/serve.py --model spectok-16k-800 --streams 40 48 --seconds 5 --out /tmp/serve.json

The server runs on one core, and this script, whose clients send 20 ms of different speech every 20 ms, on another.
The turn-round of a frame is the time from the moment at which it was due to be sent until its output has arrived;
frames that a slow server lets wait in the client count from when they were due. What comes back is compared with what
`Tokenizer` makes of the whole recording. Afterwards the server gets twice the streams that it carried (at most 80),
once with half of them as its limit and once without a limit; clients are killed in the middle of a word; and so is a
worker of two.
Writes `serve.json` beside this file; recipes/cards.py makes the table.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spectok import InputError, Tokenizer, pretrained
from spectok.audio import read_audio
from spectok.client import ServedStream, connect
from spectok.evaluation.provenance import weights_of, write_results
from spectok.samples import to_int16
from spectok.serve.protocol import Mode

SPEECH = [
    Path(__file__).parent.parent / "tests" / "data" / name for name in ("librispeech_84_16k.flac", "vctk_p259_48k.flac")
]
GOAL_SECONDS, GOAL_STREAMS = 0.040, 40  # of the 99th percentile of turn-rounds, and how many streams must meet it
WARM_UP = 25  # frames of each stream that are not measured
TRIES = 2  # of a load that is not carried, because other programs may have run at the same time
NOTICE_SECONDS = 0.5  # within which the server must have noticed that a client is gone


class Served:
    """A server in a process of its own.

    Args:
        arguments: of `spectok serve`.
        core: that it runs on; None for all.
    """

    def __init__(self, arguments: Sequence[str], core: int | None) -> None:
        pin = [] if core is None else ["taskset", "-c", str(core)]
        command = [*pin, sys.executable, "-m", "spectok", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        if not line:
            raise SystemExit("the server has not started")
        self.url = line[2]

    def metrics(self) -> dict[str, float]:
        """The values of /metrics, by their names with labels."""
        with urllib.request.urlopen(self.url.replace("ws", "http", 1) + "/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def cpu_seconds(self) -> float:
        """Processor time since the start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> float:
        """The resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def workers(self) -> list[int]:
        """The process ids of its workers; not of the process that tracks what they share."""
        children = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="utf-8").split()
        )
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def stop(self) -> int:
        """End it as Ctrl-C does; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(30)


@contextmanager
def served(*arguments: str, core: int | None = 0) -> Iterator[Served]:
    """A server that ends with the block."""
    server = Served(arguments, core)
    try:
        yield server
    finally:
        server.stop()


@dataclass
class Heard:
    """What a client got."""

    turns: list[float] = field(default_factory=list)  # seconds of each measured frame
    output: list[NDArray[Any]] = field(default_factory=list)
    refused: str = ""  # the sentence
    cut: str = ""  # the sentence with which the connection ended early


class Bench:
    """The recordings of all clients, and what they should get.

    Args:
        name: of the model.
        streams: the largest number of clients.
        seconds: of speech of each.
    """

    def __init__(self, name: str, streams: int, seconds: float) -> None:
        self.name, self.tokenizer = name, Tokenizer.from_pretrained(name, threads=1)
        rate, self.frame = self.tokenizer.sample_rate, self.tokenizer.frame_length
        speech = np.concatenate([read_audio(path, rate)[0] for path in SPEECH])
        self.frames = round(seconds * rate / self.frame)
        starts = [place * len(speech) // streams for place in range(streams)]
        self.audio = [to_int16(np.resize(np.roll(speech, -start), self.frames * self.frame)) for start in starts]
        self.codes = [self.tokenizer.encode(audio) for audio in self.audio]
        self.heard = [to_int16(self.tokenizer.decode(codes, self.frames * self.frame)) for codes in self.codes]

    async def client(self, url: str, number: int, mode: Mode, begin: float, kill_at: int | None = None) -> Heard:
        """Send a recording in real time from `begin` (time.monotonic()) on; a killed client ends without a word."""
        heard = Heard()
        try:
            async with connect(url, self.name, mode) as stream:
                receiving = asyncio.create_task(self._receive(stream, mode, begin, heard))
                try:
                    await self._speak(stream, number, begin, kill_at)
                    if kill_at is None:
                        await receiving
                finally:
                    receiving.cancel()
                    await asyncio.gather(receiving, return_exceptions=True)
        except InputError as error:
            if heard.output:
                heard.cut = str(error)
            else:
                heard.refused = str(error)
        return heard

    async def _speak(self, stream: ServedStream, number: int, begin: float, kill_at: int | None) -> None:
        for frame in range(self.frames):
            if frame == kill_at:
                stream.abort()
                return
            due = begin + frame * self.frame / self.tokenizer.sample_rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await stream.send(self.audio[number][frame * self.frame : (frame + 1) * self.frame])
        await stream.end()

    async def _receive(self, stream: ServedStream, mode: Mode, begin: float, heard: Heard) -> None:
        """Keep the output, and when each frame's arrived: its codes, or its samples up to the synthesis delay."""
        done, values = 0, 0
        size = self.tokenizer.tokens_per_frame if mode == "encode" else self.frame
        late = 0 if mode == "encode" else self.tokenizer.config.synthesis_delay
        while (part := await stream.receive()) is not None:
            now, values = time.monotonic(), values + len(part)
            heard.output.append(part)
            while done < self.frames and values >= (done + 1) * size - late:
                if done >= WARM_UP:
                    heard.turns.append(now - begin - done * self.frame / self.tokenizer.sample_rate)
                done += 1

    def different(self, mode: Mode, number: int, heard: Heard) -> int:
        """In how many codes, or in how many samples by more than one step of 16 bits, the output is another."""
        expected, most = (self.codes[number], 0) if mode == "encode" else (self.heard[number], 1)
        output = np.concatenate([*heard.output, np.zeros(0, np.int64)])
        if len(output) != len(expected):
            return abs(len(output) - len(expected))
        return int(np.count_nonzero(np.abs(output.astype(np.int64) - expected) > most))

    async def load(self, server: Served, streams: int, mode: Mode, kill: Sequence[int] = ()) -> dict[str, Any]:
        """Run so many clients at the same time; those in `kill` end in the middle.

        Returns:
            "streams", "mode", how many were "refused" and "cut", quantiles of the turn-rounds of the others in
            seconds, in how many values their output is "different", and of the server: "cpu_share" while they sent,
            seconds in "turns_share", the mean "batch", and the resident memory "megabytes" before and at the end.
        """
        memory, before, cpu = server.megabytes(), server.metrics(), server.cpu_seconds()
        begin = time.monotonic() + 0.5 + 0.01 * streams
        phases = np.random.default_rng(0).permutation(streams) / streams * self.frame / self.tokenizer.sample_rate
        found = await asyncio.gather(
            *(
                self.client(server.url, number, mode, begin + phase, self.frames // 2 if number in kill else None)
                for number, phase in enumerate(phases)
            )
        )
        wall, cpu = time.monotonic() - begin, server.cpu_seconds() - cpu
        after = await asyncio.to_thread(server.metrics)
        sums = {name: after[f"spectok_{name}"] - before[f"spectok_{name}"] for name in SUMS}
        whole = [n for n, heard in enumerate(found) if not heard.refused and not heard.cut and n not in kill]
        turns = np.concatenate([np.zeros(0), *(found[n].turns for n in whole)])
        quantiles = {f"p{q}": float(np.percentile(turns, q)) if len(turns) else None for q in (50, 95, 99)}
        return {
            "streams": streams,
            "mode": mode,
            "seconds": self.frames * self.frame / self.tokenizer.sample_rate,
            "refused": sum(bool(heard.refused) for heard in found),
            "cut": sum(bool(heard.cut) for heard in found),
            "killed": len(kill),
            "refusals": sorted({heard.refused for heard in found if heard.refused}),
            "frames": len(turns),
            **quantiles,
            "longest": float(turns.max()) if len(turns) else None,
            "values": sum(len(part) for n in whole for part in found[n].output),
            "different": sum(self.different(mode, n, found[n]) for n in whole),
            "cpu_share": cpu / wall,
            "turns_share": sums["busy_seconds_total"] / wall,
            "batch": sums["batched_streams_total"] / max(1.0, sums["batches_total"]),
            "megabytes": [memory, server.megabytes()],
        }


SUMS = ("busy_seconds_total", "batched_streams_total", "batches_total")


def carried(row: dict[str, Any]) -> bool:
    """Whether a server has carried all of its streams in real time."""
    return row["refused"] + row["cut"] == 0 and row["p99"] is not None and row["p99"] < GOAL_SECONDS


def measure(name: str, numbers: Sequence[int], seconds: float, core: int | None) -> Iterator[dict[str, Any]]:
    """The rows of one model: loads that grow, twice the largest that was carried, and killed clients."""
    bench, most = Bench(name, 2 * max(numbers), seconds), 0
    print(f"measuring {name}", flush=True)
    with served("--model", name, "--max-streams", "1000", core=core) as server:
        for streams in numbers:
            for _ in range(TRIES):
                row = asyncio.run(bench.load(server, streams, "transcode"))
                yield {"model": name, "what": "load"} | row
                if carried(row):
                    most = streams
                    break
            if most < streams:
                break
        most = min(most, GOAL_STREAMS)  # a limit needs some room, and more than the goal is for smaller loads
        if not most:
            return
        yield {"model": name, "what": "codes"} | asyncio.run(bench.load(server, most, "encode"))
        yield {"model": name, "what": "twice"} | asyncio.run(bench.load(server, 2 * most, "transcode"))
        killed = asyncio.run(bench.load(server, most, "transcode", kill=range(0, most, 4)))
        time.sleep(NOTICE_SECONDS)
        yield {"model": name, "what": "kill", "left": server.metrics()["spectok_streams"]} | killed
    with served("--model", name, "--max-streams", str(most), core=core) as server:
        yield {"model": name, "what": "limit"} | asyncio.run(bench.load(server, 2 * most, "transcode"))


async def _kill_worker(bench: Bench, server: Served, streams: int) -> dict[str, Any]:
    begin = time.monotonic() + 1.0
    clients = [asyncio.create_task(bench.client(server.url, n, "encode", begin)) for n in range(streams)]
    await asyncio.sleep(1.0 + bench.frames * bench.frame / bench.tokenizer.sample_rate / 2)
    killed = time.monotonic()
    dead = server.workers()[0]
    os.kill(dead, signal.SIGKILL)
    while len({*server.workers()} - {dead}) < 2 or await asyncio.to_thread(_count, server) != 2:
        await asyncio.sleep(0.05)
    back = time.monotonic() - killed
    found = await asyncio.gather(*clients)
    whole = [n for n, heard in enumerate(found) if not heard.cut and not heard.refused]
    return {
        "streams": streams,
        "cut": streams - len(whole),
        "seconds_until_back": back,
        "values": sum(len(part) for n in whole for part in found[n].output),
        "different": sum(bench.different("encode", n, found[n]) for n in whole),
    }


def _count(server: Served) -> float:
    try:
        return server.metrics()["spectok_workers"]
    except OSError:  # the connection was that of the worker that died
        return -1.0


def kill_worker(name: str, streams: int, seconds: float) -> dict[str, Any]:
    """Two workers, of which one is killed in the middle: how many streams end with it, and what the others get."""
    bench = Bench(name, streams, seconds)
    with served("--model", name, "--workers", "2", core=None) as server:
        return {"model": name, "what": "worker"} | asyncio.run(_kill_worker(bench, server, streams))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="may be repeated (default: all released models)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 32, 40, 48, 56, 64], help="to try")
    parser.add_argument("--seconds", type=float, default=8.0, help="of speech of each (default: %(default)g)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "serve.json")
    parser.add_argument(
        "--nice", type=int, default=0, help="change of priority of server and clients, where other programs run too"
    )
    args = parser.parse_args(arguments)
    os.nice(args.nice)
    names = args.model or pretrained.models()
    core = None
    if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) > 1:
        core = cores[0]
        os.sched_setaffinity(0, set(cores[1:]))
    rows = []
    for name in names:
        for row in measure(name, args.streams, args.seconds, core):
            rows.append(row)
            print(row, flush=True)
    if core is not None:
        os.sched_setaffinity(0, set(cores))
    rows.append(kill_worker(names[0], 8, args.seconds))
    print(rows[-1])
    goal = {"p99": GOAL_SECONDS, "streams": GOAL_STREAMS}
    write_results(args.out, {"goal": goal, "nice": args.nice, "rows": rows}, weights_of(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
