"""Threads of networks and of potentials."""

import pytest
import torch

from openmm_bg.errors import InputError
from openmm_bg.mcmc import FlowMove
from openmm_bg.mcmc.proposal_move import ProposalMove
from openmm_bg.threads import THREADS_VARIABLE, potential_threads, single_threaded


@pytest.fixture
def three_threads(monkeypatch):
    """Three threads of torch, which the tests run with one of."""
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def _now():
    return torch.get_num_threads(), potential_threads()


def test_networks_have_one_thread_and_potentials_theirs(three_threads):
    assert _now() == (3, 3)
    with single_threaded():
        assert _now() == (1, 3)
        with single_threaded():
            assert _now() == (1, 3)
        assert _now() == (1, 3)
    assert _now() == (3, 3)


def test_threads_are_given_back_after_an_error(three_threads):
    with pytest.raises(InputError), single_threaded():
        raise InputError("wrong")
    assert _now() == (3, 3)
    with single_threaded():
        torch.set_num_threads(1)
    assert _now() == (3, 3)


def test_the_variable_counts_everywhere(three_threads, monkeypatch):
    monkeypatch.setenv(THREADS_VARIABLE, "2")
    with single_threaded():
        assert _now() == (1, 2)


def test_moves_run_in_one_thread(three_threads, monkeypatch):
    seen = []

    def steps(self, target, start):
        seen.append(_now())
        return start

    monkeypatch.setattr(FlowMove, "_steps", steps)
    ProposalMove.steps(object.__new__(FlowMove), None, torch.zeros(3, 3))
    assert seen == [(1, 3)]
    assert _now() == (3, 3)
