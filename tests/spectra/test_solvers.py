"""The solver of eigenvalues is the fastest of a measured table; without an entry torch chooses."""

from __future__ import annotations

import json

import pytest
import torch

from hf_tempbalance.spectra import eigenvalues, solvers
from hf_tempbalance.spectra.eigenvalues import squared_singular_values
from hf_tempbalance.spectra.solvers import TABLE_PATH, WAYS, backend_of, way_of


def row(side: int, batch: int, way: str, dtype: str = "float32") -> dict:
    return {"side": side, "batch": batch, "dtype": dtype, "way": way}


@pytest.fixture
def table(monkeypatch):
    """A function that puts a made-up table, of this CPU, in the place of the package's."""

    def put(*rows: dict, backend: str = "cpu", threads: int = 1) -> None:
        made_up = {"backend": backend, "threads": threads, "rows": list(rows)}
        monkeypatch.setattr(solvers, "solver_table", lambda: made_up)

    return put


def test_the_table_that_ships_can_be_read_and_has_no_entry_for_a_cpu():
    shipped = json.loads(TABLE_PATH.read_text())
    assert shipped == solvers.solver_table() and shipped["backend"] != "cpu"
    assert {entry["way"] for entry in shipped["rows"]} <= set(WAYS)


@pytest.mark.parametrize(
    ("side", "batch", "dtype", "way"),
    [
        (64, 8, torch.float32, "jacobi"),
        (60, 8, torch.float32, "jacobi"),  # the nearest side
        (85, 1, torch.float32, "jacobi"),
        (100, 1, torch.float32, "one by one"),
        (128, 60, torch.float32, "magma"),  # of its entries the nearest batch
        (128, 7, torch.float32, "one by one"),
        (256, 1, torch.float32, "torch"),  # no entry is near
        (64, 8, torch.float64, "torch"),
    ],
)
def test_the_entry_with_the_nearest_side_and_then_batch_decides(table, side, batch, dtype, way):
    table(row(64, 8, "jacobi"), row(128, 1, "one by one"), row(128, 64, "magma"))
    assert way_of(side, batch, dtype, "cpu") == way
    assert way_of(side, batch, dtype, "cuda") == "torch"  # the table is of another backend


def test_a_way_of_a_later_version_is_left_to_torch(table):
    table(row(64, 1, "quantum"))
    assert way_of(64, 1, torch.float32, "cpu") == "torch"


def test_the_cpu_is_chosen_only_with_as_many_cores_as_it_was_measured_with(table):
    table(row(64, 1, "cpu"), threads=torch.get_num_threads())
    assert way_of(64, 1, torch.float32, "cpu") == "cpu"
    table(row(64, 1, "cpu"), threads=torch.get_num_threads() + 1)  # as on the one thread of an overlapped look
    assert way_of(64, 1, torch.float32, "cpu") == "torch"


@pytest.mark.parametrize("way", ["one by one", "cpu"])
def test_a_look_takes_the_way_of_the_table_and_finds_the_same(table, monkeypatch, way):
    weights = torch.randn(3, 200, 150)  # larger than a block: above the diagonal there is nothing to read
    expected = squared_singular_values([weights])
    asked = []
    monkeypatch.setitem(eigenvalues.WAYS, way, lambda gram, solve=WAYS[way]: asked.append(gram.shape) or solve(gram))
    table(row(150, 3, way))
    (found,) = squared_singular_values([weights])
    torch.testing.assert_close(found, expected[0])
    assert sum(shape[0] for shape in asked) == 3


@pytest.mark.parametrize("way", ["jacobi", "magma"])
def test_a_way_that_this_build_lacks_is_left_to_torch(table, way):
    weights = torch.randn(2, 40, 30)
    expected = squared_singular_values([weights])
    table(row(30, 2, way))
    torch.testing.assert_close(squared_singular_values([weights]), expected, rtol=0, atol=0)


def test_jacobi_is_given_the_whole_of_a_matrix_whose_lower_triangle_is_filled(monkeypatch):
    whole = torch.randn(2, 20, 20)
    whole = whole @ whole.mT
    lower = torch.where(torch.ones(20, 20).tril().bool(), whole, torch.nan)
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda matrix, driver: svdvals(matrix))  # drivers are of CUDA alone
    torch.testing.assert_close(WAYS["jacobi"](lower), torch.linalg.eigvalsh(whole), rtol=1e-4, atol=1e-4)


def test_the_backend_of_a_device_is_its_type_but_for_rocm(monkeypatch):
    assert backend_of(torch.device("cpu")) == "cpu"
    monkeypatch.setattr(torch.version, "hip", None)
    assert backend_of(torch.device("cuda", 1)) == "cuda"
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert backend_of(torch.device("cuda")) == "rocm"
