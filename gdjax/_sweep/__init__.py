"""Many runs side by side: of many rules and seeds (``sweep``), and from many starts (``multistart``)."""

from gdjax._sweep.found import Lane as Lane, Sweep as Sweep
from gdjax._sweep.multistart import Minimum as Minimum, Multistart as Multistart, multistart as multistart
from gdjax._sweep.run import sweep as sweep
