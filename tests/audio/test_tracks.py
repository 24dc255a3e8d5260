"""Tones in the formats of phones and of the web, made with PyAV, are read with their length, frequency and level."""

import io
import re
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from ard.audio import FolderClips
from ard.audio.decoding import decode, decode_pieces
from ard.audio.tracks import CONTAINERS, container_of, mono
from ard.types import Clip, Failure

TONE_HZ, LEVEL, DURATION_S = 440, 0.4, 1.5
FORMATS = {  # of FFmpeg's writers and encoders, and whether PyAV is needed to read it
    "voice memo.m4a": ("ipod", "aac", 44_100, True),
    "stereo.m4a": ("ipod", "aac", 48_000, True),
    "lossless.m4a": ("ipod", "alac", 44_100, True),
    "camera.mov": ("mov", "pcm_s16le", 48_000, True),
    "recorded in a browser.webm": ("webm", "libopus", 48_000, True),
    "screen.mkv": ("matroska", "flac", 44_100, True),
    "windows.wma": ("asf", "wmav2", 44_100, True),
    "stream.aac": ("adts", "aac", 44_100, True),
    "call.amr": ("amr", "libopencore_amrnb", 8_000, True),
    "message.opus": ("ogg", "libopus", 48_000, False),
    "mac.aiff": ("aiff", "pcm_s16be", 44_100, False),
    "unix.au": ("au", "pcm_s16be", 22_050, False),
    "mac.caf": ("caf", "alac", 44_100, False),
    "phone.caf": ("caf", "adpcm_ima_qt", 44_100, True),
    "no suffix": ("wav", "pcm_s16le", 16_000, False),
    "m4a, named wrongly.mp3": ("ipod", "aac", 44_100, True),
}


def tone(rate_hz, duration_s=DURATION_S):
    return (LEVEL * np.sin(2 * np.pi * TONE_HZ * np.arange(round(duration_s * rate_hz)) / rate_hz)).astype(np.float32)


def made(writer, encoder, rate_hz, channels=1, *, duration_s=DURATION_S, video=False, sound=True, to=None, **options):
    """The content of a file with a tone; with a video track that is longer, if asked for."""
    buffer = io.BytesIO()
    with av.open(to or buffer, "w", format=writer, options=options) as container:
        streams = []
        if video:
            picture = container.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
            streams += [(picture, [av.VideoFrame(32, 32, "yuv420p") for _ in range(round(10 * duration_s) + 5)])]
        if sound:
            layout = {1: "mono", 2: "stereo"}[channels]
            bit_rate = {"aac": 96_000, "wmav2": 96_000, "libopencore_amrnb": 12_200}.get(encoder, 0)
            track = container.add_stream(encoder, rate=rate_hz, layout=layout, bit_rate=bit_rate)
            frame = av.AudioFrame.from_ndarray(np.tile(tone(rate_hz, duration_s), (channels, 1)), "fltp", layout)
            frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
            streams.append((track, [frame]))
        for stream, frames in streams:
            for number, frame in enumerate(frames):
                frame.pts = number
            container.mux(packet for frame in [*frames, None] for packet in stream.encode(frame))
    return to.read_bytes() if to else buffer.getvalue()


def assert_holds_the_tone(recording, rate_hz, duration_s=DURATION_S):
    assert not isinstance(recording, Failure), recording
    assert recording.sample_rate_hz == rate_hz
    assert len(recording.waveform) / rate_hz == pytest.approx(duration_s, abs=0.11)  # a frame of delay and of padding
    middle = recording.waveform[rate_hz // 4 : rate_hz]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(
        LEVEL, rel=0.25 if rate_hz == 8_000 else 0.1
    )  # AMR is for speech
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * rate_hz / len(middle) == pytest.approx(TONE_HZ, abs=2)


@pytest.mark.parametrize("name", FORMATS)
def test_a_tone_is_read_in_every_format_by_content(name, tmp_path):
    writer, encoder, rate_hz, needs_pyav = FORMATS[name]
    content = made(writer, encoder, rate_hz, channels=2 if name.startswith("stereo") else 1)
    (tmp_path / name).write_bytes(content)
    (clip,) = FolderClips(tmp_path)
    assert isinstance(clip, Clip), clip
    assert_holds_the_tone(clip, rate_hz)
    assert clip.note is None
    if needs_pyav:
        with pytest.raises(soundfile.SoundFileError):
            soundfile.info(io.BytesIO(content))


@pytest.mark.parametrize("writer", ["mp4", "matroska"])
def test_the_sound_track_of_a_video_is_read_and_a_silent_film_refused(writer):
    recording = decode(made(writer, "aac", 44_100, video=True), "film")
    assert_holds_the_tone(recording, 44_100)
    assert recording.note is None  # the pictures last longer, and nothing is cut short
    silent = decode(made(writer, "aac", 44_100, video=True, sound=False), "film")
    kind = {"mp4": "mp4, m4a or mov", "matroska": "webm or mkv"}[writer]
    assert silent == Failure("film", "audio", f"{kind} without a sound track")


@pytest.mark.parametrize(
    ("writer", "encoder"), [("mp4", "aac"), ("matroska", "aac"), ("asf", "wmav2"), ("adts", "aac")]
)
def test_a_cut_file_gives_what_there_is_and_says_so(writer, encoder, tmp_path):
    options = {"to": tmp_path / "x.mp4", "movflags": "faststart"} if writer == "mp4" else {}
    content = made(writer, encoder, 44_100, duration_s=6.0, **options)
    whole, cut = decode(content, "x"), decode(content[: len(content) * 6 // 10], "x")
    assert whole.note is None
    assert_holds_the_tone(cut, 44_100, duration_s=3.6)
    same = min(len(cut.waveform), 44_100 * 3)
    np.testing.assert_allclose(cut.waveform[:same], whole.waveform[:same], atol=1e-6)
    read_s = f"{len(cut.waveform) / 44_100:.2f}"
    whole_s = r"6\.0\d"
    no_length = (
        rf"damaged: 1 of \d+ packets could not be decoded, {read_s} s were read"  # in the header: the last packet
    )
    said = no_length if writer == "adts" else rf"cut short: {read_s} of {whole_s} s could be read"
    assert re.fullmatch(said, cut.note)


def test_an_mp4_whose_index_is_cut_off_is_refused_in_one_line():
    content = made("mp4", "aac", 44_100)
    assert content.index(b"mdat") < content.index(b"moov")
    cut = decode(content[: len(content) // 2], "x")
    assert cut == Failure("x", "audio", "unreadable: its content cannot be decoded")


def test_packets_that_are_damaged_are_lost_and_counted():
    content = bytearray(made("adts", "aac", 44_100, duration_s=6.0))
    content[20_000:20_400] = np.random.default_rng(0).bytes(400)
    recording = decode(bytes(content), "x")
    assert 5.0 < len(recording.waveform) / 44_100 < 6.1
    assert recording.note.startswith("damaged: ")


def test_a_long_track_is_cut_into_pieces_that_lose_no_sample():
    content = made("ipod", "aac", 16_000, duration_s=5.0)
    whole = decode(content, "x")
    pieces = [piece for _, piece in decode_pieces(content, "x", 2.0)]
    assert len(pieces) == 3
    np.testing.assert_array_equal(np.concatenate([piece.waveform for piece in pieces]), whole.waveform)


@pytest.mark.parametrize(("dtype", "kind"), [("u1", "u8"), ("i2", "s16"), ("i4", "s32"), ("f4", "flt"), ("f8", "dbl")])
@pytest.mark.parametrize("planar", [False, True])
def test_samples_of_every_kind_are_scaled_and_mixed_down(dtype, kind, planar):
    channels = np.array([[0.5, -1.0, 0.0, 0.25], [0.0, -1.0, 0.5, 0.25]])
    full = {"u1": 128, "i2": 2**15, "i4": 2**31}.get(dtype, 1)
    values = (channels * full + (128 if dtype == "u1" else 0)).astype(dtype)
    stored = values if planar else values.T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(stored, kind + "p" * planar, "stereo")
    np.testing.assert_allclose(mono(frame), channels.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    "content", [b"this is no sound" * 10, b"", "ÿþtext".encode("utf-16"), b"#EXTM3U\nfile:///etc/passwd\n"]
)
def test_what_is_no_sound_is_refused_whatever_its_name(content, tmp_path):
    (tmp_path / "text.mp3").write_bytes(content)
    (failure,) = FolderClips(tmp_path)
    assert failure.reason in ("unreadable: its content cannot be decoded", "empty file")


def test_where_pyav_is_missing_one_line_names_the_extra(monkeypatch):
    memo, message = made("ipod", "aac", 44_100), made("ogg", "libopus", 48_000)  # by PyAV
    monkeypatch.setitem(sys.modules, "av", None)
    missing = decode(memo, "memo")
    said = "mp4, m4a or mov needs PyAV, which is not installed: run pip install 'ard-audio[formats]'"
    assert missing == Failure("memo", "audio", said)
    assert_holds_the_tone(decode(message, "message"), 48_000)


def test_every_container_is_told_by_its_content():
    kinds = [container_of(io.BytesIO(made(*FORMATS[name][:3]))) for name in FORMATS]
    assert {kind for kind in kinds if kind} == set(CONTAINERS)
