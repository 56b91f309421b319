"""What spectok promises, with the tests that hold it and the figures that were measured, as Markdown."""

import math
import statistics
from collections.abc import Iterator

from benchmarks.tables import load
from spectok.cli.decoding import CONTEXT
from spectok.evaluation.catalogue import METRICS
from spectok.evaluation.tables import markdown_table

DAMAGE, STREAMS, MODELS = "test_container_damage.py", "test_cli_streams.py", "test_pretrained.py"
BENCHMARKS = "test_benchmarks.py"
PESQ = METRICS["pesq"].title
LOSSY = ("spectok-16k-4k", "spectok-16k-800")

# What was wrong in version 0.1, what is true now, and the tests that fail if it is not.
DEFECTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "No command read what is intact in a damaged file, and a killed `append` made a file unreadable.",
        "`verify`, `repair`, `decode --recover`, `--start` and `--end` exist; `append` works on a copy; files reach "
        "the disk before they are renamed.",
        (
            "test_cli_damage.py::test_verify_names_each_damaged_packet",
            "test_cli_damage.py::test_recover_decodes_what_a_cut_file_holds",
            f"{DAMAGE}::test_an_append_that_is_killed_leaves_the_file_and_the_next_one_clears_up",
            "test_files.py::test_a_file_is_on_the_disk_before_it_is_renamed",
        ),
    ),
    (
        "`encode` wrote at the end only: a kill lost everything, and a pipe got nothing before.",
        "Each packet is written when it is full, to pipes of unknown length too, in constant memory.",
        (
            f"{STREAMS}::test_packets_leave_the_encoder_when_they_are_full_and_the_decoder_when_they_arrive",
            f"{STREAMS}::test_live_encodings_that_are_killed_lose_the_packet_in_flight_only",
            f"{STREAMS}::test_memory_does_not_grow_with_the_length",
        ),
    ),
    (
        "A small file could claim to be gigabytes of audio, and all codes were read before any check of the model.",
        "The header is compared with the model first; sample rates end at 192 kHz; `--max-seconds` limits the output.",
        (
            "test_cli_damage.py::test_the_header_is_compared_with_the_model_before_the_codes_are_read",
            "test_cli_damage.py::test_longer_outputs_than_allowed_are_refused_before_they_are_written",
            f"{DAMAGE}::test_hostile_fields_behind_a_true_crc",
        ),
    ),
    (
        "A packet of another recording passed its checksum.",
        "The checksum of a packet depends on a random number of its file; a digest of the whole ends the file.",
        (
            f"{DAMAGE}::test_packets_of_another_file_are_detected",
            f"{DAMAGE}::test_the_digest_finds_packets_of_another_version_of_the_file",
        ),
    ),
    (
        "A `.spt` file could name a folder that was then loaded; configurations and graphs were not checked.",
        "A file names released models only; `config.json` and graphs are hashed, limited in size, and checked against "
        "each other.",
        (
            "test_cli_errors.py::test_a_folder_that_a_file_names_is_not_a_model",
            f"{MODELS}::test_a_model_file_must_be_regular_and_of_limited_size",
            f"{MODELS}::test_graphs_must_fit_the_configuration",
            f"{MODELS}::test_a_malformed_index_is_one_sentence",
        ),
    ),
    (
        "Closed standard streams gave tracebacks, and some file names could not be used.",
        "Closed streams and full devices are one sentence; names of any bytes work; messages are one line.",
        (
            "test_cli_errors.py::test_closed_standard_streams",
            "test_cli_errors.py::test_names_of_any_bytes_are_read_and_written",
            "test_cli_errors.py::test_names_are_shown_on_one_line_without_control_characters",
        ),
    ),
    (
        "Signals left temporary files, and an input could be its own output.",
        "A signal leaves nothing, the next run removes what a kill has left, and inputs are not overwritten.",
        (
            f"{STREAMS}::test_a_signal_ends_the_program_and_leaves_nothing",
            f"{STREAMS}::test_what_a_kill_leaves_the_next_run_removes",
            "test_cli_errors.py::test_the_input_is_not_overwritten",
        ),
    ),
    (
        "Sessions could be neither saved nor pickled, and two threads in one session were not noticed.",
        "Sessions are saved, copied and pickled at any point of a stream; a second thread is refused.",
        (
            "test_session_states.py::test_a_session_continues_bit_for_bit",
            "test_session_states.py::test_two_threads_in_one_session_are_refused_and_the_stream_is_whole",
        ),
    ),
    (
        "Audio files that were cut off were accepted.",
        "WAV, FLAC, AIFF, CAF, MP3 and Ogg files that are cut off are refused, as far as their headers tell.",
        ("test_truncation.py::test_every_cut_is_found",),
    ),
)


def page() -> str:
    """The tables of docs/reliability.md."""
    rows = [[promise, figure, f"`{script}`", _links(tests)] for promise, figure, script, tests in promises()]
    defects = [[before, now, _links(tests)] for before, now, tests in DEFECTS]
    return (
        f"{markdown_table(['promise', 'measured', 'by', 'tested by'], rows, align='llll')}\n\n"
        "## What was wrong in version 0.1\n\n"
        f"{markdown_table(['in version 0.1', 'now', 'tested by'], defects, align='lll')}\n"
    )


def named_tests() -> list[str]:
    """All tests that the page names, as `file::test`."""
    return [test for *_, tests in (*promises(), *DEFECTS) for test in tests]


def promises() -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """For each promise its words, the figure that was measured, the script that measures it, and the tests."""
    kills, memory, soak, fuzz = (load(f"{name}.json") for name in ("kills", "memory", "soak", "fuzz"))
    longest = max(row["minutes"] for row in memory["rows"])
    peak = max(row["megabytes"] for row in memory["rows"] if row["minutes"] == longest)
    yield (
        f"A live encoding of {longest / 60:g} hours and its decoding take at most 200 MB.",
        f"{peak:.0f} MB",
        "benchmarks/memory.py",
        (
            f"{BENCHMARKS}::test_the_committed_memory_does_not_depend_on_the_length",
            f"{STREAMS}::test_memory_does_not_grow_with_the_length",
        ),
    )
    yield (
        "A kill loses the packet that is being written and nothing else.",
        f"{kills['kills']} kills, {sum(kills['packets']):,} whole packets, all right",
        "benchmarks/kills.py",
        (
            f"{BENCHMARKS}::test_the_committed_kills_are_many_and_at_different_moments",
            f"{STREAMS}::test_live_encodings_that_are_killed_lose_the_packet_in_flight_only",
        ),
    )
    yield (
        "Damage of a `.spt` file is noticed: every changed byte, every cut, every packet in a wrong place.",
        "every byte of the files of the tests",
        "make test",
        (
            f"{DAMAGE}::test_every_damaged_byte_is_detected",
            f"{DAMAGE}::test_every_truncation_and_addition_is_detected",
            f"{DAMAGE}::test_packets_out_of_place_are_detected",
        ),
    )
    yield (
        "Files of every format version can be read, with the entropy model that wrote them if they have one.",
        "golden files of versions 1 and 2, of both models, and of version 3, of a small model of the tests",
        "make test",
        ("test_container.py::test_golden_files_are_read",),
    )
    executions = sum(row["executions"] for row in fuzz["rows"])
    yield (
        "Any input is read or refused with one `InputError`, within a second and with bounded memory.",
        f"{executions:,} executions on {len({row['input'] for row in fuzz['rows']})} kinds of input",
        "benchmarks/fuzz.py",
        (
            "test_fuzz.py::test_the_committed_run_has_mutated_every_kind_of_input",
            f"{DAMAGE}::test_random_bytes_raise_nothing_but_input_error",
        ),
    )
    growth = max(max(row["megabytes"]) - row["megabytes"][0] for row in soak["rows"])
    silence = max(max(row["silences"]) for row in soak["rows"])
    worst = min(statistics.mean(row["soaked"]) - statistics.mean(row["fresh"]) for row in soak["rows"])
    yield (
        "A stream of hours stays as it began: its memory, the time of a chunk, its quality, and its silence.",
        f"{soak['hours']:g} hours of each model: {growth:.1f} MB more after the first tenth, {PESQ} {worst:+.3f} or "
        f"better, silence at most {silence:.0f} dBFS",
        "benchmarks/soak.py",
        (
            f"{BENCHMARKS}::test_the_committed_memory_of_three_hours_is_constant",
            f"{BENCHMARKS}::test_the_committed_times_of_three_hours_are_constant",
            f"{BENCHMARKS}::test_the_committed_quality_after_three_hours_is_that_of_new_sessions",
            f"{BENCHMARKS}::test_the_committed_silence_of_three_hours_is_silent",
        ),
    )
    yield (
        "A saved (`state_dict`), copied or pickled session continues bit for bit, also in the middle of a frame.",
        "both engines, both directions",
        "make test",
        ("test_session_states.py::test_a_session_continues_bit_for_bit",),
    )
    groups, parts = load("groups.json")["rows"], load("context.json")["rows"]
    different, codes = (sum(row[key] for row in groups) for key in ("different", "codes"))
    yield (
        "Streams that join and leave a group get the codes of single sessions.",
        f"{different} of {codes:,} codes differ",
        "benchmarks/groups.py",
        (
            "test_groups.py::test_streams_of_a_group_equal_single_sessions",
            f"{BENCHMARKS}::test_the_committed_groups_save_time_and_change_few_codes",
        ),
    )
    served = [row for row in load("serve.json")["rows"] if row["what"] != "worker"]
    wrong, values = (sum(row[key] for row in served) for key in ("different", "values"))
    yield (
        "A server under too much load refuses or delays, and never gives wrong output.",
        f"{wrong} of {values:,} codes and samples differ, also at twice the load and with clients that are killed",
        "benchmarks/serve.py",
        (
            f"{BENCHMARKS}::test_the_committed_server_never_gave_wrong_output",
            "test_serve.py::test_many_streams_at_once_get_the_codes_of_single_ones",
        ),
    )
    yield (
        "Browsers and Node.js give the codes and the files of Python.",
        "two recordings at five sample rates, both models: no code differs",
        "make test",
        (
            "test_web_package.py::test_codes_are_those_of_python",
            "test_web_page.py::test_a_dropped_file_gives_the_codes_of_python",
            "test_web_page.py::test_saved_files_have_the_bytes_of_the_command_line",
        ),
    )
    minute = [row for row in parts if row["context"] == CONTEXT]
    least = ", ".join(f"{row['model']} {math.floor(min(row['decibels']))} dB" for row in minute)
    yield (
        "A part that `decode --start` decodes is close to that part of the whole.",
        f"difference below the audio by at least, after a context of {CONTEXT / 50:g} s: {least}",
        "benchmarks/context.py",
        (
            f"{BENCHMARKS}::test_the_committed_parts_are_close_to_the_whole",
            "test_cli_damage.py::test_a_part_near_the_start_is_that_of_the_whole",
        ),
    )
    yield (
        "Lost frames are concealed.",
        f"{PESQ} at 10 % of random loss: "
        + ", ".join(
            f"{name} {_at_loss(name, 0):.2f}, with each frame sent twice {_at_loss(name, 1):.2f}" for name in LOSSY
        )
        + ". The goals were 2.0 and 1.40 without repetition.",
        "benchmarks/loss.py",
        (f"{BENCHMARKS}::test_the_committed_quality_at_a_tenth_of_random_loss",),
    )


def _at_loss(model: str, redundancy: int) -> float:
    wanted = {"model": model, "rate": 0.1, "kind": "random", "redundancy": redundancy}
    return next(float(row["pesq"]) for row in load("loss.json")["rows"] if wanted.items() <= row.items())


def _links(tests: tuple[str, ...]) -> str:
    """Links to tests, which show their names without `test_` and with spaces."""
    parts = (test.split("::") for test in tests)
    return "; ".join(f"[{name.removeprefix('test_').replace('_', ' ')}](../tests/{file})" for file, name in parts)
