"""Reading ahead: the same batches, made before they are asked for, errors in their place, and an end."""

import threading

import pytest

from asgd.data.prefetch import prefetched


def numbers(made, stop=10, closed=None):
    try:
        for number in range(stop):
            made.put(number)
            yield number
        raise OSError("the disk is gone")
    finally:
        if closed is not None:
            closed.set()


class Made:
    """What has been made, for a thread that waits until so much has."""

    def __init__(self):
        self.condition, self.items = threading.Condition(), []

    def put(self, item):
        with self.condition:
            self.items.append(item)
            self.condition.notify_all()

    def reaches(self, count):
        with self.condition:
            return self.condition.wait_for(lambda: len(self.items) >= count, 20)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_the_same_items_and_then_the_error(depth):
    source = prefetched(numbers(Made(), 6), depth)
    assert [next(source) for _ in range(6)] == list(range(6))
    with pytest.raises(OSError, match="the disk is gone"):
        next(source)
    source.close()


def test_items_are_made_before_they_are_asked_for_but_not_more_than_depth():
    made = Made()
    source = prefetched(numbers(made), 3)
    assert next(source) == 0
    assert made.reaches(4)
    source.close()
    assert made.items == [0, 1, 2, 3]


def test_closing_ends_the_source_and_its_thread():
    closed, before = threading.Event(), threading.active_count()
    source = prefetched(numbers(Made(), closed=closed), 2)
    next(source)
    source.close()
    assert closed.is_set() and threading.active_count() == before
