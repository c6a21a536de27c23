"""The model of several machines: what follows from it whatever is assumed, and its page."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT

sys.path.append(str(ROOT / "tools"))

from machines import (
    GPU,
    LARGE,
    MAC,
    MODELS,
    RDMA,
    SMALL,
    Link,
    break_even_s,
    bytes_of_pass,
    fitted,
    pass_s,
)

LINKS = st.builds(Link, st.just(""), st.floats(1e-6, 1e-2), st.floats(1e8, 1e12), st.booleans())


@given(LINKS, st.integers(2, 8), st.integers(1, 10**8))
def test_a_sum_takes_longer_the_worse_the_link(link, n_ranks, n_bytes):
    took_s = link.sum_s(n_bytes, n_ranks)
    assert took_s >= link.latency_s
    assert replace(link, latency_s=2 * link.latency_s).sum_s(n_bytes, n_ranks) > took_s
    assert replace(link, bytes_per_s=link.bytes_per_s / 2).sum_s(n_bytes, n_ranks) > took_s
    assert link.sum_s(n_bytes, 1) == 0


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("machine", [MAC, GPU], ids=lambda machine: machine.name)
@given(n_ranks=st.integers(2, 8), is_mesh=st.booleans())
def test_at_the_break_even_ranks_are_as_fast_as_one_machine(model, machine, n_ranks, is_mesh):
    latency_s = break_even_s(model, machine, n_ranks, is_mesh=is_mesh)
    one_s = pass_s(model, machine, RDMA, 1)
    wide = Link("", latency_s, float("inf"), is_mesh)
    assert pass_s(model, machine, wide, n_ranks) == pytest.approx(one_s)
    assert pass_s(model, machine, replace(wide, latency_s=latency_s / 2), n_ranks) < one_s
    assert pass_s(model, machine, replace(wide, latency_s=latency_s * 2), n_ranks) > one_s


def test_a_large_model_bears_a_slower_link():
    assert break_even_s(LARGE, MAC, 4, is_mesh=True) > break_even_s(SMALL, MAC, 4, is_mesh=True)


@given(latency_us=st.floats(5, 5000), width=st.floats(1e8, 1e11), n_ranks=st.integers(2, 4))
def test_a_fit_finds_the_link_that_made_the_sums(latency_us, width, n_ranks):
    link = Link("", latency_us * 1e-6, width)
    sums = [
        {"bytes": size, "least_us": link.sum_s(size, n_ranks) * 1e6}
        for size in (64 * 8**power for power in range(8))
    ]
    found = fitted(sums, n_ranks)
    assert found.latency_s == pytest.approx(link.latency_s, rel=1e-3)
    assert found.sum_s(1 << 24, n_ranks) == pytest.approx(link.sum_s(1 << 24, n_ranks), rel=1e-2)
    # The negative control: the same sums, taken for those of more ranks.
    assert fitted(sums, n_ranks + 1).latency_s < 0.8 * link.latency_s


def test_the_bytes_of_a_pass_are_those_of_its_sums():
    held = {"n_layers": 8, "hidden_size": 512, "bytes_per_value": 4, "n_tokens": 1}
    assert bytes_of_pass(held, 2) == 16 * 512 * 4
    assert bytes_of_pass(held, 4) == 16 * 512 * 4 * 1.5


def test_the_page_is_what_the_tool_writes():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "machines.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
