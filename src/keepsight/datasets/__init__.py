"""Data sets: public benchmarks and one's own folders, each sequence lazy.

Example::

    from keepsight.datasets import open_dataset

    dataset = open_dataset("otb100", root="/data/OTB100")     # or "uav123", "got10k:test", "nfs30+uav123", ..
    sequence = dataset["David"]
    sequence.frames[0], sequence.first_box, sequence.attributes

:mod:`.roots` says where data is looked for, :mod:`.catalog` which data sets there are, :mod:`.check` what is wrong with
a copy, and :mod:`.folder` how one's own data should look.
"""

from .catalog import Dataset, dataset_names, open_dataset
from .roots import Root, find_root
from .sequence import Annotation, Frames, Masks, Sequence

__all__ = [
    "Annotation",
    "Dataset",
    "Frames",
    "Masks",
    "Root",
    "Sequence",
    "dataset_names",
    "find_root",
    "open_dataset",
]
