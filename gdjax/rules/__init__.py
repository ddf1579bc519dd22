"""Update rules, one file each. A line here is a rule's export and its entry in the registry of the tests."""

from gdjax.rules.gd import gd as gd
from gdjax.rules.sgd import sgd as sgd
