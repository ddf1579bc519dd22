"""Small training tasks, most of them on real data, on which ``python -m benchmarks fit`` measures rules at their defaults."""

from benchmarks.training_tasks import factorisation, language, linear, networks
from benchmarks.training_tasks.task import Task as Task, batches as batches

BUILDERS = {build.__name__: build for module in (linear, networks, factorisation, language) for build in module.BUILDERS}
_built: dict[str, Task] = {}


def named(name: str) -> Task:
    """The task of this name, built at the first call."""
    if name not in _built:
        _built[name] = BUILDERS[name]()
    return _built[name]
