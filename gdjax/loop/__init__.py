"""The loops: one step (descent), full-batch runs, mini-batch runs, and what the host does between segments."""

from gdjax.loop.step import Descent as Descent, Info as Info, State as State, descent as descent
