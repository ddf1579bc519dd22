"""The contexts of JAX in which gdjax does its own work, whatever those of the caller are."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding

Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def own_work():
    """What JAX's checks are for is the user's code; gdjax's own would set them off.

    It marks with NaN and infinity what is not known yet and looks for those of the loss by itself (they end a run as NONFINITE), folds many keys out of one,
    and moves to the device, and back, a few numbers per segment.
    """
    with jax.debug_nans(False), jax.debug_infs(False), jax.debug_key_reuse(False), jax.transfer_guard("allow"):
        yield


def undisturbed(function: Function) -> Function:
    """The function as gdjax's own work: a door. Arrays on meshes with explicit axes are taken, and given back, as what they are there."""

    @functools.wraps(function)
    def within(*args, **kwargs):
        with own_work():
            leaves = _leaves((args, kwargs))
            _check_devices(leaves)
            meshes = {mesh for x in leaves if (mesh := _mesh_of(x)) is not None and AxisType.Explicit in mesh.axis_types}
            if not meshes:
                with _placed():
                    return function(*args, **kwargs)
            there = {mesh: _automatic(mesh) for mesh in meshes}
            args, kwargs = _moved((args, kwargs), there)
            with _placed(), jax.sharding.use_abstract_mesh(next(iter(there.values())).abstract_mesh):
                made = function(*args, **kwargs)
            return _moved(made, {automatic: mesh for mesh, automatic in there.items()})

    return cast(Function, within)


@contextlib.contextmanager
def _placed():
    """What JAX says where arrays of a mesh come in unseen, through a closure or a function of the user's that is traced, in our words, its own attached."""
    try:
        yield
    except Exception as error:
        kind, text = type(error).__name__, str(error)
        if kind == "ShardingTypeError" or "Explicit: (" in text:
            raise ValueError(
                "arrays on a mesh with explicit axes came in through a closure or a traced function, and JAX wants to be told where each result lies; wanted "
                "them as arguments of a call outside jax.jit, under jax.set_mesh(mesh), or a mesh that decides by itself: type jax.make_mesh(shape, names, "
                "axis_types=(jax.sharding.AxisType.Auto,) * len(names))."
            ) from error
        if "{V:" in text or "varying manual axes" in text:
            raise TypeError(
                "within jax.shard_map the runs of the devices differ, which its check of varying axes does not see through; wanted that check off, if each "
                "device is to run by itself: type jax.shard_map(..., check_vma=False). For one run over all devices call gdjax outside it, on sharded arrays."
            ) from error
        raise


def _mesh_of(x: Any) -> Any:
    placed = isinstance(x, jax.Array) and not isinstance(x, Tracer) and isinstance(x.sharding, NamedSharding)
    sharding: Any = x.sharding if placed else None
    return None if sharding is None else sharding.mesh


def _leaves(trees: Any) -> list[Any]:
    # What is not a tree (an iterator, keys of mixed types) has its own words further in.
    try:
        with warnings.catch_warnings(action="ignore"):
            return jax.tree.leaves(trees)
    except (TypeError, ValueError):
        return []


def _check_devices(leaves: list[Any]) -> None:
    placed = (x for x in leaves if isinstance(x, jax.Array) and not isinstance(x, Tracer) and x.committed)
    sets = {frozenset(device.id for device in x.sharding.device_set) for x in placed}
    if len(sets) > 1:
        places = " and ".join(str(sorted(ids)) for ids in sorted(sets, key=sorted))
        raise ValueError(
            f"the arrays given lie on different devices, of numbers {places}; wanted all on the same: type params, data = "
            "jax.device_put((params, data), jax.devices()[0]), or give both a sharding on one mesh."
        )


def _automatic(mesh: Mesh) -> Mesh:
    """The mesh for which XLA decides where results lie: with explicit axes every product and row of the data would have to say it."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def _moved(trees: Any, to: dict[Mesh, Mesh]) -> Any:
    """The trees with arrays on one mesh on the other, of the same devices: nothing is copied."""

    def leaf(x):
        mesh = to.get(_mesh_of(x))
        return x if mesh is None else jax.device_put(x, NamedSharding(mesh, x.sharding.spec))

    return jax.tree.map(leaf, trees)


def promoting(function: Function) -> Function:
    """The function under JAX's usual promotion of dtypes, where it mixes them on purpose and the strict one would refuse."""

    @functools.wraps(function)
    def promoted(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return cast(Function, promoted)
