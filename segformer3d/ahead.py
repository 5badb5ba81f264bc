"""Batches that are ready when they are wanted, and a clock for those that are not."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")


def prepared_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order, each made by a thread while the one before it is used.

    For a GPU, which computes while this thread and Python would else wait for it. What making an item raises is raised
    here.
    """
    with ThreadPoolExecutor(1) as thread:
        source = iter(items)
        coming = thread.submit(_take, source)
        while ready := coming.result():
            coming = thread.submit(_take, source)
            yield ready[0]


def _take(source: Iterator[Item]) -> list[Item]:
    """The next item, if there is one."""
    return list(islice(source, 1))


class Waits(Generic[Item]):
    """The same items; `seconds` is how long they were waited for."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Item]:
        source = iter(self._items)
        while True:
            began = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - began
            yield item
