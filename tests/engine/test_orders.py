"""Orders as integers: what is sent is what arrives, and what is damaged is refused."""

from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_simul.cache.plan import Lane
from mlx_simul.engine.attention import View
from mlx_simul.engine.orders import MAX_NUMBERS, Thing, decoded, encoded, order
from mlx_simul.errors import RanksError

SMALL = st.integers(-(2**31), 2**31 - 1)
COUNTS = st.integers(0, 1000)
LANES = st.builds(
    Lane,
    COUNTS,
    COUNTS,
    COUNTS,
    COUNTS,
    COUNTS,
    SMALL,
    st.booleans(),
    st.none() | COUNTS,
    st.lists(SMALL, max_size=4).map(tuple),
)
VIEWS = st.builds(
    View,
    st.lists(st.tuples(COUNTS, COUNTS), max_size=3).map(tuple),
    st.builds(slice, st.none() | SMALL, st.none() | SMALL),
    COUNTS,
)
ROWS = st.lists(st.lists(SMALL, max_size=5).map(tuple), max_size=3).map(tuple)


@dataclass(frozen=True)
class Inner:
    one: int
    other: str | None


class Toy(Thing):
    @order
    def feed(
        self, rows: tuple[tuple[int, ...], ...], lanes: tuple[Lane, ...], views: tuple[View, ...]
    ) -> None: ...

    @order
    def say(self, text: str, inner: Inner, yes: bool) -> None: ...

    @order
    def stop(self) -> None: ...


TOY = Toy()
ORDERS = st.one_of(
    st.tuples(
        st.just("feed"),
        st.tuples(
            ROWS, st.lists(LANES, max_size=3).map(tuple), st.lists(VIEWS, max_size=2).map(tuple)
        ),
    ),
    st.tuples(
        st.just("say"),
        st.tuples(
            st.text(max_size=9),
            st.builds(Inner, SMALL, st.none() | st.text(max_size=3)),
            st.booleans(),
        ),
    ),
    st.just(("stop", ())),
)


def find(number):
    if number:
        raise RanksError("no such thing")
    return TOY


@given(ORDERS)
def test_an_order_arrives_as_it_was_sent(sent):
    name, args = sent
    numbers = encoded(TOY, name, args)
    assert all(type(number) is int for number in numbers)
    assert decoded(numbers, find) == (TOY, name, list(args))


@given(ORDERS, st.data())
def test_an_order_that_is_cut_or_goes_on_is_refused(sent, data):
    numbers = encoded(TOY, *sent)
    cut = data.draw(st.integers(0, len(numbers) - 1))
    for spoiled in (numbers[:cut], [*numbers, 0]):
        with pytest.raises(RanksError):
            decoded(spoiled, find)


@given(ORDERS, st.data())
def test_whatever_arrives_is_an_order_or_refused(sent, data):
    """Nothing else is raised, nothing is computed, and what is taken is bounded by what came."""
    numbers = encoded(TOY, *sent)
    at = data.draw(st.integers(0, len(numbers) - 1))
    numbers[at] = data.draw(SMALL)
    try:
        thing, name, args = decoded(numbers, find)
    except RanksError:
        return
    assert encoded(thing, name, tuple(args)) == numbers


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 1.0, "1", None])
def test_what_is_not_an_integer_is_not_sent(value):
    with pytest.raises(RanksError, match="32 bits"):
        encoded(TOY, "feed", (((value,),), (), ()))


def test_what_is_too_long_is_not_sent():
    with pytest.raises(RanksError, match="at most"):
        encoded(TOY, "feed", ((tuple([0]) * MAX_NUMBERS,), (), ()))


def test_alone_an_order_is_a_call():
    class Counts(Thing):
        numbers = count()

        @order
        def next(self) -> int:
            return next(self.numbers)

    thing = Counts()
    assert (thing.next(), thing.next()) == (0, 1)
