"""Tables and arrays as people have them: taken, or refused in a sentence that says what to type."""

import jax
import jax.experimental.sparse
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import scipy.sparse

import gdjax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = X[:, 0].copy()
TABLE = pandas.DataFrame(X, columns=["a", "b", "c"])


def loss(w, batch):
    return jnp.mean((batch[0] @ w - batch[1]) ** 2)


def fit(data, **options):
    options = dict(batch_size=8, epochs=2, key=0) | options
    return gdjax.fit(loss, jnp.zeros(3), data, gdjax.sgd(0.1), **options)


@pytest.fixture(scope="module")
def right():
    return np.asarray(fit((X, Y)).params)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


class Column:
    """An array of another library."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


TAKEN = {
    "tables": (TABLE, pandas.Series(Y)),
    "tables of one number type with gaps allowed": (TABLE.astype("Float32"), pandas.Series(Y).astype("Float32")),
    "big-endian": (X.astype(">f4"), Y.astype(">f4")),
    "read-only": (read_only(X), read_only(Y)),
    "Fortran's order": (np.asfortranarray(X), Y),
    "strides": (np.repeat(X, 2, axis=0)[::2], Y),
    "a matrix": (X.view(np.matrix), Y),
    "masked, nothing masked": (np.ma.masked_array(X, np.zeros_like(X, bool)), Y),
    "longdouble": (X.astype(np.longdouble), Y.astype(np.longdouble)),
    "float64": (X.astype(np.float64), Y.astype(np.float64)),
    "not aligned": (np.frombuffer(b"\0" + X.tobytes(), np.float32, offset=1).reshape(X.shape), Y),
    "another library's": (Column(X), Column(Y)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name, right):
    np.testing.assert_array_equal(fit(TAKEN[name]).params, right)
    np.testing.assert_array_equal(fit((X, Y), validation=TAKEN[name], keep="last").params, right)


def test_a_mapped_file(tmp_path, right):
    np.save(tmp_path / "x.npy", X)
    np.testing.assert_array_equal(fit((np.load(tmp_path / "x.npy", mmap_mode="r"), Y)).params, right)


def test_columns_of_several_kinds():
    table = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1] > 0, "c": pandas.array(np.arange(40), dtype="Int64")})
    wanted = np.stack([X[:, 0], X[:, 1] > 0, np.arange(40)], 1)
    assert float(gdjax.evaluate(loss, jnp.ones(3), (table, Y))) == pytest.approx(float(loss(jnp.ones(3), (wanted, Y))), rel=1e-5)


STRUCTURED = np.zeros(40, [("a", "f4"), ("b", "f4")])
REFUSED = {
    "SciPy's rows": ((scipy.sparse.csr_matrix(X), Y), r"data\[0\] is a sparse matrix \(csr_matrix, shape \(40, 3\)\).*wanted a dense array: type X.toarray"),
    "SciPy's array": ((scipy.sparse.coo_array(X), Y), r"coo_array.*X.toarray"),
    "BCOO": ((jax.experimental.sparse.BCOO.fromdense(X), Y), r"data\[0\] is a sparse matrix \(BCOO.*X.todense"),
    "BCSR": ((jax.experimental.sparse.BCSR.fromdense(X), Y), r"sparse matrix \(BCSR.*X.todense"),
    "masked": ((np.ma.masked_array(X, X > 1), Y), r"data\[0\] is a masked array with \d+ entries masked; wanted numbers in all places: fill"),
    "dates": ((X, np.arange(40).astype("M8[s]")), r"data\[1\] has dtype datetime64\[s\], times; wanted numbers: type \(t - t.min"),
    "durations": ((X, np.arange(40).astype("m8[s]")), r"timedelta64\[s\], times; wanted numbers: type t /"),
    "fields": ((STRUCTURED, Y), r"data\[0\] is a structured array with fields a, b; wanted plain numbers"),
    "records": ((STRUCTURED.view(np.recarray), Y), r"structured array with fields a, b"),
    "beyond 32 bits": ((X, np.full(40, 2**40)), r"data\[1\] is int64 and holds 1099511627776, which int32 cannot; wanted smaller numbers, or 64 bits"),
    "below 32 bits": ((X, np.full(40, -(2**31) - 1)), r"holds -2147483649"),
    "unsigned beyond 32 bits": ((X, np.full(40, 2**33, np.uint64)), r"data\[1\] is uint64 and holds 8589934592, which uint32 cannot"),
    "words in a table": ((TABLE.assign(b="x"), Y), r"data\[0\]: column 'b' has dtype (object|str|string).*wanted numbers: leave it out, X.drop"),
    "categories": ((TABLE.assign(c=pandas.Categorical(np.arange(40) % 3)), Y), r"column 'c' has dtype category; wanted numbers.*get_dummies"),
    "dates in a table": ((TABLE.assign(c=pandas.date_range("2020", periods=40)), Y), r"column 'c' has dtype datetime64"),
    "gaps": ((TABLE.assign(c=pandas.array([None] * 40, dtype="Int64")), Y), r"column 'c' has missing values; wanted numbers: fill them"),
    "a series of words": ((X, pandas.Series(["a"] * 40, name="y")), r"data\[1\]: column 'y' has dtype"),
    "a shape": ((jax.ShapeDtypeStruct((40, 3), jnp.float32), Y), r"data\[0\] is a shape, .*wanted an array with numbers"),
    "keys of two kinds": ({"x": X, 1: Y}, r"data cannot be taken apart.*wanted dicts with keys of one kind"),
    "words": ((X, np.array(["a"] * 40)), r"data\[1\] has dtype <U1; wanted numbers"),
    "lists of numbers": ((X.tolist(), Y.tolist()), r"data\[0\]\[0\]\[0\] is .*; wanted an array .*np.asarray"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    data, text = REFUSED[name]
    with pytest.raises(TypeError, match=text):
        fit(data)
    with pytest.raises(TypeError, match=text.replace("data", "validation").replace("valtype", "dtype")):
        fit((X, Y), validation=data)
    with pytest.raises(TypeError, match=text):
        gdjax.evaluate(loss, jnp.zeros(3), data)
    with pytest.raises(TypeError, match=text):
        gdjax.smoothness(loss, jnp.zeros(3), data)


def test_integers_that_fit(x64):
    big = np.full(40, 2**40)
    assert float(gdjax.evaluate(lambda w, b: jnp.mean(w - b), 0.0, big)) == -(2.0**40)


def test_integers_at_the_limit():
    assert float(gdjax.evaluate(lambda w, b: jnp.mean(w - b), 0.0, np.full(4, 2**31 - 1))) == pytest.approx(-(2.0**31))
    with pytest.raises(TypeError, match=r"args\[0\] is 1099511627776, which int32 cannot hold; wanted smaller numbers"):
        gdjax.minimize(lambda w, n: w * w / n, 1.0, args=(2**40,))


def test_what_to_type_for_sparse_data():
    """What the refusal says is right: minimize takes a BCOO in ``args``."""
    sparse = jax.experimental.sparse.BCOO.from_scipy_sparse(scipy.sparse.csr_matrix(X))
    fun = lambda w, x, y: jnp.mean((x @ w - y) ** 2)  # noqa: E731
    result = gdjax.minimize(fun, jnp.zeros(3), gdjax.gd(0.3), args=(sparse, Y))
    np.testing.assert_allclose(result.params, [1, 0, 0], atol=1e-3)


def test_numbers_beyond_float32_are_not_made_infinite():
    loss = lambda w, b: jnp.mean((b[0] @ w - b[1]) ** 2)  # noqa: E731
    run = lambda X: gdjax.fit(loss, np.zeros(2, np.float32), (X, np.ones(4)), gdjax.sgd(0.1), batch_size=2, epochs=1, key=0)  # noqa: E731
    for worst in (1e39, -1e300):
        with pytest.raises(TypeError, match=r"data\[0\] is float64 and holds .*, which float32 cannot; wanted smaller numbers.*x / np.abs\(x\).max\(\)"):
            run(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, worst]]))
    broken = run(np.array([[1.0, 2.0], [3.0, np.inf], [5.0, 6.0], [7.0, 8.0]]))
    assert "There is an infinite number in the data: data[0] in row 1" in broken.message
