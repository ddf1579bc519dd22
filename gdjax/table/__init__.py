"""Tables in files: a linear model of one column by the others, and the learning rate to fit it with. pandas is imported when a table is read."""

from gdjax.table.problem import Examples as Examples, Problem as Problem, read as read
from gdjax.table.report import BATCH_SIZE as BATCH_SIZE, STEPS as STEPS, report as report
