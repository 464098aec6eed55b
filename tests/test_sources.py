"""What was written, with its place."""

from pathlib import Path

from runnerd.config.sources import Given, Table, read_dotenv, read_flags, read_toml


def places(table: Table, prefix: str = "") -> dict[str, str]:
    found = {}
    for key, below in table.entries.items():
        found[prefix + key] = below.place
        if isinstance(below, Table):
            found |= places(below, f"{prefix}{key}.")
    return found


def test_toml_lines(tmp_path: Path) -> None:
    path = tmp_path / "runnerd.toml"
    path.write_text(
        '# comment\nstate_dir = "/x"\n\n[limits]\nwall_s = 3\n\n[ingress.http]\nkeys = [\n  "[limits]",\n  "wall_s = 4",\n]\n'
        'note = """\n[log]\nlevel = 1\n"""\nport = 1\n[store]\nkv.kind = "disk"\nblob = { kind = "memory" }\n[empty]\n"quo.ted" . x = 1\n'
    )
    problems: list[str] = []
    found = places(read_toml(path, "runnerd.toml", problems))
    assert problems == []
    lines = {name: int(place.removeprefix("runnerd.toml:")) for name, place in found.items()}
    assert lines == {
        "state_dir": 2,
        "limits": 4,
        "limits.wall_s": 5,
        "ingress": 7,
        "ingress.http": 7,
        "ingress.http.keys": 8,
        "ingress.http.note": 12,
        "ingress.http.port": 16,
        "store": 17,
        "store.kv": 18,
        "store.kv.kind": 18,
        "store.blob": 19,
        "store.blob.kind": 19,
        "empty": 20,
        "empty.quo.ted": 21,
        "empty.quo.ted.x": 21,
    }


def test_toml_problems(tmp_path: Path) -> None:
    path = tmp_path / "runnerd.toml"
    problems: list[str] = []
    read_toml(path, "runnerd.toml", problems)
    path.write_text("[limits]\nwall_s = = 3\n")
    read_toml(path, "runnerd.toml", problems)
    path.write_bytes(b"x = '\xff'")
    read_toml(path, "runnerd.toml", problems)
    assert problems[0] == "runnerd.toml: can't be read: No such file or directory"
    assert problems[1].startswith("runnerd.toml:2: not TOML: ")
    assert problems[2] == "runnerd.toml: can't be read: not UTF-8"


def test_dotenv(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(
        '# comment\n\nA=1\nexport B = two words # comment\nC=\'#1 "x"\' # comment\nD="e\'f"\nE=\nF=#nothing\nG=a#b\nnot an assignment\n'
    )
    problems: list[str] = []
    assigned = read_dotenv(path, ".env", problems)
    assert {one.name: one.text for one in assigned} == {
        "A": "1",
        "B": "two words",
        "C": '#1 "x"',
        "D": "e'f",
        "E": "",
        "F": "",
        "G": "a#b",
    }
    assert assigned[1].place == ".env:4: B"
    assert problems == [".env:10: not understood: write NAME=value"]
    assert read_dotenv(tmp_path / "none", ".env", problems) == []


def test_flags_and_put() -> None:
    problems: list[str] = []
    table = Table(place="-", entries={"limits": Given(value=5, place="-", rank=0)})
    for path, given in read_flags(["limits.wall_s=3", "log.file=a=b", "nonsense"], problems):
        table.put(path, given)
    assert table.plain() == {"limits": {"wall_s": "3"}, "log": {"file": "a=b"}}
    assert problems == ["--set nonsense: write --set table.field=value"]
