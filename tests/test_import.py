"""What ``import gdjax`` may cost: jax, optax and numpy, and none of the extras."""

import subprocess
import sys
from pathlib import Path

EXTRAS = ("matplotlib", "tqdm", "sklearn", "scipy.optimize", "torch", "flax", "equinox", "optimistix", "chex", "hypothesis", "rich", "pandas")


def modules_after(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_takes_no_extra_along():
    loaded, without = modules_after("import gdjax"), modules_after("import jax, optax")
    assert "gdjax" in loaded
    assert not {name for name in EXTRAS if name in loaded - without}


def test_namespaces_come_with_the_package():
    modules_after("import gdjax; gdjax.plot.history, gdjax.rules.gd, gdjax.schedules.cosine, gdjax.stop.target")


def test_import_of_every_module_takes_no_extra_along():
    walk = "import importlib, pkgutil, gdjax\nfor m in pkgutil.walk_packages(gdjax.__path__, 'gdjax.'): importlib.import_module(m.name)"
    loaded, without = modules_after(walk), modules_after("import jax, optax")
    assert {"gdjax.plot", "gdjax.__main__"} <= loaded
    assert not {name for name in EXTRAS if name in loaded - without}
