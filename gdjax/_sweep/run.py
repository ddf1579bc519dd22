"""``sweep``: one run for many rules and seeds, in blocks that fit memory, on all devices of a mesh, with hopeless lanes dropped on the way."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from gdjax import tree
from gdjax._sweep.found import Sweep, count_of, groups_of
from gdjax.arguments import is_array, is_whole, short, signature_of
from gdjax.checks import check_share, check_takes
from gdjax.contexts import undisturbed
from gdjax.data import as_arrays, check_key
from gdjax.loop import host
from gdjax.loop.signals import Signals
from gdjax.parts.held import hold, remembered
from gdjax.parts.lane_bytes import most_lanes
from gdjax.result import Result, Status
from gdjax.rule import Rule

FAILED = (Status.DIVERGED, Status.NONFINITE)


@undisturbed
def sweep(
    run, rules: Any, *, keys: Sequence[Any] | jax.Array | None = None, score=None, rungs: Sequence[int] | None = None, keep: float = 1 / 3,
    block: int | None = None, mesh: jax.sharding.Mesh | None = None,
) -> Sweep:  # fmt: skip
    """Runs ``run(rule)`` for every rule, and every seed, side by side: one compiled program for all lanes.

    The lanes are those of a ``jax.vmap``: data that ``run`` closes over are shared between them. Runs of gdjax inside it compile themselves, once for a loss
    and its shapes, whatever the rules; lanes of ``minimize`` and full-batch ``fit`` that have ended are taken out while the others go on. A ``run`` that is
    itself under ``jax.jit`` is one program as it stands.

    Args:
        run: ``run(rule)``, or ``run(rule, key)`` with ``keys``: typically a call of ``gdjax.fit`` or ``gdjax.minimize``; any function of a rule that JAX can
            map. With ``rungs`` it also takes ``steps=``, the steps to end at, and may take ``resume=``, the state to go on from (else, or where it returns
            no ``Result``, every rung begins anew).
        rules: a rule whose leaves carry a leading axis of lanes: ``gdjax.sgd(jnp.geomspace(1e-3, 1, 32))``, ``gdjax.grid(...)``, ``gdjax.sample(...)``, or a
            list of such rules of different structures. Or any pytree of arrays with such an axis, such as ``{"rule": rules, "l2": l2}``.
        keys: seeds, or an array of JAX keys: every rule is run with each of them, one after the other, and judged by the mean of its scores.
        score: ``score(result) -> scalar``, the lower the better, of what ``run`` returns for one lane. Default: ``result.value`` of a ``Result``, or what
            ``run`` returns where it is a scalar. A score that is not finite counts as inf, and so does every run that DIVERGED or
            ended NONFINITE.
        rungs: successive halving: steps, increasing. All lanes run to the first, the share ``keep`` with the least scores to the next, and so on; lanes without
            a finite score are dropped at once. Dropped lanes are STOPPED. Deterministic: rungs wait for all their lanes.
        keep: the share of lanes that go on from a rung, 0 < keep < 1; at least one does. Default 1/3 (Li et al.).
        block: lanes at once. None: as many as fit in a quarter of the memory that is free, by what a lane holds, read from its program.
        mesh: a ``jax.sharding.Mesh``: the lanes are split over all its devices, each of which goes through its own at its own pace. There,
            as under ``jax.jit``, the order of the data is drawn from the seed on the devices: another one, as random.

    Returns:
        A ``Sweep``: every lane's result, ``best()``, ``table()``, ``to_dict()``.

    Raises:
        TypeError, ValueError: bad arguments, named with what is wanted, before anything is run; called inside jit, vmap or grad.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the block of lanes at work has ended; lanes of ``minimize`` and full-batch ``fit`` end where they are,
            INTERRUPTED. The lanes (and seeds) so far are its attribute ``result``, a ``Sweep``; likewise of an exception that ``run`` raises.

    Example:
        >>> import gdjax, jax.numpy as jnp
        >>> loss = lambda w: jnp.sum((w - 2.0) ** 2)
        >>> run = lambda rule: gdjax.minimize(loss, jnp.zeros(3), rule, max_steps=20)
        >>> found = gdjax.sweep(run, gdjax.grid(gdjax.gd, learning_rate=[0.01, 0.1, 0.5, 1.5]))
        >>> print(found.best().arguments, found.best().result.status)
        {'learning_rate': 0.5} CONVERGED
        >>> print(found.table(rows=2))
        learning_rate       score     status  steps
                  0.5           0  CONVERGED      1
                  0.1  0.00159509  MAX_STEPS     20

    Reference:
        Successive halving: Karnin, Koren, Somekh 2013; Jamieson, Talwalkar 2016, arXiv:1502.07943; keep = 1/3: Li et al. 2018, arXiv:1603.06560.
    """
    if isinstance(rules, list) and not rules:
        raise ValueError("sweep: rules is an empty list; wanted rules: type gdjax.grid(gdjax.sgd, learning_rate=[0.01, 0.1]).")
    groups = [_checked_lanes(group) for group in groups_of(rules)]
    if host.under_trace(run, groups, keys):
        raise ValueError("sweep: called inside jit, vmap or grad, where lanes cannot be looked at; map there yourself: type jax.vmap(run)(rules).")
    seeds = None if keys is None else _checked_keys(keys)
    typed = None if seeds is None else tuple(check_key(seed, "keys hold one per seed") for seed in seeds)
    rungs = _checked_rungs(run, score, rungs, keep, seeds is not None)
    states = [_Group(group, np.arange(count_of(group))) for group in groups]
    go = _Runner(run, typed, score, checked_block(block, mesh), mesh, seeds, isinstance(rules, list), states)
    with go.signals:
        for rung, steps in enumerate(rungs or (None,)):
            for index in range(len(states)):
                go.advance(index, steps)
            if steps is not None:
                go.left[steps] = sum(len(state.active) for state in go.states)
            if rung + 1 < len(rungs):
                go.states = _halved(go.states, keep)
    return go.found()


class _Group(NamedTuple):
    """The lanes of one structure on their way."""

    rules: Any
    active: np.ndarray  # the lanes that go on
    results: Any = None  # (lanes, seeds, ...) so far, of the last rung that each reached
    scores: Any = None  # (lanes, seeds)
    dropped: Any = None  # (lanes,) of bool


@dataclass
class _Runner:
    run: Any
    keys: tuple[Any, ...] | None  # typed
    score: Any
    block: int | None
    mesh: Any
    seeds: tuple[Any, ...] | None  # as given
    several: bool  # structures
    states: list[_Group]  # so far
    left: dict[int, int] = dataclasses.field(default_factory=dict)
    blocks: int = 0

    def __post_init__(self):
        self.signals = Signals(self.found)

    def found(self) -> Any:
        """The sweep as far as it has come; None where nothing has been run to its end."""
        states = [state for state in self.states if state.results is not None]
        if not states:
            return None
        scores, results = np.concatenate([state.scores for state in states]), [_named_stopped(state) for state in states]
        rules = [state.rules for state in states]
        if self.seeds is None:
            scores, results = scores[:, 0], [_of_one_seed(r) for r in results]
        seeds = None if self.seeds is None else self.seeds[: scores.shape[1]]
        return Sweep(rules if self.several else rules[0], results if self.several else results[0], scores, seeds, self.left, self.blocks)

    def advance(self, index: int, steps: int | None) -> None:
        """The active lanes of a group as far as ``steps``, and what became of them in its place; where that breaks off, of those lanes that came so far."""
        group, count = self.states[index], len(self.states[index].active)
        if not count:
            return
        resume = group.results.state if isinstance(group.results, Result) and _takes(self.run, "resume") else None
        options, blocks = () if steps is None else (("steps", steps),), []
        size = self._lanes_at_once(group, options, resume)
        try:
            for first in range(0, count, size):
                # The last block is filled up with lanes that are thrown away, so that all blocks are the same program.
                places = np.resize(np.arange(first, min(first + size, count)), size)
                blocks.append([])
                # Seed by seed: with a key that is not traced the order of the data is that of the run alone, and all lanes share it.
                for seed in range(self._seeds):
                    blocks[-1].append(self._mapped(options, seed)(*_given(group, resume, seed, places)))
                    self.signals.obey("sweep")
        finally:
            whole = [block for block in blocks if len(block) == self._seeds]
            if not whole and index == 0 and group.results is None:
                whole = [block for block in blocks if block]  # of fewer seeds, which is better than nothing
            if whole:
                self.states[index] = self._advanced(group, whole, min(count, size * len(whole)))

    @property
    def _seeds(self) -> int:
        return 1 if self.keys is None else len(self.keys)

    def _advanced(self, group: _Group, blocks: list[list[Any]], count: int) -> _Group:
        """The group with the results of blocks of lanes, each of seeds: those of its first ``count`` active lanes."""
        scores = np.concatenate([np.stack([self._scores(found) for found in block], 1) for block in blocks])[:count]
        found = _joined([_side_by_side(*block) for block in blocks], count)
        lanes = group.active[:count]
        if group.results is None:
            rules = group.rules if count == len(group.active) else tree.take(group.rules, lanes)
            return _Group(rules, lanes, found, scores, np.zeros(count, bool))
        kept = group.scores.copy()
        kept[lanes] = scores
        return group._replace(results=_put(group.results, found, lanes), scores=kept)

    def _lanes_at_once(self, group: _Group, options: tuple, resume: Any) -> int:
        """The lanes of a block, the same in all of them; and the check of what the run returns, before anything is run."""
        one = functools.partial(_one, self.run, options, None if self.keys is None else self.keys[0])
        example = tree.take(_given(group, resume, 0, np.zeros(1, int)), 0)
        if group.results is None:
            self._check(jax.eval_shape(one, *example))
        count, devices = len(group.active), 1 if self.mesh is None else self.mesh.size
        blocks = -(-count // (self.block or devices * most_lanes(one, *example)))
        self.blocks = max(self.blocks, blocks)
        size = -(-count // blocks)
        return size + -size % devices

    def _mapped(self, options: tuple, seed: int) -> Any:
        """The run as a function of lanes, for one seed."""
        key = None if self.keys is None else self.keys[seed]
        if self.mesh is None:
            return jax.vmap(functools.partial(_one, self.run, options, key))
        return functools.partial(_spread(self.run, options, self.mesh), key)

    def _check(self, result: Any) -> None:
        """An error, before anything is run, where what the run returns for a lane has no score."""
        scored = result.value if isinstance(result, Result) else result
        scored = scored if self.score is None else jax.eval_shape(self.score, result)
        if getattr(scored, "shape", None) != () or jnp.issubdtype(scored.dtype, jax.dtypes.prng_key):
            what = "score" if self.score is not None else "run"
            wanted = "a scalar" if self.score is not None else "a Result or a scalar, or a score: type score=lambda result: ..."
            raise TypeError(f"sweep: {what} returned {_kind(scored)} for a lane; wanted {wanted}.")

    def _scores(self, results: Any) -> np.ndarray:
        """Of shape (lanes,); inf where a run failed or has no finite score."""
        scores = results.value if isinstance(results, Result) else results
        found = np.array(scores if self.score is None else jax.vmap(self.score)(results), np.float64)
        failed = np.isin(np.asarray(results.code), FAILED) if isinstance(results, Result) else False
        return np.where(np.isfinite(found) & ~np.asarray(failed), found, np.inf)


def _given(group: _Group, resume: Any, seed: int, places: np.ndarray) -> tuple[Any, Any, Any]:
    """(rules, states to go on from, numbers) of some of the active lanes."""
    lanes = group.active[places]
    return tree.take(group.rules, lanes), None if resume is None else tree.take(resume, (lanes, np.full(len(lanes), seed))), jnp.asarray(lanes)


def _one(run, options: tuple, key, rule, state, lane):
    """A run of one lane. The number of the lane is there to be mapped over where a rule has no numbers."""
    more = dict(options) if state is None else {**dict(options), "resume": state}
    made = run(rule, **more) if key is None else run(rule, key, **more)
    made = as_arrays(made, "what run returned")
    for path, leaf in jax.tree_util.tree_leaves_with_path(made):
        if not is_array(leaf):
            where = f"run returned {short(leaf)} for a lane" + (f", at {jax.tree_util.keystr(path)}" if path else "")
            raise TypeError(f"sweep: {where}; wanted a Result, or arrays: type lambda rule: gdjax.minimize(fun, params, rule).")
    return made


def _spread(run, options: tuple, mesh) -> Any:
    """Lanes over all devices of a mesh, as one program for all seeds."""
    held = hold(run)
    return remembered(held, (_spread, options, mesh), lambda: _made_to_spread(held, options, mesh))


def _made_to_spread(run, options: tuple, mesh) -> Any:
    mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names)  # with automatic axes, so that results can be indexed as other arrays
    lanes, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    mapped = jax.vmap(functools.partial(_one, run, options), (None, 0, 0, 0))
    program = jax.jit(jax.shard_map(mapped, mesh=mesh, in_specs=(whole, lanes, lanes, lanes), out_specs=lanes, check_vma=False))
    put = lambda trees, spec: jax.device_put(trees, jax.sharding.NamedSharding(mesh, spec))  # noqa: E731
    return lambda key, *given: program(put(key, whole), *put(given, lanes))


def _joined(blocks: Sequence[Any], count: int) -> Any:
    """The first lanes of blocks one after another, in the memory of the host."""
    if len(blocks) == 1 and len(jax.tree.leaves(blocks[0])[0]) == count:
        return blocks[0]
    host_device = jax.devices("cpu")[0]
    return jax.tree.map(lambda *parts: jnp.concatenate([jax.device_put(x, host_device) for x in parts])[:count], *blocks)


@jax.jit
def _side_by_side(*seeds: Any) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x, 1), *seeds)


@jax.jit
def _of_one_seed(results: Any) -> Any:
    return jax.tree.map(lambda x: x[:, 0], results)


def _put(old: Any, new: Any, lanes: np.ndarray) -> Any:
    """The new results in the place of the old ones, both filled up to the longer of the two where histories are of different lengths."""
    if isinstance(new, Result):
        earlier = {name: np.asarray(column)[lanes] for name, column in old.history.items()}
        new = dataclasses.replace(new, history=_whole_history(earlier, {name: np.asarray(column) for name, column in new.history.items()}))
    return _put_all(old, new, lanes)


@jax.jit
def _put_all(old: Any, new: Any, lanes) -> Any:
    def put(old, new):
        shape = tuple(np.maximum(old.shape[1:], new.shape[1:]))
        return _filled(old, shape).at[lanes].set(_filled(new, shape))

    return jax.tree.map(put, old, new)


def _whole_history(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> dict[str, Any]:
    """Both histories, one after the other, of arrays of shape (lanes, seeds, records): resumed runs record what they do themselves."""
    first = np.where(new["step"] < 0, np.iinfo(np.int32).max, new["step"]).min(2, keepdims=True)
    both = {name: np.concatenate([old[name], new[name]], 2) for name in new}
    kept = np.concatenate([(old["step"] >= 0) & (old["step"] < first), new["step"] >= 0], 2)
    order = np.argsort(~kept, 2, kind="stable")[..., : kept.sum(2).max()]
    recorded = np.take_along_axis(kept, order, 2)
    whole = {name: np.where(recorded, np.take_along_axis(x, order, 2), -1 if name == "step" else np.nan) for name, x in both.items()}
    return {name: jnp.asarray(x, new[name].dtype) for name, x in whole.items()}


def _filled(x, shape: tuple[int, ...]):
    if x.shape[1:] == shape:
        return x
    more = [(0, 0), *((0, wanted - had) for wanted, had in zip(shape, x.shape[1:], strict=True))]
    return jnp.pad(x, more, constant_values=jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else -1)


def _halved(states: list[_Group], keep: float) -> list[_Group]:
    """The lanes that go on: the best share of those still running, by the means over seeds; those without a finite score never."""
    means = np.concatenate([state.scores.mean(1)[state.active] for state in states])
    ranked = np.sort(means[np.isfinite(means)])
    most = max(1, int(np.ceil(keep * len(means))))
    order = np.argsort(means, kind="stable")[: min(most, len(ranked))]
    goes_on = np.isin(np.arange(len(means)), order)
    found, first = [], 0
    for state in states:
        mine = goes_on[first : first + len(state.active)]
        first += len(state.active)
        dropped = state.dropped.copy()
        dropped[state.active[~mine]] = True
        found.append(state._replace(active=state.active[mine], dropped=dropped))
    return found


def _named_stopped(state: _Group) -> Any:
    """The results, where lanes that were dropped say so."""
    if not isinstance(state.results, Result):
        return state.results
    code = np.asarray(state.results.code)
    stopped = state.dropped[:, None] & (code == Status.MAX_STEPS)
    return dataclasses.replace(state.results, code=jnp.asarray(np.where(stopped, np.int32(Status.STOPPED), code)))


def _checked_lanes(group: Any) -> Any:
    """The group with every leaf an array with the axis of lanes; single numbers are the same in all of them."""
    group = as_arrays(group, "rules")
    leaves = jax.tree.leaves(group)
    if isinstance(group, Rule) and not leaves:
        return group  # one lane
    if not leaves or not all(is_array(x) for x in leaves):
        raise TypeError(f"sweep: rules holds {short(group)}; wanted numbers with a leading axis: type gdjax.grid(gdjax.sgd, learning_rate=[0.01, 0.1]).")
    counts = {np.shape(x)[0] for x in leaves if np.ndim(x)}
    if len(counts) != 1 or 0 in counts:
        had = "no axis of lanes" if not counts else f"leading axes of {', '.join(map(str, sorted(counts)))}"
        raise ValueError(f"sweep: the leaves of {short(group)} have {had}; wanted one length for all: type gdjax.grid(gdjax.sgd, learning_rate=[0.01, 0.1]).")
    (count,) = counts
    return jax.tree.map(lambda x: jnp.asarray(x) if np.ndim(x) else jnp.full(count, x), group)


def _checked_keys(keys: Any) -> tuple[Any, ...]:
    if not isinstance(keys, (list, tuple, range, np.ndarray, jax.Array)) or getattr(keys, "ndim", 1) == 0 or len(keys) == 0:
        raise TypeError(f"sweep: keys is {short(keys)}; wanted seeds or an array of keys, one at least: type keys=range(4).")
    return tuple(x if is_whole(x) else check_key(x, "keys hold one per seed") for x in keys)


def _checked_rungs(run: Any, score: Any, rungs: Any, keep: Any, keyed: bool) -> tuple[int, ...]:
    if score is not None and not callable(score):
        raise TypeError(f"sweep: score is {short(score)}; wanted a function of what run returns: type score=lambda result: result.value.")
    if not callable(run):
        raise TypeError(f"sweep: run is {short(run)}; wanted a function of a rule: type lambda rule: gdjax.fit(..., rule, ...).")
    check_share("sweep", "keep", keep, "1/3")
    if rungs is None:
        check_takes(run, ["rule", "key"] if keyed else ["rule"], "run")
        return ()
    given = rungs.tolist() if isinstance(rungs, (np.ndarray, jax.Array)) and rungs.ndim == 1 else rungs
    steps = tuple(given) if isinstance(given, (list, tuple, range)) and all(map(is_whole, given)) else ()
    if not steps or steps[0] < 1 or any(b <= a for a, b in itertools.pairwise(steps)):
        raise ValueError(f"sweep: rungs is {short(rungs)}; wanted numbers of steps, increasing: type rungs=(100, 300, 900).")
    if not _takes(run, "steps"):
        taken = "rule, key" if keyed else "rule"
        raise TypeError(f"sweep: run takes no steps, which rungs need; type lambda {taken}, steps, resume=None: gdjax.fit(..., steps=steps, resume=resume).")
    return steps


def checked_block(block: Any, mesh: Any, door: str = "sweep") -> int | None:
    """The lanes at once, where they and the mesh are what they should be."""
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
        raise TypeError(f'{door}: mesh is {short(mesh)}; wanted a jax.sharding.Mesh: type mesh=jax.make_mesh((len(jax.devices()),), ("lanes",)).')
    if block is not None and (not is_whole(block) or block < 1):
        raise ValueError(f"{door}: block is {short(block)}; wanted a whole number of lanes, 1 at least, or None: type block=64.")
    return None if block is None else int(block)


def _takes(function: Any, name: str) -> bool:
    parameters = signature_of(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _kind(x: Any) -> str:
    return f"an array of shape {tuple(x.shape)}" if hasattr(x, "shape") else type(x).__name__
