"""Files that run a classifier elsewhere: what they compute, how they are written, and whether they are right."""
