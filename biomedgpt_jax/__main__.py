"""The command line: `biomedgpt VERB [flags]`. Exit codes: 0 done, 1 failed, 2 a wrong call, 75 to be started again."""

import importlib
import logging
import sys
import traceback
from types import ModuleType
from typing import Any

from absl import flags
from absl import logging as absl_logging

from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.system_errors import system_message
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.verbs import command_line

VERBS = {
    "data": "list the data sets: task, sizes, licence, access, and what of them is on this machine",
    "prepare": "turn a data set into ArrayRecord files with a manifest",
    "mix": "make an instruction mixture of prepared data, free of what is scored",
    "lint": "check prepared data as a training would read it",
    "synth": "have a language model write instruction data from captions",
    "train": "train a model; the same command again resumes",
    "eval": "score a model on a prepared split under a named protocol",
    "generate": "answer a question about an image",
    "serve": "answer over HTTP, as OpenAI's chat interface does",
    "import": "turn published weights into a weights folder",
    "export": "turn a run into a Hugging Face folder, and prove that it is the same model",
    "ledger": "list parameters, what is trained, and bytes per device, from shapes alone",
    "fit": "say what a training needs on accelerators that are not here, and how fast it would be",
    "doctor": "say what would go wrong in a run on these machines, before it does",
    "launch": "start a verb on a pod, a cluster or many processes",
    "report": "write the HTML page of a run and print its table",
}


def main() -> int:
    """Runs one verb; console entry point."""
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    # What follows `--` is a command of its own.
    end = argv.index("--") if "--" in argv else len(argv)
    verb, rest, after = argv[0], argv[1:end], argv[end + 1 :]
    debug = "--debug" in rest
    if not debug:
        _quiet()
    try:
        code = _run(verb, [argument for argument in rest if argument != "--debug"], after)
        if processes := _processes():
            processes.finish()
        return code
    except KeyboardInterrupt:
        return _fail(verb, "interrupted", 1)
    except (RunError, DataError) as error:
        if debug:
            traceback.print_exc()
        return _fail(verb, str(error), getattr(error, "exit_code", 1))
    except Exception as error:
        if debug:
            traceback.print_exc()
        if missing := command_line.missing_key(error):
            return _fail(verb, missing, 2)
        if (processes := _processes()) and (gone := processes.who_is_missing(error)):
            return _fail(verb, str(gone), gone.exit_code)
        refused = system_message(error, _target(rest))
        # Else not an input that we foresaw: name it, and say how to see where it comes from.
        unforeseen = f"unexpected {type(error).__name__}: {error}\nRun again with --debug to see where."
        return _fail(verb, refused or unforeseen, 1)


def _quiet() -> None:
    """Errors are told once, by `_fail`. Orbax logs each before it raises it, and the writes that a failed save
    leaves behind complain one by one of the event loop that is gone.
    """
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None


def verb_module(verb: str) -> ModuleType:
    # `import` is a keyword of Python, so no module can be named so.
    return importlib.import_module(f"biomedgpt_jax.verbs.{'import_weights' if verb == 'import' else verb}")


def _run(verb: str, rest: list[str], after: list[str]) -> int:
    if verb not in VERBS:
        raise UsageError(f"There is no verb {verb!r}.{command_line.suggest(verb, VERBS)}\n{_overview()}")
    module = verb_module(verb)
    if any(argument in ("-h", "--help") for argument in rest):
        print(command_line.help_text(module))
        return 0
    values = command_line.parse(module, rest)
    # Grain starts worker processes, which read absl's global flags.
    flags.FLAGS.mark_as_parsed()
    if verb == "launch":
        return module.run(values, after)
    if after:
        raise UsageError(f"Not a flag: {after[0]!r}. Flags are written --name=value.")
    return module.run(values) or 0


def _target(arguments: list[str]) -> str | None:
    """The folder or file that the call was to write."""
    return next((each.split("=", 1)[1] for each in arguments if each.startswith(("--out=", "--workdir="))), None)


def _overview() -> str:
    verbs = "\n".join(f"  {name:10}{text}" for name, text in VERBS.items())
    return f"usage: biomedgpt VERB [flags]\n\n{verbs}\n\nbiomedgpt VERB --help shows an example."


def _fail(verb: str, message: str, code: int) -> int:
    print(f"biomedgpt {verb}: {message}", file=sys.stderr)
    if processes := _processes():
        processes.leave(code, message.splitlines()[0])
    return code


def _processes() -> Any:
    """The module that knows of other processes, where a verb may have joined some; else JAX need not be loaded."""
    return sys.modules.get("biomedgpt_jax.core.processes")


if __name__ == "__main__":
    sys.exit(main())
