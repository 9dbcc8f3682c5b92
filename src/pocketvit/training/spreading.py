"""Labels spread over a graph of neighbours: soft labels of every image from the few that have one.

Zhou et al. 2004, "Learning with local and global consistency", with the weights that Calder et al. 2020
(arXiv 2006.11184) give edges, and the classes held to their masses.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketvit.data import Dataset

NEIGHBOURS = 7
WIDTH = 4.0  # an edge weighs exp(-WIDTH * square of its length by that of its end's longest)
HELD = 0.95  # share of an image's label that comes from its neighbours
DIMENSIONS = 64  # principal directions that lengths are measured in, where images have more pixels
TOLERANCE, MOST_STEPS = 1e-5, 500  # of the equations' solution
BALANCING = 50  # times that classes and images are scaled in turn
LEAST = 1e-9  # of a class in an image that no label reaches
MOST_IMAGES = 50_000  # of a graph: who is near whom takes time with the square of their number, about a minute of these


class Graph(NamedTuple):
    """Images as its nodes: what they are measured in, where they lie, and the edges to their neighbours.

    `directions` is (P, D), `points` (N, D) float32, and `edges` a sparse symmetric (N, N).
    """

    directions: NDArray[np.float32]
    points: NDArray[np.float32]
    edges: Any


class SoftLabels(NamedTuple):
    """Labels (n, classes) of the train images at the places `images`, (n,); those `known`, (n,) bool, are their own."""

    images: NDArray[np.intp]
    values: NDArray[np.float32]
    known: NDArray[np.bool_]

    def smoothed(self, share: float) -> NDArray[np.float32]:
        """The values, that share of the known ones spread over all classes."""
        spread = self.known[:, None] * np.float32(share)
        return self.values * (1 - spread) + spread / np.float32(self.values.shape[1])


class Neighbours:
    """Soft labels of a set's train images by their neighbours; what needs no labels is found once.

    Args:
        dataset: with labels, of which those asked for are read.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._graphs: dict[bytes, Graph] = {}

    def soft_labels(self, labelled: NDArray[np.integer]) -> SoftLabels:
        """From those of the labelled train images at the indices `labelled`; these keep theirs."""
        train, classes = self._dataset.train, len(self._dataset.classes)
        assert train.labels is not None
        own = np.flatnonzero(train.labels >= 0)[labelled]
        images = learnt_from(len(train), own)
        graph = self._graph(images)
        known = np.isin(images, own)
        values = spread(graph, np.flatnonzero(known), train.labels[images[known]], classes)
        values[known] = np.eye(classes, dtype=np.float32)[train.labels[images[known]]]
        return SoftLabels(images, values, known)

    def _graph(self, images: NDArray[np.intp]) -> Graph:
        key = images.tobytes()
        if key not in self._graphs:
            self._graphs[key] = neighbour_graph(pixels(self._dataset.train.images[images]))
        return self._graphs[key]


def learnt_from(count: int, labelled: NDArray[np.integer]) -> NDArray[np.intp]:
    """Places of the images, of `count`, that a graph has: those labelled, and others up to MOST_IMAGES in all."""
    others = np.setdiff1d(np.arange(count), labelled)
    drawn = np.random.default_rng(0).permutation(others)[: max(0, MOST_IMAGES - len(labelled))]
    return np.sort(np.concatenate([labelled, drawn]))


def pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H * W * C) from 0 to 1, of images (N, H, W, C)."""
    return images.reshape(len(images), -1) / np.float32(255)


def neighbour_graph(x: NDArray[np.float32]) -> Graph:
    """Of points (N, P), two at least."""
    from scipy import sparse

    directions = _directions(x)
    points = x @ directions
    lengths, ends = _nearest(points, points, min(NEIGHBOURS, len(x) - 1) + 1)
    # The nearest is the point itself, or one like it.
    lengths, ends = lengths[:, 1:], ends[:, 1:]
    starts = np.repeat(np.arange(len(x)), ends.shape[1])
    edges = sparse.csr_array((_weights(lengths).ravel(), (starts, ends.ravel())), (len(x), len(x)))
    return Graph(directions, points, edges.maximum(edges.T))


def spread(
    graph: Graph, labelled: NDArray[np.integer], labels: NDArray[np.integer], classes: int
) -> NDArray[np.float32]:
    """(N, classes): soft labels of all nodes, rows that sum to 1, columns in the proportions of the `labels`.

    Args:
        graph: of N nodes.
        labelled: (L,) nodes whose labels are known; theirs come out as the graph has them, not as they were.
        labels: (L,) theirs.
        classes: how many there are.
    """
    from scipy import sparse
    from scipy.sparse.linalg import cg

    count = len(graph.points)
    known = np.zeros((count, classes))
    known[labelled, labels] = 1
    root = sparse.diags_array(1 / np.sqrt(np.maximum(graph.edges.sum(axis=0), LEAST)))
    system = sparse.eye_array(count) - HELD * (root @ graph.edges @ root)
    reached = [cg(system, column, rtol=TOLERANCE, maxiter=MOST_STEPS)[0] for column in known.T]
    return _balanced(np.stack(reached, axis=1), known.sum(axis=0) / len(labels))


def read_off(graph: Graph, soft: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(M, classes): what other points (M, P) have from their neighbours among the nodes, with soft labels `soft`."""
    lengths, ends = _nearest(graph.points, x @ graph.directions, min(NEIGHBOURS, len(graph.points)))
    found: NDArray[np.float32] = np.einsum("mk,mkc->mc", _weights(lengths), soft[ends])
    return found


def _balanced(soft: NDArray[np.floating], prior: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows that sum to 1, and columns that sum to the prior's share of them: Sinkhorn and Knopp 1967."""
    soft = np.maximum(soft, LEAST)
    for _ in range(BALANCING):
        soft = soft * (prior * len(soft) / soft.sum(axis=0))
        soft = soft / soft.sum(axis=1, keepdims=True)
    return soft.astype(np.float32)


def _weights(lengths: NDArray[np.floating]) -> NDArray[np.float32]:
    """Of edges (N, K), ascending: each by the longest of its start."""
    longest = np.maximum(lengths[:, -1:], LEAST)
    return np.exp(-WIDTH * np.square(lengths / longest)).astype(np.float32)


def _nearest(
    points: NDArray[np.float32], x: NDArray[np.float32], count: int
) -> tuple[NDArray[np.floating], NDArray[np.intp]]:
    """(M, K) lengths, ascending, and indices of the nearest of the points (N, D) to (M, D) others."""
    from sklearn.neighbors import NearestNeighbors

    lengths, ends = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(points).kneighbors(x)
    return lengths, ends


def _directions(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(P, D): the first DIMENSIONS principal ones, or all as they are where there are no more."""
    if x.shape[1] <= DIMENSIONS:
        return np.eye(x.shape[1], dtype=np.float32)
    from sklearn.decomposition import PCA

    found = PCA(min(DIMENSIONS, len(x)), svd_solver="randomized", random_state=0).fit(x)
    return found.components_.T.astype(np.float32)
