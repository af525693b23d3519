"""An exported folder on the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # pyright: ignore[reportPrivateImportUsage]

from biomedgpt_jax.convert.card import Origin, credentialed
from biomedgpt_jax.core.errors import RunError, UsageError


def check_name(name: str) -> None:
    """Raises UsageError where `name` is no owner/name of a repository."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UsageError(f"--push-to-hub={name}: expected owner/name, such as my-lab/llama3-med-rad.")


def refuse_credentialed(name: str, origins: tuple[Origin, ...]) -> None:
    """Raises UsageError for a model that was made from credentialed data."""
    if guarded := credentialed(origins):
        raise UsageError(
            f"--push-to-hub={name}: the model was trained on credentialed data ({', '.join(guarded)}), which, and what "
            "is made of it, may be shared with people under the same agreement alone. Leave the flag out."
        )


def push_folder(folder: Path, name: str, *, private: bool) -> str:
    """Makes the repository where there is none, uploads the folder in one commit, and returns the address.

    The token is the one of `hf auth login` or of the environment (HF_TOKEN).

    Raises:
        RunError: the hub refuses, or cannot be reached; says what to do.
    """
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of biomedgpt_jax")
    except HfHubHTTPError as error:
        raise RunError(_refused(name, folder, error)) from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"--push-to-hub={name}: {api.endpoint} cannot be reached, or broke off ({_first_line(error)}). "
            f"The export in {folder} is whole; upload it later with `hf upload {name} {folder}`."
        ) from error
    return f"{api.endpoint}/{name}"


def _refused(name: str, folder: Path, error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else None
    reasons = {
        401: "you are not logged in: run `hf auth login`, or set HF_TOKEN to a token that may write",
        403: f"the token may not write to {name}: take a token with write access, or another owner",
        404: "there is no such owner, or the token may not see it",
    }
    reason = reasons.get(status or 0, _first_line(error))
    return (
        f"--push-to-hub={name}: the hub answered {status}: {reason}. The export in {folder} is whole; "
        f"upload it later with `hf upload {name} {folder}`."
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
