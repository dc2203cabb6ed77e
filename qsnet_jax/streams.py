"""Standard output and errors that may fail while the work goes on."""

import sys
from collections.abc import Callable
from typing import Any, TextIO, cast


def with_patient_output(work: Callable[[], int]) -> int:
    """The exit status of `work`, which goes on where its output fails, as a log on a full disk does.

    What is printed then is lost. Of standard output a line says so at the end, and a status of 0 becomes 1.
    """
    before = sys.stdout, sys.stderr
    patient = [stream and _Patient(stream) for stream in before]  # None: a program without a console
    sys.stdout, sys.stderr = cast(list[Any], patient)
    try:
        status = work()
        if not (output := patient[0]):
            return status
        output.flush()
        if output.fault and not isinstance(output.fault, BrokenPipeError):  # whose reader has gone, as head does
            fault = output.fault.strerror or output.fault
            print(f'error: standard output: {fault}; not all was printed', file=sys.stderr)
        return status or int(output.fault is not None)
    finally:
        for stream in filter(None, patient):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Patient:
    """A stream whose fault is noted instead of raised."""

    def __init__(self, stream: TextIO):
        self._stream, self.fault = stream, cast(OSError | None, None)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self.fault = error
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self.fault = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
