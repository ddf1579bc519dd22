"""What a loss looks like from where one stands: its curvature, the learning rates it takes, and which to choose."""

from gdjax.diagnose.curvature import Smoothness as Smoothness, smoothness as smoothness
from gdjax.diagnose.ranges import RangeTest as RangeTest, range_test as range_test
from gdjax.diagnose.suggestion import Suggestion as Suggestion, suggest as suggest
