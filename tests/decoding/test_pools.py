"""Pools: search against exact search in NumPy; damaged pools, other encoders, killed builds."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mindeye_dist.data.target_encoder import TargetEncoder
from mindeye_dist.decoding.pools.faiss_files import build_pool
from mindeye_dist.decoding.pools.faiss_pool import Pool
from mindeye_dist.errors import DataError
from mindeye_dist.pictures import encode_jpeg
from mindeye_dist.shapes import TargetShape
from mindeye_dist.simulation.scenes import render_scene

SHAPE = (9, 12)
FEATURES = SHAPE[0] * SHAPE[1]
TARGETS = TargetShape(SHAPE, "colours", "ab" * 32)
COUNT = 120


def colours(images):
    """Return clip_tokens: mean colours of a grid of cells, less grey."""
    grid = torch.nn.functional.adaptive_avg_pool2d(images, 6).flatten(1) - 0.5
    return grid.reshape(len(images), *SHAPE)


def encoder(encode=colours):
    facts = {"kind": "clip_tokens", "name": "colours", "digest": "ab" * 32, "shape": SHAPE}
    return TargetEncoder(encode=encode, **facts)


@pytest.fixture(scope="module")
def pictures():
    """Return rendered scenes as (name, JPEG)."""
    return [(f"scene {i}", encode_jpeg(render_scene(i, 0, 40).picture)) for i in range(COUNT)]


@pytest.fixture(scope="module")
def built(pictures, tmp_path_factory):
    """Return the folder of a pool of these scenes; read only."""
    folder = tmp_path_factory.mktemp("pool")
    build_pool(folder, iter(pictures), encoder())
    return folder


@pytest.fixture
def copied(built, tmp_path):
    return shutil.copytree(built, tmp_path / "pool")


def pool_of(folder, tokens, flat_up_to=10_000):
    """Build a pool of the given tokens (pictures, tokens, dim), with one tiny picture for all."""
    rest = iter(torch.from_numpy(tokens))
    picture = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    one_picture = ((str(i), picture) for i in range(len(tokens)))

    def encode(images):
        return torch.stack([next(rest) for _ in images])

    build_pool(folder, one_picture, encoder(encode), flat_up_to=flat_up_to)
    return Pool(folder, TARGETS)


def search_exactly(tokens, brains, k):
    """Search by NumPy: every cosine, in float64, of the float16 tokens."""
    rows = tokens.astype(np.float16).astype(np.float64).reshape(len(tokens), -1)
    lengths = np.linalg.norm(brains, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    cosines = brains.astype(np.float64) @ rows.T / lengths
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return best, np.take_along_axis(cosines, best, axis=1)


def recall(found, expected):
    """Return the fraction of expected numbers among those found."""
    pairs = zip(found.tolist(), expected.tolist(), strict=True)
    return np.mean([len(set(f) & set(e)) / len(e) for f, e in pairs])


def random_brains(count, seed=1):
    return np.random.default_rng(seed).standard_normal((count, FEATURES)).astype(np.float32)


# -- the search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat_up_to", [10_000, 100], ids=["flat", "ivf"])
def test_as_many_candidates_as_pictures_are_exact(tmp_path, flat_up_to):
    """Oracle: all cosines; the hard case of tokens without any structure."""
    tokens = np.random.default_rng(0).standard_normal((300, *SHAPE)).astype(np.float32)
    pool = pool_of(tmp_path, tokens, flat_up_to)
    numbers, cosines = pool.search(random_brains(7), 5, candidates=300)
    expected, best = search_exactly(tokens, random_brains(7), 5)
    assert numbers.tolist() == expected.tolist()
    np.testing.assert_allclose(cosines, best, atol=1e-6)


def clusters(generator, count, num_clusters=40):
    """Return tokens around centres, and noisy views of them as brains."""
    centres = generator.standard_normal((num_clusters, *SHAPE))
    which = generator.integers(num_clusters, size=count)
    tokens = centres[which] + 0.5 * generator.standard_normal((count, *SHAPE))
    brains = tokens[:60] + generator.standard_normal((60, *SHAPE))
    return tokens.astype(np.float32), brains.reshape(60, -1).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "flat_up_to", "least"),
    [
        ("clustered", 10_000, 1.0),
        ("clustered", 100, 0.95),
        ("random", 10_000, 1.0),
        ("random", 100, 0.5),
    ],
    ids=["clustered-flat", "clustered-ivf", "random-flat", "random-ivf"],
)
def test_recall_of_a_tenth_as_candidates(tmp_path, kind, flat_up_to, least):
    """Oracle: exact search. Recall of the five best of 800, seen: 1, 1, 1 and 0.63.

    The components span all features here, so only the lists lose pictures; the worst case is tokens
    without structure.
    """
    generator = np.random.default_rng(0)
    tokens, brains = clusters(generator, 800)
    if kind == "random":
        tokens = generator.standard_normal((800, *SHAPE)).astype(np.float32)
        brains = random_brains(60)
    pool = pool_of(tmp_path, tokens, flat_up_to)
    assert pool.record.index == ("flat" if flat_up_to > 800 else "ivf28")
    numbers, _ = pool.search(brains, 5, candidates=80, nprobe=8)
    assert recall(numbers, search_exactly(tokens, brains, 5)[0]) >= least


def test_more_features_than_components(tmp_path, monkeypatch):
    """The second stage corrects a coarse first one: recall 0.51 without it and 1 with it (seen).

    On tokens without structure, 24 of 108 components are no guide (0.68, not asserted).
    """
    monkeypatch.setattr("mindeye_dist.decoding.pools.faiss_index.NUM_COMPONENTS", 24)
    tokens, brains = clusters(np.random.default_rng(0), 800)
    pool = pool_of(tmp_path, tokens)
    assert pool.record.num_components == 24
    expected, _ = search_exactly(tokens, brains, 5)
    first_stage_alone = recall(pool.search(brains, 5, candidates=5)[0], expected)
    both_stages = recall(pool.search(brains, 5, candidates=80)[0], expected)
    assert first_stage_alone < 0.8
    assert both_stages > 0.95


def test_components_are_the_leading_ones(tmp_path):
    """Oracle: numpy's SVD of the unit tokens, whose first 128 axes are spanned."""
    tokens = np.random.default_rng(0).standard_normal((90, *SHAPE)).astype(np.float32)
    pool = pool_of(tmp_path, tokens)
    components = np.load(tmp_path / "components.npy")
    rows = tokens.astype(np.float16).astype(np.float64).reshape(90, -1)
    _, _, axes = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True), False)
    assert pool.record.num_components == 90
    np.testing.assert_allclose(components.T @ components, axes.T @ axes, atol=1e-4)


def test_answers_do_not_depend_on_blocks_or_batches(built, monkeypatch):
    brains = random_brains(6)
    whole = Pool(built, TARGETS).search(brains, 4, candidates=50)
    monkeypatch.setattr("mindeye_dist.decoding.pools.faiss_pool.BLOCK_BYTES", 3000)
    pool = Pool(built, TARGETS)
    assert pool.search(brains, 4, candidates=50)[0].tolist() == whole[0].tolist()
    alone = [pool.search(brains[i : i + 1], 4, candidates=50)[0][0].tolist() for i in range(6)]
    assert alone == whole[0].tolist()


@pytest.mark.parametrize("candidates", [20, COUNT])
def test_excluded_pictures_are_no_answer(built, candidates):
    """Oracle: the search without exclusion, its excluded pictures removed afterwards."""
    pool, brains = Pool(built, TARGETS), random_brains(5)
    numbers, _ = pool.search(brains, 6, candidates=COUNT)
    barred = numbers[:, 0].tolist()
    expected = [[n for n in row if n not in barred][:1] for row in numbers.tolist()]
    found, _ = pool.search(brains, 1, candidates, excluded=barred)
    assert found.tolist() == expected


def test_a_picture_is_found_by_its_own_tokens(built, pictures):
    pool = Pool(built, TARGETS)
    tokens = np.load(built / "tokens.npy").reshape(COUNT, -1).astype(np.float32)
    numbers, cosines = pool.search(3 * tokens[[5, 77]], 1)
    assert numbers.tolist() == [[5], [77]]
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    assert pool.pictures([77, 5]) == [pictures[77][1], pictures[5][1]]
    assert pool.sources([5, 77]) == ["scene 5", "scene 77"]


@pytest.mark.parametrize(
    ("brains", "settings", "message"),
    [
        (np.ones((2, 7)), {}, "got 7 features, expected 108"),
        (np.full((2, FEATURES), np.nan), {}, "row 0 has norm nan"),
        (np.zeros((2, FEATURES)), {}, "row 0 has norm 0.0, expected a finite norm above 0"),
        (np.ones((2, FEATURES)), {"k": 0}, "k: got 0, expected 1 to the 120"),
        (np.ones((2, FEATURES)), {"k": 121}, "k: got 121"),
        (np.ones((2, FEATURES)), {"k": 119, "excluded": [1, 2]}, "1 to the 118"),
        (np.ones((2, FEATURES)), {"k": 9, "candidates": 8}, "candidates: got 8"),
        (np.ones((2, FEATURES)), {"nprobe": 0}, "nprobe: got 0"),
        (np.ones((2, FEATURES)), {"excluded": [500]}, "excluded: got [500]"),
    ],
)
def test_invalid_searches_are_refused(built, brains, settings, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        Pool(built, TARGETS).search(brains.astype(np.float32), **{"k": 5, **settings})


def test_lists_that_hold_too_few(tmp_path):
    """A search never returns fewer pictures than requested, nor FAISS's placeholder -1."""
    tokens = np.random.default_rng(0).standard_normal((400, *SHAPE)).astype(np.float32)
    pool = pool_of(tmp_path, tokens, flat_up_to=100)
    with pytest.raises(ValueError, match="nprobe: got 1, whose lists hold .* expected at least k"):
        pool.search(random_brains(3), 100, candidates=200, nprobe=1)


# -- copies of seen pictures -----------------------------------------------------------------------


def recompress(data, width, quality=75):
    """Resize a picture to `width` pixels and save it as JPEG, as another program might."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        height = round(width * picture.height / picture.width)
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        resized.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.mark.parametrize("width", [64, 120, 160, 400])
def test_copies_are_known_at_any_size_and_quality(tmp_path, width):
    """Scenes 160 pixels wide, some not square, stored at 48 pixels; other scenes are no copies."""
    scenes = [encode_jpeg(render_scene(i, 0, 160).picture[: 160 - i]) for i in range(30)]
    build_pool(tmp_path, ((str(i), data) for i, data in enumerate(scenes)), encoder(), max_side=48)
    pool = Pool(tmp_path, TARGETS)
    others = [encode_jpeg(render_scene(i, 1, 160).picture) for i in range(30)]
    for number in (0, 8, 29):
        assert pool.copies_of([recompress(scenes[number], width, 60), *others]) == [number]
    assert pool.copies_of(others) == []
    assert pool.copies_of([]) == []


def test_copies_do_not_depend_on_blocks(built, pictures, monkeypatch):
    monkeypatch.setattr("mindeye_dist.decoding.pools.faiss_pool.BLOCK_BYTES", 100)
    given = [pictures[n][1] for n in (3, 77, 119)]
    assert Pool(built, TARGETS).copies_of(given) == [3, 77, 119]


# -- broken pools ----------------------------------------------------------------------------------


def test_a_killed_build_is_no_pool_and_can_be_repeated(built, pictures, tmp_path):
    def dies(images):
        raise KeyboardInterrupt

    folder = shutil.copytree(built, tmp_path / "pool")
    with pytest.raises(KeyboardInterrupt):
        build_pool(folder, iter(pictures), encoder(dies))
    with pytest.raises(DataError, match="cut short; build it again"):
        Pool(folder, TARGETS)
    build_pool(folder, iter(pictures[:50]), encoder())
    assert len(Pool(folder, TARGETS)) == 50


def test_equal_pictures_make_an_equal_pool(built, pictures, tmp_path):
    again = build_pool(tmp_path, iter(pictures), encoder())
    assert again == Pool(built, TARGETS).record
    assert (tmp_path / "tokens.npy").read_bytes() == (built / "tokens.npy").read_bytes()


@pytest.mark.parametrize(
    ("shape", "digest"), [(SHAPE, "cd" * 32), ((3, 36), "ab" * 32)], ids=["weights", "shape"]
)
def test_a_pool_by_another_encoder(built, shape, digest):
    with pytest.raises(DataError, match="by colours abab.* compared with those by other"):
        Pool(built, TargetShape(shape, "other", digest))


@pytest.mark.parametrize(
    "name", ["index.faiss", "components.npy", "thumbnails.npy", "checksums.npy"]
)
def test_a_changed_file(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[-1] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name}: is damaged"):
        Pool(copied, TARGETS)


@pytest.mark.parametrize("name", ["index.faiss", "tokens.npy", "pictures/pictures_0.tar"])
def test_a_cut_or_missing_file(copied, name):
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[:-1])
    with pytest.raises(DataError, match=f"{name}: has {len(data) - 1} bytes, expected {len(data)}"):
        Pool(copied, TARGETS)
    (copied / name).unlink()
    with pytest.raises(DataError, match=f"{name}: is missing"):
        Pool(copied, TARGETS)


def test_changed_tokens_are_noticed_when_they_are_read(copied):
    with open(copied / "tokens.npy", "r+b") as file:
        file.seek(-3, io.SEEK_END)
        file.write(b"\x11")
    pool = Pool(copied, TARGETS)
    with pytest.raises(DataError, match=f"the tokens of picture {COUNT - 1} are damaged"):
        pool.search(random_brains(1), 1, candidates=COUNT)
    pool.search(random_brains(1), 1, candidates=COUNT, excluded=[COUNT - 1])


def test_a_changed_picture(copied):
    path = copied / "pictures/pictures_0.tar"
    path.write_bytes(path.read_bytes().replace(b"\xff\xda", b"\xff\xdb", 1))
    with pytest.raises(DataError, match="sample picture000000000: jpg"):
        Pool(copied, TARGETS).pictures([0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other/1"}, "expected a pool of format"),
        ({"count": "many"}, "count: got 'many', expected int"),
        ({"count": 5}, "its shards hold 120 pictures, expected 5"),
        ({"files": {}}, r"got files \[\]"),
        ({"shards": "outside"}, "got the path '../else.tar', expected one inside"),
        ({"num_components": 3}, "components.npy: got float32"),
    ],
)
def test_a_pool_json_that_does_not_fit(copied, change, message):
    about = json.loads((copied / "pool.json").read_text())
    if "shards" in change:
        change = {"shards": [{**about["shards"][0], "path": "../else.tar"}]}
    (copied / "pool.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(DataError, match=message):
        Pool(copied, TARGETS)


def test_a_pool_json_that_is_no_json(copied):
    (copied / "pool.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        Pool(copied, TARGETS)


@pytest.mark.parametrize(
    ("files", "encode", "message"),
    [
        ([], colours, "got no pictures"),
        ([("bad", b"no picture")], colours, "bad: cannot be read as a picture"),
        (None, lambda images: 0 * colours(images), "scene 0: its tokens by colours are all zero"),
        (None, lambda images: colours(images) / 0, "scene 0: clip_tokens .* expected finite"),
    ],
    ids=["none", "unreadable", "zero", "infinite"],
)
def test_pictures_that_make_no_pool(pictures, tmp_path, files, encode, message):
    with pytest.raises(DataError, match=message):
        build_pool(tmp_path, pictures[:2] if files is None else files, encoder(encode))
    assert not (tmp_path / "pool.json").exists()


def test_a_folder_that_cannot_be_written(pictures, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        build_pool(tmp_path / "file" / "pool", pictures[:2], encoder())
