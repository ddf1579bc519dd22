"""Data: arrays and what becomes arrays, the order of the examples, and streams of batches."""

from gdjax.data.arrays import as_arrays as as_arrays, as_examples as as_examples, check_data as check_data, copied as copied, flattened as flattened
from gdjax.data.keys import check_key as check_key
from gdjax.data.order import (
    ORDERS as ORDERS,
    blocks as blocks,
    device_rows as device_rows,
    host_rows as host_rows,
    key_words as key_words,
    steps_per_epoch as steps_per_epoch,
    take as take,
)
from gdjax.data.streams import Stacks as Stacks, Stream as Stream, is_stream as is_stream, read as read, stack as stack
