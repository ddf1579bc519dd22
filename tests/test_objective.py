"""The loss made ready: chunks of any size, weights, keys, aux and model state against the same sums in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.objective import Objective, finite_sum
from gdjax.parts.blocks import Blocks

ROWS, FEATURES, PENALTY = 7, 3, 0.3
RANDOM = np.random.default_rng(3)
X, Y, W = RANDOM.normal(size=(ROWS, FEATURES)), RANDOM.normal(size=ROWS) + 1, RANDOM.normal(size=FEATURES)


def example_loss(params, example):
    x, y = example
    return (x @ params - y) ** 2 / 2


def example_loss_with_aux(params, example):
    return example_loss(params, example), {"residual": example[0] @ params - example[1], "row": example[0]}


def noisy_example_loss(params, example, key):
    x, y = example
    return (x @ (params * jax.random.bernoulli(key, 0.5, params.shape)) - y) ** 2 / 2


def ridge(params):
    return PENALTY * jnp.vdot(params, params)


def mean_loss(params, batch):
    return jnp.mean((batch[0] @ params - batch[1]) ** 2) / 2


def numpy_truth(weights=None, penalty=0.0):
    """(value, gradient) of the weighted mean in NumPy."""
    weights = np.ones(ROWS) if weights is None else weights
    residual = X @ W - Y
    value = weights @ residual**2 / 2 / weights.sum() + penalty * W @ W
    return value, X.T @ (weights * residual) / weights.sum() + 2 * penalty * W


def data(rows=ROWS):
    return jnp.asarray(X[:rows]), jnp.asarray(Y[:rows])


def seen(objective, batch, params=W, **more):
    return jax.jit(lambda p, b: objective.value_and_grad(p, b, **more))(jnp.asarray(params), batch)


SUM, SUM_AUX, SUM_NOISY = finite_sum(example_loss, ridge), finite_sum(example_loss_with_aux, ridge), finite_sum(noisy_example_loss)
CHUNKS = [None, "auto", *range(1, ROWS + 2), Blocks(ROWS), Blocks(ROWS, 1)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chunk", CHUNKS)
def test_finite_sums_in_chunks_equal_numpy(chunk):
    value, gradient = numpy_truth(penalty=PENALTY)
    made = seen(Objective(SUM_AUX, has_aux=True, chunk_size=chunk), data())
    assert made.value.dtype == made.grads.dtype == jnp.float64
    np.testing.assert_allclose(made.value, value, rtol=1e-14)
    np.testing.assert_allclose(made.grads, gradient, rtol=1e-13)
    np.testing.assert_allclose(made.aux["residual"], X @ W - Y, rtol=1e-13)
    np.testing.assert_array_equal(made.aux["row"], X)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chunk", [None, 1, 3, 4, 7, Blocks(7)])
def test_rows_of_weight_zero_do_not_count(chunk):
    weights = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    value, gradient = numpy_truth(weights, PENALTY)
    made = seen(Objective(SUM, chunk_size=chunk), data(), weights=jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(made.value, value, rtol=1e-14)
    np.testing.assert_allclose(made.grads, gradient, rtol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chunk", [None, *range(1, ROWS + 2)])
def test_opaque_means_in_chunks_equal_numpy(chunk):
    value, gradient = numpy_truth()
    made = seen(Objective(mean_loss, chunk_size=chunk), data())
    np.testing.assert_allclose(made.value, value, rtol=1e-14)
    np.testing.assert_allclose(made.grads, gradient, rtol=1e-13)


@pytest.mark.one_in(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rows", range(1, ROWS))
def test_any_number_of_rows(rows):
    batch = data(rows)
    whole = seen(Objective(SUM), batch)
    for objective in (Objective(SUM, chunk_size=3), Objective(SUM, chunk_size=2)):
        made = seen(objective, batch)
        np.testing.assert_allclose(made.value, whole.value, rtol=1e-14)
        np.testing.assert_allclose(made.grads, whole.grads, rtol=1e-12)
        np.testing.assert_allclose(objective.value(jnp.asarray(W), batch)[0], whole.value, rtol=1e-14)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 6, "auto", Blocks(2), Blocks(2, 2)])
def test_the_keys_of_examples_do_not_depend_on_the_chunks(chunk):
    batch, key = data(6), jax.random.key(5)
    whole = seen(Objective(SUM_NOISY, stochastic=True), batch, key=key)
    made = seen(Objective(SUM_NOISY, stochastic=True, chunk_size=chunk), batch, key=key)
    np.testing.assert_allclose(made.value, whole.value, rtol=1e-6)
    np.testing.assert_allclose(made.grads, whole.grads, rtol=1e-5)
    np.testing.assert_allclose(SUM_NOISY(jnp.asarray(W), batch, key), whole.value, rtol=1e-6)
    other = seen(Objective(SUM_NOISY, stochastic=True), batch, key=jax.random.key(6))
    assert float(other.value) != float(whole.value)


def test_examples_have_keys_of_their_own():
    loss = finite_sum(lambda w, x, key: w * jax.random.normal(key))
    drawn = jax.jit(lambda b: loss.examples(1.0, b, jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(64))))(jnp.zeros(64))
    assert len(set(np.asarray(drawn).tolist())) == 64


@pytest.mark.parametrize("loss", [finite_sum(lambda w, x: w * x), lambda w, x: jnp.mean(w * x)], ids=["sum", "opaque"])
@pytest.mark.parametrize("chunk", [1, 2])
def test_blocks_add_up_in_float32(loss, chunk):
    # In bfloat16 a sum of 1/1024 stops growing at 1/4.
    made = seen(Objective(loss, chunk_size=chunk), jnp.ones(1024, jnp.bfloat16), jnp.asarray(1.0, jnp.bfloat16))
    assert made.grads.dtype == jnp.bfloat16
    assert made.value.dtype == jnp.float32
    assert float(made.value) == float(made.grads) == 1.0


@pytest.mark.parametrize("chunk", [None, 3])
def test_under_vmap_and_grad(chunk):
    objective, batch = Objective(SUM, chunk_size=chunk), data()
    many = jnp.asarray(RANDOM.normal(size=(4, FEATURES)))
    value = lambda p: objective.value(p, batch)[0]  # noqa: E731
    made = jax.jit(jax.vmap(lambda p: objective.value_and_grad(p, batch)))(many)
    for i, params in enumerate(many):
        np.testing.assert_allclose(made.value[i], value(params), rtol=1e-5)
        np.testing.assert_allclose(made.grads[i], jax.jit(jax.grad(value))(params), rtol=1e-4, atol=1e-5)
    hessian = jax.jit(jax.hessian(value))(many[0])
    np.testing.assert_allclose(hessian, X.T @ X / ROWS + 2 * PENALTY * np.eye(FEATURES), rtol=1e-4, atol=1e-5)


def test_a_finite_sum_is_an_ordinary_loss():
    params, batch = jnp.asarray(W), data()
    np.testing.assert_allclose(SUM(params, batch), numpy_truth(penalty=PENALTY)[0], rtol=1e-6)
    value, aux = SUM_AUX(params, batch)
    np.testing.assert_allclose(value, numpy_truth(penalty=PENALTY)[0], rtol=1e-6)
    np.testing.assert_allclose(aux["residual"], X @ W - Y, rtol=1e-5)
    assert finite_sum(example_loss) == finite_sum(example_loss)
    assert hash(finite_sum(example_loss)) == hash(finite_sum(example_loss))
    assert finite_sum(example_loss) != SUM


def counted(params, state, batch):
    return mean_loss(params, batch), {"count": state["count"] + 1}


def counted_with_aux(params, state, batch):
    loss, state = counted(params, state, batch)
    return loss, (state, {"loss": loss})


def test_model_state_alone_and_with_aux():
    state = {"count": jnp.int32(4)}
    alone = seen(Objective(counted, stateful=True), data(), model_state=state)
    both = seen(Objective(counted_with_aux, has_aux=True, stateful=True), data(), model_state=state)
    assert alone.aux is None
    assert int(alone.model_state["count"]) == int(both.model_state["count"]) == 5
    np.testing.assert_allclose(both.aux["loss"], numpy_truth()[0], rtol=1e-6)
    np.testing.assert_allclose(both.grads, numpy_truth()[1], rtol=1e-5)


def test_a_model_state_that_is_a_pair_is_not_taken_for_state_and_aux():
    pair = (jnp.float32(1.0), jnp.float32(2.0))
    alone = seen(Objective(lambda p, s, b: (mean_loss(p, b), (s[1], s[0])), stateful=True), data(), model_state=pair)
    assert [float(x) for x in alone.model_state] == [2.0, 1.0]
    assert alone.aux is None
    both = seen(Objective(lambda p, s, b: (mean_loss(p, b), ((s[1], s[0]), s[0] + s[1])), stateful=True), data(), model_state=pair)
    assert [float(x) for x in both.model_state] == [2.0, 1.0]
    assert float(both.aux) == 3.0


def test_aux_and_keys_of_opaque_losses():
    def loss(params, batch, key):
        return mean_loss(params, batch) + jax.random.uniform(key), batch[1]

    made = seen(Objective(loss, has_aux=True, stochastic=True), data(), key=jax.random.key(2))
    np.testing.assert_allclose(made.value, numpy_truth()[0] + float(jax.random.uniform(jax.random.key(2))), rtol=1e-6)
    np.testing.assert_allclose(made.aux, Y, rtol=1e-6)


def test_splat_passes_the_arguments_apart():
    made = seen(Objective(lambda w, x, y: mean_loss(w, (x, y)), splat=True), data())
    np.testing.assert_allclose(made.value, numpy_truth()[0], rtol=1e-6)


@pytest.mark.parametrize("chunk", ["auto", None, 1, 4, 7])
def test_evaluate_is_the_exact_mean(chunk):
    made = gdjax.evaluate(SUM, jnp.asarray(W, jnp.float32), (X.astype(np.float32), Y.astype(np.float32)), chunk_size=chunk)
    np.testing.assert_allclose(made, numpy_truth(penalty=PENALTY)[0], rtol=1e-6)


def test_evaluate_with_aux_key_and_model_state():
    params, batch = jnp.asarray(W, jnp.float32), data()
    value, aux = gdjax.evaluate(SUM_AUX, params, batch, has_aux=True, chunk_size=2)
    np.testing.assert_allclose(value, numpy_truth(penalty=PENALTY)[0], rtol=1e-6)
    np.testing.assert_allclose(aux["residual"], X @ W - Y, rtol=1e-5)
    noisy = [float(gdjax.evaluate(SUM_NOISY, params, batch, key=9, chunk_size=chunk)) for chunk in (None, 3)]
    np.testing.assert_allclose(*noisy, rtol=1e-6)
    np.testing.assert_allclose(gdjax.evaluate(counted, params, batch, model_state={"count": 0}), numpy_truth()[0], rtol=1e-6)


def test_a_sum_that_breaks_in_the_regularizer_says_so():
    with pytest.raises(TypeError, match="regularizer returned an array of shape"):
        seen(Objective(finite_sum(example_loss, lambda w: w)), data())
