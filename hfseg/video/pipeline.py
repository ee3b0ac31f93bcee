"""Threads that read ahead and write behind, while the calling thread computes.

Decoding, colour conversion and encoding release the interpreter's lock, and so does a model: three threads keep
several cores busy. What lies between them is bounded, so memory does not grow with the length of a clip.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The other end of a channel has gone away."""


class Channel(Generic[T]):
    """Hands items from one thread to another, holding at most `depth` of them."""

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._ended = False
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Hand over an item, once there is room.

        Raises:
            Closed: nobody takes items any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def take(self) -> Iterator[T]:
        """Give the items until the last one has been taken, or the channel is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._ended or self._items)
                if self._closed or not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def end(self) -> None:
        """Say that no more items will be put; those that are there can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what is there, and wake both ends."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()


@contextmanager
def read_ahead(items: Iterable[T], *, depth: int) -> Iterator[Iterator[T]]:
    """Iterate over `items` in a thread, at most `depth` of them ahead; its error is raised in the place of an item."""
    channel: Channel[T] = Channel(depth)
    errors: list[BaseException] = []

    def read() -> None:
        try:
            for item in items:
                channel.put(item)
        except Closed:
            pass
        except BaseException as error:  # raised in the thread that takes the items
            errors.append(error)
        finally:
            channel.end()

    def taken() -> Iterator[T]:
        yield from channel.take()
        if errors:
            raise errors[0]

    thread = threading.Thread(target=read, name="reader", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        channel.close()
        thread.join()


@contextmanager
def write_behind(write: Callable[[T], None], *, depth: int) -> Iterator[Callable[[T], None]]:
    """Give a function that hands an item to a thread which calls `write`, at most `depth` items behind.

    At the end everything handed over has been written. An error of `write` is raised by the next hand-over, or at the
    end; after an error in the block itself, nothing more is written.
    """
    channel: Channel[T] = Channel(depth)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for item in channel.take():
                write(item)
        except BaseException as error:  # raised in the thread that hands items over
            errors.append(error)
            channel.close()

    def hand_over(item: T) -> None:
        try:
            channel.put(item)
        except Closed:
            raise errors[0] from None

    thread = threading.Thread(target=work, name="writer", daemon=True)
    thread.start()
    try:
        yield hand_over
        channel.end()
        thread.join()
        if errors:
            raise errors[0]
    finally:
        channel.close()
        thread.join()
