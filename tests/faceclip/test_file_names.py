import pytest

from faceclip.file_names import is_portable


@pytest.mark.parametrize("name", ["person", "Anna K.safetensors", "\u5199\u771f.jpg", "console.txt", "com10", "a" * 255])
def test_a_name_that_every_system_takes(name):
    assert is_portable(name)


@pytest.mark.parametrize(
    "name",
    ["", "a/b", "a\\b", "C:x", "a?", "a\0", "end.", "end ", "con", "NUL.txt", "Com1", "COM²", "lpt³.a", "\u5199" * 86, "\ud800"],
)
def test_a_name_that_one_system_refuses(name):
    assert not is_portable(name)
