"""GDJAX_XLA=0: everything that is done because of one compiler is off, and programs are plain JAX with the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gdjax
from gdjax.loop import one_kernel
from gdjax.parts import blocks, convolutions, turned, xla

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = X @ np.float32([1.0, -2.0, 0.5])


@pytest.fixture
def off(monkeypatch):
    monkeypatch.setattr(xla, "ON", False)
    monkeypatch.setattr(xla, "KERNELS", False)


@pytest.mark.parametrize("given", ["", "off", "2"])
def test_other_words_are_refused(monkeypatch, given):
    monkeypatch.setenv("GDJAX_XLA", given)
    with pytest.raises(ValueError, match=r"wanted 0 .* or 1: type export GDJAX_XLA=0"):
        xla._asked()


@pytest.mark.parametrize(("given", "on"), [("0", False), ("1", True), (None, True)])
def test_the_switch(monkeypatch, given, on):
    monkeypatch.delenv("GDJAX_XLA", raising=False)
    if given is not None:
        monkeypatch.setenv("GDJAX_XLA", given)
    assert xla._asked() is on


def test_everything_is_off(off):
    assert not one_kernel.possible(jnp.zeros(3))
    compiled = one_kernel.Compiled(jnp.sin)
    assert compiled._of(plain=True) is compiled.usual
    assert turned.which({"w": jnp.zeros((100, 4))}, 8) == (False,)
    images, filters = jnp.zeros((1, 1, 8, 8)), jnp.zeros((1, 1, 3, 3))
    convolve = lambda images, filters: lax.fori_loop(0, 2, lambda _, x: lax.conv(x, filters, (1, 1), "SAME"), images)  # noqa: E731
    as_it_is = jax.make_jaxpr(convolve)(images, filters)
    assert str(jax.make_jaxpr(convolutions.arranged(convolve))(images, filters)) == str(as_it_is)
    rows = jax.ShapeDtypeStruct((1 << 20, 16), jnp.float32)
    assert blocks.choose(lambda w, x: (x @ w) ** 2, jnp.zeros(16), rows) == blocks.Blocks()


def test_the_numbers_stay(monkeypatch):
    def run():
        loss = gdjax.finite_sum(lambda w, row: (row[0] @ w - row[1]) ** 2)
        made = gdjax.fit(loss, jnp.zeros(3), (X, Y), gdjax.sgd(0.05), batch_size=8, epochs=2, key=0)
        return made.params, made.history["value"]

    ours = run()
    monkeypatch.setattr(xla, "ON", False)
    monkeypatch.setattr(xla, "KERNELS", False)
    for x, y in zip(ours, run(), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
