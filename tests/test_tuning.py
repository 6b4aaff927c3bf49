"""What is tried when one option is tuned, on scripted scores; what a run counts; and a whole fair comparison."""

import csv
import re
from math import inf, log2
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from asgd import objectives, results
from asgd.summary import target_seconds
from asgd.tuning import Search
from tests.scripted import CONF


def tuned(score, trials: int, start: float = 0.1, factor: float = 2.0) -> tuple[Search, list[int]]:
    """The search after all trials, and the places it tried in that order."""
    search, tried = Search(start, factor, trials), []
    while places := search.next():
        for place in places:
            search.tell(place, score(search.value(place)))
            tried.append(place)
    return search, tried


def valley(at: float):
    """A score that is smallest at the value ``at``."""
    return lambda value: (abs(log2(value / at)),)


@pytest.mark.parametrize(
    ("at", "places"),
    [
        (0.11, [-2, 0, 2, 1, -1]),  # inside: its better neighbour's side first, then the other
        (0.19, [-2, 0, 2, 1, -1]),  # between two: the new one is the best, the next nearest on its better side follows
        (0.38, [-2, 0, 2, 4, 1]),  # at the edge: beyond it; then what is nearest to the best
        (6.4, [-2, 0, 2, 4, 6]),
        (0.001, [-2, 0, 2, -4, -6]),
    ],
)
def test_the_places_that_are_tried_follow_the_scores(at, places):
    assert tuned(valley(at), trials=5)[1] == places


@pytest.mark.parametrize(
    ("at", "best", "edge"), [(0.1, 0.1, False), (0.2, 0.2, False), (6.4, 6.4, True), (100, 6.4, True)]
)
def test_a_best_value_at_the_edge_of_what_was_tried_is_flagged(at, best, edge):
    search, _ = tuned(valley(at), trials=5)
    assert (search.value(search.best), search.at_edge) == (best, edge)
    assert not (edge and search.settled)


def test_a_best_value_is_settled_once_both_beside_it_were_tried():
    assert [tuned(valley(0.4), trials)[0].settled for trials in (3, 4, 5, 6)] == [False, False, False, True]
    assert [tuned(valley(0.2), trials)[0].settled for trials in (3, 4, 5)] == [False, True, True]
    assert tuned(valley(0.1 / 16), trials=7)[0].settled and not tuned(valley(0.1 / 64), trials=7)[0].settled


@pytest.mark.parametrize("trials", [3, 4, 7, 12])
@pytest.mark.parametrize("at", [1e-3, 0.1, 0.3, 50.0])
def test_everybody_has_the_same_number_of_trials_and_none_twice(trials, at):
    places = tuned(valley(at), trials)[1]
    assert len(places) == len(set(places)) == trials


def test_where_all_diverge_smaller_values_are_tried_and_where_none_gets_there_the_second_score_decides():
    assert tuned(lambda value: (inf, inf), trials=5)[1] == [-2, 0, 2, -4, -6]
    assert tuned(lambda value: (inf, 1 / value), trials=4)[1] == [-2, 0, 2, 4]


def test_values_are_on_one_lattice():
    search = Search(start=0.1, factor=3.0, trials=3)
    assert [search.value(place) for place in (-2, 0, 1, 2)] == [0.0111111, 0.1, 0.3, 0.9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2, 5), "start=0: "),
        ((0.1, 1, 5), "factor=1: "),
        ((0.1, 2, 2), "trials=2: "),
        ((0.1, 2, 4.5), "trials=4.5: "),
    ],
)
def test_a_search_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        Search(*arguments)


def test_a_run_counts_its_objective_and_the_worst_there_is_without_one():
    good = {"ended": "budget", "final_accuracy": 0.9, "final_loss": 0.3, "target_seconds": None}
    assert objectives.value(good, "final_accuracy") == 0.9
    assert objectives.value(good, ["target_seconds", "final_loss"]) == [inf, 0.3]
    diverged = good | {"ended": "diverged"}
    assert objectives.value(diverged, ["final_accuracy", "final_loss"]) == [-inf, inf]


def test_more_is_better_for_what_is_learnt_and_its_speed_and_less_for_what_it_costs():
    better = {name: objectives.direction(name) for name in ("best_accuracy", "samples_per_s", "updates", "applied")}
    assert set(better.values()) == {"maximize"}
    worse = ("final_loss", "seconds", "staleness_mean", "dropped", "skipped_samples", "bytes_pushed", "target_seconds")
    assert objectives.direction(list(worse)) == ["minimize"] * len(worse)


@pytest.mark.parametrize(
    ("target", "seconds"),
    [
        ({"loss": 0.5, "accuracy": None}, 4.0 - 1.5),
        ({"loss": None, "accuracy": 0.9}, 8.0 - 1.5),
        ({"loss": 0.5, "accuracy": 0.8}, 6.0 - 1.5),  # the first that is as good as both
        ({"loss": 0.1, "accuracy": None}, None),
        ({"loss": None, "accuracy": None}, None),
    ],
)
def test_the_time_to_a_target_counts_from_the_first_model_to_the_first_evaluation_as_good(tmp_path, target, seconds):
    folder = tmp_path / "stats/ps"
    folder.mkdir(parents=True)
    (folder / "updates.csv").write_text("time_s,event\n0.5,join\n1.5,join\n2.0,push\n3.0,join\n4.0,push\n")
    evaluations = "2.0,0.9,0.5\n4.0,0.5,0.7\n6.0,0.45,0.85\n8.0,0.6,0.95\n"
    (folder / "evaluation.csv").write_text("time_s,loss,accuracy\n" + evaluations)
    assert target_seconds(tmp_path, **target) == seconds


QUADRATIC = (
    *("model=quadratic", "dataset=noise", "dataset.shape=[3]", "model.eigenvalues=[0.3,0.7,1.0]", "engine=virtual"),
    *("budget.epochs=null", "budget.updates=20", "checkpoint.every=0", "evaluate.every=10", "objective=final_loss"),
)


def rows(sweep) -> list[dict]:
    with open(sweep / "tuning.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_each_case_is_tuned_with_as_many_runs_and_reported_on_other_seeds(start, tmp_path):
    sweep, again = tmp_path / "sweep", tmp_path / "again"
    words = ("-m", "hydra/sweeper=tuned", *QUADRATIC, "topology=sync,async", "hydra.sweeper.seeds=[0]")
    command = start(*words, "hydra.sweeper.trials=3", "hydra.sweeper.tuning_seeds=[7,8]", f"hydra.sweep.dir={sweep}")
    output = command.wait(180)
    assert command.code == 0, output
    tuning, reported, table = results.load(sweep / "tuning"), results.load(sweep / "reported"), rows(sweep)
    assert sorted(tuning.seed) == [7] * 6 + [8] * 6 and list(reported.seed) == [0, 0]
    for rule, name in (("MeanOfWorkers", "sync"), ("MeanOfUpdates", "async")):
        tried = [row for row in table if f"topology={name}" in row["case"].split()]
        assert [float(row["optimizer.lr"]) for row in tried] == [0.025, 0.1, 0.4]
        runs = tuning[tuning["topology.rule._target_"].str.endswith(rule)]
        means = runs.groupby("optimizer.lr").final_loss.mean()
        assert [float(row["final_loss"]) for row in tried] == pytest.approx(list(means))
        assert [float(row["optimizer.lr"]) for row in tried if row["chosen"] == "1"] == [means.idxmin()]
        assert {row["settled"] for row in tried} == {"0"}  # with three values, two steps apart
        assert any(re.search(rf"topology={name}\b.*not settled", line) for line in output.splitlines())
        mine = reported[reported["topology.rule._target_"].str.endswith(rule)]
        assert list(mine["optimizer.lr"]) == [means.idxmin()]

    other = start(*words, f"hydra.sweeper.chosen={sweep}/tuning.csv", "workers=2", f"hydra.sweep.dir={again}")
    output = other.wait(180)
    assert other.code == 0, output
    assert (
        list(results.load(again)["optimizer.lr"]) == list(reported["optimizer.lr"]) and not (again / "tuning").exists()
    )


def tuned_sweeper(**options):
    """The sweeper as its file makes it, but for ``options``; it launches nothing."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", ["hydra/sweeper=tuned"], return_hydra_config=True)
    from hydra_plugins.asgd_tuned import Tuned  # only now: when Hydra looks for plugins it makes their classes anew

    sweeper = OmegaConf.to_container(config.hydra.sweeper) | options
    made = Tuned(**{name: value for name, value in sweeper.items() if name != "_target_"})
    made.hydra_context = SimpleNamespace(config_loader=None)
    return made


def test_what_would_spoil_the_comparison_is_refused(tmp_path):
    with pytest.raises(HydraException, match=r"hydra/sweeper=tuned chooses optimizer.lr and seed itself; "):
        tuned_sweeper().cases(["optimizer.lr=0.1,0.2", "topology=sync", "seed=1"])
    with pytest.raises(HydraException, match=re.escape("hydra.sweeper.seeds=[1000]: [1000] are tuning_seeds")):
        tuned_sweeper(seeds=[1000]).cases(["topology=sync"])
    with pytest.raises(HydraException, match=r"hydra.sweeper.trials=1: values to try, 3 or more"):
        tuned_sweeper(trials=1).tune([("topology=sync",)])
    (tmp_path / "tuning.csv").write_text(
        "case,optimizer.lr,final_loss,chosen,settled\ntopology=sync experiment=a,0.1,1.0,1,0\n"
    )
    sweeper = tuned_sweeper(chosen=str(tmp_path / "tuning.csv"))
    assert sweeper.read([("topology=sync", "workers=4", "experiment=b")]) == {
        ("topology=sync", "workers=4", "experiment=b"): 0.1
    }
    with pytest.raises(HydraException, match=r"no value there for topology=async"):
        sweeper.read([("topology=async",)])


def test_cases_are_all_combinations_of_what_is_swept():
    cases = tuned_sweeper(params={"workers": "2,4"}).cases(["topology=sync,async", "model=mlp"])
    assert cases == [(f"workers={n}", f"topology={t}", "model=mlp") for n in (2, 4) for t in ("sync", "async")]
