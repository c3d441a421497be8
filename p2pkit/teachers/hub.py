"""Whether the Hugging Face hub can be reached, asked before its library tries for minutes."""

import time
from collections.abc import Sequence

from p2pkit.errors import TeacherError, first_line

ANSWER_SECONDS = 5.0
PAUSE_SECONDS = 2.0
NO_CONNECTION = (
    "ConnectError",
    "ConnectTimeout",
    "ConnectionError",
    "OfflineModeIsEnabled",
    "ProxyError",
)
"""Names of the errors before anything is sent: which library speaks HTTP for the hub's varies."""


def check_hub(teacher: str, model: str, files: Sequence[str], *, instead: str) -> None:
    """Raise soon where a model must come from the hub and no connection to it can be made.

    All else is left to the hub's library, which tries six times for each file that a model may
    have: hubs that answer late or refuse, and names that no model can have.

    Args:
        teacher: its name, for the message.
        model: OWNER/NAME on the hub, or OWNER/NAME@REVISION.
        files: where one of these was fetched before, nothing is asked.
        instead: what to do without a network.

    Raises:
        TeacherError: none of the files is here, and two tries to connect have failed.
    """
    from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name, _, revision = model.partition("@")
    chosen = revision or None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return
    if any(isinstance(try_to_load_from_cache(name, file, revision=chosen), str) for file in files):
        return
    url = hf_hub_url(name, files[0], revision=chosen)
    if _no_connection(url) is None:
        return
    time.sleep(PAUSE_SECONDS)
    error = _no_connection(url)
    if error is not None:
        raise TeacherError(
            f"teacher {teacher}: its weights are not on this machine, and {constants.ENDPOINT} "
            f"cannot be reached ({first_line(error)}). {instead}"
        ) from error


def _no_connection(url: str) -> Exception | None:
    """Why no connection can be made; None where one can."""
    from huggingface_hub import get_hf_file_metadata

    try:
        get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
    except Exception as error:
        return error if type(error).__name__ in NO_CONNECTION else None
    return None
