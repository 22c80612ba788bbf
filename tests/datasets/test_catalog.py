"""Names, splits, joined data sets, and where data is looked for."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import layouts
import pytest

from keepsight.datasets import Root, dataset_names, find_root, open_dataset
from keepsight.datasets.catalog import entries, parse_name
from keepsight.datasets.roots import environment_name
from keepsight.errors import InputError


@pytest.fixture
def otb(tmp_path: Path) -> Path:
    return layouts.otb(tmp_path / "data/OTB-100", ("Crossing",))


# --- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("otb10", "did you mean 'otb100'"),
        ("nothing like it", "known names"),
        ("got10k:tst", "did you mean 'test'"),
        ("nfs30:test", "nfs30 has no splits"),
        ("otb100+uavv123", "did you mean 'uav123"),
        ("", "unknown data set"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(name)


def test_every_entry_is_complete() -> None:
    for name, entry in entries().items():
        assert name == entry.name == name.lower()
        assert all((entry.title, entry.layout.strip(), entry.source, entry.folders, entry.marks)), name
        assert entry.protocol in ("ope", "supervised", "multistart", "longterm", "vos"), name
        for split in entry.splits or (None,):
            official = entry.official(split) if entry.official else ()
            known = entry.size(split).sequences
            assert not official or known == len(official), (name, split)
        assert set(entry.expected) <= set(entry.splits or ("",)), name
    assert {"otb100", "nfs30", "uav123", "lasot", "got10k", "trackingnet", "tld", "folder", "nuo323"} <= set(
        dataset_names()
    )


def test_importing_the_catalog_is_light() -> None:
    code = (
        "import sys, keepsight; before = set(sys.modules); from keepsight.datasets.catalog import entries; entries(); "
        "print(sorted({'cv2', 'av', 'PIL', 'tyro', 'rich', 'scipy'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_joined_data_sets(otb: Path) -> None:
    root = otb.parent
    layouts.nfs(root / "nfs", ("nfs_zebra_fish",))
    layouts.uav(root / "UAV123", ("uav_bike1",))
    dataset = open_dataset("nuo323", root)
    assert list(dataset) == ["nfs_zebra_fish", "uav_bike1", "Crossing"]
    assert (dataset.name, dataset.rule, len(dataset.missing)) == ("nuo323", "pytracking", 320)
    assert [s.dataset for s in dataset.values()] == ["nfs30", "uav123", "otb100"]
    assert list(open_dataset("uav123+otb100", root)) == ["uav_bike1", "Crossing"]
    assert [e.name for e, _ in parse_name("nuo323")] == ["nfs30", "uav123", "otb100"]


def test_what_can_not_be_joined(otb: Path) -> None:
    layouts.got10k(otb.parent / "got10k", "val", 1)
    with pytest.raises(InputError, match="one by one"):
        open_dataset("otb100+got10k", otb.parent)
    with pytest.raises(InputError, match="same name"):
        open_dataset("otb100+otb100", otb.parent)


def test_sequence_that_is_not_there(otb: Path) -> None:
    dataset = open_dataset("otb100", otb)
    with pytest.raises(InputError, match=r"no sequence 'Crosing'.*did you mean 'Crossing'"):
        dataset["Crosing"]
    assert "Crosing" not in dataset
    assert dataset.get("Crosing") is None


def test_large_data_sets_open_at_once(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/list.txt").write_text("\n".join(f"GOT-10k_Train_{i:06d}" for i in range(1, 9336)))
    begin = time.perf_counter()
    assert len(open_dataset("got10k:train", tmp_path)) == 9335
    assert time.perf_counter() - begin < 2


# --- roots --------------------------------------------------------------------------------------------------------------


def test_given_root_is_the_folder_or_the_one_above(otb: Path) -> None:
    assert find_root("otb100", otb) == find_root("otb100:full", otb.parent) == Root(otb, "given")
    inner = layouts.uav(otb.parent / "Dataset_UAV123/UAV123", ("uav_bike1",))
    assert find_root("uav123", otb.parent).path == inner


def test_order_of_places(otb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = {
        n: layouts.otb(tmp_path / n / "otb100", ("Crossing",)) for n in ("shared", "own", "toml", "tomlroot", "cli")
    }
    config = tmp_path / "home/.config/keepsight/data.toml"
    config.parent.mkdir(parents=True)

    def where(root: Path | None = None) -> tuple[Path, str]:
        found = find_root("otb100", root)
        return found.path, found.how

    with pytest.raises(InputError, match="nothing says where OTB-100 lies"):
        where()
    config.write_text(f'[data]\nroot = "{copies["tomlroot"].parent}"\n')
    assert where() == (copies["tomlroot"], f"root in {config}")
    config.write_text(f'[data]\nroot = "{copies["tomlroot"].parent}"\notb100 = "{copies["toml"]}"\n')
    assert where() == (copies["toml"], f"otb100 in {config}")
    other = tmp_path / "other.toml"
    other.write_text('[data]\notb100 = "own/otb100"\n')  # relative to the file
    monkeypatch.setenv("KEEPSIGHT_CONFIG", str(other))
    assert where() == (copies["own"], f"otb100 in {other}")
    monkeypatch.delenv("KEEPSIGHT_CONFIG")
    monkeypatch.setenv("KEEPSIGHT_DATA", str(tmp_path / "empty"))
    assert where()[0] == copies["toml"]  # nothing there: go on
    monkeypatch.setenv("KEEPSIGHT_DATA", str(copies["shared"].parent))
    assert where() == (copies["shared"], "environment variable KEEPSIGHT_DATA")
    monkeypatch.setenv("KEEPSIGHT_DATA_OTB100", str(copies["own"]))
    assert where() == (copies["own"], "environment variable KEEPSIGHT_DATA_OTB100")
    assert where(copies["cli"]) == (copies["cli"], "given")
    monkeypatch.setenv("KEEPSIGHT_DATA_OTB100", str(tmp_path / "empty"))  # named for this data set: an error
    with pytest.raises(InputError, match="KEEPSIGHT_DATA_OTB100"):
        where()


def test_the_shared_folder_is_not_taken_for_one_data_set(otb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.lasot(otb.parent, ("airplane-1",), flat=True)  # /data/airplane-1 beside /data/OTB-100
    monkeypatch.setenv("KEEPSIGHT_DATA", str(otb.parent))
    assert find_root("otb100").path == otb
    with pytest.raises(InputError, match="LaSOT is not found"):
        find_root("lasot")
    assert find_root("lasot", otb.parent).path == otb.parent


def test_not_found_says_where_and_how(tmp_path: Path) -> None:
    (tmp_path / "OTB100").mkdir()
    with pytest.raises(InputError) as error:
        find_root("otb100", tmp_path)
    for words in (
        str(tmp_path / "OTB100"),
        "groundtruth_rect.txt",
        "--data-root",
        "KEEPSIGHT_DATA_OTB100",
        "data.toml",
    ):
        assert words in str(error.value)
    with pytest.raises(InputError, match="no such folder"):
        find_root("otb100", tmp_path / "nowhere")
    assert environment_name(entries()["uav123_10fps"]) == "KEEPSIGHT_DATA_UAV123_10FPS"
    with pytest.raises(InputError, match="3 data sets"):
        find_root("nuo323", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[data]\notb10 = "/x"\n', "unknown key 'otb10'.*did you mean 'otb100'"),
        ('[dat]\nroot = "/x"\n', "unknown key 'dat'"),
        ('otb100 = "/x"\n', r"unknown key 'otb100'; did you mean a table \[data\]"),
        ("[data]\nroot = 3\n", "root is 3"),
        ("[data\n", "not a TOML file"),
    ],
)
def test_config_that_is_not_understood(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSIGHT_CONFIG", str(tmp_path / "data.toml"))
    with pytest.raises(InputError, match="is not there"):
        find_root("otb100")
    (tmp_path / "data.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        find_root("otb100")
