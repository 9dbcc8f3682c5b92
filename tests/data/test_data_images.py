"""Images of every mode, orientation and kind of damage."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from pocketvit.config import DataConfig
from pocketvit.data import Patching, list_images, load, read_images
from pocketvit.data.images import read_header
from pocketvit.errors import UserError

CONFIG = DataConfig()


def one(path, channels=3, shape=(8, 8)):
    images, headers = read_images([path], shape, channels)
    if isinstance(headers[0], str):
        raise UserError(f"{path}: cannot be decoded ({headers[0]})")
    return images[0]


def solid(mode, colour, path, **options):
    Image.new(mode, (8, 8), colour).save(path, **options)
    return path


def test_modes_to_rgb(tmp_path):
    assert one(solid("RGB", (255, 0, 0), tmp_path / "a.png"))[0, 0].tolist() == [255, 0, 0]
    assert one(solid("L", 100, tmp_path / "b.png"))[0, 0].tolist() == [100] * 3
    assert one(solid("1", 1, tmp_path / "c.png"))[0, 0].tolist() == [255] * 3
    assert one(solid("CMYK", (0, 255, 255, 0), tmp_path / "d.tif"))[0, 0].tolist() == [255, 0, 0]
    assert one(solid("RGBA", (0, 0, 0, 0), tmp_path / "e.png"))[0, 0].tolist() == [255] * 3
    assert one(solid("RGBA", (9, 8, 7, 255), tmp_path / "f.png"))[0, 0].tolist() == [9, 8, 7]
    assert one(solid("LA", (50, 255), tmp_path / "g.png"))[0, 0].tolist() == [50] * 3
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(tmp_path / "h.png")
    assert one(tmp_path / "h.png")[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits(tmp_path, name):
    ramp = np.array([[0, 128, 129, 257], [32767, 32896, 65534, 65535]], dtype=np.uint16)
    Image.fromarray(ramp).save(tmp_path / name)
    expected = np.rint(ramp / 257).astype(np.uint8)
    assert np.array_equal(one(tmp_path / name, 1, (2, 4))[..., 0], expected)
    for index in range(3):
        Image.fromarray(ramp).save(tmp_path / f"{index}-{name}")
    data = load(str(tmp_path), CONFIG)
    assert data.shape == (2, 4, 1)
    assert "4 images of 16 bits scaled to 8 bits" in data.notes


def test_the_bits_that_are_used_are_those_of_all_pixels(tmp_path):
    for place in (0, 5, 63):
        values = np.zeros((8, 8), np.uint16)
        values.flat[place] = 4095
        Image.fromarray(values).save(tmp_path / "a.png")
        assert read_header(tmp_path / "a.png").largest == 4095


def deep_png(path, values, more=()):
    """Writes (H, W, C) values of 16 bits, which Pillow writes none of, and `more` chunks before them."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


def deep_tiff(path, values):
    """The same, without compression."""
    height, width, channels = values.shape
    data = values.astype("<u2").tobytes()
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14)]
    tags += [(277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data))]
    content = b"II*\0" + struct.pack("<I", 14 + len(data)) + struct.pack("<3H", 16, 16, 16) + data
    content += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + b"\0" * 4
    path.write_bytes(content)


@pytest.mark.parametrize(("write", "name"), [(deep_png, "a.png"), (deep_tiff, "a.tif")])
def test_16_bits_a_colour(tmp_path, write, name):
    """Of 12 bits in 16, the upper 8 that Pillow reads hold 16 levels."""
    values = np.random.default_rng(0).integers(0, 4096, (8, 8, 3))
    values[0, 0] = 0, 2048, 4095
    for index in range(4):
        write(tmp_path / f"{index}-{name}", values)
    data = load(str(tmp_path), CONFIG)
    assert "4 images of 16 bits, of which they use 12 scaled to 8 bits" in data.notes
    assert np.array_equal(data.train.images[0], np.rint(values / 4095 * 255))


def test_16_bits_a_colour_with_transparency(tmp_path):
    values = np.full((8, 8, 4), 65535)
    values[:, :4] = 0, 257, 65535, 65535
    values[0] = 0
    deep_png(tmp_path / "a.png", values)
    found = one(tmp_path / "a.png")
    assert (found[1, 0].tolist(), found[1, 7].tolist(), found[0, 0].tolist()) == ([0, 1, 255], [255] * 3, [255] * 3)


def test_16_bits_of_grey_with_transparency(tmp_path):
    """Of 12 bits in 16; Pillow calls it RGBA, and knows no way to its lower bytes."""
    values = np.stack([np.arange(64).reshape(8, 8) * 65, np.full((8, 8), 65535)], axis=2)
    values[0, :, 1] = 0
    for index in range(4):
        deep_png(tmp_path / f"{index}.png", values)
    data = load(str(tmp_path), CONFIG)
    assert data.shape == (8, 8, 1)
    assert "4 images of 16 bits, of which they use 12 scaled to 8 bits" in data.notes
    assert np.array_equal(data.train.images[0, 1:, :, 0], np.rint(values[1:, :, 0] / 4095 * 255))
    assert (data.train.images[0, 0] == 255).all()


def test_16_bits_with_a_colour_for_what_is_transparent_are_refused(tmp_path):
    deep_png(tmp_path / "a.png", np.full((8, 8, 3), 9), [(b"tRNS", struct.pack(">3H", 9, 9, 9))])
    with pytest.raises(UserError, match=r"a\.png.*save it with an alpha channel"):
        one(tmp_path / "a.png")


def test_floating_point_is_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif.*floating-point"):
        one(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation(tmp_path, name, orientation):
    image = Image.new("L", (32, 16), 0)
    image.paste(255, (0, 0, 8, 16))  # the left edge is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.convert("RGB").save(tmp_path / name, exif=exif)
    (tmp_path / f"b{name}").write_bytes((tmp_path / name).read_bytes())
    images = load(str(tmp_path), CONFIG).train.images
    assert images.shape[1:3] == ((32, 16) if orientation in (6, 8) else (16, 32))
    edges = {1: images[0, :, :4], 3: images[0, :, -4:], 6: images[0, :4], 8: images[0, -4:]}
    assert all((edge.mean() > 240) == (key == orientation) for key, edge in edges.items())


@pytest.mark.parametrize("keeps", ["eXIf behind the pixels", "XMP", "raw profile", "packed raw profile"])
def test_orientation_wherever_a_png_keeps_it(tmp_path, keeps):
    exif, info = Image.Exif(), PngInfo()
    exif[0x0112] = 6
    raw = exif.tobytes()
    if keeps == "XMP":
        info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    elif "profile" in keeps:
        info.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}", zip="packed" in keeps)
    file = tmp_path / "a.png"
    Image.new("RGB", (32, 16)).save(file, pnginfo=info)
    if "behind" in keeps:
        chunk = b"eXIf" + raw.removeprefix(b"Exif\0\0")
        length, check = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
        content, end = file.read_bytes()[:-12], file.read_bytes()[-12:]
        file.write_bytes(content + length + chunk + check + end)
    header = read_header(file)
    assert (header.height, header.width) == (32, 16)
    assert read_header(file.read_bytes()) == header


def test_pixels_are_not_decoded_for_a_header(tmp_path, monkeypatch):
    Image.new("RGB", (32, 16)).save(tmp_path / "a.png")

    def decoding(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImageFile, "load", decoding)
    assert read_header(tmp_path / "a.png").width == 32


def test_animated(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "b.gif", "c.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    data = load(str(tmp_path), CONFIG)
    assert "3 animated images: only the first frame of each is used" in data.notes
    assert (data.train.images == np.array([255, 0, 0])).all()


def test_mixed_modes(tmp_path, save):
    for index, mode in enumerate(["L", "L", "RGB", "RGBA"]):
        save(tmp_path / f"{index}.png", mode=mode)
    data = load(str(tmp_path), CONFIG)
    assert data.shape == (8, 8, 3)
    assert "images of mixed modes decoded as RGB: 2 L, 1 RGB, 1 RGBA" in data.notes
    assert "1 images with transparency laid over white" in data.notes


def test_grey_modes_give_one_channel(tmp_path, save):
    for index, mode in enumerate(["L", "1", "LA"]):
        save(tmp_path / f"{index}.png", mode=mode)
    assert load(str(tmp_path), CONFIG).shape == (8, 8, 1)


@pytest.mark.parametrize(("patch", "shape"), [(1, (20, 11)), (3, (21, 12)), (100, (100, 100))])
def test_mixed_sizes(tmp_path, save, patch, shape):
    for index, size in enumerate([(10, 9), (20, 11), (90, 70)]):
        save(tmp_path / f"{index}.png", size=size)
    data = load(str(tmp_path), CONFIG, patching=Patching(patch))
    assert data.shape[:2] == shape
    assert f"3 images of 3 sizes resized to {shape[0]}x{shape[1]}" in data.notes


def test_mixed_large_sizes_stay_small(tmp_path, save):
    for index, size in enumerate([(200, 150), (210, 100)]):
        save(tmp_path / f"{index}.png", size=size)
    assert load(str(tmp_path), CONFIG, patching=Patching(5, fixed=True)).shape[:2] == (100, 60)


def test_test_images_choose_no_size(tmp_path, class_folders):
    class_folders(tmp_path / "train", size=(8, 8))
    class_folders(tmp_path / "test", size=(40, 40))
    assert load(str(tmp_path), CONFIG).shape[:2] == (8, 8)


def test_asked_size(tmp_path, save):
    for index in range(3):
        save(tmp_path / f"{index}.png", seed=index)
    assert load(str(tmp_path), DataConfig(size="12x10")).shape == (12, 10, 3)
    expected = Image.open(tmp_path / "0.png").resize((10, 12), Image.Resampling.BICUBIC)
    assert np.array_equal(one(tmp_path / "0.png", shape=(12, 10)), np.asarray(expected))


def damaged(kind, path, save):
    save(path, size=(64, 64))
    content = path.read_bytes()
    path.write_bytes({"corrupt": b"not an image", "truncated": content[: len(content) // 2], "empty": b""}[kind])


@pytest.mark.parametrize("kind", ["corrupt", "truncated", "empty"])
def test_damaged_file(tmp_path, save, kind):
    for index in range(5):
        save(tmp_path / f"{index}.png", seed=index, size=(64, 64))
    damaged(kind, tmp_path / "bad.png", save)
    with pytest.raises(UserError, match=r"bad\.png: cannot be decoded .*--skip-bad"):
        load(str(tmp_path), CONFIG)
    for _ in range(2):  # the second time from the cache
        data = load(str(tmp_path), DataConfig(skip_bad=True))
        assert len(data.train) + len(data.val) == 5
        assert "1 images cannot be decoded and are left out: bad.png" in data.notes
    images, (header, reason) = read_images([tmp_path / "0.png", tmp_path / "bad.png"], (8, 8), 3)
    assert (len(images), header.width) == (1, 64)
    assert isinstance(reason, str)


def test_left_out_images_take_their_labels_along(tmp_path, class_folders, save):
    class_folders(tmp_path / "train", size=(64, 64))
    class_folders(tmp_path / "test", size=(64, 64))
    damaged("corrupt", tmp_path / "test" / "cat" / "000.png", save)
    damaged("truncated", tmp_path / "test" / "dog" / "000.png", save)
    damaged("truncated", tmp_path / "test" / "dog" / "009.png", save)
    test = load(str(tmp_path), DataConfig(skip_bad=True)).test
    assert test.labels.tolist() == [0] * 9 + [1] * 8
    expected = read_images([tmp_path / "test" / "dog" / f"{index:03}.png" for index in range(1, 9)], (64, 64), 3)[0]
    assert np.array_equal(test.images[9:], expected)


def test_damaged_parquet_row(tmp_path, parquet, save):
    good = save(tmp_path / "a.png").read_bytes()
    images = [good] * 17 + [b""] + [good] * 2
    file = parquet(tmp_path / "set.parquet", [0, 1] * 10, images=images)
    with pytest.raises(UserError, match=r"set\.parquet row 17 \(17\.png\): cannot be decoded \(it holds 0 bytes\)"):
        load(str(file), CONFIG)
    data = load(str(file), DataConfig(skip_bad=True))
    assert len(data.train) + len(data.val) + len(data.test) == 19


def test_long_lists_of_bad_images_are_cut(tmp_path, save):
    for index in range(3):
        save(tmp_path / f"{index}.png")
    for index in range(12):
        (tmp_path / f"bad{index:02}.png").write_bytes(b"x")
    notes = load(str(tmp_path), DataConfig(skip_bad=True)).notes
    assert any("12 images" in note and note.endswith("bad09.png and 2 more") for note in notes)


def test_all_bad(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match="none of its train images can be decoded"):
        load(str(tmp_path), DataConfig(skip_bad=True))


@pytest.mark.parametrize("limit", [60, 30])  # Pillow warns above its limit, and raises above twice that
def test_decompression_bomb(tmp_path, save, monkeypatch, limit):
    path = save(tmp_path / "huge.png", size=(8, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=r"huge\.png: cannot be decoded .*bomb"):
        one(path)


def test_read_images(tmp_path, save):
    paths = [save(tmp_path / f"{index}.png", seed=index) for index in range(3)]
    assert read_images(paths, (6, 5), 1)[0].shape == (3, 6, 5, 1)
    assert read_images([], (6, 5), 3)[0].shape == (0, 6, 5, 3)
    assert "no such file" in read_images([tmp_path / "none.png"], (6, 5), 3)[1][0]
    with pytest.raises(UserError, match="4 are expected"):
        read_images(paths, (6, 5), 4)


def test_list_images(tmp_path, save):
    b, a = save(tmp_path / "b.png"), save(tmp_path / "a" / "deep" / "a.png")
    save(tmp_path / ".hidden" / "c.png")
    assert list_images(tmp_path) == [b, a]
    assert list_images(b) == [b]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images found"):
        list_images(tmp_path / "empty")
    with pytest.raises(UserError, match="no such file or folder"):
        list_images(tmp_path / "none")
