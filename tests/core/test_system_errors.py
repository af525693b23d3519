"""What the system refuses, in the shapes in which it reaches the command line."""

import errno
import os

import pytest

from biomedgpt_jax.core.system_errors import system_message

TENSORSTORE = (
    'RESOURCE_EXHAUSTED: Error writing "a/0" in OCDBT database at local file "/runs/a/optimizer/": Failed writing: '
    "\"/runs/a/optimizer/d/901b\": Failed to write 275 bytes to file 17: No space left on device [os_error_code='28']"
)
ARRAY_RECORD = (
    "write() failed: No space left on device; writing /data/out.partial/test/samples.array_record; at byte 36864"
)
FULL = "no space left on device. Free space there, or choose another disk, and run the same command again."
MESSAGES = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), f"somewhere in runs/a: {FULL}"),
    (OSError(errno.EROFS, "Read-only file system", "/cd/x"), "/cd/x: read-only file system. Nothing can be written"),
    (PermissionError(errno.EACCES, "Permission denied", b"/x"), "/x: permission denied. Check its owner"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a.part", None, "/a/b"), "/a/b: not a directory. A part"),
    (ValueError(TENSORSTORE), f"/runs/a/optimizer/d/901b: {FULL}"),
    (RuntimeError(ARRAY_RECORD), f"/data/out.partial/test/samples.array_record: {FULL}"),
    (
        ExceptionGroup("both", [KeyError("x"), ExceptionGroup("in", [OSError(errno.EDQUOT, "", "/q")])]),
        "/q: disk quota",
    ),
    (MemoryError("Unable to allocate 9 TiB"), "out of memory (Unable to allocate 9 TiB). Use fewer workers"),
]


@pytest.mark.parametrize(("error", "begin"), MESSAGES, ids=lambda value: str(value)[:30])
def test_message_names_path_reason_and_advice(error, begin):
    message = system_message(error, "runs/a")
    assert message is not None and message.startswith(begin) and message.endswith(".")


def test_cause_is_followed_and_what_was_merely_handled_is_not():
    refused = OSError(errno.ENOSPC, "full", "/disk/x")
    wrapped = RuntimeError("save failed")
    wrapped.__cause__ = refused
    assert (system_message(wrapped) or "").startswith("/disk/x: no space left")
    wrapped.__cause__, wrapped.__context__ = None, refused
    assert system_message(wrapped) is None
    looped = ValueError("a")
    looped.__cause__ = looped
    assert system_message(looped) is None


def test_other_errors_are_not_the_systems():
    for error in (ValueError("no"), KeyError("x"), OSError("no number"), RuntimeError("shape (28,) does not fit")):
        assert system_message(error, "runs/a") is None
