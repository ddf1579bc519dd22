"""Where the batches of a run come from, block by block: the order of arrays in memory, made on the host, or a stream."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from gdjax import data as sources
from gdjax.loop import host, step as stepping
from gdjax.loop.batches import Plan

BLOCK_ROWS = 1 << 22  # row numbers on the device at once
UNKNOWN = np.int32(np.iinfo(np.int32).max // 4)  # steps in an epoch of a stream that has not ended yet


class Block(NamedTuple):
    """Batches for the steps from ``offset`` on: a part of the data's order, or of a stream."""

    data: Any
    rows: Any  # or None
    offset: int
    reach: int  # steps up to here can be made
    per_epoch: int


class Arrays:
    """In-memory data: blocks of epochs whose order is made on the host from the key alone."""

    def __init__(self, data, plan: Plan, options, key):
        self.data, self.plan, self.options = data, plan, options
        self.words = np.zeros(0, np.uint32) if plan.source == "order" else sources.key_words(key)
        per_epoch = options.per_epoch * plan.batch_size
        wanted = options.epochs if options.epochs is not None else -(-options.steps // options.per_epoch)
        most = max(BLOCK_ROWS // per_epoch, 2 if options.per_epoch == 1 else 1)
        # Two rows at least: with one, XLA would see that there is no choice and make another program of the step.
        self.epochs = min(max(1 << (max(wanted, 1) - 1).bit_length(), 2 if options.per_epoch == 1 else 1), most)
        self.block = None

    def at(self, step: int, _, last: int) -> Block:
        """The block that holds a step."""
        per_epoch = self.options.per_epoch
        if self.plan.source == "order":
            return Block(self.data, None, 0, last, per_epoch)
        if self.block is None or not self.block.offset <= step < self.block.reach:
            first = step // per_epoch
            make = functools.partial(sources.host_rows, self.words, self.plan.count, self.plan.batch_size, self.options.order)
            needed = min(self.epochs, -(-(last - first * per_epoch) // per_epoch))
            rows = np.zeros((self.epochs * per_epoch, self.plan.batch_size), np.int32)
            for index in range(needed):
                rows[index * per_epoch : (index + 1) * per_epoch] = make(first + index)
            self.block = Block(self.data, jax.device_put(rows), first * per_epoch, (first + self.epochs) * per_epoch, per_epoch)
        return self.block


class Streams:
    """A stream of batches: blocks of batches of one shape, stacked, none beyond the end of an epoch."""

    def __init__(self, source, start: int, objective, state: stepping.State):
        self.stream = sources.Stream(source, stepping.trial(objective, state))
        self.stream.skip(start)
        self.block: Any = None

    def at(self, step: int, epoch_start, last: int, most: int = 64) -> Block:
        """The block that holds a step: the one at hand, or else the next."""
        if self.block is None or step >= self.block.reach:
            batches = self.stream.next_block(min(most, last - step), host.SEGMENT_SECONDS)
            reach = step + len(batches)
            per_epoch = reach - int(epoch_start) if self.stream.epoch_is_over else int(UNKNOWN)
            self.block = Block(sources.stack(batches), None, step, reach, per_epoch)
        return self.block
