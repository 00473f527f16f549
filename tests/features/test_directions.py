"""Directions: vectors that are values, inline or in files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, FeatureRangeError
from dreamy_lens.features import Direction
from dreamy_lens.features.parser import feature_names

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(FINITE, min_size=1, max_size=9).filter(any))
def test_inline_text_keeps_every_bit(values):
    direction = Direction(values)
    again = Direction(direction.text)
    assert again == direction and hash(again) == hash(direction)
    assert again.values.tobytes() == np.array(values, np.float32).tobytes()


def test_the_same_numbers_are_the_same_direction_whatever_holds_them():
    numbers = [0.5, -1.0, 3.0]
    kinds = [numbers, tuple(numbers), np.array(numbers), np.array(numbers, np.float16), torch.tensor(numbers)]
    kinds += [torch.tensor(numbers, dtype=torch.bfloat16, requires_grad=True), Direction(numbers)]
    assert len({Direction(kind) for kind in kinds}) == 1
    assert Direction(numbers) != Direction([0.5, -1.0, 3.5])
    assert Direction(numbers).values.dtype == np.float32


def test_a_direction_does_not_change_with_what_it_was_made_from():
    for source in (np.array([1.0, 2.0], np.float32), torch.tensor([1.0, 2.0])):
        direction = Direction(source)
        source[0] = 9
        assert direction == Direction([1.0, 2.0])
    with pytest.raises(ValueError):
        direction.values[0] = 3


def test_files_are_read_when_needed_and_not_before(tmp_path):
    path = tmp_path / "v.npy"
    direction = Direction(path)
    assert direction == Direction(str(path)) and direction.text == str(path)
    with pytest.raises(FeatureError, match="There is no file"):
        _ = direction.values
    np.save(path, np.array([1.0, 2.0]))
    np.testing.assert_array_equal(direction.values, [1, 2])


def test_tensors_of_a_file_are_chosen_by_name(tmp_path):
    one, several = tmp_path / "one.safetensors", tmp_path / "several.safetensors"
    save_file({"only": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}, one)
    save_file({"a": torch.tensor([3.0]), "b:c": torch.tensor([4.0])}, several)
    np.testing.assert_array_equal(Direction(one).values, [1, 2])
    np.testing.assert_array_equal(Direction(f"{one}:only").values, [1, 2])
    np.testing.assert_array_equal(Direction(f"{several}:a").values, [3])
    with pytest.raises(FeatureError, match=r"several tensors \(it has: a, b:c\); write several.safetensors:NAME"):
        _ = Direction(several).values
    with pytest.raises(FeatureError, match=r"no tensor 'z' \(it has: a, b:c\)"):
        _ = Direction(f"{several}:z").values
    np.testing.assert_array_equal(Direction(f"{several}:b:c").values, [4])


def test_home_folders_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    np.save(tmp_path / "v.npy", np.array([1.0]))
    np.testing.assert_array_equal(Direction("~/v.npy").values, [1])


def test_files_that_hold_no_direction_are_told_why(tmp_path):
    np.save(tmp_path / "matrix.npy", np.ones((2, 3)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }"
    for name, size in (("endless", 10**12), ("beyond", 10**30)):  # which nothing is allocated for
        text = (header % size).encode().ljust(117) + b"\n"
        (tmp_path / f"{name}.npy").write_bytes(
            b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)
        )
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "broken.safetensors").write_bytes(b"12345678{")
    (tmp_path / "v.pt").write_bytes(b"")
    (tmp_path / "v.gguf").write_bytes(b"GGUF")
    for name, sentence in (
        ("matrix.npy", r"shape \[2, 3\]; a direction is one vector"),
        ("objects.npy", "cannot be read as an array of numbers"),
        ("broken.npy", "cannot be read as an array of numbers"),
        ("endless.npy", "cannot be read as an array of numbers"),
        ("beyond.npy", "cannot be read as an array of numbers"),
        ("empty.npy", "cannot be read as an array of numbers"),
        ("broken.safetensors", "cannot be read as safetensors"),
        ("v.pt", r"read from a .safetensors or .npy file; 'v.pt' is neither. dl.direction.load"),
        ("v.gguf", "'v.gguf' is neither. Convert a GGUF control vector"),
        ("nowhere.npy", "There is no file .*nowhere.npy.*working folder"),
    ):
        with pytest.raises(FeatureError, match=sentence):
            _ = Direction(tmp_path / name).values


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ([], r"shape \[0\]"),
        (3.0, r"shape \[\]"),
        ([[1.0, 2.0]], r"shape \[1, 2\]"),
        ([[1.0], [1.0, 2.0]], "not one vector"),
        ([1.0, float("nan")], "NaN or infinite"),
        ([1e300], "NaN or infinite"),
        ([0.0, 0.0], "all zeros"),
        (["a"], "real numbers"),
        ([1j], "real numbers"),
        (None, r"shape \[\]"),
        ("data:float32,", r"shape \[0\]"),
        ("data:float32,AAA=", "not base64 of float32"),
        ("data:float32,!", "not base64 of float32"),
        ("", "no name"),
    ],
)
def test_what_is_not_a_direction_is_refused_at_once(source, sentence):
    with pytest.raises(FeatureError, match=sentence) as caught:
        Direction(source)
    assert isinstance(caught.value, FeatureRangeError) or isinstance(source, str)


def test_reprs_are_short():
    assert repr(Direction([3.0, 4.0])) == "Direction([3, 4])"
    assert repr(Direction(np.arange(1, 100.0))) == "Direction([1, 2, 3, 4, …])"
    assert repr(Direction("v.npy")) == "Direction('v.npy')"
    assert Direction(np.arange(1, 100.0)).short.startswith("v99#")


def test_names_and_origins_are_part_of_the_text_and_survive_files(tmp_path):
    plain = Direction([3.0, 4.0])
    named = Direction([3.0, 4.0], name="refusal layer 12", origin='50 % of "a; b, c" − déjà vu; x=1')
    assert Direction(named.text) == named != plain and hash(Direction(named.text)) == hash(named)
    assert (named.short, plain.short) == ("refusal layer 12", f"v2{plain.fingerprint}")
    assert named.described == f"refusal layer 12{plain.fingerprint} ({named.origin})"
    assert eval(repr(named)) == named  # two numbers are written in full
    feature = dl.hook("a")[-1] @ named
    assert dl.parse(str(feature)) == feature and feature.label == "a[-1] @ refusal layer 12"
    assert feature_names("<gone> + " + str(feature))[0] == "<gone> + a[-1] @ refusal layer 12"
    path = named.save(tmp_path / "v.safetensors")
    assert dl.direction.load(path) == named and dl.direction.load(path, name="other").name == "other"
    assert Direction(path).short == "v.safetensors" and [*tmp_path.iterdir()] == [path]
    assert Direction(path, name="now").text.startswith("data:float32;name=now,")
    assert named.cosine([4.0, -3.0]) == 0 and plain.cosine(named) == pytest.approx(1)
    with pytest.raises(FeatureRangeError, match="2 entries has no angle to one of 3"):
        plain.cosine([1, 2, 3])
    for name in ("", "a @ b", "x" * 61, 'say "x"', "two  spaces", "a\nb", 3):
        with pytest.raises(FeatureError, match="name is made of words"):
            Direction([1.0], name=name)
    for text in ("data:float32;name=<b>,AACAPw==", "data:float32;from=%0A,AACAPw==", "data:float32;by=x,AACAPw=="):
        with pytest.raises(FeatureError):
            Direction(text)
    with pytest.raises(FeatureError, match="does not end so"):
        plain.save(tmp_path / "v.npy")
