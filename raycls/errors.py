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
│   ├── BrokenOffError      by something outside it, like a killed worker: it can be resumed
│   │   └── StorageError    by a storage path that cannot be written, like a full disk
│   └── StudyError          a study cannot be kept, or too many of its trials failed
├── CheckpointError         a checkpoint directory is incomplete or damaged
├── EngineError             an engine cannot run a network
├── ExportError             a model cannot be written as one file, or the file answers otherwise
├── RegistryError           MLflow refused or cannot be reached
├── RefusedError            a version is not fit to serve; the former one still does
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


class StorageError(BrokenOffError):
    pass


class CheckpointError(RayclsError):
    pass


class EngineError(RayclsError):
    pass


class ExportError(RayclsError):
    pass


class StudyError(TrainingError):
    pass


class RegistryError(RayclsError):
    pass


class RefusedError(RayclsError):
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
