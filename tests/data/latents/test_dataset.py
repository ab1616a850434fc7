"""A latent cache gives what the autoencoder gives, with all conditions, or says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ldm.autoencoders import base as stored
from ldm.autoencoders.kl import AutoencoderKL
from ldm.autoencoders.networks import Architecture
from ldm.autoencoders.quantizer import VectorQuantizer
from ldm.autoencoders.vq import AutoencoderVQ
from ldm.cli.latent_cache import first_seed, flip_probability, with_flip
from ldm.data.folder import ImageFolder
from ldm.data.framing import make_framing
from ldm.data.latents.dataset import CachedLatents
from ldm.data.latents.manifest import FILE, Manifest, Recipe, Split, shard_path
from ldm.data.latents.shard import Shard, describe, pack, write_shard
from ldm.data.latents.verify import verify_items, verify_sums
from ldm.data.latents.writer import Encoder, ItemPairs, Writer
from ldm.data.paired import LabelMap, PairedFolder
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.diffusion.schedule import NoiseSchedule
from ldm.errors import ConfigError, DataError
from tests.diffusion.fakes import FakeDenoiser

IMAGES, SIZE = 10, 16
ARCHITECTURE = Architecture(
    channels=8, channel_mult=(1, 1), num_res_blocks=1, z_channels=2, norm_groups=2
)


def _kl() -> AutoencoderKL:
    torch.manual_seed(0)
    model = AutoencoderKL(ARCHITECTURE, embed_dim=2, initial_logvar=-3.0)
    return model.eval().requires_grad_(False)


def _vq() -> AutoencoderVQ:
    torch.manual_seed(0)
    model = AutoencoderVQ(ARCHITECTURE, embed_dim=2, quantizer=VectorQuantizer(8, 2))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that differ from their mirror images, with captions and label maps."""
    root = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0)
    (root / "maps").mkdir()
    (root / "images").mkdir()
    for k in range(IMAGES):
        pixels = noise.integers(0, 256, (20, 28, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{k}.png")
        (root / "images" / f"{k}.txt").write_text("größer " * k)
        Image.fromarray(noise.integers(0, 5, (20, 28), np.uint8)).save(root / "maps" / f"{k}.png")
    return root


def _folder(photos: Path, flip: float = 0.0, crop: str = "center", seed: int = 0) -> ImageFolder:
    return ImageFolder(photos / "images", SIZE, split="all", flip=flip, crop=crop, seed=seed)


def _make(
    root: Path,
    plain: Any,
    mirrored: Any | None,
    autoencoder: Any,
    dtype: str = "fp32",
    epochs: int = 1,
    rows: int = 4,
) -> tuple[Writer, ItemPairs]:
    """A planned cache with the split train, and what fills it."""
    pairs = ItemPairs("train", plain, mirrored)
    encode = _encoder(autoencoder, dtype)
    item = pairs[0][0]
    recipe = Recipe(stored.fingerprint(autoencoder.state_dict()), {"train": "photos"}, dtype)
    split = Split(len(plain), epochs, mirrored is not None, rows)
    schema = describe(encode([item], "item 0")[0])
    manifest = Manifest(recipe, (SIZE, SIZE), schema, {"train": split})
    manifest.save(root)
    return Writer(root, manifest, encode, batch_size=4, workers=0), pairs


def _encoder(autoencoder: Any, dtype: str = "fp32") -> Encoder:
    def encode(images: Tensor) -> Tensor:
        return stored.to_entry(autoencoder.encode(images))[1]

    name, _ = stored.to_entry(autoencoder.encode(torch.zeros(1, 3, SIZE, SIZE)))
    return Encoder(name, encode, dtype)


def _fill(writer: Writer, pairs: ItemPairs) -> Manifest:
    writer.write(pairs, "train", writer.missing("train"), lambda _: None)
    return writer.finish()


@pytest.fixture
def cache(photos: Path, tmp_path: Path) -> Path:
    """The photos, plain and mirrored, of the KL autoencoder."""
    _fill(*_make(tmp_path / "cache", _folder(photos), _folder(photos, flip=1.0), _kl()))
    return tmp_path / "cache"


def _images(dataset: Any) -> Tensor:
    return torch.stack([dataset[i]["image"] for i in range(len(dataset))])


# -- what it gives ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_kept_moments_are_those_of_the_images(
    photos: Path, tmp_path: Path, dtype: str, flip: float
) -> None:
    model = _kl()
    _fill(*_make(tmp_path, _folder(photos), _folder(photos, flip=1.0), model, dtype))
    cached = CachedLatents(tmp_path, flip=flip)
    images = _images(_folder(photos, flip=flip))
    direct = torch.cat([stored.to_entry(model.encode(part))[1] for part in images.split(4)])
    found = torch.stack([cached[i]["moments"] for i in range(IMAGES)])
    if dtype == "fp32":
        assert found.dtype == torch.float32
        assert torch.equal(found, direct)
    else:
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, direct.bfloat16())
        assert ((found.float() - direct).abs() <= direct.abs() / 256).all()


def test_latents_before_quantisation_are_kept_of_a_vq_autoencoder(
    photos: Path, tmp_path: Path
) -> None:
    model = _vq()
    _fill(*_make(tmp_path, _folder(photos), None, model))
    cached = CachedLatents(tmp_path)
    assert set(cached[0]) == {"latents", "caption"}
    direct = model.encode(_images(_folder(photos))[:4]).mode()
    assert torch.equal(torch.stack([cached[i]["latents"] for i in range(4)]), direct)


def test_samples_of_cached_moments_have_mean_and_variance_of_the_posterior(
    cache: Path, photos: Path
) -> None:
    model, count = LatentDiffusion(FakeDenoiser(2), _kl(), NoiseSchedule(timesteps=20)), 4000
    batch = {"moments": CachedLatents(cache)[3]["moments"][None].expand(count, -1, -1, -1)}
    samples = model.encode_batch(batch, torch.Generator().manual_seed(0)).double()
    posterior = _kl().encode(_folder(photos)[3]["image"][None])
    error = (samples.mean(0) - posterior.mean[0]).abs() / (posterior.std[0] / count**0.5)
    assert error.max() < 5
    assert (samples.var(0) / posterior.var[0] - 1).abs().max() < 5 * (2 / count) ** 0.5


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_cache_shows_in_each_epoch_what_its_data_set_shows(
    photos: Path, tmp_path: Path, crop: str, seed: int
) -> None:
    """The same crops, and the same images are mirrored."""
    model, epochs = _kl(), 2 if crop == "random" else 1
    plain, mirrored = (_folder(photos, flip, crop, seed) for flip in (0.0, 1.0))
    _fill(*_make(tmp_path, plain, mirrored, model, epochs=epochs, rows=8))
    cached = CachedLatents(tmp_path, flip=0.5, seed=seed)
    direct = _folder(photos, 0.5, crop, seed)
    for epoch in (0, 1):
        cached.set_epoch(epoch)
        direct.set_epoch(epoch)
        for i in range(IMAGES):
            expected = stored.to_entry(model.encode(direct[i]["image"][None]))[1][0]
            assert torch.allclose(cached[i]["moments"], expected, atol=1e-5), (epoch, i)


def test_after_its_last_epoch_a_cache_begins_again(photos: Path, tmp_path: Path) -> None:
    _fill(*_make(tmp_path, _folder(photos, crop="random"), None, _kl(), epochs=2))
    cached = CachedLatents(tmp_path)
    seen = []
    for epoch in range(4):
        cached.set_epoch(epoch)
        seen.append(cached[1]["moments"])
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])


def test_what_belongs_to_an_image_is_mirrored_with_it(photos: Path, tmp_path: Path) -> None:
    def pairs(flip: float) -> PairedFolder:
        partners = {"segmentation": LabelMap(photos / "maps", num_classes=5)}
        return PairedFolder(photos / "images", partners, make_framing(SIZE, flip=flip))

    _fill(*_make(tmp_path, pairs(0.0), pairs(1.0), _kl()))
    plain, mirrored = (CachedLatents(tmp_path, flip=flip) for flip in (0.0, 1.0))
    for i in range(IMAGES):
        label_map = pairs(0.0)[i]["segmentation"]
        assert torch.equal(plain[i]["segmentation"], label_map)
        assert torch.equal(mirrored[i]["segmentation"], label_map.flip(-1))
        assert plain[i]["segmentation"].dtype == torch.int64


def test_entries_come_back_as_they_were_and_once_if_the_mirror_has_the_same(
    tmp_path: Path,
) -> None:
    def item(k: int, sign: int) -> dict[str, Any]:
        return {
            "caption": ["", "rot → grün", "a\x00b"][k],
            "label": k - 1,
            "tokens": torch.tensor([k, 70000, -3]),
            "long": torch.tensor([2**40 + k]),
            "half": torch.tensor([[0.1 * k]], dtype=torch.float16),
            "mask": torch.tensor([k == 1]),
            "weight": 0.1 * k,
            "good": k == 2,
            "boxes": np.array([[sign * k, 1.0]], np.float32),
        }

    plain, mirrored = ([item(k, sign) for k in range(3)] for sign in (1, -1))
    schema = describe(plain[0])
    columns = pack(plain, mirrored, schema)
    assert [name for name in columns if name.startswith("mirrored")] == ["mirrored.boxes"]
    assert columns["plain.tokens"].dtype == torch.int32
    write_shard(tmp_path / "x.safetensors", columns)
    shard = Shard(tmp_path / "x.safetensors", schema, 3)
    for side, items in ((False, plain), (True, mirrored)):
        for k, expected in enumerate(items):
            found = shard.item(k, side)
            assert list(found) == list(expected)
            for name, value in expected.items():
                if isinstance(value, (Tensor, np.ndarray)):
                    value = torch.as_tensor(value)
                    assert torch.equal(found[name], value)
                    assert found[name].dtype == value.dtype
                else:
                    assert found[name] == value
                    assert type(found[name]) is type(value)


def test_items_are_in_memory_of_their_own(cache: Path) -> None:
    cached = CachedLatents(cache)
    before = cached[0]["moments"].clone()
    cached[0]["moments"].zero_()
    assert torch.equal(cached[0]["moments"], before)


def test_running_workers_hear_of_the_epoch(cache: Path) -> None:
    cached = CachedLatents(cache, flip=0.5)
    cached[0]  # maps a file, which must not stop the workers
    loader = DataLoader(cached, 5, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        cached.set_epoch(epoch)
        batches = torch.cat([batch["moments"] for batch in loader])
        assert torch.equal(batches, torch.stack([cached[i]["moments"] for i in range(IMAGES)]))


def test_a_set_that_has_been_read_goes_to_another_process(cache: Path) -> None:
    cached = CachedLatents(cache, flip=0.5)
    item, content = cached[1], pickle.dumps(cached)
    assert torch.equal(pickle.loads(content)[1]["moments"], item["moments"])
    assert len(content) == len(pickle.dumps(CachedLatents(cache, flip=0.5)))  # files are not sent


# -- the loss -----------------------------------------------------------------------------------


def _losses(batches: Sequence[dict[str, Any]], count: int, seed: int) -> Tensor:
    torch.manual_seed(0)
    model = LatentDiffusion(FakeDenoiser(2), _kl(), NoiseSchedule(timesteps=20))
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(
        [model(batches[i % len(batches)], generator)[0].detach() for i in range(count)]
    )


@pytest.mark.parametrize(("dtype", "rtol"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_the_loss_is_that_of_the_images(
    photos: Path, tmp_path: Path, dtype: str, rtol: float
) -> None:
    """With the same numbers draw by draw; with others the same in the mean."""
    _fill(*_make(tmp_path, _folder(photos), None, _kl(), dtype))
    cached = [next(iter(DataLoader(CachedLatents(tmp_path), IMAGES)))]
    images = [{"image": _images(_folder(photos))}]
    torch.testing.assert_close(_losses(cached, 10, 0), _losses(images, 10, 0), rtol=rtol, atol=0.0)
    one, other = _losses(cached, 100, 1), _losses(images, 100, 2)
    error = (one.var() / 100 + other.var() / 100).sqrt()
    assert (one.mean() - other.mean()).abs() < 4 * error


def test_a_batch_without_images_and_latents_is_refused() -> None:
    model = LatentDiffusion(FakeDenoiser(2), _kl(), NoiseSchedule(timesteps=20))
    with pytest.raises(DataError, match="neither 'image' nor 'moments' nor 'latents', only: x"):
        model({"x": torch.zeros(1)})


@pytest.mark.parametrize(("entry", "channels"), [("moments", 4), ("latents", 2)])
def test_the_size_of_images_is_known_from_latents(entry: str, channels: int) -> None:
    model = LatentDiffusion(FakeDenoiser(2), _kl(), NoiseSchedule(timesteps=20))
    assert model.image_size({entry: torch.zeros(1, channels, 8, 6)}) == (16, 12)
    assert model.image_size({"image": torch.zeros(1, 3, 5, 7)}) == (5, 7)


# -- making it ----------------------------------------------------------------------------------


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_shares_of_processes_and_a_killed_call_make_the_same_bytes(
    photos: Path, tmp_path: Path
) -> None:
    def make(name: str) -> tuple[Writer, ItemPairs]:
        return _make(tmp_path / name, _folder(photos), _folder(photos, 1.0), _kl())

    writer, pairs = make("one")
    _fill(writer, pairs)
    expected = _bytes(tmp_path / "one")
    assert set(expected) == {FILE, *(f"train/0000{k}.safetensors" for k in range(3))}

    for share in ([0, 2], [1]):
        writer, pairs = make("two")
        writer.write(pairs, "train", share, lambda _: None)
    writer.finish()
    assert _bytes(tmp_path / "two") == expected

    writer, pairs = make("killed")
    writer.write(pairs, "train", [1], lambda _: None)
    root = tmp_path / "killed"
    path = shard_path(root, "train", 0)
    path.write_bytes(b"without a note")  # killed between the file and its note
    path.with_name(f".{path.name}.tmp").write_bytes(b"half")
    with pytest.raises(DataError, match="not complete"):
        CachedLatents(root)
    assert writer.missing("train") == [0, 2]
    _fill(writer, pairs)
    assert _bytes(root) == expected


def test_workers_read_the_same(photos: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        plain = _folder(photos, crop="random")
        writer, pairs = _make(tmp_path / str(workers), plain, None, _kl(), epochs=3)
        _fill(Writer(writer.root, writer.manifest, writer.encode, 4, workers), pairs)
    assert _bytes(tmp_path / "0") == _bytes(tmp_path / "2")


class _Drawing(Dataset[dict[str, Any]]):
    """Draws from the global generators."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.full((3, SIZE, SIZE), float(index))
        return {"image": image, "t": torch.rand(1), "n": float(np.random.random())}


def test_it_is_found_out_whether_epochs_differ(photos: Path) -> None:
    assert ItemPairs("train", _folder(photos)).changing_entry() is None
    assert ItemPairs("train", _folder(photos, crop="random")).changing_entry() == (0, "image")
    assert ItemPairs("train", _Drawing()).changing_entry() == (0, "t")


def test_items_with_global_draws_repeat() -> None:
    pairs = ItemPairs("train", _Drawing(), _Drawing())
    first = pairs[1]
    pairs[2]
    assert torch.equal(pairs[1][0]["t"], first[0]["t"])
    assert pairs[1][0]["n"] == first[0]["n"]
    assert first[1] is not None
    assert torch.equal(first[0]["t"], first[1]["t"])  # cut alike
    assert not torch.equal(pairs[2][0]["t"], first[0]["t"])


def test_values_that_are_not_finite_are_refused(photos: Path) -> None:
    def encode(images: Tensor) -> Tensor:
        return images / 0

    with pytest.raises(DataError, match="items 0 to 3: the autoencoder gives values that are not"):
        Encoder("latents", encode, "fp32")([_folder(photos)[0]], "items 0 to 3")


def test_entries_that_cannot_be_kept_are_named(photos: Path) -> None:
    with pytest.raises(DataError, match=r"'extra' is a list: .*--without"):
        describe({"extra": [1]})
    schema = describe({"x": 1})
    with pytest.raises(DataError, match=r"'x' is .*float.* in one item and .*int"):
        pack([{"x": 1}, {"x": 0.5}], [], schema)
    with pytest.raises(DataError, match=r"'y' is .*int.* in one item and absent"):
        pack([{"x": 1}, {"x": 1, "y": 2}], [], schema)


# -- what is refused ----------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("harm", [_truncate, Path.unlink])
def test_a_damaged_shard_is_named_and_made_anew(
    cache: Path, photos: Path, harm: Callable[[Path], Any]
) -> None:
    before = _bytes(cache)
    path = shard_path(cache, "train", 1)
    harm(path)
    with pytest.raises(DataError, match=r"train/00001.safetensors' (is missing|has not \d+ bytes)"):
        CachedLatents(cache)
    writer, pairs = _make(cache.parent / "x", _folder(photos), _folder(photos, 1.0), _kl())
    writer = Writer(cache, Manifest.load(cache), writer.encode, 4, 0)
    assert writer.missing("train") == [1]
    _fill(writer, pairs)
    assert _bytes(cache) == before


def test_a_shard_of_the_right_size_but_other_content_is_named(cache: Path) -> None:
    path = shard_path(cache, "train", 0)
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(DataError, match=r"train/00000.safetensors' cannot be read"):
        CachedLatents(cache)[0]


def test_a_shard_of_another_schema_is_named(tmp_path: Path) -> None:
    schema = describe({"x": 1})
    write_shard(tmp_path / "a.safetensors", pack([{"x": 1}], [], schema))
    with pytest.raises(DataError, match=r"a.safetensors' does not hold 'y' of 1 items"):
        Shard(tmp_path / "a.safetensors", describe({"y": 1}), 1)
    with pytest.raises(DataError, match=r"a.safetensors' does not hold 'x' of 2 items"):
        Shard(tmp_path / "a.safetensors", schema, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "0" * 64}, "is stale: it has the key [0-9a-f]{12}, the config asks for 0000"),
        ({"image_size": 32}, r"images of \(16, 16\) pixels, the config has \(32, 32\)"),
        ({"image_size": [16, 8]}, r"the config has \(16, 8\)"),
        ({"split": "test"}, "no split 'test', but train"),
        ({"flip": 2.0}, "flip 2.0 is not a probability"),
    ],
)
def test_another_cache_than_asked_for_is_refused(
    cache: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        CachedLatents(cache, **options)
    fitting = {"key": Manifest.load(cache).recipe.key, "image_size": [16, 16], "flip": 1.0}
    assert len(CachedLatents(cache, **fitting)) == IMAGES


def test_mirrored_items_that_are_not_there_are_refused(photos: Path, tmp_path: Path) -> None:
    _fill(*_make(tmp_path, _folder(photos), None, _kl()))
    with pytest.raises(DataError, match="holds no mirrored items of its train set: set flip=0"):
        CachedLatents(tmp_path, flip=0.5)


def test_no_cache_a_torn_manifest_and_another_format_are_refused(cache: Path) -> None:
    with pytest.raises(DataError, match=r"is no latent cache, it has no manifest.json"):
        CachedLatents(cache / "train")
    text = (cache / FILE).read_text()
    (cache / FILE).write_text(text[:100])
    with pytest.raises(DataError, match="is no manifest of a latent cache"):
        CachedLatents(cache)
    tree = json.loads(text)
    tree["recipe"]["format"] = 2
    (cache / FILE).write_text(json.dumps(tree))
    with pytest.raises(DataError, match="has format 2, this version reads 1"):
        CachedLatents(cache)


def test_the_key_depends_on_autoencoder_transform_and_type() -> None:
    recipe = Recipe("a", {"train": {"params": {"size": 16, "crop": "center"}}}, "fp32")
    others = [
        Recipe("b", recipe.transform, "fp32"),
        Recipe("a", {"train": {"params": {"size": 32, "crop": "center"}}}, "fp32"),
        Recipe("a", recipe.transform, "bf16"),
    ]
    assert len({recipe.key, *(other.key for other in others)}) == 4
    names = [recipe.differences(other) for other in others]
    assert names == [["autoencoder"], ["transform.train.params.size"], ["dtype"]]
    same = Recipe("a", {"train": {"params": {"crop": "center", "size": 16}}}, "fp32")
    assert same.key == recipe.key


def test_a_fingerprint_changes_with_any_weight() -> None:
    model = _kl()
    before = stored.fingerprint(model.state_dict())
    assert stored.fingerprint(_kl().state_dict()) == before
    model.decoder.conv_out.bias[0] += 1e-6
    assert stored.fingerprint(model.state_dict()) != before
    assert stored.fingerprint(_kl().bfloat16().state_dict()) != before


# -- verification -------------------------------------------------------------------------------


def test_checksums_find_a_flipped_bit(cache: Path) -> None:
    manifest, read = Manifest.load(cache), list[int]()
    verify_sums(cache, manifest, read.append)
    assert sum(read) == sum(written.bytes for written in manifest.splits["train"].shards)
    path = shard_path(cache, "train", 2)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train/00002.safetensors' is damaged"):
        verify_sums(cache, manifest, read.append)


@pytest.mark.parametrize("mirrored", [False, True])
def test_training_notices_a_flipped_bit_of_an_item(cache: Path, mirrored: bool) -> None:
    """In a worker, too; the other items are what they were."""
    path = shard_path(cache, "train", 1)
    rows = load_file(path)["mirrored.moments" if mirrored else "plain.moments"][1]
    content = bytearray(path.read_bytes())
    content[content.index(rows.numpy().tobytes()) + 7] ^= 4
    path.write_bytes(content)
    dataset = CachedLatents(cache, flip=float(mirrored))
    assert CachedLatents(cache, flip=float(not mirrored))[5]
    for workers in (0, 1):
        read = iter(DataLoader(dataset, batch_size=None, num_workers=workers))
        for _ in range(5):
            next(read)
        with pytest.raises(DataError, match=r"00001.safetensors' is damaged, item 1 of it .*anew"):
            next(read)


@pytest.mark.parametrize("harm", [b"", b"{}", b"[" * 100_000, b'{"sha256": 5, "bytes": null}'])
def test_a_damaged_note_makes_its_shard_void(cache: Path, harm: bytes) -> None:
    manifest = Manifest.load(cache)
    manifest.with_shards({"train": ()}).save(cache)
    writer = Writer(cache, Manifest.load(cache), lambda *_: [], 4, 0)  # type: ignore[arg-type]
    for number, written in enumerate(manifest.splits["train"].shards):
        writer._note("train", number).write_text(json.dumps(dataclasses.asdict(written)))
    assert writer.missing("train") == []
    writer._note("train", 1).write_bytes(harm)
    assert writer.missing("train") == [1]


def _pairs(photos: Path) -> ItemPairs:
    return ItemPairs("train", _folder(photos), _folder(photos, 1.0))


def test_other_latents_and_other_entries_are_found(cache: Path, photos: Path) -> None:
    manifest = Manifest.load(cache)
    encode = _encoder(_kl())
    assert verify_items(cache, manifest, "train", _pairs(photos), encode, IMAGES) < 1e-5

    torch.manual_seed(1)
    other = AutoencoderKL(ARCHITECTURE, embed_dim=2).eval().requires_grad_(False)
    with pytest.raises(DataError, match="latents of the train set differ by"):
        verify_items(cache, manifest, "train", _pairs(photos), _encoder(other), 2)

    pairs = _pairs(photos)
    for dataset in pairs._sets:
        dataset.files[:] = dataset.files[::-1]
    with pytest.raises(DataError, match=r"'caption' of item . of the train set is not what"):
        verify_items(cache, manifest, "train", pairs, encode, IMAGES)


# -- the switch for mirror images ---------------------------------------------------------------


def test_flips_are_found_and_set_wherever_they_are() -> None:
    node = {
        "target": "a.B",
        "params": {"images": [{"target": "c.D", "params": {"flip": 0.5, "seed": 7}}], "n": 1},
    }
    assert flip_probability(node, "data") == 0.5
    assert flip_probability(with_flip(node, 1.0), "data") == 1.0
    assert with_flip(node, 1.0)["params"]["images"][0]["params"] == {"flip": 1.0, "seed": 7}
    assert flip_probability({"target": "a.B"}, "data") == 0.0
    assert first_seed(node) == 7
    assert first_seed({"target": "a.B"}) == 0
    node["params"]["flip"] = 0.25
    with pytest.raises(ConfigError, match=r"data: flip has several values, \[0.25, 0.5\]"):
        flip_probability(node, "data")
