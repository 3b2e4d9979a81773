"""The page of a measurement: figures, and where the output of each crop moves, in one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from basicsr.utils import tensor2img

from rsr_basicsr.benchmark.report.columns import number_column, table, text_column
from rsr_basicsr.benchmark.report.gallery import embedded
from rsr_basicsr.benchmark.report.page import page_templates
from rsr_basicsr.stability.maps import heat_map, scale_bar, smoothed, top_of_scale
from rsr_basicsr.stability.measure import BORDER, MASK_SEEDS
from rsr_basicsr.stability.result import MeasuredCrop, StabilityResult
from rsr_basicsr.stability.tables import as_json, doubts, summary, times
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.files import remove_leftovers, write_whole

PAGE, FIGURES = 'stability.html', 'stability.json'
_TICKS = 4  # steps of the colour scale


def write_stability(result: StabilityResult, folder: Path) -> Path:
    """Write ``stability.html`` and ``stability.json`` into a folder, which is created; returns the page's path.

    Raises:
        OptionsError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        write_whole(folder / FIGURES, as_json(result).encode('utf-8', errors='replace'))
        write_whole(folder / PAGE, render(result).encode('utf-8', errors='replace'))
    except OSError as error:
        raise OptionsError(f'{folder} cannot be written: {error.strerror}; name another folder by -o') from error
    return folder / PAGE


def render(result: StabilityResult) -> str:
    """The page as HTML."""
    maps = {
        eps: [smoothed(one.attacks[eps].change, result.facts['scale']) / eps for one in result.crops]
        for eps in result.strengths
    }
    tops = {eps: top_of_scale(of_eps) for eps, of_eps in maps.items()}
    return (
        page_templates('stability/templates')
        .get_template('stability.html')
        .render(
            network=result.network,
            summary=summary(result),
            warnings=[*doubts(result), *(f'Left out: {sentence}' for sentence in result.failed)],
            figures=_figures(result),
            strengths=result.strengths,
            scales=[{'eps': eps, 'bar': embedded(scale_bar()), 'ticks': _ticks(eps, top)} for eps, top in tops.items()],
            crops=[
                _crop(one, {eps: (of_eps[number], tops[eps]) for eps, of_eps in maps.items()})
                for number, one in enumerate(result.crops)
            ],
            protocol=_protocol(result),
            versions=result.versions,
        )
    )


def _figures(result: StabilityResult) -> dict[str, Any]:
    """The table: one row per eps and network."""
    rows = result.rows
    gains = [f'[{times(row.interval[0])}, {times(row.interval[1])}]' for row in rows]
    decibels = [f'[{row.stability.low:.1f}, {row.stability.high:.1f}]' for row in rows]
    columns = [
        text_column('network', [row.network for row in rows]),
        number_column('eps', [float(row.eps) for row in rows], '{:g}'.format, unit='/255'),
        number_column('gain', [row.gain for row in rows], times, gains, group='under attack', better='lower'),
        number_column(
            'RMS change', [row.gain * row.eps for row in rows], '{:.1f}'.format, group='under attack', unit='levels'
        ),
        number_column(
            'stability',
            [row.stability.mean for row in rows],
            '{:.1f}'.format,
            decibels,
            group='under attack',
            unit='dB',
            better='higher',
        ),
        number_column('gain', [row.noise_gain for row in rows], times, group='random noise', better='lower'),
    ]
    return table(columns)


def _ticks(eps: int, top: int) -> list[tuple[str, str]]:
    """Levels and gain at each tick of a colour scale."""
    gains = [top * number / _TICKS for number in range(_TICKS + 1)]
    return [(f'{gain * eps:g}', f'{gain:g}') for gain in gains]


def _crop(one: MeasuredCrop, maps: Mapping[int, tuple[np.ndarray, int]]) -> dict[str, Any]:
    """The images of a crop; ``maps``: eps -> local gains and the end of their scale."""
    crop = one.crop
    height, width = crop.lq.shape[-2:]
    rows, columns = crop.image.rgb.shape[-2:]
    return {
        'name': crop.image.name,
        'place': f'{width} × {height} of {columns} × {rows} pixels, at {crop.left}, {crop.top}',
        'notes': crop.image.notes,
        'input': embedded(tensor2img(crop.lq)),
        'output': embedded(one.output, 'jpeg'),
        'attacks': [
            {
                'eps': eps,
                'gain': times(one.gain(eps)),
                'levels': f'{one.gain(eps) * eps:.0f}',
                'stability': f'{np.mean(attack.stability):.1f}',
                'gate': attack.gate,
                'input': embedded(attack.lq),
                'output': embedded(attack.output, 'jpeg'),
                'map': embedded(heat_map(*maps[eps], one.output), 'jpeg'),
            }
            for eps, attack in one.attacks.items()
        ],
    }


def _protocol(result: StabilityResult) -> dict[str, str]:
    settings, facts = result.settings, result.facts
    number = facts['detector_parameters']
    detector = f' and {number:,} of its detector' if number else ''
    return {
        'Network': f'{result.network}: {facts["type"]}, {facts["parameters"]:,} parameters{detector}, upscales by '
        f'{facts["scale"]}; SHA-256 of its tensors {facts["digest"]}',
        'Crops': f'{settings["crops"]} of {settings["images"]} images: the most textured windows of '
        f'{settings["crop"]} × {settings["crop"]} pixels, without overlap; smaller images whole',
        'Attack': f'white-box PGD with {settings["steps"]} steps, which fall from 2 eps to zero, on the squared change '
        'of the output; inside the L-inf ball of eps, rounded to 8 bits; a stronger attack may find a larger gain',
        'Gate': 'as decided, forced on and forced off; the worst for the deployed network counts, per crop'
        if facts['detector']
        else 'none',
        'Stability': f'PSNR between the outputs for the attacked and the clean crop, rounded to 8 bits, without '
        f'{BORDER} pixels at the border; equal outputs count as 100 dB',
        'Gain': '255 / eps times 10 to the power of minus stability / 20: the RMS change of the output over eps',
        'Intervals': '95 %, bootstrap over the crops, 2000 resamples',
        'Randomness': f'seed {settings["seed"]}'
        + (f'; outputs under the mask seeds {", ".join(map(str, MASK_SEEDS))}' if facts['random'] else ''),
    }
