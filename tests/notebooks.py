"""Runs a notebook in a kernel of its own, and saves what it shows.

``python tests/notebooks.py notebooks/*.ipynb`` writes outputs into notebooks, without
what depends on the machine.
"""

import pathlib
import sys
import tempfile

import nbclient
import nbformat
import one_device

ROOT = pathlib.Path(__file__).parents[1]
TIMEOUT = 600  # Seconds a cell.


def read(path):
    """The notebook in a file."""
    return nbformat.read(path, as_version=4)


def run(notebook, **parameters):
    """Runs all cells in a folder of their own, in place, without the network.

    Args:
      notebook: What `read` returned.
      **parameters: What the cell that is tagged "parameters" sets, to be set otherwise.
    """
    (given,) = (cell for cell in code(notebook) if "parameters" in tags(cell))
    source = given.source
    given.source += "".join(f"\n{name} = {x!r}" for name, x in parameters.items())
    environment = one_device.environment()
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            kernel_name="python3",
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": folder}},
            timeout=TIMEOUT,
        )
        client.execute(env=environment)
    given.source = source


def code(notebook):
    """The cells that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    """What a cell is marked with."""
    return cell.metadata.get("tags", [])


def texts(cell):
    """What a cell prints and returns, as text."""
    shown = [output.get("text", "") for output in cell.outputs]
    shown += [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return [text for text in shown if text]


def main(paths):
    """Runs and saves notebooks."""
    for path in paths:
        notebook = read(path)
        run(notebook)
        notebook.metadata.language_info = {"name": "python"}
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
