"""Watching a run: tables read as they grow, what is made of them, and how it is shown."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections import namedtuple
from itertools import pairwise
from types import SimpleNamespace

import pytest
from rich.console import Console

from asgd import display
from asgd.display import Display
from asgd.messages import Event
from asgd.records import EVALUATION, METRICS, UPDATES, Table, write_json
from asgd.results.folders import SILENT_SECONDS
from asgd.watch import __main__ as watch
from asgd.watch.panel import panel
from asgd.watch.progress import MEMORY, Progress, Reading, Seen, View
from asgd.watch.tails import Tail
from asgd.watch.watched import Watched, newest
from tests.conftest import ROOT
from tests.runs import run

# Tables that grow


def test_each_row_comes_once_and_a_torn_line_waits_for_its_end(tmp_path):
    path = tmp_path / "t.csv"
    tail = Tail(path)
    assert not list(tail.rows()) and not tail.replaced()
    for text, expected in (
        ("time_s,ev", []),
        ("ent,round,loss\n", []),
        ("0.5,join,,\n1.5,push,7,0", [(0.5, "join", None, None)]),
        (".25\n", [(1.5, "push", 7, 0.25)]),
        ("", []),
        ("2.0,push,8,nan\n3.0,pu", [(2.0, "push", 8, pytest.approx(float("nan"), nan_ok=True))]),
    ):
        with open(path, "a") as file:
            file.write(text)
        assert list(tail.rows()) == expected
    assert not tail.replaced()


def test_a_line_that_is_no_row_is_left_out(tmp_path):
    (tmp_path / "t.csv").write_text("round,loss\n1,0.5\n\x00\x00\x00\n2\nx,1.0\n3,0.25\n")
    assert list(Tail(tmp_path / "t.csv").rows()) == [(1, 0.5), (3, 0.25)]


def test_of_much_that_was_gained_only_the_last_whole_rows_are_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("round\n" + "".join(f"{number:05d}\n" for number in range(1000)))
    tail = Tail(path, most=32)
    assert [row.round for row in tail.rows()] == [995, 996, 997, 998, 999]
    with open(path, "a") as file:
        file.write("1000\n")
    assert [row.round for row in tail.rows()] == [1000]


def test_a_table_that_was_written_anew_is_noticed(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("round\n1\n2\n")
    tail = Tail(path)
    assert len(list(tail.rows())) == 2 and not tail.replaced()
    (tmp_path / "other").write_text("round\n1\n5\n6\n")
    os.replace(tmp_path / "other", path)
    assert tail.replaced()


# What is made of them


def pushed(worker: int, time_s: float, round: int, version: int, **fields) -> Event:
    given = {"staleness": 0, "applied": 1, "loss": 1.0, "samples": 4}
    return Event(time_s, "push", worker, round, version, **(given | fields))


def fed(*events: Event) -> Progress:
    progress = Progress()
    for event in events:
        progress.event(event)
    return progress


def test_loss_and_staleness_are_running_means_of_what_was_applied():
    progress, expected = fed(Event(0.0, "join", 1, round=0), pushed(1, 0.5, 0, 0, loss=8.0, applied=0)), None
    assert progress.loss.value is None
    for number in range(1, 201):
        progress.event(pushed(1, float(number), number, number, loss=float(number), staleness=number))
        share = 1 / min(number, MEMORY)
        expected = number if expected is None else expected + share * (number - expected)
        assert progress.loss.value == pytest.approx(expected) == progress.staleness.value
        assert number > MEMORY or progress.loss.value == pytest.approx((number + 1) / 2)
    assert (progress.version, progress.samples, progress.time) == (200, 800, 200.0)


def test_the_rate_of_a_worker_follows_from_the_times_of_its_pushes_even_where_some_were_not_seen():
    every = fed(Event(1.0, "join", 1, 0), *(pushed(1, 1.5 + 0.5 * k, k, k + 1) for k in range(9)))
    some = fed(Event(1.0, "join", 1, 0), *(pushed(1, 1.5 + 0.5 * k, k, k + 1) for k in (0, 3, 4, 8)))
    for seen in (every.workers[1], some.workers[1]):
        assert seen.rate == pytest.approx(4 / 0.5) and (seen.updates, seen.last) == (9, 5.5)


def test_whoever_is_kept_waiting_waits_from_its_push_to_the_version_it_is_given():
    """Two workers in step, which need 1 s and 3 s: the first one waits for 2 s in each round."""
    progress = fed(Event(0.0, "join", 1, 0, waiting=1), Event(0.0, "join", 2, 0))
    for k in range(5):
        progress.event(pushed(1, 3 * k + 1.0, k, k, waiting=1))
        progress.event(pushed(2, 3 * k + 3.0, k, k + 1))
    assert [progress.workers[worker].times()[1] for worker in (1, 2)] == [2.0, 0.0]


def test_waiting_for_others_is_no_exchange():
    seen = Seen()
    row = namedtuple("Row", METRICS)(*[0.0] * len(METRICS))._replace(compute_s=1.0, wait_s=2.75, data_s=0.25)
    seen.worked(row)
    assert seen.times() == (1.0, 0.25, 2.5)
    seen.held.add(2.0)
    assert seen.times() == (1.0, 2.25, 0.5)


def test_what_is_read_from_a_folder_equals_what_the_server_was_told(tmp_path):
    folder = run(tmp_path, "engine=threads", "workers=3", "budget.updates=40", "topology=sync")
    read, told = Reading(folder, events=True).read(), Progress()
    for row in Tail(folder / "stats/ps/updates.csv").rows():
        told.event(Event(*row[: len(Event._fields)]))
    assert (read.version, read.samples, read.time) == (told.version, told.samples, told.time)
    assert read.loss.value == told.loss.value and read.here == 0 == told.here
    assert [read.workers[each].updates for each in (1, 2, 3)] == [40] * 3
    assert all(read.workers[each].compute.value > 0 for each in (1, 2, 3))
    assert read.apply.value > 0 and all(read.workers[each].held.value >= 0 for each in (1, 2, 3))


# How it is shown


def a_view(seen: Progress, **fields) -> View:
    given = {"title": "outputs/x", "options": [], "state": "running", "updates": seen.version, "rate": 10.0}
    given |= {"seconds": 30.0, "fraction": 0.25, "alive": seen.here, "workers": len(seen.workers), "now": 100.0}
    return View(**(given | fields), progress=seen)


def shown(view: View, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(panel(view, width, height))
    return console.export_text().splitlines()


def many(number: int) -> Progress:
    """Worker k pushes 4 samples every k seconds; worker 7 is gone."""
    events = [Event(0.0, "join", worker, 0) for worker in range(1, number + 1)]
    events += [pushed(worker, float(worker), 0, worker) for worker in range(1, number + 1)]
    return fed(*events, Event(99.0, "leave", 7, 1, number))


def test_a_few_workers_are_all_shown_with_their_figures():
    events = [Event(0.0, "join", 1, 0, waiting=1), Event(0.0, "join", 2, 0)]
    lines = shown(a_view(fed(*events, pushed(1, 1.0, 0, 1), pushed(2, 2.0, 0, 2, staleness=1))))
    assert lines[0].split() == ["running", "outputs/x"]
    assert lines[1].split()[1:] == ["25%", "0:30", "left", "1:30", "2/2", "workers"]
    assert lines[2].split() == ["updates", "samples/s", "staleness", "compute", "wait", "exchange", "last", "seen"]
    rows = {line[:9].strip(): line[9:].split() for line in lines[3:6]}
    assert rows == {
        "server": ["2", "6", "0.50", "-", "1:38", "ago"],
        "worker 1": ["1", "4", "0.00", "-", "-", "-", "1:39", "ago"],
        "worker 2": ["1", "2", "1.00", "-", "-", "-", "1:38", "ago"],
    }
    assert "training loss 1.0000" in lines[-1]


@pytest.mark.parametrize(("number", "height"), [(200, 24), (200, 60), (16, 24), (17, 24), (1000, 9)])
def test_many_workers_fit_the_terminal_those_that_are_gone_and_the_slowest_first(number, height):
    assert all(len(shown(a_view(many(number)), width, height)) <= height for width in (50, 80, 200))
    lines = shown(a_view(many(number)), height=height)
    room = height - 8
    rows = [int(line.split()[1]) for line in lines if line.startswith("worker")]
    if number <= room:
        assert rows == list(range(1, number + 1))
    else:
        assert rows == [7, *(each for each in range(number, 0, -1) if each != 7)][:room]
        assert f"and {number - room} faster workers" in "".join(lines)


class Clock:
    """Real and CPU time that pass as a test says."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: self.now, thread_time=lambda: self.now))


def test_the_display_takes_a_hundredth_of_the_time_at_most(monkeypatch, capsys):
    clock, looks = Clock(monkeypatch), []

    def look() -> View:
        looks.append(clock.now)
        clock.now += 0.3
        return a_view(many(2))

    with Display() as screen:
        while clock.now < 100:
            screen.show(look)
            clock.now += 0.25
    gaps = [later - before for before, later in pairwise(looks)]
    assert len(looks) >= 3 and all(gap >= 100 * 0.3 for gap in gaps[1:]) and looks[0] >= Display.PLAIN
    assert capsys.readouterr().out.count("updates") == len(looks)


def test_a_display_that_fails_ends_and_the_run_goes_on(monkeypatch, caplog):
    clock, looks = Clock(monkeypatch), []

    def look() -> View:
        looks.append(clock.now)
        raise OSError("the terminal is gone")

    with Display() as screen:
        for clock.now in range(100):
            screen.show(look)
    assert len(looks) == 1 and "the display has ended, the run goes on: the terminal is gone" in caplog.text


# A run from its files


def told(*overrides: str, engine: str = "asgd.engines.rpc_engine.RpcEngine") -> dict:
    return {"config": {"workers": 2, "engine": {"_target_": engine}}, "overrides": overrides}


def half_a_run(folder, budget: dict | None = None) -> None:
    """A run that has not ended: 2 workers, 3 updates, an evaluation."""
    write_json(folder / "parameters.json", told("workers=2"))
    write_json(folder / "stats/ps/parameters.json", {"limits": budget or {"updates": 12}})
    table = Table(folder / "stats/ps/updates.csv", UPDATES)
    rows = [Event(0.0, "join", 1, 0, waiting=1), Event(1.0, "join", 2, 0)]
    for event in (*rows, *(pushed(1 + k % 2, 2.0 + k, k // 2, k + 1) for k in range(3))):
        table.row(*event, 0.001)
    table.close()
    judged = Table(folder / "stats/ps/evaluation.csv", EVALUATION)
    judged.row(4.0, 3, 3, 12, 0.5, 0.75, None)
    judged.close()


def silent(folder, seconds: float) -> None:
    """As if nothing had been written for so long."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_run_that_goes_on_is_seen_from_its_files(tmp_path):
    half_a_run(tmp_path)
    view = Watched(tmp_path).look()
    assert (view.state, view.updates, view.fraction, view.alive, view.workers) == ("running", 3, 0.25, 2, 2)
    assert (view.progress.judged.accuracy, view.progress.samples, view.ended) == (0.75, 12, False)


@pytest.mark.parametrize(
    ("budget", "used"), [({"updates": 12}, 3 / 12), ({"samples": 48}, 12 / 48), ({"seconds": 6.0}, 0.5)]
)
def test_the_part_of_the_budget_that_is_used(tmp_path, budget, used):
    half_a_run(tmp_path, budget)
    assert Watched(tmp_path).look().fraction == used  # the first models were given out at 1 s, and it is 4 s


def test_a_run_that_was_killed_is_silent_since_its_last_sign(tmp_path):
    half_a_run(tmp_path)
    silent(tmp_path, SILENT_SECONDS + 3600)
    then = time.strftime("%Y-%m-%d %H", time.localtime(time.time() - SILENT_SECONDS - 3600))
    view = Watched(tmp_path).look()
    assert view.state.startswith(f"silent since {then}") and not view.ended


def test_when_a_worker_was_last_seen_is_counted_on_by_the_calendar_and_stands_still_in_virtual_time(tmp_path):
    half_a_run(tmp_path)
    silent(tmp_path, 20)
    seen = Watched(tmp_path).look()
    assert seen.progress.workers[2].last == 3.0 and 4.0 + 20 <= seen.now < 4.0 + 20 + 60
    write_json(tmp_path / "parameters.json", told(engine="asgd.engines.virtual.VirtualEngine"))
    assert Watched(tmp_path).look().now == 4.0


def test_a_run_that_was_resumed_from_an_earlier_version_is_read_anew(tmp_path):
    half_a_run(tmp_path)
    run = Watched(tmp_path)
    assert run.look().updates == 3
    path = tmp_path / "stats/ps/updates.csv"
    lines = path.read_text().splitlines(keepends=True)
    (tmp_path / "shorter").write_text("".join(lines[:-2]))
    os.replace(tmp_path / "shorter", path)
    view = run.look()
    assert (view.updates, view.progress.samples, view.progress.workers[1].updates) == (1, 4, 1)


def test_a_finished_run_shows_its_summary(tmp_path):
    folder = run(tmp_path, "engine=virtual", "workers=2", "budget.updates=12", "evaluate.every=4")
    view = Watched(folder).look()
    assert (view.state, view.updates, view.fraction, view.ended) == ("ended: budget", 12, 1.0, True)
    assert view.progress.judged.version == 12 and view.alive == 2


def test_without_a_folder_the_newest_run_is_watched_in_sweeps_too(tmp_path):
    for number, name in enumerate(("2026-01-01/10-00-00", "sweeps/2026-01-02/0", "sweeps/2026-01-02/10")):
        half_a_run(tmp_path / name)
        silent(tmp_path / name, 1000 - number)
    assert newest(str(tmp_path)) == tmp_path / "sweeps/2026-01-02/10"
    with pytest.raises(ValueError, match="nothing: no run there"):
        newest(str(tmp_path / "nothing"))


def test_a_sweep_is_a_line_for_each_run_and_names_what_differs(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    for number, rate in enumerate((0.1, 0.2, 0.4)):
        half_a_run(tmp_path / str(number))
        write_json(tmp_path / str(number) / "parameters.json", told("workers=2", f"optimizer.lr={rate}"))
    silent(tmp_path / "1", 3600)
    write_json(
        tmp_path / "2/summary.json", {"ended": "diverged", "failed_workers": 0, "updates_per_s": 1, "seconds": 3}
    )
    watch.main(watch.Options((str(tmp_path),)))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["run", "state", "used", "updates", "loss", "accuracy", "best", "left"]
    assert [line[:4] for line in lines[2:]] == [
        ["0", "optimizer.lr=0.1", "running", "25%"],
        ["1", "optimizer.lr=0.2", "silent", "25%"],
        ["2", "optimizer.lr=0.4", "diverged", "25%"],
    ]


def test_mistakes_are_named_and_no_training_code_is_imported(tmp_path):
    code = "import sys, asgd.watch; sys.exit('torch' in sys.modules or 'asgd.server' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == 0
    with pytest.raises(ValueError, match="no run there"):
        watch.main(watch.Options((str(tmp_path),)))
    with pytest.raises(ValueError, match=r"every=0: seconds, more than 0"):
        watch.Options(every=0)


def test_on_a_terminal_it_follows_the_run_until_ctrl_c_which_is_no_error(tmp_path):
    half_a_run(tmp_path)
    screen, terminal = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    line = [sys.executable, "-m", "asgd.watch", str(tmp_path), "every=0.05"]
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    seen = until(screen, "25%")
    table = Table(tmp_path / "stats/ps/updates.csv", UPDATES)
    table.row(*pushed(2, 5.0, 1, 4), 0.001)
    table.close()
    seen += until(screen, "33%")
    process.send_signal(signal.SIGINT)
    seen += until(screen, None)
    assert process.wait(20) == 0 and "Traceback" not in seen
    os.close(screen)


def until(screen: int, text: str | None) -> str:
    """What comes up to a text; to the end of all where that is None."""
    seen = ""
    while text is None or text not in seen:
        assert select.select([screen], [], [], 30)[0], f"nothing comes any more after {seen}"
        try:
            block = os.read(screen, 4096)
        except OSError:  # nobody has the other end any more
            return seen
        if not block:
            return seen
        seen += block.decode(errors="replace")
    return seen
