"""A share of ``fuzz_doors.py``, the same cases in every run: whatever is passed to a door, the outcome is a result or an error of ours."""

import fuzz_doors
import numpy as np
import pytest


@pytest.fixture(scope="module")
def doors():
    """Those that compile little: the others have the whole fuzz."""
    slow = ("suggest", "range_test", "smoothness", "fit a stream", "sweep", "multistart", "what ", "rule ")
    return {name: door for name, door in fuzz_doors.make_doors().items() if not name.startswith(slow)}


def test_a_share_of_the_cases(doors):
    count, found = fuzz_doors.campaign(0, 0, 120, np.inf, doors)
    assert count == 120
    assert not found, "\n".join(f"{each.kind}\n  {each.door}: {each.text}" for each in found)


def test_what_the_fuzz_finds():
    """It would see foreign errors: a door that lets them through is a finding, its own errors and those of the user's functions are not."""

    def lets_through(value):
        return np.zeros(3) + value

    door = fuzz_doors.of(lets_through, value=[object()])
    kinds = {type(error).__name__: fuzz_doors.judge(error) for error in map(raised, (lambda: door.function("a"), lambda: fuzz_doors.gdjax.gd("a")))}
    assert kinds == {"UFuncTypeError": kinds["UFuncTypeError"], "TypeError": ""}
    foreign = raised(lambda: fuzz_doors.gdjax.tree.norm({"a": "b"}))
    assert fuzz_doors.judge(foreign).startswith(("TypeError through", "ValueError through"))


def raised(call):
    """The error that a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return caught.value
