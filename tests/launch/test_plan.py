"""A plan as a script: run by bash, it does what the plan says."""

import json
import subprocess
import sys

from biomedgpt_jax.launch.plan import Command, File, Plan, one_line, script

ODD = ("it's", "$(touch broken)", "two\nlines", '"quoted"', "a*", "", "--config=configs/a.py:data=it's;x")
PRINT = "import json, sys; print(json.dumps(sys.argv[1:]))"


def test_one_line_is_read_back_by_a_shell(tmp_path):
    for words in (ODD, (*ODD, "--long=" + "x" * 200, "--command=cd a && b")):
        line = one_line((sys.executable, "-S", "-c", PRINT, *words))
        out = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert json.loads(out) == list(words)
    assert not list(tmp_path.iterdir())


def test_quotes_stand_where_a_reader_expects_them():
    assert one_line(("ssh", "--command=cd a && b", "--zone=x")) == "ssh --command='cd a && b' --zone=x"


def test_script_writes_files_and_leaves_out_what_is_done(tmp_path):
    text = "first $HOME\nEND_OF_FILE\n'last'\n"
    plan = Plan(
        files=(File("a b/file.sh", text),),
        commands=(
            Command("done already", ("touch", "not needed"), unless=("test", "-f", "a b/file.sh")),
            Command("not done", ("touch", "needed"), unless=("test", "-f", "nothing")),
        ),
        later=(Command("later", ("touch", "later")),),
    )
    subprocess.run(["bash", "-c", script(plan)], cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"a b", "needed"}
    assert (tmp_path / "a b" / "file.sh").read_text() == text
    assert "#   touch later" in script(plan)
