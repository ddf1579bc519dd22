"""How a run went: ``Status`` (why it ended), ``Result`` (what it returned) and the advice, in words."""

from gdjax.result.data import Diagnosis as Diagnosis, Result as Result
from gdjax.result.status import RUNNING as RUNNING, Status as Status
