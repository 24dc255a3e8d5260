"""The audio of a study's clips."""

from pathlib import Path

from ard.reports.sounds import Sound, copy_sounds
from ard.study import Store
from ard.types import UserError


def study_sounds(store: Store, shards: Path, audio: Path) -> dict[str, Sound]:
    """Copy the audio of a study's clips from the shards, and return it by clip.

    Args:
        store: the study.
        shards: folder with the audio shards of its clips, each split in a folder of its own.
        audio: the folder to copy to.

    Raises:
        UserError: if some of it is missing or cannot be read.
    """
    wanted = dict.fromkeys(clip for concept in store.concepts for clip in concept.clips)
    sounds = copy_sounds(sorted(shards.glob("*")), wanted, audio) if shards.is_dir() else {}
    missing = [clip for clip in wanted if clip not in sounds]
    if missing:
        raise UserError(
            f"{len(missing)} of the study's {len(wanted)} clips, {missing[0]!r} first, cannot be read from the audio "
            f"shards in {str(shards)!r}: put back the shards that the run was made from"
        )
    return sounds
