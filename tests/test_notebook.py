"""The notebook that turns a sweep into figures: run on a small sweep, and stored with what it showed."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "experiments/compare.ipynb"


def test_every_cell_runs_and_the_figures_are_written(swept, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS", str(swept))
    monkeypatch.setenv("FIGURES", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(notebook, timeout=90, resources={"metadata": {"path": str(ROOT / "experiments")}}).execute()
    told = [cell.outputs[0].text for cell in notebook.cells if cell.get("outputs") and "text" in cell.outputs[0]]
    assert told == ["8 runs differ in workers, topology, seed; {'budget': 8}\n"]
    names = {f"{name}.{suffix}" for name in ("curves", "target", "throughput") for suffix in ("pdf", "svg")}
    assert {path.name for path in tmp_path.iterdir()} >= names


def test_it_is_stored_with_its_outputs_in_a_dozen_cells():
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert len(cells) <= 12 and [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [each for cell in cells for each in cell.outputs if "image/png" in each.get("data", {})]
    assert len(pictures) == 3
