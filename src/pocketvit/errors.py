"""The one exception that a user's own mistake raises; the command line prints it as one line and exits with 2."""

import errno
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

Verb = TypeVar("Verb", bound=Callable[..., Any])

FLAG = re.compile(r"(?<![\w-])--([a-z][\w-]*(?:\.\w+)*)")
SWITCHES = ("overwrite", "resume", "skip_bad")
OF_PLACES = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EEXIST, errno.EISDIR,
    errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip


def in_python(message: str) -> str:
    """A message that speaks of flags, in the words of Python's arguments: --skip-bad as skip_bad=True."""

    def argument(flag: re.Match[str]) -> str:
        name = flag[1].replace("-", "_")
        return f"{name}=True" if name in SWITCHES else name

    return FLAG.sub(argument, message)


def speaking_python(function: Verb) -> Verb:
    """A verb or a method whose errors name arguments rather than flags."""

    @wraps(function)
    def verb(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise UserError(in_python(str(error))) from None

    return cast(Verb, verb)


class UserError(Exception):
    """A mistake the user can mend: one line that says what was found, what was expected and what to do."""


class Diverged(UserError):
    """What a network says is no number: its training has run away, or its file is damaged."""

    def __init__(self) -> None:
        super().__init__(
            "the network's outputs are no numbers: its training diverged, or its file is damaged: train it with a "
            "lower --lr, or write the file anew"
        )


class ImageWarning(UserWarning):
    """What a person should know of images that an answer is given for."""


class NotRead(ImageWarning):
    """A folder of images holds other things too."""


class UnlikeTraining(ImageWarning):
    """Images are so far from those that a model learnt from that its answers mean little."""


def of_place(error: OSError, place: str = "", hint: str = "") -> UserError:
    """What a full disk, a missing permission or a place that is none for a file is to a user.

    Raises:
        OSError: `error` itself, where it is none of these.
    """
    if error.errno not in OF_PLACES:
        raise error
    place = place or error.filename2 or error.filename or "output"
    return UserError(f"{place}: cannot be written ({error.strerror}){hint}")
