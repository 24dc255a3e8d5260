"""Sound events of the synthetic corpus, I: animals, weather, water and fire.

A synthesizer draws its own pitch, tempo, timing and timbre, so that no two dogs bark alike.
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
    tone,
    wander,
)

# Animals


def _dog(rng: Rng, n: int) -> Signal:
    pitch, breath = rng.uniform(260, 480), rng.uniform(0.4, 0.9)

    def bark() -> Signal:
        m = samples(rng.uniform(0.11, 0.18))
        voice = tone(m, pitch * glide([0.8, 1.5, 0.7], m), harmonics(10, 0.6))
        return (voice + breath * noise(rng, m, 400, 2500)) * swell(m, 0.12, 0.6)

    return repeat(rng, n, (0.28, 0.6), 0.1, bark)


def _cat(rng: Rng, n: int) -> Signal:
    pitch = rng.uniform(520, 820)

    def meow() -> Signal:
        m = samples(rng.uniform(0.55, 0.9))
        nasal, open_mouth = tone(m, pitch * glide([0.8, 1.2, 1.15, 0.75], m), [1, 0.5, 0.1]), swell(m, 0.5, 0.5)
        bright = tone(m, pitch * glide([0.8, 1.2, 1.15, 0.75], m), [0.2, 0.7, 1, 0.6, 0.3])
        return (nasal + 2 * open_mouth * bright) * swell(m, 0.2, 0.4)

    return repeat(rng, n, (1.0, 1.5), 0.1, meow)


def _bird(rng: Rng, n: int) -> Signal:
    pitch, bend = rng.uniform(3000, 4600), rng.choice([-0.25, 0.3, 0.45])

    def chirp() -> Signal:
        m = samples(rng.uniform(0.05, 0.11))
        return tone(m, pitch * rng.uniform(0.9, 1.15) * glide([1, 1 + bend, 1], m)) * swell(m, 0.3, 0.4)

    return repeat(rng, n, (0.13, 0.28), 0.35, chirp)


def _crow(rng: Rng, n: int) -> Signal:
    pitch = rng.uniform(380, 520)

    def caw() -> Signal:
        m = samples(rng.uniform(0.28, 0.42))
        rasp = np.abs(tone(m, rng.uniform(55, 80)))
        voice = tone(m, pitch * glide([0.9, 1.1, 0.85], m), [0.3, 0.6, 1, 1, 0.8, 0.5, 0.3])
        return (voice + 0.9 * noise(rng, m, 900, 2600)) * rasp * swell(m, 0.1, 0.3)

    return repeat(rng, n, (0.55, 0.9), 0.1, caw)


def _frog(rng: Rng, n: int) -> Signal:
    pulse_hz, resonance = rng.uniform(28, 45), rng.uniform(500, 800)

    def pulse() -> Signal:
        return ring(samples(0.03), [(resonance, 1, 0.006), (2.4 * resonance, 0.5, 0.004)])

    def croak() -> Signal:
        m = samples(rng.uniform(0.25, 0.4))
        return place(m, np.arange(0, m / RATE_HZ, 1 / pulse_hz), pulse) * swell(m, 0.4, 0.1)

    return repeat(rng, n, (0.5, 0.85), 0.08, croak)


def _cricket(rng: Rng, n: int) -> Signal:
    pitch, pulses, pulse_s = rng.uniform(4200, 5600), rng.integers(3, 6), rng.uniform(0.018, 0.026)

    def chirp() -> Signal:
        return place(
            samples(2 * pulses * pulse_s),
            np.arange(pulses) * 1.8 * pulse_s,
            lambda: tone(samples(pulse_s), pitch) * swell(samples(pulse_s), 0.4, 0.4),
        )

    return repeat(rng, n, (0.3, 0.5), 0.03, chirp)


def _bee(rng: Rng, n: int) -> Signal:
    pitch = rng.uniform(170, 260) * wander(rng, n, 4, 0.06)
    return tone(n, pitch, harmonics(14, 0.7)) * wander(rng, n, 3, 0.25)


def _owl(rng: Rng, n: int) -> Signal:
    pitch = rng.uniform(330, 470)

    def hoot() -> Signal:
        m = samples(rng.uniform(0.25, 0.4))
        return tone(m, pitch * glide([0.92, 1, 0.95], m), [1, 0.06]) * swell(m, 0.25, 0.5)

    return repeat(rng, n, (0.5, 0.8), 0.12, hoot)


def _cow(rng: Rng, n: int) -> Signal:
    pitch = rng.uniform(105, 160)

    def moo() -> Signal:
        m = samples(rng.uniform(1.0, 1.5))
        curve = pitch * glide([0.8, 1.05, 1.1, 0.85], m)
        return (tone(m, curve, harmonics(4, 0.3)) + tone(m, curve, harmonics(14, 0.3)) * swell(m, 0.4, 0.6)) * swell(
            m, 0.15, 0.25
        )

    return repeat(rng, n, (1.7, 2.3), 0.1, moo)


# Weather, water and fire


def _rain(rng: Rng, n: int) -> Signal:
    drops = sprinkle(rng, n, rng.uniform(40, 90), lambda: noise(rng, 96, 2000, 7500) * decay(96, 0.001))
    return noise(rng, n, 1200, 8000, rng.uniform(0.0, 0.4)) + 2.5 * drops


def _wind(rng: Rng, n: int) -> Signal:
    gust = wander(rng, n, 1.5, 0.5) ** 2
    howl = tone(n, rng.uniform(420, 620) * wander(rng, n, 2, 0.12)) * wander(rng, n, 30, 0.5)
    return (noise(rng, n, 60, 700, 0.6) + 0.35 * howl) * gust


def _thunder(rng: Rng, n: int) -> Signal:
    def clap() -> Signal:
        m = samples(rng.uniform(1.2, 2.2))
        rumble = noise(rng, m, 25, 180, 0.7) * wander(rng, m, 9, 0.6) * decay(m, 0.7)
        return 2 * rumble + noise(rng, m, 100, 2500, 0.7) * decay(m, 0.06)

    return repeat(rng, n, (1.4, 2.2), 0.2, clap)


def _waves(rng: Rng, n: int) -> Signal:
    def wave() -> Signal:
        m = samples(rng.uniform(1.1, 1.6))
        roar, hiss = noise(rng, m, 150, 1800, 0.5) * swell(m, 0.5, 0.5), noise(rng, m, 1500, 6500, 0.3)
        return roar + 0.8 * hiss * np.roll(swell(m, 0.6, 0.4), m // 8) ** 2

    return repeat(rng, n, (1.2, 1.8), 0.08, wave)


def _bubbles(rng: Rng, n: int) -> Signal:
    def bubble() -> Signal:
        m = samples(rng.uniform(0.03, 0.08))
        return tone(m, rng.uniform(350, 1000) * glide([1, 1.9], m)) * swell(m, 0.1, 0.7) * rng.uniform(0.3, 1)

    return sprinkle(rng, n, rng.uniform(18, 32), bubble)


def _dripping(rng: Rng, n: int) -> Signal:
    pitch = rng.uniform(1300, 2100)

    def drip() -> Signal:
        m = samples(0.07)
        plink = tone(m, pitch * rng.uniform(0.93, 1.07) * glide([0.8, 1, 1.25], m)) * decay(m, 0.018)
        return place(samples(0.3), [0.0, 0.09], lambda: plink) * decay(samples(0.3), 0.06)

    return repeat(rng, n, (0.45, 0.8), 0.15, drip)


def _fire(rng: Rng, n: int) -> Signal:
    def crack() -> Signal:
        m = samples(rng.uniform(0.004, 0.015))
        return noise(rng, m, 800, 7500) * decay(m, 0.002) * rng.uniform(0.1, 1) ** 2

    return sprinkle(rng, n, rng.uniform(20, 40), crack) + 0.04 * noise(rng, n, 50, 400, 0.8)


NATURE: Mapping[str, Synthesizer] = {
    "dog barking": _dog,
    "cat meowing": _cat,
    "bird chirping": _bird,
    "crow cawing": _crow,
    "frog croaking": _frog,
    "cricket chirping": _cricket,
    "bee buzzing": _bee,
    "owl hooting": _owl,
    "cow mooing": _cow,
    "rain": _rain,
    "wind": _wind,
    "thunder": _thunder,
    "ocean waves": _waves,
    "water bubbling": _bubbles,
    "water dripping": _dripping,
    "fire crackling": _fire,
}
"""Synthesizers by the name of the event."""
