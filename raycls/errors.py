"""Every error raycls raises on purpose. A message is one line that says what is wrong and what to do about it.

RayclsError                 exit code 1: the work failed
├── UsageError              exit code 2: asked for wrongly; the message names the fix
│   ├── ConfigError         a field unknown, of the wrong type or out of range
│   ├── UnknownDatasetError
│   └── UnknownModelError   no such model, version or alias
├── DataError               a dataset cannot be made, or is not what it says it is
│   ├── SourceError         no source could deliver the images, or the weights
│   └── BusyError           another process is preparing the same dataset
├── TrainingError           a run or a study stopped before its end
│   └── BrokenOffError      by something outside it, a killed worker or a full disk: it can be resumed
├── CheckpointError         a checkpoint directory is incomplete or damaged
├── ExportError             a model cannot be written as one file, or the file answers otherwise
├── RegistryError           MLflow refused or cannot be reached
├── ClusterError            Ray or Serve did not start, answer or stop
└── ImageError              one image cannot be read (400 over HTTP)
    ├── NotAnImageError     the bytes are no image of a supported format (415)
    └── ImageTooLargeError  more bytes or pixels than allowed (413)
"""

from __future__ import annotations


class RayclsError(Exception):
    """The root: catch this to catch whatever raycls reports. `exit_code` is the command line's."""

    exit_code = 1


class UsageError(RayclsError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class UnknownDatasetError(UsageError):
    pass


class UnknownModelError(UsageError):
    pass


class DataError(RayclsError):
    pass


class SourceError(DataError):
    pass


class BusyError(DataError):
    pass


class TrainingError(RayclsError):
    pass


class BrokenOffError(TrainingError):
    pass


class CheckpointError(RayclsError):
    pass


class ExportError(RayclsError):
    pass


class RegistryError(RayclsError):
    pass


class ClusterError(RayclsError):
    pass


class BenchmarkError(RayclsError):
    pass


class ImageError(RayclsError):
    pass


class NotAnImageError(ImageError):
    pass


class ImageTooLargeError(ImageError):
    pass
