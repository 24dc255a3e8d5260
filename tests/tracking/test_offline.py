import math
import shutil
from pathlib import Path

import pytest
import soundfile
import wandb

from tests.tracking.conftest import LOSSES, SETTINGS, start
from tests.tracking.offline import BLOCK, CHUNK_HEADER, read_records, read_runs


@pytest.fixture(scope="module")
def runs(logged):
    return read_runs(logged)


def test_what_a_run_is_is_read_back(runs):
    assert runs.keys() == {"maker", "user"}
    maker = runs["maker"]
    assert (maker.project, maker.group, maker.name, maker.job_type) == ("p", "g", "Maker", "fit")
    assert maker.tags == ["a", "b"]
    assert [len(run.folders) for run in runs.values()] == [2, 1]
    assert maker.resumed == [False, True]
    assert [run.exit_code for run in runs.values()] == [0, 0]


def test_config_is_read_back_as_w_and_b_merges_it(runs):
    given = {name: value for name, value in SETTINGS.items() if name != "empty"}  # W&B drops it
    assert runs["maker"].config == given | {"sae": {"expansion": 8}, "late": "ok", "new": True}
    assert runs["user"].config == {}


def test_history_is_read_back_with_its_steps(runs):
    rows = runs["maker"].history
    assert [row["loss"] for row in rows if "loss" in row] == [*LOSSES, 0.25, 0.125]
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4, 5, 100]
    assert [row["nested"]["step"] for row in rows[:3]] == [0, 1, 2]
    assert rows[0]["val/f1"] == 0.5
    assert math.isnan(rows[3]["nan"])
    assert rows[3]["inf"] == math.inf
    assert rows[3]["m"] == {"_type": "histogram", "values": [1, 2], "bins": [1, 1.5, 2]}


def test_a_continued_run_has_the_summary_of_its_last_folder(runs, logged, tmp_path):
    assert {name: value for name, value in runs["maker"].summary.items() if name[0] != "_"} == {"loss": 0.125}
    shutil.copytree(runs["maker"].folders[0], tmp_path / runs["maker"].folders[0].name)
    summary = read_runs(tmp_path)["maker"].summary
    assert summary["loss"] == LOSSES[-1]
    assert summary["nested"] == {"step": 2}
    assert summary["best"] == 0.25
    assert "gone" not in summary


def test_files_and_sounds_are_where_records_say(runs):
    maker = runs["maker"]
    assert sorted(name.split("/")[1] for name in maker.files) == ["audio", "table"]
    assert all(path.is_file() for path in maker.files.values())
    waveform, rate = soundfile.read(maker.files[maker.history[4]["bark"]["path"]])
    assert (rate, waveform.round(3).tolist()) == (8000, [0.5] * 400)


def test_a_table_is_read_back_with_its_sounds(runs):
    dog, rain = runs["maker"].table("concepts")
    assert rain == {"name": "rain", "q": None, "clip": None}
    assert (dog["name"], dog["q"], dog["clip"]["caption"]) == ("dog", 0.5, "a dog")
    assert soundfile.read(dog["clip"]["file"])[0].round(3).tolist() == [0.25] * 400


def test_artifacts_are_read_back_with_what_made_them(runs, logged):
    made, used = runs["maker"].artifacts[1], runs["user"].artifacts[0]
    assert [artifact.name for artifact in runs["maker"].artifacts] == ["run-maker-concepts", "sae"]
    assert (made.type, made.metadata, sorted(made.aliases)) == ("model", {"k": 4}, ["best", "latest"])
    assert made.manifest.keys() == {"weights.bin", "shards/0.bin"}
    assert made.manifest["shards/0.bin"]["ref"] == (logged / "shards" / "0.bin").as_uri()
    assert Path(made.manifest["weights.bin"]["local_path"]).read_bytes() == b"weights"
    assert (made.used, made.has_maker) == (False, True)
    assert (used.used, used.has_maker, used.digest) == (True, False, made.digest)


def test_a_log_that_is_cut_or_changed_is_reported(runs, tmp_path):
    path = next(runs["maker"].folders[0].glob("*.wandb"))
    content, cut = path.read_bytes(), tmp_path / "offline-run-1" / "run-1.wandb"
    cut.parent.mkdir()
    num_records, whole, messages = len(list(read_records(path))), [], set()
    assert len(content) > 2 * BLOCK  # the long text has a first, a middle and a last part
    for size in (*range(7, len(content), 4999), *range(len(content) - 60, len(content))):
        cut.write_bytes(content[:size])
        try:
            whole.append(len(list(read_records(cut))))
        except ValueError as error:
            messages.add(str(error).partition(" the record")[0])
    assert messages == {f"{cut} ends within"}
    assert 1 < len(whole) < 20  # cut between two records
    assert max(whole) < num_records
    for place in range(7, len(content), 4999):
        cut.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"is damaged at byte|ends within the record"):
            list(read_records(cut))
    cut.write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"run-1.wandb is no log of W&B's: it starts with b'{}'"):
        read_runs(tmp_path)


def test_a_run_that_was_not_finished_has_no_exit_code(runs, tmp_path):
    path = next(runs["user"].folders[0].glob("*.wandb"))
    cut = tmp_path / "offline-run-1" / "run-user.wandb"
    cut.parent.mkdir()
    *kept, last = read_records(path)
    assert last.WhichOneof("record_type") == "exit"
    cut.write_bytes(path.read_bytes()[: -last.ByteSize() - CHUNK_HEADER.size])
    assert list(read_records(cut)) == kept
    assert read_runs(tmp_path)["user"].exit_code is None


def test_records_go_on_after_a_block_that_has_no_room_for_a_header(tmp_path):
    """W&B leaves up to six bytes empty at the end of a block."""
    length = 30_000
    for trial in range(20):  # the time of the start takes a byte more or less
        with start(tmp_path, f"trial-{trial:02}") as run:
            run.config.update({"text": "x" * length})
            run.config.update({"more": 1})
        wandb.teardown()  # `finish` comes back a moment before all is in the file
        content = next(tmp_path.rglob(f"run-trial-{trial:02}.wandb")).read_bytes()
        end = content.index(b"trial-", content.index(b"xxx")) + len("trial-00")
        assert read_runs(tmp_path)[f"trial-{trial:02}"].config == {"text": "x" * length, "more": 1}
        room = BLOCK - end
        if 0 < room < CHUNK_HEADER.size:
            break
        length += room - 3
    else:
        pytest.fail(f"a record that ends {room} bytes before a block does is not what is tried here")
