"""Any source of images to uint8 arrays: `load` for a set with its splits, `read_images` for files to predict on.

Importing this room imports neither torch nor scikit-learn.
"""

from pocketvit.data.dataset import Dataset, Split, digest, image_digests, load, load_whole
from pocketvit.data.images import list_images, read_images
from pocketvit.data.splits import label_subset

__all__ = [
    "Dataset", "Split", "digest", "image_digests", "label_subset", "list_images", "load", "load_whole", "read_images",
]  # fmt: skip
