"""Nearest points in other frames: what a set of features takes for the same thing."""

import numpy as np
from jaxtyping import Float, Int64

from p2pkit.errors import ConfigError

SIMILARITIES_AT_ONCE = 2**24


def cosine_similarity(
    features: Float[np.ndarray, "rows channels"], queries: Int64[np.ndarray, " queries"]
) -> Float[np.ndarray, "queries rows"]:
    """Cosine of the queries' features with those of all rows; 0 with a feature of no length."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(length, np.finfo(features.dtype).tiny)
    return unit[queries] @ unit.T


def nearest_by_frame(
    features: Float[np.ndarray, "rows channels"],
    query: int,
    *,
    frame: Int64[np.ndarray, " rows"],
    scene: Int64[np.ndarray, " rows"],
    count: int,
) -> list[tuple[int, float]]:
    """The most similar row of each frame of other scenes, best frames first.

    Args:
        features: of any length; cosines are compared.
        query: a row.
        frame: of each row.
        scene: of each row; rows of the query's own scene are not candidates.
        count: of frames at most.

    Returns:
        Rows and their cosines, falling.
    """
    similarity = cosine_similarity(features, np.array([query]))[0]
    similarity = np.where(scene == scene[query], -np.inf, similarity)
    order = np.argsort(-similarity, kind="stable")
    order = order[np.isfinite(similarity[order])]
    _, first = np.unique(frame[order], return_index=True)
    return [(int(row), float(similarity[row])) for row in order[np.sort(first)][:count]]


def neighbour_agreement(
    features: Float[np.ndarray, "rows channels"],
    label: Int64[np.ndarray, " rows"],
    *,
    queries: Int64[np.ndarray, " queries"],
    scene: Int64[np.ndarray, " rows"],
) -> float:
    """Share of the queries whose most similar row of another scene has their label.

    Raises:
        ConfigError: no query is given, or one has no row of another scene.
    """
    _check_candidates(queries, scene)
    hits = 0
    for part in np.array_split(queries, -(-len(queries) * len(features) // SIMILARITIES_AT_ONCE)):
        similarity = cosine_similarity(features, part)
        similarity[scene[part][:, None] == scene] = -np.inf
        hits += int((label[similarity.argmax(axis=1)] == label[part]).sum())
    return hits / len(queries)


def chance_agreement(
    label: Int64[np.ndarray, " rows"],
    *,
    queries: Int64[np.ndarray, " queries"],
    scene: Int64[np.ndarray, " rows"],
) -> float:
    """As `neighbour_agreement` of features that say nothing: any row of another scene is taken.

    Raises:
        ConfigError: as `neighbour_agreement`.
    """
    _check_candidates(queries, scene)
    shares = [
        float((label[scene != scene[query]] == label[query]).mean()) for query in queries.tolist()
    ]
    return float(np.mean(shares))


def _check_candidates(queries: np.ndarray, scene: np.ndarray) -> None:
    if not len(queries) or len(np.unique(scene)) < 2:
        raise ConfigError(
            f"expected a query and rows of at least two scenes, found {len(queries)} queries and "
            f"{len(np.unique(scene))} scenes"
        )
