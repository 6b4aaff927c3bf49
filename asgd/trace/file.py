"""A timeline as a file for Perfetto or chrome://tracing.

The format is the Trace Event Format (a JSON object with ``traceEvents``): complete events (X) on one thread per track,
flow events (s, f) from the server's slices to those of the workers and back, names as metadata (M), times in
microseconds, in order. https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import json
from collections.abc import Iterator
from math import inf
from pathlib import Path

from asgd.trace.record import Record
from asgd.trace.timeline import COMPUTING, EXCHANGING, SERVER, SERVING, Arrow, Slice, timeline

NAME = "trace.json"
MOST = 2_000_000  # events in a file; viewers fail beyond
TRACKS = {SERVING: 0, COMPUTING: 0, EXCHANGING: 1}


def write(folder: Path, path: Path | None = None, start: float = 0.0, stop: float = inf) -> Path:
    """Write the timeline of the run in ``folder``, from ``start`` to ``stop`` [s], and return where.

    ValueError without a record, and for more events than viewers can show.
    """
    record = Record(folder)
    slices, arrows = timeline(record, start, stop)
    events = [*cut(slices, arrows, start, stop)]
    if len(events) > MOST:
        raise ValueError(f"{folder}: {len(events)} events are more than viewers show; give start= and stop= in seconds")
    path = path or folder / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    clock = "virtual seconds" if record.virtual else "seconds by the server's clock"
    with open(path, "w") as file:
        file.write(f'{{"displayTimeUnit": "ms", "otherData": {json.dumps({"run": str(folder), "time": clock})},\n')
        lines = (json.dumps(each, allow_nan=False) for each in [*names(slices), *events])
        file.write('"traceEvents": [\n' + ",\n".join(lines) + "\n]}\n")
    return path


def cut(slices: list[Slice], arrows: list[Arrow], start: float, stop: float) -> list[dict]:
    """The events of this time, in the order of time; an enclosing slice before the ends of arrows that are in it."""
    slices = [each for each in slices if each.begin <= stop and each.end >= start]
    arrows = [each for each in arrows if start <= each.source[2] and each.target[2] <= stop]
    events = [*complete(slices), *flow(arrows)]
    return sorted(events, key=lambda event: (event["ts"], event["ph"] != "X"))


def complete(slices: list[Slice]) -> Iterator[dict]:
    """X events. Rounding to nanoseconds lets no slice begin before the one before it has ended."""
    ends: dict[tuple, int] = {}
    for each in sorted(slices, key=lambda each: (each.begin, each.end)):
        place = pid, tid = ids(each.node, each.track)
        begin = max(nanoseconds(each.begin), ends.get(place, 0))
        end = ends[place] = max(begin, nanoseconds(each.end))
        times = {"ts": begin / 1e3, "dur": (end - begin) / 1e3}
        facts = {name: finite(value) for name, value in each.facts.items()}
        yield {"name": each.name, "cat": each.track, "ph": "X", **times, "pid": pid, "tid": tid, "args": facts}


def flow(arrows: list[Arrow]) -> Iterator[dict]:
    """s and f events, two for each arrow, with an id of their own."""
    for number, arrow in enumerate(arrows, 1):
        for phase, (node, track, time) in (("s", arrow.source), ("f", arrow.target)):
            pid, tid = ids(node, track)
            event = {"name": arrow.name, "cat": "flow", "ph": phase, "id": number, "ts": nanoseconds(time) / 1e3}
            yield event | {"pid": pid, "tid": tid} | ({"bp": "e"} if phase == "f" else {})


def names(slices: list[Slice]) -> Iterator[dict]:
    """M events: the names of nodes and of their tracks, and the nodes' order."""
    for node, track in sorted({(each.node, each.track) for each in slices}):
        pid, tid = ids(node, track)
        name = "server" if node == SERVER else f"worker {node}"
        for kind, facts in (
            ("process_name", {"name": name}),
            ("process_sort_index", {"sort_index": node}),
            ("thread_name", {"name": track}),
        ):
            yield {"name": kind, "ph": "M", "pid": pid, "tid": tid, "ts": 0, "args": facts}


def ids(node: int, track: str) -> tuple[int, int]:
    """Process and thread number; viewers have uses of their own for 0."""
    return 10 * (node + 1), 10 * (node + 1) + TRACKS[track]


def nanoseconds(time: float) -> int:
    return round(time * 1e9)


def finite(value):
    """JSON knows no other numbers."""
    return value if not isinstance(value, float) or abs(value) < inf else str(value)
