"""How a command refuses."""

import pytest

from tokenauction_jax.cli.main import main


def refusal(capsys, *arguments):
    """The one line that the command ends with, after exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("tokenauction: ")
    return lines[0]
