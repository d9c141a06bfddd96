"""Ways in which a file gets damaged."""

import pathlib


def cut_in_half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[100] ^= 0xFF
    file.write_bytes(content)


DAMAGES = {
    "half": cut_in_half,
    "gone": pathlib.Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "garbage": lambda file: file.write_bytes(b"\xff\xfe" * 50_000),
    "deep": lambda file: file.write_text("[" * 100_000),
}
