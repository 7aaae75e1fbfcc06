"""Small optimisations of each kind, run once, with what each step left on disk."""

import shutil

import pytest

from tokenauction_jax.optimisation import launch

GAME = """
num_tokens = 3
num_auctions = 24
seed = 5
[agents]
kind = "markov"
num_agents = 2
vocab_size = 3
[values]
kind = "{values}"
[rule]
aggregation = "linear"
payment = "{payment}"
[goal]
kind = "{kind}"
{goal}
"""
GOALS = {
    "best_response": ("fixed", "second_price", "agent = 1"),
    "equilibrium": ("log_normal", "pay_your_bid", "num_steps = 4\ngap_every = 2"),
    "optimizer": (
        *("fixed", "pay_your_bid"),
        'optimizer = "adam"\nlearning_rate = 0.01\nnum_steps = 3\ngap_every = 0',
    ),
    "pacing": ("log_normal", "second_price", "budgets = 0.4\nagents = [1]"),
}


def text_of(name):
    """The file of one of them."""
    values, payment, goal = GOALS[name]
    kind = "equilibrium" if name == "optimizer" else name
    return GAME.format(values=values, payment=payment, kind=kind, goal=goal)


class Whole:
    """A run that was not interrupted, and its history after each step."""

    def __init__(self, folder, name):
        self.name, self.folder = name, folder / name
        self.file = folder / f"{name}.toml"
        self.file.write_text(text_of(name))
        self.history = self.folder / "history.parquet"
        self.steps = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launch, "_SAVE_EVERY", -1.0)
            self.results = launch.run(self.file, self.folder, listen=self._seen)

    def _seen(self, _):
        self.steps.append(self.history.read_bytes())

    def killed(self, step, place):
        """A copy of the folder as a kill after so many steps left it."""
        shutil.copytree(self.folder, place)
        shutil.rmtree(place / "tables")
        (place / "history.parquet").write_bytes(self.steps[step])
        return place


@pytest.fixture(scope="session", params=GOALS)
def whole(request, tmp_path_factory):
    return Whole(tmp_path_factory.mktemp("runs"), request.param)


@pytest.fixture(scope="session")
def equilibrium(tmp_path_factory):
    return Whole(tmp_path_factory.mktemp("runs"), "equilibrium")
