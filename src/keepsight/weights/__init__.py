"""Weights: names to files, safe reading of foreign checkpoints, and our own files (safetensors with a header)."""

from .catalog import (
    CATALOG,
    CatalogEntry,
    WeightsInfo,
    WeightsStatus,
    convert,
    describe,
    entry,
    find_weights,
    list_weights,
    recognise,
    weights_folder,
)
from .pickle_reader import Constructor, ForeignCheckpoint, Inert, read_checkpoint
from .store import (
    WeightsFile,
    WeightsHeader,
    check_keys,
    load_weights,
    non_finite,
    parse_header,
    read_any,
    save_weights,
    strip_module_prefix,
)

__all__ = [
    "CATALOG",
    "CatalogEntry",
    "Constructor",
    "ForeignCheckpoint",
    "Inert",
    "WeightsFile",
    "WeightsHeader",
    "WeightsInfo",
    "WeightsStatus",
    "check_keys",
    "convert",
    "describe",
    "entry",
    "find_weights",
    "list_weights",
    "load_weights",
    "non_finite",
    "parse_header",
    "read_any",
    "read_checkpoint",
    "recognise",
    "save_weights",
    "strip_module_prefix",
    "weights_folder",
]
