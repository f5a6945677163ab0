"""Small data sets in their official layouts."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from kdhpc.data.progress import Progress

Pixels = NDArray[np.uint8]


def silent() -> Progress:
    return Progress(io.StringIO())


def shown(folder: Path) -> list[str]:
    """The names in a folder, but for what only locks: hidden, empty and for good."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock") or path.stat().st_size)


def noise(seed: int, *shape: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(seed: int, height: int, width: int) -> Pixels:
    """Colours that change slowly, so that JPEG and resizing keep them."""
    coarse = Image.fromarray(noise(seed, 4, 4, 3))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def write_jpeg(path: Path, seed: int, height: int = 20, width: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth(seed, height, width)).save(path, quality=95)
    return path


def write_folder(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), train: int = 3, test: int = 2) -> Path:
    """``train/<class>/*.jpg`` and ``test/<class>/*.jpg``, of many sizes."""
    seed = 0
    for half, num in (("train", train), ("test", test)):
        for name in classes:
            for index in range(num):
                seed += 1
                write_jpeg(root / half / name / f"{index}.jpg", seed, height=20 + seed, width=30)
    return root


def write_tar(archive: Path, folder: Path, *names: str) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz" if archive.suffix in (".gz", ".tgz") else "w") as tar:
        for name in names:
            tar.add(folder / name, arcname=name)
    return archive


def write_cifar10(folder: Path, *, per_batch: int = 2) -> tuple[Pixels, list[int]]:
    """``cifar-10-batches-py``: five training batches and a test batch, pickled as Python 2 did."""
    folder.mkdir(parents=True)
    planes = noise(1, 6 * per_batch, 3072)
    labels = [index % 2 for index in range(6 * per_batch)]
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number, name in enumerate(names):
        own = slice(number * per_batch, (number + 1) * per_batch)
        content = {b"batch_label": b"x", b"data": planes[own], b"labels": labels[own]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"airplane", b"bird"]}, protocol=2))
    return planes, labels


def write_cifar100_binary(folder: Path) -> tuple[Pixels, list[int]]:
    """``cifar-100-binary``: coarse label, fine label, planes."""
    folder.mkdir(parents=True)
    planes = noise(2, 6, 3072)
    fine = [0, 1, 1, 0, 1, 0]
    rows = np.concatenate([np.full((6, 1), 9, np.uint8), np.array(fine, np.uint8)[:, None], planes], axis=1)
    (folder / "train.bin").write_bytes(rows[:4].tobytes())
    (folder / "test.bin").write_bytes(rows[4:].tobytes())
    (folder / "fine_label_names.txt").write_text("apple\nbear\n\n")
    return planes, fine


def write_idx(path: Path, array: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">i4").tobytes()
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_fashion_mnist(folder: Path, suffix: str = ".gz") -> tuple[Pixels, Pixels]:
    """20 training and 10 test images of 28x28, every class in both halves."""
    images, labels = noise(3, 30, 28, 28), np.tile(np.arange(10, dtype=np.uint8), 3)
    for name, half in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        write_idx(folder / f"{name}-images-idx3-ubyte{suffix}", images[half])
        write_idx(folder / f"{name}-labels-idx1-ubyte{suffix}", labels[half])
    return images, labels


def write_dogs(root: Path) -> Path:
    """``Images`` and ``lists`` of Stanford Dogs: two breeds, three training images and two test images."""
    train = [("n01-Chihuahua/n01_1.jpg", 1), ("n01-Chihuahua/n01_2.jpg", 1), ("n02-Whippet/n02_1.jpg", 2)]
    test = [("n01-Chihuahua/n01_3.jpg", 1), ("n02-Whippet/n02_2.jpg", 2)]
    for seed, (name, _) in enumerate(train + test):
        write_jpeg(root / "Images" / name, seed)
    write_dogs_list(root / "lists" / "train_list.mat", train)
    write_dogs_list(root / "lists" / "test_list.mat", test)
    return root


def write_dogs_list(path: Path, images: list[tuple[str, int]], dtype: type[np.generic] = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.array([[name] for name, _ in images], dtype=object)
    labels = np.array([[label] for _, label in images], dtype=dtype)
    savemat(path, {"file_list": names, "annotation_list": names, "labels": labels})


def _records(rows: list[tuple[str, int, int]], name_field: str) -> NDArray[np.void]:
    """MATLAB structs with boxes, class, name and whether it is a test image."""
    fields = [name_field, "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    records = np.zeros((1, len(rows)), dtype=[(field, object) for field in fields])
    for index, (name, label, in_test) in enumerate(rows):
        records[0, index] = (name, 1, 2, 10, 12, label, in_test)
    return records


def write_cars_halves(root: Path) -> Path:
    """``cars_train``, ``cars_test``, ``devkit`` and the test labels beside it."""
    train, test = (
        [("00001.jpg", 2, 0), ("00002.jpg", 1, 0), ("00003.jpg", 1, 0)],
        [("00001.jpg", 1, 1), ("00002.jpg", 2, 1)],
    )
    for folder, rows in (("cars_train", train), ("cars_test", test)):
        for seed, (name, _, _) in enumerate(rows):
            write_jpeg(root / folder / name, seed)
    (root / "devkit").mkdir()
    savemat(
        root / "devkit" / "cars_meta.mat", {"class_names": np.array([["AM General Hummer", "Acura RL"]], dtype=object)}
    )
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": _records(train, "fname")})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": _records(test, "fname")})
    return root


def write_cars_together(root: Path) -> Path:
    """``car_ims`` and ``cars_annos.mat``."""
    rows = [(f"car_ims/00000{index}.jpg", 1 + index % 2, int(index > 3)) for index in range(1, 6)]
    for seed, (name, _, _) in enumerate(rows):
        write_jpeg(root / name, seed)
    names = np.array([["AM General Hummer", "Acura RL"]], dtype=object)
    savemat(root / "cars_annos.mat", {"annotations": _records(rows, "relative_im_path"), "class_names": names})
    return root


def write_cub(root: Path) -> Path:
    """``CUB_200_2011``: two birds, three training images and two test images."""
    folder = root / "CUB_200_2011"
    names = [f"00{1 + index // 3}.Bird_{index // 3}/Bird_{index}.jpg" for index in range(5)]
    for seed, name in enumerate(names):
        write_jpeg(folder / "images" / name, seed)
    (folder / "images.txt").write_text("".join(f"{index + 1} {name}\n" for index, name in enumerate(names)))
    (folder / "image_class_labels.txt").write_text("1 1\n2 1\n3 1\n4 2\n5 2\n")
    (folder / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n4 1\n5 0\n")
    (folder / "classes.txt").write_text("1 001.Bird_0\n2 002.Bird_1\n")
    return root
