"""The catalogue of methods: as the files and the tests have it, and nothing without a paper, an expectation, a test."""

import pytest

from docs import catalogue

NAMED = "softsync gap_aware ssp_lazy trimmed_mean rennala dana_slim easgd".split()  # one of each family
TOPOLOGIES, DELAYS = (catalogue.presets(group) for group in ("topology", "timing"))


def test_all_topologies_but_the_oldest_name_their_paper():
    assert [each.name for each in TOPOLOGIES if not each.papers] == ["sync"]


@pytest.mark.parametrize("each", [*TOPOLOGIES, *DELAYS], ids=lambda each: each.name)
def test_every_file_says_what_it_is_and_what_to_expect(each):
    assert len(each.summary) > 40 and each.summary.endswith(".")
    assert [text for text in each.header if text.startswith("Expect: ")]


@pytest.mark.parametrize("each", TOPOLOGIES, ids=lambda each: each.name)
def test_every_topology_has_a_test_of_an_oracle(each):
    assert catalogue.oracles(each.name)


def test_a_family_follows_from_the_classes():
    families = {each.name: each.family for each in TOPOLOGIES}
    assert set(families.values()) == set(catalogue.FAMILIES)
    chosen = [families[name] for name in NAMED]
    assert chosen == list(catalogue.FAMILIES)
