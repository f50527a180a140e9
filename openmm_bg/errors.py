"""The exceptions and warnings that openmm_bg raises on purpose."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what is wrong and what to do.

    The command line prints the message and exits with code 2. It accepts a single string, as
    openmmtools' MPI layer rebuilds exceptions as ``type(error)(str(error))``.
    """


class ModelFileError(InputError):
    """A saved model is missing, truncated, or not the one it claims to be."""


class ReliabilityWarning(UserWarning):
    """A result was computed, but the diagnostics say that it should not be trusted as it is."""
