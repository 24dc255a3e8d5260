"""The tables: what training gives, what orders settings and features without labels, which K follows."""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

from ard.results import sealed, write_json, write_text
from experiments.training.measure import MIN_CLIPS, NUM_DRAWS, NUM_SPLITS, QUANTILES, SCORES, P
from experiments.training.measured import Measured, as_json, estimate, paired, read_work
from experiments.training.orders import best_order, label_free_figures, order_table, orders, selecting, selecting_table
from experiments.training.settings import GRIDS


def setting_table(of_data: Sequence[Measured]) -> list[str]:
    """Return a row a setting: what the trained SAE has, and what it has beyond the untrained control."""
    lines = [
        "| setting | seeds | F1, trained | beyond untrained | by seed | F1 of all live, trained | beyond untrained | "
        "live, trained (untrained) | AUROC of names, trained (untrained) | mean m of the top fifth, trained "
        "(untrained) | above chance, trained (untrained) | FVU, trained (untrained) | L0 |",
        "| --- | ---: | ---: | --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in of_data:
        by_seed = one.of("f1", "gain").mean(axis=1)
        both = {
            key: tuple(one.mean(key, who) for who in ("trained", "untrained"))
            for key in ("num_live", "feature_auroc", "m_top_fifth", "above_chance")
        }
        cells = [
            one.setting.name,
            str(len(one.seeds)),
            f"{one.mean('f1', 'trained'):.3f}",
            str(one.gain("f1")),
            " ".join(f"{x:+.3f}" for x in by_seed) if len(by_seed) > 1 else "",
            f"{one.mean('f1_live', 'trained'):.3f}",
            str(one.gain("f1_live")),
            "{:.0f} ({:.0f})".format(*both["num_live"]),
            *("{:.2f} ({:.2f})".format(*both[key]) for key in ("feature_auroc", "m_top_fifth", "above_chance")),
            f"{one.quality('fvu', 'trained'):.3f} ({one.quality('fvu', 'untrained'):.2f})",
            f"{one.quality('l0', 'trained'):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def told_apart(of_data: Sequence[Measured]) -> list[str]:
    """Return which settings can be told from untrained ones, by the interval of each F1, as a list."""
    lines = []
    for figure, words in (
        ("f1", "F1"),
        ("f1_live", "F1 of all live"),
        ("feature_auroc", "AUROC of names"),
        ("above_chance", "The share above chance"),
        ("m_top_fifth", "Mean m of the top fifth"),
    ):
        parts: dict[str, list[str]] = {"above": [], "below": [], "not told apart from": []}
        for one in of_data:
            gain = one.gain(figure)
            where = "above" if gain.low > 0 else "below" if gain.high < 0 else "not told apart from"
            parts[where].append(one.setting.name)
        said = "; ".join(
            f"{where} untrained in {len(settings)} of {len(of_data)}"
            + f" ({' | '.join(settings)})" * (where == "below")
            for where, settings in parts.items()
            if settings
        )
        lines.append(f"- {words} is {said}.".replace(" | ", "; "))
    return lines


def not_run(of_data: Sequence[Measured], grid: str) -> str:
    """Say which trainings of a grid have not been run."""
    planned = GRIDS[grid]()
    measured = {(one.setting, seed) for one in of_data for seed in one.seeds}
    missing = [f"{setting.name}, seed {seed}" for setting, seed in planned if (setting, seed) not in measured]
    said = f"Not run of the grid's {len(planned)} trainings: {'; '.join(missing)}."
    return said if missing else f"All {len(planned)} trainings of the grid were run."


def variation_table(of_data: Sequence[Measured]) -> list[str]:
    """Return what each variation changes in the same setting without it, on the seeds that both have."""
    by_setting = {one.setting: one for one in of_data}
    lines = [
        "| variation | of | F1 | F1 of all live | F1 beyond untrained | F1 of all live beyond untrained | FVU |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in of_data:
        for words, without in one.setting.without(set(by_setting)):
            pair = paired(one, by_setting[without])
            if pair is None:
                continue
            a, b = pair
            changes = [
                estimate((a.of(figure, who) - b.of(figure, who)).mean(axis=0))
                for figure, who in (("f1", "trained"), ("f1_live", "trained"), ("f1", "gain"), ("f1_live", "gain"))
            ]
            fvu = f"{b.quality('fvu', 'trained'):.3f} to {a.quality('fvu', 'trained'):.3f}"
            lines.append(f"| {words} | {without.name} | {' | '.join(map(str, changes))} | {fvu} |")
    return lines


def choices_of_k(of_data: Sequence[Measured]) -> list[str]:
    """Return the K that each rule takes on the first seed, and what the SAEs of the other seeds gain with it."""
    several = [one for one in of_data if one.setting.variation == 0 and len(one.seeds) > 1]
    shapes = [(one.setting.expansion, one.setting.steps) for one in several]
    family = [one for one, shape in zip(several, shapes, strict=True) if shape == max(shapes, key=shapes.count)]
    if len(family) < 2:
        return ["Too few settings have several seeds."]
    first = [Measured(one.setting, one.seeds[:1], one.cells[:1]) for one in family]
    rest = [Measured(one.setting, one.seeds[1:], one.cells[1:]) for one in family]
    free = [label_free_figures(one) for one in first]
    forms = {"trained": " (trained)", "beyond untrained": ""}
    rules = {
        "F1": [one.mean("f1", "gain") for one in first],
        "F1 of all live": [one.mean("f1_live", "gain") for one in first],
        **{
            f"{figure}{suffix}": [of_setting[figure][form] for of_setting in free]
            for figure in free[0]
            for form, suffix in forms.items()
            if form in free[0][figure]
        },
        "mean m of the top fifth (trained)": [one.mean("m_top_fifth", "trained") for one in first],
    }
    by_choice: dict[int, list[str]] = {}
    for words, values in rules.items():
        by_choice.setdefault(int(np.argmax(values)), []).append(words)
    shape = f"e {first[0].setting.expansion}, {first[0].setting.steps} steps"
    lines = [
        f"| K ({shape}) | F1 beyond untrained, other seeds | of all live | F1 there | minus that of K "
        f"{family[0].setting.k}, all seeds | highest beyond untrained on seed {first[0].seeds[0]} |",
        "| ---: | --- | --- | ---: | --- | --- |",
    ]
    for place, one in enumerate(rest):
        said = ", ".join(by_choice.get(place, []))
        gains = f"{one.gain('f1')} | {one.gain('f1_live')} | {one.mean('f1', 'trained'):.3f}"
        pair = paired(family[place], family[0]) if place else None
        more = estimate((pair[0].of("f1", "trained") - pair[1].of("f1", "trained")).mean(axis=0)) if pair else ""
        lines.append(f"| {one.setting.k} | {gains} | {more} | {said} |")
    return lines


EXTRACT = (  # in one line, as tests read commands
    ".venv/bin/ard extract --config configs/demo/extract.yaml --run.out runs/real --run.layers '[3]' "
    "--run.model $ARD_REAL/whisper-base-encoder --model.layers_path encoder.layers"
)

PAGE = """# What training gives

An SAE that was never trained passes most tests that a trained one passes, so each figure here stands beside that of an
untrained control: random unit directions, the encoder the decoder's transpose, TopK with the same K, the trained SAE's
b_dec, {draws} draws. Generated by `python -m experiments.training`; {date}; 2 CPU cores. The figures are in
[training.json](training.json).

```
python -m experiments.training run --grid demo --activations runs/demo/activations --layer 3 \\
    --evaluation runs/demo/activations-eval --embeddings runs/demo/embeddings-embedded.safetensors --work work/demo
.venv/bin/ard shards fsd50k --root $ARD_REAL/clips --out runs/real/audio/probe
{extract}
python -m experiments.training run --grid real --activations runs/real/activations --layer 3 \\
    --embeddings computed:$ARD_REAL/embeddings --work work/real
python -m experiments.training table work/demo work/real
```

- *Training*: `SAETraining` as in configs/demo/fit.yaml (`robust`, Adam at 1e-3, batches of 512 tokens, AuxK of 64);
  `plain` is the paper's objective at the same rate and steps, not at the paper's 1e-5 for 1e5 steps.
- *Splits*: {splits} random splits of the labelled clips into halves, by seeds 0 to {last}. H^k ({p} clips), its
  majority label, m, thresholds and every score that chooses features are of one half; F1, AUROC and other truths are
  of the other half. The SAE itself has seen all of them, without labels. Labels of fewer than {least} clips do not
  count. Ties are broken at random: by the order of the data, L^k of the real clips would be four laughs for most
  features.
- *F1*: micro F1 of the label sets that names predict. A feature is active in a clip above a quantile of its own scores
  of the first half. One quantile serves all features of a dictionary: that which is best when names from one quarter of
  the clips are measured on another, of {quantiles}.
  `F1` is that of the top {c} live features by m, `F1 of all live` that of all; a feature is live if it is active in
  {p} clips of the half.
- *Above chance*: the share of the live features whose E_H is above that of as many random clips, at a false-discovery
  rate of .05. It needs no L^k.
- *Intervals* are over half splits, for other clips of the same source: draws and seeds are averaged, and the variance
  is corrected for overlap (Nadeau and Bengio, 2003). They do not cover seeds, whose values stand apart.
"""

SETTINGS = """
## What orders settings without labels

{legend}

Spearman's correlation of a label-free figure with F1 beyond untrained, over {counts}.
The figure is the mean over live features, of trained SAEs or as the difference from untrained. K itself orders settings
(`minus L0`), so that a figure says something only where it also does so at equal K, with the mean of that K taken off.
{tried} figures are tried on each data set: the best of one is to be believed only where the other agrees.
"""

FEATURES = """
## What chooses features without labels

Over features of trained SAEs, Spearman's correlation of a score with the F1 and the AUROC of the feature's name on the
other half (the F1 of a feature without a name is 0); and F1 when the top {c} are chosen by it. Only settings with more
than {many:.0f} live features count: elsewhere there is nothing to choose. Detection, correlation and agreement compare
quarters of the first half: nothing of the other half is used to choose.
"""


def write_tables(works: Sequence[Path], folder: Path) -> None:
    """Write training.json and training.md: the first work folder is what scores are chosen on, others check them."""
    names = [work.name for work in works]
    abouts = [json.loads((work / "data.json").read_text(encoding="utf-8")) for work in works]
    all_measured = [read_work(work) for work in works]
    c = abouts[0]["num_selected"]
    quantiles = f"{', '.join(f'{q:g}' for q in QUANTILES[:-1])} and {QUANTILES[-1]:g}"
    lines = [
        PAGE.format(
            extract=EXTRACT,
            draws=NUM_DRAWS,
            date=date.today(),
            splits=NUM_SPLITS,
            last=NUM_SPLITS - 1,
            p=P,
            least=MIN_CLIPS,
            quantiles=quantiles,
            c=c,
        )
    ]
    for work_name, about, of_data in zip(names, abouts, all_measured, strict=True):
        held_out = "other clips" if about["held_out"] else "the clips that the SAE was trained on"
        lines += [
            f"## {work_name.capitalize()}",
            "",
            f"{about['num_clips']} clips, {about['num_labels']} labels, {about['num_tokens']} tokens of layer "
            f"{about['layer']}, d_in {about['d_in']}. FVU and L0 are of {held_out}.",
            "",
            *setting_table(of_data),
            "",
            not_run(of_data, about["grid"]),
            "",
            "By the intervals:",
            "",
            *told_apart(of_data),
            "",
            "What variations change, with them minus without, by the seeds that both settings have:",
            "",
            *variation_table(of_data),
            "",
        ]
    counts = ", ".join(f"{len(of_data)} settings of {n}" for n, of_data in zip(names, all_measured, strict=True))
    legend = "\n".join(f"- `{key}`: {words}" for key, words in SCORES.items())
    lines.append(SETTINGS.strip("\n").format(legend=legend, counts=counts, tried=2 * len(SCORES) + 7))
    of_orders = {}
    for truth, words in (("f1", f"of the top {c} by m"), ("f1_live", "of all live features")):
        found = [orders(of_data, truth) for of_data in all_measured]
        of_orders[truth] = found
        score_words, form = best_order(found[0])
        values = ", ".join(f"{of[score_words][form]:+.2f} on {n}" for n, of in zip(names, found, strict=True))
        lines += [
            "",
            f"F1 {words}; best on {names[0]}: {score_words} ({form}), {values}.",
            "",
            *order_table(found, names),
        ]
    lines += [FEATURES.format(c=c, many=1.25 * c)]
    selections = [selecting(of_data, "trained", c) for of_data in all_measured]
    best = max(SCORES, key=lambda key: selections[0][key].f1)
    said = "; ".join(f"{of[best].beyond_m} of F1 more than m on {n}" for n, of in zip(names, selections, strict=True))
    lines += [*selecting_table(selections, names), "", f"Best on {names[0]}: {best}; {said}."]
    lines += [
        "",
        "## Which K",
        "",
        "What the SAEs of other seeds have with each K, and the rules that take that K on the first seed alone.",
    ]
    for work_name, of_data in zip(names, all_measured, strict=True):
        lines += ["", f"{work_name.capitalize()}:", "", *choices_of_k(of_data)]
    content = {
        "date": str(date.today()),
        "machine": "2 CPU cores",
        "choices": {"quantiles": QUANTILES, "p": P, "splits": NUM_SPLITS, "draws": NUM_DRAWS, "num_selected": c},
        "data": {
            work_name: {**about, "settings": [as_json(one) for one in of_data]}
            for work_name, about, of_data in zip(names, abouts, all_measured, strict=True)
        },
        "orders": {truth: dict(zip(names, found, strict=True)) for truth, found in of_orders.items()},
        "selecting": {
            work_name: {key: one._asdict() for key, one in of_data.items()}
            for work_name, of_data in zip(names, selections, strict=True)
        },
    }
    write_json(folder / "training.json", sealed(content))
    write_text(folder / "training.md", "\n".join(lines) + "\n")
