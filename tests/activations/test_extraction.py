"""`ard extract` stopped at any moment, on several ranks, and on clips that give trouble."""

import gc
import io
import os
import subprocess
import sys
import tarfile
import time
import weakref

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer

from ard.activations import ActivationWriter, ClipDataModule, Extraction, read_manifest
from ard.activations.layer import read_layer
from ard.activations.module import unusable
from ard.activations.store import read_clip_metadata
from ard.audio import read_audio_manifest, read_clips, write_audio_shards
from ard.audiollm import load_audiollm
from ard.cli import main
from ard.files import LOCK
from ard.presets import CONFIGS
from ard.types import Clip
from tests.audiollm.families import encoders
from tests.audiollm.families.gemma import gemma3n
from tests.audiollm.families.qwen import qwen2_audio, qwen3_asr
from tests.audiollm.families.voxtral import voxtral
from tests.audiollm.families.whisper import whisper
from tests.launch import finish, forked, one_node, run_all, start

LAYERS = (0, 2)
ALL = "--run.tokens=all"


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Ten audio shards of four clips, of lengths between 0.3 and 1 s."""
    rng = np.random.default_rng(0)
    clips = [
        Clip(f"c{i}", rng.standard_normal(rng.integers(4800, 16000)).astype(np.float32) / 5, 16000, "t")
        for i in range(40)
    ]
    folder = tmp_path_factory.mktemp("audio") / "probe"
    write_audio_shards(clips, folder, clips_per_shard=4)
    return folder


def command(audio, model, out, *more):
    facts = {"out": audio.parent.parent, "split": "probe", "activations": out, "model": model, "layers": list(LAYERS)}
    config = str(CONFIGS / "demo" / "extract.yaml")
    data = [f"--data.init_args.audio={audio}", "--data.init_args.num_workers=0", "--data.init_args.batch_tokens=300"]
    return ["extract", "--config", config, *(f"--run.{name}={value}" for name, value in facts.items()), *data, *more]


@pytest.fixture(scope="module")
def unbroken(audio, tiny_audiollm, tmp_path_factory):
    """The shards of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("unbroken") / "activations"
    main(command(audio, tiny_audiollm, out))
    return out


def files(folder):
    """Read all files but the lock, which says which process it was."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK]
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def slowly(args):
    """Run a command whose writes take a while, so that it can be killed in the middle of one."""
    fsync = os.fsync
    os.fsync = lambda file: (time.sleep(0.1), fsync(file))
    main(args)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(audio, tiny_audiollm, unbroken, tmp_path):
    out = tmp_path / "activations"
    processes = forked()
    killed_while_writing = 0
    for wanted in (0, 2, 5, 7):  # how many shards there are when the blow falls
        process = processes.Process(target=slowly, args=(command(audio, tiny_audiollm, out),))
        process.start()
        deadline = time.monotonic() + 120
        while len(list(out.glob("shards/*.json"))) < wanted or not list(out.rglob("*.partial")):
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.join()
        killed_while_writing += bool(list(out.rglob("*.partial")))
        assert not (out / "manifest.json").exists()
        assert len(list(out.glob("shards/*.json"))) < 10
    assert killed_while_writing
    main(command(audio, tiny_audiollm, out))
    assert files(out) == files(unbroken)  # also what the blows left half written is gone
    assert sorted(read_manifest(out).clip_ids) == sorted(f"c{i}" for i in range(40))
    main(command(audio, tiny_audiollm, out))  # and once more, with nothing left to do
    assert all(files(out)[path] == content for path, content in files(unbroken).items())


def by_lightning(ranks, args):
    """Run a command whose other ranks Lightning starts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "ard", *args], env=environment, timeout=300, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def by_the_environment(ranks, args):
    """Run a command on ranks that find one another by the environment that Lightning starts them in."""
    finish(start(run_all, [args], None, environments=one_node(ranks)))


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "started"), [(2, by_lightning), (3, by_the_environment)])
def test_several_ranks_write_what_one_writes(audio, tiny_audiollm, unbroken, tmp_path, ranks, started):
    out = tmp_path / "activations"
    trainer = ["--trainer.accelerator=cpu", f"--trainer.devices={ranks}", "--trainer.strategy=ddp"]
    started(ranks, command(audio, tiny_audiollm, out, *trainer))
    assert files(out) == files(unbroken)


def test_every_clip_has_the_activations_that_it_has_alone(audio, tiny_audiollm, unbroken):
    model = load_audiollm(tiny_audiollm)
    manifest = read_manifest(unbroken)
    assert manifest.clip_ids == tuple(f"c{i}" for i in range(40))
    clips = {clip.id: clip for clip in read_clips(audio)}
    for layer in LAYERS:
        for shard, xs in read_layer(unbroken, layer).read():
            x, known = xs[-1], read_clip_metadata(unbroken, shard)[-1]
            alone = model.capture([clips[known["id"]]], [layer])[layer][0]
            torch.testing.assert_close(x.float(), alone.float(), atol=2e-2, rtol=2e-2)
            assert len(x) == known["num_tokens"]
            assert known["seconds_per_token"] == pytest.approx(known["duration_s"] / len(x))


def test_batches_are_of_like_length_and_within_the_budget(audio, tiny_audiollm):
    data = ClipDataModule(audio, activations=audio / "nowhere", batch_tokens=300)
    data.trainer = _Alone(Extraction([0], tiny_audiollm))
    batches = list(data.predict_dataloader())
    assert all(batch.prompts.valid.numel() <= 300 for batch in batches)
    assert max(len(batch.places) for batch in batches) > 1
    assert [sum(batch.shard == shard and batch.last for batch in batches) for shard in range(10)] == [1] * 10
    for batch in batches:
        lengths = [known["duration_s"] for known in batch.metadata]
        assert lengths == sorted(lengths, reverse=True)


class _Alone:
    """What the data module asks of a Trainer on one rank."""

    global_rank, world_size = 0, 1

    def __init__(self, module):
        module.setup("predict")
        self.lightning_module = module


@pytest.mark.slow
def test_a_batch_that_is_too_large_for_the_memory_is_halved_and_a_clip_that_is_too_large_is_named(
    audio, tiny_audiollm, unbroken, tmp_path, monkeypatch
):
    forward, sizes = torch.nn.Module.__call__, []

    def limited(module, *args, **kwargs):  # stands for a GPU that has room for two short clips
        ids = kwargs.get("input_ids")
        if type(module).__name__ == "Qwen2AudioForConditionalGeneration":
            sizes.append(ids.shape)
            if ids.numel() > 80:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", limited)
    out = tmp_path / "activations"
    main(command(audio, tiny_audiollm, out))
    manifest, whole = read_manifest(out), read_manifest(unbroken)
    left_out = {failure.id for failure in manifest.failures}
    assert left_out | set(manifest.clip_ids) == set(whole.clip_ids)
    assert not left_out & set(manifest.clip_ids)
    tokens = dict(zip(whole.clip_ids, (n for shard in whole.shards for n in shard.num_tokens), strict=True))
    assert min(tokens[clip] for clip in left_out) > max(tokens[clip] for clip in manifest.clip_ids)
    assert {failure.reason.partition(":")[0] for failure in manifest.failures} == {"out of memory, even alone"}
    assert any(len(size) and size[0] > 1 and size.numel() > 80 for size in sizes)


def test_what_is_written_is_not_kept_in_memory(audio, tiny_audiollm, tmp_path):
    alive = []

    class Watch(Callback):
        def __init__(self):
            self.seen = []

        def on_predict_batch_end(self, trainer, pl_module, outputs, batch, *_):
            self.seen += [weakref.ref(clip[0]) for clip in outputs.activations]
            alive.append(sum(x() is not None for x in self.seen))

    out = tmp_path / "activations"
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", callbacks=[ActivationWriter(out), Watch()], **quiet)
    trainer.predict(Extraction([0], tiny_audiollm), ClipDataModule(audio, activations=out))
    assert len(read_manifest(out).clip_ids) == 40
    assert max(alive) <= 3 * 4  # of a shard that is filled, one that is written, and a batch


def test_nothing_of_a_pass_that_failed_is_alive_when_its_halves_are_tried(audio, tiny_audiollm):
    data = ClipDataModule(audio, activations=audio / "nowhere", batch_tokens=300)
    module = Extraction([0, 2], tiny_audiollm)
    data.trainer = _Alone(module)
    failed, alive = [], []

    def full(_module, _args, output):  # stands for a GPU that has no room for more than one clip
        hidden = output[0] if isinstance(output, tuple) else output
        if len(hidden) > 1:
            failed.append(weakref.ref(hidden))
            raise torch.OutOfMemoryError("CUDA out of memory")

    def begin(_module, _args, _kwargs):
        alive.append(sum(hidden() is not None for hidden in failed))

    module.audiollm.layers[2].register_forward_hook(full)
    module.audiollm.model.register_forward_pre_hook(begin, with_kwargs=True)
    batch = max(data.predict_dataloader(), key=lambda batch: len(batch.places))
    gc.disable()  # what only the collector would take away is in the way on a GPU
    try:
        captured = module._capture(batch.prompts)
    finally:
        gc.enable()
    assert len(captured) == len(batch.places) > 2
    assert all(len(xs[2]) for xs in captured)
    assert len(failed) > 1
    assert alive == [0] * len(alive)


def test_clips_that_give_nan_cannot_be_decoded_or_are_too_short_are_named_and_the_rest_is_kept(
    audio, tiny_audiollm, tmp_path, monkeypatch
):
    folder = tmp_path / "audio" / "probe"
    rng = np.random.default_rng(1)
    lengths = {"good": 8000, "nan": 12000, "short": 100, "broken": 8000, "fine": 9000}
    clips = [Clip(name, rng.standard_normal(n).astype(np.float32) / 5, 16000, "t") for name, n in lengths.items()]
    write_audio_shards(clips, folder)
    _break(folder / "000000.tar", "broken.flac")
    capture = type(load_audiollm(tiny_audiollm)).capture

    def overflow(self, prompts, layers, tokens):  # stands for a forward pass that overflows on the longest clip
        captured = capture(self, prompts, layers, tokens)
        captured[layers[-1]][0][-1, 3] = torch.inf
        return captured

    monkeypatch.setattr("ard.audiollm.AudioLLM.capture", overflow)
    out = tmp_path / "activations"
    main(command(folder, tiny_audiollm, out, "--data.init_args.batch_tokens=10000"))
    manifest = read_manifest(out)
    assert manifest.clip_ids == ("good", "fine")
    assert {failure.id: failure.reason for failure in manifest.failures} == {
        "broken": "unreadable: its content cannot be decoded",
        "nan": "the forward pass gave NaN or infinity",
    }
    assert [failure.id for failure in read_audio_manifest(folder).failures] == ["short"]


def test_a_clip_for_which_a_model_has_no_token_is_named():
    assert unusable({0: torch.empty(0, 4)}) == "no audio tokens: the clip is too short"


def test_text_tokens_are_those_of_the_chat_template_and_have_no_time(audio, tiny_audiollm, unbroken, tmp_path):
    template = load_audiollm(tiny_audiollm).prompter([next(read_clips(audio))])
    num_text = int((template.valid & ~template.audio).sum())
    audio_only, stored = read_manifest(unbroken).shards[0], {}
    for tokens in ("text", "all"):
        main(command(audio, tiny_audiollm, tmp_path / tokens, f"--run.tokens={tokens}"))
        shard = read_manifest(tmp_path / tokens).shards[0]
        stored[tokens] = next(read_layer(tmp_path / tokens, 2).read())[1]
        assert [len(x) for x in stored[tokens]] == list(shard.num_tokens)
        metadata = read_clip_metadata(tmp_path / tokens, shard)
        assert [known["seconds_per_token"] for known in metadata] == [None] * len(metadata)
    assert [len(x) for x in stored["text"]] == [num_text] * len(audio_only.num_tokens)
    first = int(template.audio[0].int().argmax())
    for x, text, sound in zip(stored["all"], stored["text"], next(read_layer(unbroken, 2).read())[1], strict=True):
        assert torch.equal(x, torch.cat([text[:first], sound, text[first:]]))


def test_shards_of_other_tokens_are_not_mixed_in(audio, tiny_audiollm, unbroken, capsys):
    with pytest.raises(SystemExit):
        main(command(audio, tiny_audiollm, unbroken, ALL))
    assert "holds shards of another extraction (tokens 'audio placeholders only" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "needs"), [(qwen2_audio, "torch"), (qwen3_asr, "torch"), (voxtral, "mistral_common"), (gemma3n, "timm")]
)
def test_tokens_are_those_of_the_sound_and_each_has_its_time(tmp_path, build, needs):
    """Voxtral, Gemma 3n and Qwen3-ASR fill up short clips with silence: its tokens are left out."""
    pytest.importorskip(needs, exc_type=ImportError)
    (tmp_path / "model").mkdir()
    build(tmp_path / "model")
    lengths = [16000 * 2, 8000 * 3, 7000]
    clips = [Clip(f"c{n}", np.random.default_rng(n).random(n).astype(np.float32) / 5, 16000, "t") for n in lengths]
    write_audio_shards(clips, tmp_path / "audio" / "probe")
    main(command(tmp_path / "audio" / "probe", tmp_path / "model", tmp_path / "out", "--run.layers=[1]"))
    (shard,) = read_manifest(tmp_path / "out").shards
    times = [known["seconds_per_token"] for known in read_clip_metadata(tmp_path / "out", shard)]
    for samples, num_tokens, seconds in zip(lengths, shard.num_tokens, times, strict=True):
        assert seconds == pytest.approx(times[0], rel=0.1)  # a clip's last token may stand for less than the others
        assert num_tokens * seconds == pytest.approx(samples / 16000, abs=seconds)
        assert (num_tokens - 1) * seconds < samples / 16000
    _, activations = next(read_layer(tmp_path / "out", 1).read())
    assert [len(x) for x in activations] == list(shard.num_tokens)
    main(command(tmp_path / "audio" / "probe", tmp_path / "model", tmp_path / "all", "--run.layers=[1]", ALL))
    (with_text,) = read_manifest(tmp_path / "all").shards
    (num_text,) = {whole - sound for whole, sound in zip(with_text.num_tokens, shard.num_tokens, strict=True)}
    assert num_text > 0  # the same for every clip: the template


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "token_s", "bands"),
    [
        (whisper, 0.02, 1),
        (encoders.hubert, 0.02, 1),
        (encoders.wavlm_large, 0.02, 1),
        (encoders.ast, 0.1, 3),
        (encoders.clap, 0.0625, 2),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_encoders_tokens_are_those_of_the_sound_and_each_has_its_time(audio, tmp_path, build, token_s, bands):
    (tmp_path / "model").mkdir()
    build(tmp_path / "model")
    out = tmp_path / "activations"
    main(command(audio, tmp_path / "model", out, "--run.layers=[1]"))
    manifest, model = read_manifest(out), load_audiollm(str(tmp_path / "model"))
    assert (manifest.layers, len(manifest.clip_ids), manifest.d_in) == ((1,), 40, 16)
    clips = {clip.id: clip for clip in read_clips(audio)}
    for shard, xs in read_layer(out, 1).read():
        for x, kept in zip(xs, read_clip_metadata(out, shard), strict=True):
            assert (len(x), kept["seconds_per_token"]) == (kept["num_tokens"], pytest.approx(token_s / bands))
            assert len(x) * token_s / bands == pytest.approx(kept["duration_s"], abs=max(token_s, 0.025))
            assert len(x) % bands == 0
        alone = model.capture([clips[kept["id"]]], [1])[1][0]
        torch.testing.assert_close(x.float(), alone, atol=2e-2, rtol=2e-2)


@pytest.mark.slow
def test_activations_without_padding_are_those_of_another_model(audio, tmp_path, capsys):
    whisper(tmp_path)
    out, cut = tmp_path / "activations", "--run.window=clip"
    main(command(audio, tmp_path, out, "--run.layers=[1]", cut))
    assert read_manifest(out).model == f"{tmp_path}, window clip"
    (out / "manifest.json").unlink()
    with pytest.raises(SystemExit):
        main(command(audio, tmp_path, out, "--run.layers=[1]"))
    assert f"holds shards of another extraction (model '{tmp_path}, window clip', now" in capsys.readouterr().err


def test_activations_of_other_audio_are_not_mixed_in(audio, tiny_audiollm, unbroken, tmp_path, capsys):
    other = tmp_path / "audio" / "probe"
    write_audio_shards([Clip("x", np.ones(8000, np.float32) / 2, 16000, "t")], other)
    with pytest.raises(SystemExit):
        main(command(other, tiny_audiollm, unbroken))
    assert "holds shards of another extraction (audio" in capsys.readouterr().err


def _break(path, name):
    """Overwrite the content of one member of a tar."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar.getmembers()]
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(b"x" * len(content) if member.name == name else content))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(value, dtype):
    clean = torch.randn(37, 33).to(dtype)
    assert unusable({1: clean, 3: clean}) is None
    for place in (0, 500, clean.numel() - 1):
        spoilt = clean.clone()
        spoilt.view(-1)[place] = value
        assert unusable({1: clean, 3: spoilt}) == "the forward pass gave NaN or infinity"
