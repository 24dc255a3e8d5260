"""Sound events of the synthetic corpus, II: bells, signals, machines, things struck, people who do not speak.

A synthesizer draws its own pitch, tempo, timing and timbre, so that no two bells ring alike.
"""

from collections.abc import Mapping

import numpy as np

from ard.audio.signals import (
    RATE_HZ,
    Rng,
    Signal,
    Synthesizer,
    decay,
    glide,
    harmonics,
    noise,
    place,
    repeat,
    ring,
    samples,
    sprinkle,
    swell,
    swing,
    tone,
    wander,
)

# Bells, signals and machines


def _church_bell(rng: Rng, n: int) -> Signal:
    hum = rng.uniform(150, 240)
    partials = [(0.5, 0.6, 1.5), (1, 1, 1.2), (1.19, 0.8, 0.9), (1.5, 0.5, 0.7), (2, 0.9, 0.6), (2.74, 0.5, 0.3)]
    strike = ring(samples(2.0), [(2 * hum * ratio, a, tau) for ratio, a, tau in partials])
    return repeat(rng, n, (0.9, 1.5), 0.02, lambda: strike)


def _doorbell(rng: Rng, n: int) -> Signal:
    high, ratio, gap_s = rng.uniform(620, 760), rng.choice([0.75, 0.8]), rng.uniform(0.4, 0.6)

    def chime() -> Signal:
        notes = iter([high, high * ratio])

        def note() -> Signal:
            pitch = next(notes)
            return ring(samples(0.9), [(pitch, 1, 0.3), (3 * pitch, 0.25, 0.12), (4.1 * pitch, 0.1, 0.05)])

        return place(samples(1.5), [0.0, gap_s], note)

    return repeat(rng, n, (1.7, 2.1), 0.02, chime)


def _telephone(rng: Rng, n: int) -> Signal:
    pitch, warble = rng.uniform(1000, 1400), rng.uniform(16, 24)

    def ringing() -> Signal:
        m = samples(rng.uniform(0.6, 0.9))
        struck = tone(m, pitch, [1, 0.2, 0.3]) + 0.8 * tone(m, 1.31 * pitch, [1, 0.2, 0.2])
        return struck * (0.15 + np.abs(tone(m, warble / 2))) * swell(m, 0.03, 0.2)

    return repeat(rng, n, (1.1, 1.5), 0.02, ringing)


def _alarm_clock(rng: Rng, n: int) -> Signal:
    pitch, beeps, beep_s = rng.uniform(1900, 2500), int(rng.integers(3, 5)), rng.uniform(0.05, 0.07)

    def group() -> Signal:
        m = samples(beep_s)
        return place(
            samples(2.2 * beeps * beep_s),
            np.arange(beeps) * 2 * beep_s,
            lambda: tone(m, pitch, [1, 0, 0.4]) * swell(m, 0.05, 0.05),
        )

    return repeat(rng, n, (0.75, 1.0), 0.01, group)


def _siren(rng: Rng, n: int) -> Signal:
    low, span, rate = rng.uniform(550, 750), rng.uniform(1.6, 2.1), rng.uniform(0.5, 1.6)
    sweep = 0.5 * swing(n, rate, 1, rng.random())
    return tone(n, low * span**sweep, [1, 0.5, 0.3, 0.1])


def _car_horn(rng: Rng, n: int) -> Signal:
    pitch = rng.uniform(340, 430)

    def honk() -> Signal:
        m = samples(rng.uniform(0.25, 0.7))
        return (tone(m, pitch, harmonics(14, 0.4)) + tone(m, 1.26 * pitch, harmonics(12, 0.4))) * swell(m, 0.03, 0.05)

    return repeat(rng, n, (0.7, 1.0), 0.2, honk)


def _engine(rng: Rng, n: int) -> Signal:
    fire_hz = rng.uniform(24, 38) * wander(rng, n, 5, 0.02)
    body = tone(n, fire_hz, harmonics(24, 0.3) * rng.uniform(0.4, 1, 24))
    return body + 0.3 * noise(rng, n, 50, 900, 0.4)


def _helicopter(rng: Rng, n: int) -> Signal:
    def chop() -> Signal:
        m = samples(0.06)
        return noise(rng, m, 40, 900, 0.7) * swell(m, 0.15, 0.7)

    return repeat(rng, n, (0.075, 0.105), 0.02, chop) + 0.1 * noise(rng, n, 100, 3000, 0.4)


def _vacuum(rng: Rng, n: int) -> Signal:
    whine = tone(n, rng.uniform(480, 700) * wander(rng, n, 3, 0.004), [1, 0.6, 0.8, 0.3, 0.2])
    return noise(rng, n, 150, 5000, 0.3) + 0.7 * whine


def _drill(rng: Rng, n: int) -> Signal:
    rate = rng.uniform(20, 30)
    blows = decay(samples(1 / rate), 0.012)
    hammer = np.tile(blows, n // len(blows) + 1)[:n]
    return (noise(rng, n, 900, 6500, 0.3) + 0.5 * tone(n, rng.uniform(150, 220), harmonics(10, 0.2))) * hammer


def _whistle(rng: Rng, n: int) -> Signal:
    pitch, trill = rng.uniform(2600, 3300), rng.uniform(28, 42)

    def blow() -> Signal:
        m = samples(rng.uniform(0.3, 0.9))
        pea = swing(m, trill, 0.06)
        return (tone(m, pitch * pea) * swing(m, trill, 0.5) + 0.15 * noise(rng, m, 2000, 6000)) * swell(m, 0.05, 0.08)

    return repeat(rng, n, (0.8, 1.2), 0.15, blow)


# Things struck and handled


def _typing(rng: Rng, n: int) -> Signal:
    body = rng.uniform(300, 600)

    def key() -> Signal:
        m = samples(0.025)
        click = noise(rng, m, 1500, 6500) * decay(m, 0.0025)
        return (click + 0.8 * ring(m, [(body * rng.uniform(0.9, 1.1), 1, 0.006)])) * rng.uniform(0.5, 1)

    return repeat(rng, n, (0.085, 0.13), 0.45, key)


def _clock(rng: Rng, n: int) -> Signal:
    pitch, sides = rng.uniform(2300, 3200), [1.0, 0.72]

    def tick() -> Signal:
        sides.reverse()
        return ring(samples(0.03), [(pitch * sides[0], 1, 0.003), (1.9 * pitch * sides[0], 0.5, 0.002)])

    return repeat(rng, n, (0.24, 0.5), 0.0, tick)


def _glass(rng: Rng, n: int) -> Signal:
    def shard() -> Signal:
        pitch = rng.uniform(2600, 7200)
        m = samples(0.12)
        return ring(m, [(pitch, 1, rng.uniform(0.01, 0.04)), (1.07 * pitch, 0.6, 0.02)]) * rng.uniform(0.2, 1)

    def smash() -> Signal:
        m = samples(1.1)
        onsets = np.sort(rng.exponential(0.22, int(rng.integers(25, 45))))
        return 1.5 * noise(rng, m, 1500, 8000) * decay(m, 0.035) + place(m, onsets, shard)

    return repeat(rng, n, (1.3, 2.0), 0.1, smash)


def _hammer(rng: Rng, n: int) -> Signal:
    pitch = rng.uniform(900, 1300)

    def blow() -> Signal:
        m = samples(0.25)
        metal = ring(m, [(pitch, 1, 0.05), (2.76 * pitch, 0.8, 0.035), (5.4 * pitch, 0.4, 0.02)])
        return metal + 1.2 * noise(rng, m, 200, 4000) * decay(m, 0.008)

    return repeat(rng, n, (0.3, 0.55), 0.05, blow)


def _knocking(rng: Rng, n: int) -> Signal:
    body, knocks, gap_s = rng.uniform(160, 260), int(rng.integers(3, 5)), rng.uniform(0.13, 0.18)

    def knock() -> Signal:
        m = samples(0.09)
        wood = ring(m, [(body, 1, 0.022), (2.3 * body, 0.6, 0.012), (3.9 * body, 0.3, 0.008)])
        return wood + 0.25 * noise(rng, m, 300, 1500) * decay(m, 0.003)

    return repeat(rng, n, (1.0, 1.3), 0.05, lambda: place(samples(0.9), np.arange(knocks) * gap_s, knock))


def _footsteps(rng: Rng, n: int) -> Signal:
    scuff = rng.uniform(0.5, 1.0)

    def step() -> Signal:
        m = samples(0.16)
        heel = noise(rng, m, 60, 350, 0.3) * decay(m, 0.02)
        return heel + scuff * np.roll(noise(rng, m, 900, 4200, 0.3) * swell(m, 0.3, 0.6), 300)

    return repeat(rng, n, (0.42, 0.6), 0.05, step)


def _applause(rng: Rng, n: int) -> Signal:
    def clap() -> Signal:
        m, centre = samples(0.03), rng.uniform(900, 1900)
        return noise(rng, m, 0.7 * centre, 1.5 * centre) * decay(m, 0.006) * rng.uniform(0.3, 1)

    return sprinkle(rng, n, rng.uniform(70, 120), clap)


def _drum_roll(rng: Rng, n: int) -> Signal:
    skin = rng.uniform(180, 260)

    def stroke() -> Signal:
        m = samples(0.09)
        return (ring(m, [(skin, 1.2, 0.03)]) + noise(rng, m, 1500, 6000) * decay(m, 0.022)) * rng.uniform(0.7, 1)

    return repeat(rng, n, (0.055, 0.075), 0.06, stroke)


def _sawing(rng: Rng, n: int) -> Signal:
    strokes = [1.0, 0.75]
    teeth = rng.uniform(55, 80)

    def stroke() -> Signal:
        strokes.reverse()
        m = samples(rng.uniform(0.2, 0.26))
        return noise(rng, m, 1200 * strokes[0], 4500 * strokes[0]) * np.abs(tone(m, teeth)) * swell(m, 0.3, 0.3)

    return repeat(rng, n, (0.3, 0.38), 0.04, stroke)


def _piano(rng: Rng, n: int) -> Signal:
    root, scale = rng.uniform(240, 420), 2 ** (np.array([0, 2, 4, 5, 7, 9, 12]) / 12)

    def note() -> Signal:
        pitch = root * rng.choice(scale)
        return ring(samples(0.8), [(h * pitch, h**-1.2, 0.35 / h**0.6) for h in range(1, 7)])

    return repeat(rng, n, (0.2, 0.36), 0.03, note)


# People who do not speak


def _baby(rng: Rng, n: int) -> Signal:
    pitch = rng.uniform(380, 500)

    def wail() -> Signal:
        m = samples(rng.uniform(0.45, 0.7))
        curve = pitch * glide([0.8, 1.15, 1.1, 1.0, 0.7], m) * swing(m, rng.uniform(6, 9), 0.03)
        return tone(m, curve, [0.6, 1, 1, 0.5, 0.6, 0.8, 0.5, 0.3, 0.2]) * swell(m, 0.15, 0.3)

    return repeat(rng, n, (0.75, 1.0), 0.08, wail)


def _snoring(rng: Rng, n: int) -> Signal:
    flutter = rng.uniform(28, 48)

    def snore() -> Signal:
        m = samples(rng.uniform(0.7, 1.0))
        throat = np.abs(tone(m, flutter / 2 * wander(rng, m, 8, 0.1))) ** 3
        return noise(rng, m, 90, 1100, 0.5) * throat * swell(m, 0.4, 0.2)

    return repeat(rng, n, (1.1, 1.5), 0.06, snore)


def _tune(rng: Rng, n: int) -> Signal:
    steps = rng.uniform(1050, 1500) * 2 ** (np.cumsum(rng.choice([-4, -2, 2, 3, 5], 14)) % 9 / 12)
    curve = np.repeat(steps, 3)[: max(4, int(n / RATE_HZ * 9))]
    return tone(n, glide(curve, n) * swing(n, 5.5, 0.01), [1, 0.03]) * swing(n, rng.uniform(2, 3), 0.3)


THINGS: Mapping[str, Synthesizer] = {
    "church bell": _church_bell,
    "doorbell": _doorbell,
    "telephone ringing": _telephone,
    "alarm clock": _alarm_clock,
    "siren": _siren,
    "car horn": _car_horn,
    "engine idling": _engine,
    "helicopter": _helicopter,
    "vacuum cleaner": _vacuum,
    "drilling": _drill,
    "referee whistle": _whistle,
    "keyboard typing": _typing,
    "clock ticking": _clock,
    "glass breaking": _glass,
    "hammering": _hammer,
    "door knocking": _knocking,
    "footsteps": _footsteps,
    "applause": _applause,
    "drum roll": _drum_roll,
    "wood sawing": _sawing,
    "piano music": _piano,
    "baby crying": _baby,
    "snoring": _snoring,
    "person whistling": _tune,
}
"""Synthesizers by the name of the event."""
