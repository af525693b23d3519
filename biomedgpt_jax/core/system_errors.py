"""What the operating system refused, as a message to act on: which path, why, what to do.

The refusal may come as an OSError, or from a library that passes only its words on (Orbax's and ArrayRecord's
writers in C++), and it may lie below other exceptions.
"""

import errno
import os
import re
from collections.abc import Iterator

_ADVICE = {
    errno.ENOSPC: "Free space there, or choose another disk, and run the same command again",
    errno.EDQUOT: "Free space there, or choose another disk, and run the same command again",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or choose another disk",
    errno.EROFS: "Nothing can be written there; choose another folder",
    errno.EACCES: "Check its owner and permissions, or choose another folder",
    errno.EPERM: "Check its owner and permissions, or choose another folder",
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "A part of the path is a file, expected a folder; choose another path",
    errno.EISDIR: "Expected a file; choose another path",
    errno.EEXIST: "Choose another name, or remove what is there",
    errno.ENOTEMPTY: "Choose another name, or remove what is there",
    errno.ELOOP: "A link leads to itself; check the path",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EMFILE: "Raise the limit on open files (ulimit -n), or use fewer workers",
    errno.EIO: "The disk or the network failed; see that it is well and run the same command again",
    errno.ESTALE: "The disk or the network failed; see that it is well and run the same command again",
    errno.EPIPE: "What read the output has gone away",
    errno.ENOMEM: "Use fewer workers, shorter rows or smaller batches",
}
# Those that libraries write about in words of their own; other words may well be another matter.
_IN_WORDS = {os.strerror(code): code for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)}
_PATH = re.compile(r'"(/[^"]+)"|\bwriting (/[^;\s]+)|\'(/[^\']+)\'')


def system_message(error: BaseException, target: str | None = None) -> str | None:
    """One message for the first refusal of the system in `error` or below it; None where there is none.

    `target` is what the caller was writing, named where the refusal itself names no path.
    """
    for each in _below(error, set()):
        if isinstance(each, MemoryError):
            return f"out of memory ({each or 'no more could be had'}). {_ADVICE[errno.ENOMEM]}."
        code, path = _refusal(each)
        if code in _ADVICE:
            where = path or (target and f"somewhere in {target}")
            return f"{f'{where}: ' if where else ''}{os.strerror(code).lower()}. {_ADVICE[code]}."
    return None


def _below(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    """The exception, those grouped in it, and those that it came from."""
    if id(error) in seen:
        return
    seen.add(id(error))
    yield error
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for each in (*members, error.__cause__):
        if each is not None:
            yield from _below(each, seen)


def _refusal(error: BaseException) -> tuple[int | None, str | None]:
    """Error number and path. Of two paths of a rename the second is the one that could not be made."""
    if isinstance(error, OSError) and error.errno is not None:
        path = error.filename2 or error.filename
        return error.errno, None if path is None else os.fsdecode(path) if isinstance(path, bytes) else str(path)
    text = str(error)
    code = next((code for words, code in _IN_WORDS.items() if words in text), None)
    paths = [found for groups in _PATH.findall(text) for found in groups if found]
    return code, paths[-1] if paths else None
