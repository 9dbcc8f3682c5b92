"""Any source of images to uint8 arrays: `load` for a set with its splits, `read_images` for files to predict on.

Importing this room imports neither torch nor scikit-learn.
"""

from pocketvit.data.dataset import Dataset, Split, load
from pocketvit.data.images import list_images, read_images
from pocketvit.data.splits import label_subset

__all__ = ["Dataset", "Split", "label_subset", "list_images", "load", "read_images"]
