"""What each way of storing the teacher's maps costs and saves: bytes, read rate, and accuracy.

The default teacher sees the first frames of NYUv2 once (of generated rooms if NYUv2 is not
available); its maps are then stored in every way as layers of one store. Rates are ratios to
float16 without compression in the same run, in CPU time, page cache warm. Accuracy is the cosine to
the float16 features at sampled pairs, and the score of a linear probe on the upsampled teacher
features at labelled points, the last quarter of the frames tested; codecs of one map must give the
same features to the bit. The probe standardises each channel, which whitens PCA coefficients:
`pca:320` keeps all of the default teacher's channels and shows what that alone does.

Example: python benchmarks/map_codecs.py --frames 96
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np

from p2pkit.evaluation.linear_probe import ProbeConfig, fit_linear_probe
from p2pkit.evaluation.segmentation import confusion_matrix, segmentation_scores
from p2pkit.layers.features import BASIS_FRAMES, FeatureConfig, feature_fields, pair_features
from p2pkit.layers.geometry import PointCloud, decode_geometry
from p2pkit.layers.map_coding import FeatureCoder, fit_basis, parse_map_coding, pca_basis
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.held_out import scene_split
from p2pkit.store.manifest import LayerSpec, Sample
from p2pkit.store.reading import Store, open_store
from p2pkit.store.writing import create_or_open
from p2pkit.stream.order import locate
from p2pkit.teachers import TeacherOptions

DATA = Path(os.environ.get("P2PKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
Way = tuple[str, str]
WAYS: tuple[Way, ...] = (
    ("float16", "none"),
    ("float16", "lz4"),
    ("float16", "zstd"),
    ("float16", "shuffle-lz4"),
    ("float16", "shuffle-zstd"),
    ("int8", "none"),
    ("int8", "zstd"),
    ("pca:320", "none"),
    ("pca:128", "none"),
    ("pca:64", "none"),
    ("pca:32", "none"),
    ("pca:64+int8", "none"),
)
PAIRS = 1024
REPEATS = 6
ACCURACY = (
    "cosine_mean",
    "cosine_first_percentile",
    "miou",
    "miou_change",
    "miou_change_std",
)
TRAIN_POINTS, TEST_POINTS = 100, 400
SEEDS = (0, 1, 2)
PROBE = ProbeConfig(iterations=60)


@dataclass(frozen=True)
class Row:
    """One line of the table. The changes are paired: same points, same seeds."""

    map: str
    codec: str
    bytes_per_frame: float
    read_rate: float
    sample_rate: float
    held_out_variance: float | None = None
    cosine_mean: float = 1.0
    cosine_first_percentile: float = 1.0
    miou: float | None = None
    miou_change: float | None = None
    miou_change_std: float | None = None


def base_store(frames: int, root: Path) -> Store:
    """Geometry and the teacher's maps as float16, without compression."""
    nyuv2 = DATA / "nyuv2_half"
    config = extract.ExtractConfig(
        dataset="nyuv2" if nyuv2.is_dir() else "demo-scene",
        root=nyuv2 if nyuv2.is_dir() else None,
        out=root,
        features=FeatureConfig(teacher=TeacherOptions(input_size=(640, 480))),
        limit=frames,
        shard_size=32,
        codecs={"map": "none"},
    )
    return open_store(extract.run(config))


def places(store: Store) -> list[tuple[int, int]]:
    """Shard and row of each sample id."""
    return [(shard, row) for shard, size in enumerate(store.sizes()) for row in range(size)]


def add_way(store: Store, base: str, way: Way) -> str:
    """Store the maps of layer `base` in another way as one more layer; return its name."""
    coding, codec = parse_map_coding(way[0]), way[1]
    spec = store.layer(base)
    details, fingerprint = dict(spec.details), {"base": spec.fingerprint, "way": list(way)}
    coder = FeatureCoder(coding.int8)
    if coding.components is not None:
        probed = places(store)[:BASIS_FRAMES]
        frames = [list(store.read(base, *place).arrays["map"]) for place in probed]
        basis = fit_basis(frames, coding.components)
        coder = replace(coder, basis=basis)
        details |= {"pca": basis.to_json(), "channels": coding.components}
        fingerprint |= {"basis_sha256": basis.sha256}
    name = "features/" + "-".join(way).replace(":", "").replace("+", "-")
    layer = LayerSpec(name, feature_fields("grid", codec, coding), fingerprint, details)
    writer = create_or_open(Path(str(store.root)), store.manifest.with_layer(layer))

    def coded(sample: Sample) -> Sample:
        parts = [coder.project(view) for view in sample.arrays["map"]]
        return replace(sample, arrays=coder.arrays("map", parts, stacked=True))

    for shard, size in enumerate(store.sizes()):
        writer.write(name, shard, [coded(store.read(base, shard, row)) for row in range(size)])
    return name


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one run (s)."""
    began = time.process_time()
    work()
    return time.process_time() - began


@dataclass(frozen=True)
class Bench:
    """One store with all ways, its geometry decoded, and pairs drawn once for all ways."""

    store: Store
    clouds: list[PointCloud]
    pairs: list[np.ndarray]

    def read(self, layer: str) -> None:
        """Read and verify every sample of a layer once, in random order."""
        order = np.random.default_rng(1).permutation(len(self.clouds))
        spots = places(self.store)
        for i in order:
            self.store.read(layer, *spots[i])

    def read_and_sample(self, layer: str) -> None:
        """The same, and the features of `PAIRS` pairs of each frame, as training needs them."""
        for spot, cloud, rows in zip(places(self.store), self.clouds, self.pairs, strict=True):
            pair_features(self.store.read(layer, *spot), cloud, rows)

    def features(self, layer: str, sample: int, rows: np.ndarray) -> np.ndarray:
        """Features at rows of one frame's pairs."""
        place = locate(self.store.sizes(), sample)
        return pair_features(self.store.read(layer, *place), self.clouds[sample], rows)

    def cosines(self, layer: str, base: str) -> np.ndarray:
        """Cosine to the base layer's features, in the teacher's channels, of all drawn pairs."""
        basis = pca_basis(self.store.layer(layer))
        found: list[np.ndarray] = []
        for sample, rows in enumerate(self.pairs):
            a, b = (self.features(name, sample, rows) for name in (layer, base))
            a = basis.reconstruct(a) if basis is not None else a
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            found.append(np.sum(a * b, axis=1) / lengths)
        return np.concatenate(found)


def drawn(cloud: PointCloud, count: int, seed: int, ignore: int | None) -> np.ndarray:
    """Rows of labelled points."""
    assert cloud.labels is not None
    known = np.flatnonzero(cloud.labels[cloud.pair_point] != ignore)
    random = np.random.default_rng([seed, len(known)])
    return np.sort(random.choice(known, min(count, len(known)), replace=False))


def probe_score(bench: Bench, layer: str, seed: int) -> float:
    """MIoU (%) of a linear probe on the layer's features at points drawn by `seed`."""
    dataset = bench.store.manifest.dataset
    classes, ignore = len(dataset["label_names"]), dataset["ignore_label"]

    def gather(samples: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        rows = [drawn(bench.clouds[i], count, seed, ignore) for i in samples]
        features = [bench.features(layer, int(i), r) for i, r in zip(samples, rows, strict=True)]
        clouds = [bench.clouds[i] for i in samples]
        labels = [c.labels[c.pair_point[r]] for c, r in zip(clouds, rows, strict=True)]  # pyright: ignore[reportOptionalSubscript]
        return np.concatenate(features), np.concatenate(labels).astype(np.int64)

    split = scene_split(bench.store, 0.25)
    train, test = split.train, split.test
    probe = fit_linear_probe(*gather(train, TRAIN_POINTS), classes=classes, config=PROBE)
    features, truth = gather(test, TEST_POINTS)
    confusion = confusion_matrix(truth, probe.predict(features), classes=classes)
    return 100 * segmentation_scores(confusion).miou


def rates(bench: Bench, layers: dict[Way, str]) -> dict[Way, tuple[float, float]]:
    """Read rate, and rate of reading and sampling, as ratios to the first way's.

    All ways take turns, so that changes of the machine's load affect all of them.
    """
    best = {way: [np.inf, np.inf] for way in layers}
    for turn in range(REPEATS):
        for way, layer in layers.items():
            for i, work in enumerate((bench.read, bench.read_and_sample)):
                took = cpu_seconds(lambda w=work, name=layer: w(name))
                if turn > 0:  # the first turn opens shards and warms the page cache
                    best[way][i] = min(best[way][i], took)
    plain = best[WAYS[0]]
    return {way: (plain[0] / took[0], plain[1] / took[1]) for way, took in best.items()}


def measure(bench: Bench, layers: dict[Way, str]) -> list[Row]:
    """A row for each way, in order; the first way is what the others are compared with."""
    base = layers[WAYS[0]]
    speed = rates(bench, layers)
    plain = [probe_score(bench, base, seed) for seed in SEEDS]
    print(f"float16 probe: {np.mean(plain):.2f} ± {np.std(plain, ddof=1):.2f} % mIoU over seeds")
    rows: list[Row] = []
    same_bits = {"float16": base}
    for way, layer in layers.items():
        size = sum(record.bytes for record in bench.store.records(layer)) / bench.store.samples
        row = Row(*way, size, *speed[way])
        if way[0] in same_bits:
            check_lossless(bench, layer, same_bits[way[0]])
            twin = [done for done in rows if done.map == way[0]][:1]
            row = replace(row, **{n: getattr(t, n) for t in twin for n in ACCURACY})
        else:
            same_bits[way[0]] = layer
            row = with_accuracy(row, bench, (layer, base), plain)
        rows.append(replace(row, miou=float(np.mean(plain))) if layer == base else row)
    return rows


def check_lossless(bench: Bench, layer: str, twin: str) -> None:
    """Fail if two codecs of one coding give different features."""
    for sample, pairs in enumerate(bench.pairs):
        a, b = (bench.features(name, sample, pairs) for name in (layer, twin))
        if not np.array_equal(a, b):
            raise AssertionError(f"{layer} and {twin} differ in sample {sample}")


def with_accuracy(row: Row, bench: Bench, layers: tuple[str, str], plain: list[float]) -> Row:
    """The row with cosine to, and change of the probe's score from, the second layer."""
    cosines = bench.cosines(*layers)
    scores = [probe_score(bench, layers[0], seed) for seed in SEEDS]
    change = np.subtract(scores, plain)
    basis = pca_basis(bench.store.layer(layers[0]))
    return replace(
        row,
        held_out_variance=basis.held_out_variance if basis is not None else None,
        cosine_mean=float(cosines.mean()),
        cosine_first_percentile=float(np.percentile(cosines, 1)),
        miou=float(np.mean(scores)),
        miou_change=float(change.mean()),
        miou_change_std=float(change.std(ddof=1)),
    )


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| map | codec | bytes/frame | size | read | read + sample | variance | cosine mean | 1st "
        "percentile | probe mIoU | change |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        kept = "" if row.held_out_variance is None else f"{row.held_out_variance:.1%}"
        score = f"{row.miou:.2f} %"
        change = (
            "" if row.miou_change is None else f"{row.miou_change:+.2f} ± {row.miou_change_std:.2f}"
        )
        lines.append(
            f"| {row.map} | {row.codec} | {row.bytes_per_frame:,.0f} | "
            f"{row.bytes_per_frame / rows[0].bytes_per_frame:.2f} | {row.read_rate:.2f} | "
            f"{row.sample_rate:.2f} | {kept} | {row.cosine_mean:.5f} | "
            f"{row.cosine_first_percentile:.5f} | {score} | {change} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--frames", default=96, show_default=True, type=click.IntRange(16))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def main(frames: int, as_json: bool) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        store = base_store(frames, Path(folder) / "store")
        (base,) = store.feature_layers
        layers = {WAYS[0]: base}
        for way in WAYS[1:]:
            layers[way] = add_way(open_store(store.root), base, way)
        store = open_store(store.root)
        clouds = [decode_geometry(store.read("geometry", *place)) for place in places(store)]
        random = np.random.default_rng(0)
        pairs = [random.choice(len(c.pair_point), min(PAIRS, len(c.pair_point))) for c in clouds]
        rows = measure(Bench(store, clouds, pairs), layers)
        dataset = store.manifest.dataset["dataset"]
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{len(clouds)} frames of {dataset}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
