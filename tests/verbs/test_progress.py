import io

from rich.console import Console

from biomedgpt_jax.verbs.progress import progress


def test_a_log_gets_one_line_at_the_end_of_each_pass(capsys):
    with progress(Console(file=io.StringIO())) as advance:
        for _ in range(2):
            advance("read", 0, 2)
            for _ in range(5):
                advance("read", 2, 2)
    assert capsys.readouterr().err.count("read: 2/2 in 0 s") == 2
