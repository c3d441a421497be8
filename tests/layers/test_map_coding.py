import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_feature_layer import GRIDS, make_cloud, make_maps

from p2pkit.errors import ConfigError, StoreError
from p2pkit.layers.features import (
    Layout,
    encode_grid,
    encode_pixels,
    feature_fields,
    pair_features,
    usable_pairs,
)
from p2pkit.layers.map_coding import (
    FeatureCoder,
    MapCoding,
    PcaBasis,
    fit_basis,
    parse_map_coding,
    pca_basis,
    quantise,
    undo_scale,
)
from p2pkit.store.manifest import LayerSpec, Sample

HALVES = hnp.arrays(
    np.float16,
    st.tuples(st.integers(1, 9), st.integers(1, 5)),
    elements=st.floats(-65504, 65504, width=16),
)


def structured_maps(count: int, channels: int = 12, rank: int = 4) -> list[np.ndarray]:
    """Maps that vary along a few directions, with a mean and a little noise."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(rank, channels))
    mean = random.normal(size=channels) * 3
    maps: list[np.ndarray] = []
    for _ in range(count):
        strength = random.normal(size=(6, 7, rank)) * np.arange(rank, 0, -1)
        noise = random.normal(size=(6, 7, channels)) * 0.01
        maps.append((strength @ directions + mean + noise).astype(np.float16))
    return maps


def each_alone(maps: list[np.ndarray]) -> list[list[np.ndarray]]:
    """The maps as those of frames with one image."""
    return [[found] for found in maps]


@settings(deadline=None, max_examples=300)
@given(HALVES)
def test_a_byte_is_off_by_half_a_step_at_most(values: np.ndarray) -> None:
    stored, scale = quantise(values)
    low, step = scale.astype(np.float64)
    off = np.abs(low + step * stored - values.astype(np.float64))
    assert (off <= step * 0.5 * (1 + 1e-12)).all()
    spread = np.ptp(values.astype(np.float64), axis=0)
    smallest = np.float64(np.finfo(np.float16).smallest_subnormal)
    assert (step <= spread / 255 * (1 + 2**-10) + smallest).all()
    assert np.array_equal(low, values.min(axis=0).astype(np.float64))


def test_zeros_behind_a_relu_stay_exact_and_channels_do_not_share_a_scale() -> None:
    random = np.random.default_rng(1)
    values = np.maximum(random.normal(size=(50, 3)), 0) * (1e-3, 1.0, 1e4)
    values = values.astype(np.float16)
    stored, scale = quantise(values)
    found = undo_scale(stored.astype(np.float32), scale)
    assert (found[values == 0] == 0).all()
    off = np.abs(found - values.astype(np.float32)).max(axis=0)
    assert (off <= values.max(axis=0).astype(np.float32) / 255 * 0.51).all()


def test_no_rows_give_no_bytes() -> None:
    stored, scale = quantise(np.zeros((0, 4), np.float16))
    assert stored.shape == (0, 4)
    assert scale.shape == (2, 4)


def test_the_basis_is_that_of_an_eigendecomposition() -> None:
    maps = structured_maps(8)
    basis = fit_basis(each_alone(maps), 4)
    fitted = [m for row, m in enumerate(maps) if row % 4 != 3]
    cells = np.concatenate([m.reshape(-1, 12) for m in fitted]).astype(np.float64)
    np.testing.assert_allclose(basis.mean, cells.mean(axis=0), atol=1e-5)
    _, singular, rows = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(basis.components * rows[:4], axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(basis.components @ basis.components.T, np.eye(4), atol=1e-6)
    share = singular**2 / np.sum(singular**2)
    np.testing.assert_allclose(basis.explained_variance, share[:4], atol=1e-6)
    assert basis.cells == 6 * 42
    held = np.concatenate([m.reshape(-1, 12) for m in (maps[3], maps[7])]).astype(np.float64)
    centred = held - cells.mean(axis=0)
    kept = np.sum((centred @ rows[:4].T) ** 2) / np.sum(centred**2)
    assert basis.held_out_variance == pytest.approx(kept, abs=1e-5)
    assert basis.held_out_variance > 0.999


def test_few_maps_leave_none_to_test_with() -> None:
    assert fit_basis(each_alone(structured_maps(3)), 2).held_out_variance is None


def test_a_trained_linear_map_absorbs_basis_and_mean() -> None:
    maps = structured_maps(8)
    basis = fit_basis(each_alone(maps), 4)
    random = np.random.default_rng(2)
    weight, bias = random.normal(size=(5, 12)), random.normal(size=5)
    coefficients = basis.project(maps[3])
    whole = basis.reconstruct(coefficients) @ weight.T + bias
    absorbed = coefficients @ (weight @ basis.components.T).T + (weight @ basis.mean + bias)
    np.testing.assert_allclose(absorbed, whole, atol=1e-4)
    np.testing.assert_allclose(basis.reconstruct(coefficients), maps[3], atol=0.05)


def test_all_components_lose_nothing() -> None:
    maps = make_maps()
    basis = fit_basis(each_alone(maps), 6)
    np.testing.assert_allclose(basis.reconstruct(basis.project(maps[0])), maps[0], atol=1e-5)
    assert sum(basis.explained_variance) == pytest.approx(1, abs=1e-5)


def test_all_cameras_of_a_frame_are_fitted_or_held_out() -> None:
    """The fourth of four cameras sees what no other does: channel 5."""
    random = np.random.default_rng(0)
    frames: list[list[np.ndarray]] = []
    for _ in range(8):
        maps = np.zeros((4, 3, 5, 6), np.float16)
        maps[:3, ..., 0] = random.normal(size=(3, 3, 5))
        maps[3, ..., 5] = random.normal(size=(3, 5))
        frames.append([*maps])
    basis = fit_basis(frames, 2)
    assert basis.cells == 6 * 4 * 15
    assert np.abs(basis.components[:, [0, 5]]).max(axis=0) == pytest.approx(1)
    assert basis.held_out_variance == pytest.approx(1, abs=1e-3)


def layer_with(basis: PcaBasis) -> LayerSpec:
    details = json.loads(json.dumps({"pca": basis.to_json()}))
    return LayerSpec("features/x-1", (), {"basis_sha256": basis.sha256}, details)


def test_the_basis_survives_json_to_the_bit() -> None:
    basis = fit_basis(each_alone(structured_maps(8)), 4)
    found = pca_basis(layer_with(basis))
    assert found is not None
    assert found.sha256 == basis.sha256
    assert found.explained_variance == basis.explained_variance
    assert pca_basis(LayerSpec("features/x-1", (), {})) is None


def test_a_changed_basis_is_refused() -> None:
    layer = layer_with(fit_basis(each_alone(structured_maps(8)), 4))
    other = {**layer.details["pca"], "mean_base64": layer.details["pca"]["mean_base64"][:-4]}
    with pytest.raises(StoreError, match="cannot be read"):
        pca_basis(replace(layer, details={"pca": other}))
    with pytest.raises(StoreError, match="its fingerprint names"):
        pca_basis(replace(layer, fingerprint={"basis_sha256": "0" * 64}))


@pytest.mark.parametrize(("maps", "components"), [(structured_maps(8), 13), ([], 1)])
def test_too_many_components_are_refused(maps: list[np.ndarray], components: int) -> None:
    with pytest.raises(ConfigError, match="choose a smaller K"):
        fit_basis(each_alone(maps), components)


@pytest.mark.parametrize("text", ["float16", "int8", "pca:1", "pca:64", "pca:64+int8"])
def test_names_of_codings_are_read_back(text: str) -> None:
    assert parse_map_coding(text).name == text


@pytest.mark.parametrize(
    "text", ["", "int4", "pca", "pca:", "pca:0", "pca:-3", "pca:6.5", "pca:64+int4", "PCA:64"]
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected float16, int8, pca:K"):
        parse_map_coding(text)


def coders() -> dict[str, FeatureCoder]:
    basis = fit_basis(each_alone(make_maps()), 6)
    return {
        "float16": FeatureCoder(),
        "int8": FeatureCoder(int8=True),
        "pca:6": FeatureCoder(basis=basis),
        "pca:6+int8": FeatureCoder(int8=True, basis=basis),
    }


@pytest.mark.parametrize("name", list(coders()))
@pytest.mark.parametrize("layout", ["grid", "pixels"])
def test_features_come_back_from_every_coding_in_both_layouts(name: str, layout: Layout) -> None:
    cloud, maps, coder = make_cloud(), make_maps(), coders()[name]
    exact = pair_features(encode_grid(cloud.key, maps, GRIDS), cloud, np.arange(300))
    if layout == "grid":
        sample = encode_grid(cloud.key, maps, GRIDS, coder)
    else:
        sample = encode_pixels(cloud, maps, GRIDS, pairs=100, seed=0, coder=coder)
    rows = np.random.default_rng(0).permutation(usable_pairs(sample, cloud))[:60]
    found = pair_features(sample, cloud, rows)
    if coder.basis is not None:
        found = coder.basis.reconstruct(found)
    largest = np.abs(exact).max()
    assert np.abs(found - exact[rows]).max() < largest * (0.02 if coder.int8 else 0.002)
    fields = {field.name: field for field in feature_fields(layout, "zstd", parse_map_coding(name))}
    assert set(fields) == set(sample.arrays)
    for field_name, array in sample.arrays.items():
        fields[field_name].check(array, cloud.key)


def test_each_view_has_a_scale_of_its_own() -> None:
    cloud, maps = make_cloud(), make_maps()
    maps = [maps[0], (maps[1] * 100).astype(np.float16)]
    sample = encode_grid(cloud.key, maps, GRIDS, FeatureCoder(int8=True))
    assert sample.arrays["map_scale"].shape == (2, 2, 6)
    exact = pair_features(encode_grid(cloud.key, maps, GRIDS), cloud, np.arange(300))
    off = np.abs(pair_features(sample, cloud, np.arange(300)) - exact)
    assert off[cloud.pair_view == 0].max() < 0.02
    assert off[cloud.pair_view == 1].max() < 2


def test_a_coefficient_beyond_float16_is_refused() -> None:
    coder = FeatureCoder(
        basis=PcaBasis(np.zeros(4, np.float32), np.full((1, 4), 0.5, np.float32), (1.0,), None, 9)
    )
    maps = [np.full((2, 2, 4), 60000, np.float16)]
    with pytest.raises(StoreError, match="float16 holds at most 65504"):
        encode_grid("a", maps, GRIDS[:1], coder)


def test_codings_are_float16_unless_asked() -> None:
    assert MapCoding().name == "float16"
    sample: Sample = encode_grid("a", make_maps(), GRIDS)
    assert sample.arrays["map"].dtype == np.float16
