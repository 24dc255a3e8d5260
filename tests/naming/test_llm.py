"""Names by a language model: the prompt, the served model, and the whole stage by the command line."""

import base64
import io
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from ard.audio import StoredClips, SyntheticCorpus, read_clips, write_audio_shards
from ard.audiollm import EMBEDDED
from ard.audiollm.prompter import source
from ard.cli import main
from ard.files import in_use
from ard.naming import Concepts, EndpointChat, LLMNamer, TransformersChat
from ard.naming.captions import audiollm_captioner, caption_clips, chat_captioner, read_captions, spoken
from ard.presets import CONFIGS
from ard.results import Result
from ard.types import Clip
from tests.chats import serve

CAPTIONS = [["a dog barks", "a dog\nand rain"], ["a man speaks", "a woman speaks"]]
CONCEPTS = Concepts(torch.tensor([[0, 1], [2, 3]]), CAPTIONS)


def test_the_model_is_asked_in_the_papers_words_and_its_answer_is_cleaned(misbehave, tmp_path):
    server = misbehave("null", "good")
    chat = EndpointChat(server.base_url, "m", concurrency=1, cache=tmp_path / "answers.jsonl")
    names = LLMNamer(chat)(CONCEPTS)
    assert server.asked[0]["messages"] == [
        {
            "role": "user",
            "content": "Describe the common sound-related concept present among these captions:\n"
            "1. a dog barks\n2. a dog and rain\n\nAnswer with one short phrase.",
        }
    ]
    assert names[0].name is None
    assert names[0].candidates == []
    assert names[0].reason == "the answer is empty: finish_reason stop"
    assert names[1].name.startswith("answer to")
    assert LLMNamer(chat, instruction="")._prompt(["a"]).endswith("captions:\n1. a")


@pytest.mark.slow
def test_a_served_model_and_one_in_process_give_the_same_names(served, tiny_chat, tmp_path):
    chats = [
        EndpointChat(served, tiny_chat, max_tokens=8, cache=tmp_path / "served.jsonl"),
        TransformersChat(tiny_chat, max_tokens=8, device="cpu", cache=tmp_path / "alone.jsonl"),
    ]
    names = [[name.name for name in LLMNamer(chat)(CONCEPTS)] for chat in chats]
    assert names[0] == names[1]


def test_a_clip_travels_as_wav_and_is_captioned_once(misbehave, tmp_path):
    rng = np.random.default_rng(0)
    lengths = [2000, 4000, 3000, 2500, 3500]
    clips = [
        Clip(f"c{n}", rng.uniform(-0.5, 0.5, size).astype(np.float32), 8000, "d") for n, size in enumerate(lengths)
    ]
    write_audio_shards(clips, tmp_path / "audio", clips_per_shard=3)
    server = misbehave(*["good"] * 3, then="500")
    chat = EndpointChat(server.base_url, "ears", max_retries=0, concurrency=1, cache=tmp_path / "answers.jsonl")

    def caption(chat):
        ids = [clip.id for clip in clips]
        path = tmp_path / "captions.parquet"
        return caption_clips(ids, tmp_path / "audio", path, "ears", lambda: chat_captioner(chat), 2)

    with pytest.raises(Exception, match="keeps failing"):
        caption(chat)
    # whole batches, the longest clips first; the third clip is in the answers
    assert list(read_captions(tmp_path / "captions.parquet", "ears")) == ["c1", "c4"]
    healthy = misbehave()
    captions = caption(EndpointChat(healthy.base_url, "ears", cache=tmp_path / "answers.jsonl"))
    assert list(captions) == ["c1", "c4", "c2", "c3", "c0"]
    assert pq.read_table(tmp_path / "captions.parquet").num_rows == 5
    assert not (tmp_path / "captions.jsonl").exists()
    assert len(healthy.asked) == 2
    sound, text = spoken(next(StoredClips(tmp_path / "audio")(["c1"])))
    assert server.asked[0]["messages"][0]["content"] == [sound, text]
    assert text["text"] == "Generate a detailed caption for the audio clip"
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(sound["input_audio"]["data"])))
    assert rate == 8000
    np.testing.assert_allclose(waveform, clips[1].waveform, atol=1e-4)


def test_a_clip_that_is_refused_has_no_caption_and_captions_have_no_tokens(tmp_path, misbehave):
    clips = [Clip(f"c{n}", np.full(2000 - n, (n + 1) / 9, dtype=np.float32), 8000, "d") for n in range(3)]
    write_audio_shards(clips, tmp_path / "audio")
    server = misbehave("say:A dog.<|im_end|>", "400", then="say:<think>Hm.</think>Rain.")
    chat = EndpointChat(server.base_url, "ears", concurrency=1, cache=tmp_path / "answers.jsonl")
    captions = caption_clips(
        ["c0", "c1", "c2"], tmp_path / "audio", tmp_path / "captions.parquet", "ears", lambda: chat_captioner(chat), 2
    )
    assert captions == {"c0": "A dog.", "c2": "Rain."}
    local = caption_clips(
        ["c1"], tmp_path / "audio", tmp_path / "local.parquet", "m", lambda: lambda _: ["Bells</s>"], 2
    )
    assert local == {"c1": "Bells"}


@pytest.mark.parametrize("num_before", range(6))
def test_a_kill_loses_the_captions_of_one_batch_at_most(tmp_path, num_before):
    write_audio_shards(SyntheticCorpus("probe", 11), tmp_path / "audio", clips_per_shard=4)
    clips, path, asked = StoredClips(tmp_path / "audio"), tmp_path / "captions.parquet", []

    def captioner(batch):
        if len(asked) == num_before:
            os._exit(9)
        asked.append([clip.id for clip in batch])
        return [f"A sound of {clip.duration_s:.3f} s." for clip in batch]

    caption_clips([], tmp_path / "audio", path, "m", lambda: captioner, 2)  # nothing is missing
    assert not path.exists()
    ids, killed_after = list(clips.durations_s), num_before
    child = os.fork()
    if child == 0:
        caption_clips(ids, tmp_path / "audio", path, "m", lambda: captioner, 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(read_captions(path, "m")) == 2 * num_before
    with (tmp_path / "captions.jsonl").open("ab") as file:
        file.write(b'{"key": "half a li')
    num_before = 100
    captions = caption_clips(ids, tmp_path / "audio", path, "m", lambda: captioner, 2)
    assert captions == {clip.id: f"A sound of {clip.duration_s:.3f} s." for clip in clips(ids)}
    lengths = [clips.durations_s[clip_id] for batch in asked for clip_id in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == 11 - 2 * killed_after
    assert caption_clips(ids, tmp_path / "audio", path, "m", lambda: None, 2) == captions
    other = caption_clips(ids[:1], tmp_path / "audio", path, "other", lambda: lambda _: ["Bells."], 2)
    assert other == {ids[0]: "Bells."}
    assert read_captions(path, "m") == captions  # each model's stay


def test_captions_do_not_depend_on_who_shares_a_batch(tmp_path):
    write_audio_shards(SyntheticCorpus("probe", 5), tmp_path / "audio", clips_per_shard=2)
    clips = list(read_clips(tmp_path / "audio"))
    captioner = audiollm_captioner(EMBEDDED, "cpu", 16)
    in_order = dict(zip([clip.id for clip in clips], captioner(clips), strict=True))
    for size in (1, 2, 5):
        path = tmp_path / f"{size}.parquet"
        found = caption_clips(list(in_order), tmp_path / "audio", path, "m", lambda: captioner, size)
        assert found == in_order


@pytest.mark.slow
def test_a_served_audiollm_captions_as_it_does_in_process(tmp_path):
    clips = list(SyntheticCorpus("probe", 3))
    process, base_url = serve(source(EMBEDDED), tmp_path)
    try:
        chat = EndpointChat(base_url, source(EMBEDDED), cache=tmp_path / "answers.jsonl")
        heard = chat_captioner(chat)(clips)
    finally:
        process.terminate()
        process.wait(30)
    assert heard == audiollm_captioner(EMBEDDED, "cpu", 128)(clips)
    assert chat_captioner(chat)(clips) == heard  # from disk


def with_namer(tmp_path, chat, alone=False):
    """Return the demo's test.yaml with a language model for its namer, beside the demo's run.yaml."""
    config = OmegaConf.load(CONFIGS / "demo/test.yaml")
    (naming,) = [c for c in config.trainer.callbacks if c.class_path == "ard.naming.NameConcepts"]
    naming.init_args.namer = {"class_path": "ard.naming.LLMNamer", "init_args": {"chat": chat}}
    if alone:  # all else is done
        config.trainer.callbacks = [naming]
    OmegaConf.save(config, tmp_path / "test.yaml")
    shutil.copy(CONFIGS / "demo/run.yaml", tmp_path)
    return str(tmp_path / "test.yaml")


@pytest.mark.slow
def test_concepts_are_named_by_a_served_model(folder, served, tiny_chat, tmp_path):
    out, facts = folder
    cache = str(out / "requests.jsonl")
    settings = {"base_url": served, "model": tiny_chat, "max_tokens": 6, "cache": cache}
    config = with_namer(tmp_path, {"class_path": "ard.naming.EndpointChat", "init_args": settings})
    main(["test", "--config", config, *facts])
    result = Result.load(out / "layer-2/e2/naming.json")
    assert result.choices["namer"] == tiny_chat
    assert result.choices["instruction"] == "Answer with one short phrase."
    concepts = pq.read_table(out / "layer-2/e2/concepts.parquet").to_pylist()
    selected = [concept for concept in concepts if concept["selected"]]
    assert len(selected) == result.details["num_concepts"] > 0
    assert result.details["num_without_name"] == sum(concept["name"] is None for concept in selected)
    assert result.details["num_duplicates"] == sum(concept["duplicate_of"] is not None for concept in selected)
    by_feature = {concept["feature"]: concept for concept in selected}
    for concept in selected:
        if concept["name"] is not None:
            assert 0 <= concept["clap_percentile"] <= 1
            assert -1 <= concept["clap_random"] <= 1
        if concept["duplicate_of"] is not None:
            original = by_feature[concept["duplicate_of"]]
            assert original["duplicate_of"] is None
            assert original["m"] >= concept["m"]


BEHAVIOURS = {  # how the server treats the prompts, and what the screen ends with
    "say:Okay, the user wants dogs.\n</think>\n\nDog barking": ["12 of 12 concepts have a name, from captions"],
    "say:As an AI language model, I cannot tell.": [
        "0 of 12 concepts have a name, from captions",
        "12 have none: the answer names nothing",
    ],
    "null": "names none of 12 concepts (the answer is empty: finish_reason stop): check it, or raise max_tokens (128)",
    '200:{"code": 402, "message": "Insufficient credits"}': 'refuses a request (status 402, {"error": {"code": 402, '
    '"message": "Insufficient credits"}})',
    "400": "names none of 12 concepts (the prompt is refused: status 400, ",
}


@pytest.mark.slow
@pytest.mark.parametrize("word", BEHAVIOURS)
def test_the_screen_says_how_many_concepts_have_a_name_and_why_others_have_none(
    scored, misbehave, tmp_path, capsys, word
):
    out, facts = scored
    before = (out / "layer-2/e2/naming.json").read_bytes()
    server = misbehave("say:Yes.", then=word)
    settings = {"base_url": server.base_url, "model": "m", "max_retries": 0, "cache": str(tmp_path / "answers.jsonl")}
    config = with_namer(tmp_path, {"class_path": "ard.naming.EndpointChat", "init_args": settings}, alone=True)
    shown = BEHAVIOURS[word]
    if isinstance(shown, str):
        with pytest.raises(SystemExit) as ended:
            main(["test", "--config", config, *facts])
        assert ended.value.code == 2
        assert shown in capsys.readouterr().err
        assert (out / "layer-2/e2/naming.json").read_bytes() == before
        return
    main(["test", "--config", config, *facts])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("layer 2, expansion 2: ")]
    assert lines == [f"layer 2, expansion 2: {line}" for line in shown]
    num_asked = len(server.asked)
    main(["test", "--config", config, *facts])
    assert len(server.asked) == num_asked  # all is answered: nothing is asked again


@pytest.mark.slow
def test_a_prompt_that_is_refused_leaves_its_concept_without_a_name(scored, misbehave, tmp_path, capsys):
    out, facts = scored
    server = misbehave("say:Yes.", "400", then="say:Rain")
    settings = {"base_url": server.base_url, "model": "m", "cache": str(tmp_path / "answers.jsonl"), "concurrency": 1}
    config = with_namer(tmp_path, {"class_path": "ard.naming.EndpointChat", "init_args": settings}, alone=True)
    main(["test", "--config", config, *facts])
    assert "layer 2, expansion 2: 11 of 12 concepts have a name" in capsys.readouterr().err
    (why,) = Result.load(out / "layer-2/e2/naming.json").details["why_without_name"].items()
    assert why[0] == "the prompt is refused"
    assert why[1]["num_concepts"] == 1
    assert "this is 400" in why[1]["such_as"]
    concepts = pq.read_table(out / "layer-2/e2/concepts.parquet").to_pylist()
    selected = [concept for concept in concepts if concept["selected"]]
    assert [c["no_name_because"] for c in selected if c["name"] is None] == [why[1]["such_as"]]
    assert {c["no_name_because"] for c in selected if c["name"]} == {None}


@pytest.mark.slow
def test_a_run_without_its_endpoint_ends_at_once_in_one_line(folder, tmp_path, capsys, monkeypatch):
    out, facts = folder
    apart = tmp_path / "run/layer-2/e2"
    shutil.copytree(out / "layer-2/e2/sae", apart / "sae")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    settings = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0, "cache": str(tmp_path / "a.jsonl")}
    config = with_namer(tmp_path, {"class_path": "ard.naming.EndpointChat", "init_args": settings})
    before = (out / "layer-2/e2").stat().st_mtime_ns if (out / "layer-2/e2").is_dir() else None
    with pytest.raises(SystemExit) as ended:
        main(["test", "--config", config, *facts, f"--run.cell={apart}"])
    assert ended.value.code == 2
    assert "endpoint 'http://127.0.0.1:9/v1' cannot be reached" in capsys.readouterr().err
    assert in_use(apart) == ["sae"]
    assert before == (out / "layer-2/e2").stat().st_mtime_ns
    for path in [*tmp_path.rglob("*"), *out.rglob("*")]:
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes()


@pytest.mark.slow
def test_a_url_with_a_password_is_refused_by_the_command_line(folder, tmp_path, capsys):
    _, facts = folder
    settings = {"base_url": "http://me:hunter2@host/v1", "model": "m", "cache": "a.jsonl"}
    config = with_namer(tmp_path, {"class_path": "ard.naming.EndpointChat", "init_args": settings})
    with pytest.raises(SystemExit) as ended:
        main(["test", "--config", config, *facts])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "base_url for 'host' holds a password" in said
    assert "hunter2" not in said
