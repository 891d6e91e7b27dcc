"""Every error that edgediff raises on purpose, in one tree.

Each message says what was asked, what was found and what to do. ``code`` is stable and machine-readable (it
is what ``--json`` prints); ``exit_code`` is the status with which the command line ends.

::

    EdgediffError              1    something known went wrong
      + InputError             2    an argument, a prompt, a picture: the caller can fix it
      + BundleError            3    the bundle is not what the format says
        - IntegrityError       4    a file's bytes are not those that the manifest names
      + CheckFailed            3    a check ran to its end and said no
      + SourceError            1    a checkpoint cannot be exported: damaged, incomplete or unsafe
      + UnsupportedError       5    well-formed, but this machine, build or version cannot do it
      + ResourceError          6    memory, disk or files ran out
      + NumericError           7    NaN or Inf where a number was due
      + SafetyBlocked          8    a safety graph refused the result
      + BusyError              9    somebody else holds what was asked for
      + CancelledError       130    the caller stopped the work
"""

from __future__ import annotations


class EdgediffError(Exception):
    """Base of all errors raised on purpose. Its text is meant for users."""

    code = "error"
    exit_code = 1


class InputError(EdgediffError, ValueError):
    """An argument, prompt or picture is wrong; nothing was computed."""

    code = "input"
    exit_code = 2


class BundleError(EdgediffError):
    """A bundle's manifest, graph or tokenizer is not what the format says."""

    code = "bundle"
    exit_code = 3


class IntegrityError(BundleError):
    """A file's size or sha256 is not the one in the manifest."""

    code = "integrity"
    exit_code = 4


class CheckFailed(EdgediffError):
    """A verification ran to its end and its answer is no."""

    code = "check_failed"
    exit_code = 3


class SourceError(EdgediffError):
    """A checkpoint cannot be exported: damaged, incomplete, unsafe or of an unknown shape."""

    code = "source"
    exit_code = 1


class UnsupportedError(EdgediffError):
    """A well-formed request that this machine, build or version cannot serve."""

    code = "unsupported"
    exit_code = 5


class ResourceError(EdgediffError):
    """Memory, disk space or file handles ran out."""

    code = "resource"
    exit_code = 6


class NumericError(EdgediffError):
    """NaN or Inf appeared; the message names the stage and the step."""

    code = "numeric"
    exit_code = 7


class SafetyBlocked(EdgediffError):
    """A safety graph refused the result; no pixels are returned."""

    code = "safety_blocked"
    exit_code = 8


class BusyError(EdgediffError):
    """Somebody else holds the output or the pipeline."""

    code = "busy"
    exit_code = 9


class CancelledError(EdgediffError):
    """The caller stopped the work; nothing was written."""

    code = "cancelled"
    exit_code = 130
