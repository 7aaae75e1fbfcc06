import io

from rich.console import Console
from table_scenario import scenario

from tokenauction_jax.cli import display


def test_progress_tells_compiling_from_running():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    chosen = scenario(num_auctions=40, num_tokens=2)
    with display.Progress(console) as progress:
        progress.plan(chosen, [0.0, 1.0])
        task = progress._bar.tasks[0]
        # Two rules, two shares, two blocks of auctions, two tokens.
        assert task.total == 16
        seen = [task.description]
        for _ in range(16):
            progress.on_token(0)
            seen.append(task.description)
            rated = "tokens/s" in task.fields["rate"]
            assert rated == (len(seen) > 2)
    assert seen == [
        "compiling linear",
        *["linear, share 0"] * 4,
        *["linear, share 1"] * 3,
        "compiling log_linear",
        *["log_linear, share 0"] * 4,
        *["log_linear, share 1"] * 4,
    ]
    assert task.finished
