"""All errors that raycls raises on purpose. A message is one line: what happened, then what to do.

RayclsError                 the work failed (exit code 1)
├── UsageError              the command or call is wrong; the message names the fix (exit code 2)
│   ├── ConfigError         a setting is unknown, of the wrong type or out of range
│   ├── UnknownDatasetError there is no such dataset
│   ├── UnknownModelError   there is no such model, version or alias
│   └── UnknownRecordError  there is no such experiment, retraining or upload
├── DataError               a dataset cannot be made, or its files are damaged
│   ├── SourceError         no source delivered the images or the weights
│   └── BusyError           another process is preparing the same dataset
├── TrainingError           a run or a study stopped before its end
│   ├── BrokenOffError      something outside it ended it, like a killed worker; it can be resumed
│   │   └── StorageError    the storage path cannot be written, like a full disk
│   └── StudyError          the record of a study cannot be used, or too many of its trials failed
├── CheckpointError         a checkpoint directory is incomplete or damaged
├── EngineError             an engine cannot run a network
├── ExportError             a model cannot be written to a file, or the file gives other answers
├── RegistryError           MLflow refused a request or cannot be reached
├── TrackingError           a tool that runs are logged to beside MLflow cannot be reached
├── RefusedError            a version is not fit to serve; the former version still serves
├── ClusterError            Ray or Serve did not start, answer or stop
├── UploadError             what was sent cannot be taken (HTTP 400)
│   └── UploadTooLargeError it exceeds a limit (HTTP 413)
├── BenchmarkError          a measurement cannot be made, or something disturbed it
└── ImageError              one image cannot be read (HTTP 400)
    ├── NotAnImageError     the bytes are not an image of an accepted format (HTTP 415)
    └── ImageTooLargeError  the image has more bytes or pixels than allowed (HTTP 413)
"""

from __future__ import annotations


class RayclsError(Exception):
    """The base class: catch it to catch all errors of raycls. `exit_code` is the exit code of the command line."""

    exit_code = 1


class UsageError(RayclsError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class UnknownDatasetError(UsageError):
    pass


class UnknownModelError(UsageError):
    pass


class UnknownRecordError(UsageError):
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


class StudyError(TrainingError):
    pass


class CheckpointError(RayclsError):
    pass


class EngineError(RayclsError):
    pass


class ExportError(RayclsError):
    pass


class RegistryError(RayclsError):
    pass


class TrackingError(RayclsError):
    pass


class RefusedError(RayclsError):
    pass


class ClusterError(RayclsError):
    pass


class UploadError(RayclsError):
    pass


class UploadTooLargeError(UploadError):
    pass


class BenchmarkError(RayclsError):
    pass


class ImageError(RayclsError):
    pass


class NotAnImageError(ImageError):
    pass


class ImageTooLargeError(ImageError):
    pass


class NoMemoryForImageError(ImageError):
    """Nothing is known against the image: there was no memory to decode it."""
