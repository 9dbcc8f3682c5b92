"""Any source of images to uint8 arrays: `load` for a set with its splits, `read_images` for files to predict on.

Importing this room imports neither torch nor scikit-learn.
"""

from pocketvit.data.checks import image_digests, mirrored_classes
from pocketvit.data.dataset import Dataset, Split, digest, load, load_whole
from pocketvit.data.images import Header, Rendering, read_images
from pocketvit.data.listing import list_images
from pocketvit.data.sizes import Patching, grown_patch, scaled_size
from pocketvit.data.splits import label_subset
from pocketvit.data.structures import Arrays, Finding, Spec, printable

__all__ = [
    "Arrays", "Dataset", "Finding", "Header", "Patching", "Rendering", "Spec", "Split", "digest", "grown_patch",
    "image_digests", "label_subset", "list_images", "load", "load_whole", "mirrored_classes", "printable",
    "read_images", "scaled_size",
]  # fmt: skip
