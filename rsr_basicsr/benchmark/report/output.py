"""Write the reports of a benchmark from its records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rsr_basicsr.benchmark.record import Record
from rsr_basicsr.benchmark.report.entries import cards
from rsr_basicsr.benchmark.report.equal_sharpness import markdown_section, of_results
from rsr_basicsr.benchmark.report.page import write_report
from rsr_basicsr.benchmark.report.tables import as_csv, as_json, as_markdown
from rsr_basicsr.benchmark.report.verdict import verdict
from rsr_basicsr.benchmark.report.warnings import warnings
from rsr_basicsr.benchmark.summary import Results
from rsr_basicsr.utils.files import without_folders, write_whole


def write_results(folder: Path, records: Sequence[Record], options: Mapping[str, Any]) -> Results:
    """Write ``report.html``, ``report.md``, ``results.csv``, ``results.json`` and ``cards.jsonl`` into a folder.

    They are made to be shared: of absolute paths, only the last part is written.

    Args:
        folder: folder of the run, with the images of the gallery.
        records: records of the run, or of several merged runs.
        options: options of the run, as checked.
    """
    results = Results(records, options)
    rows, summary, protocol = results.rows(), verdict(results), describe(options)
    alerts = [without_folders(sentence) for sentence in warnings(results)]
    protocol.update(_when(records))
    title = f'{options["name"]}: robustness under attack'
    for name, text in {
        'results.csv': as_csv(rows),
        'results.json': as_json(results, rows, summary, alerts, protocol, of_results(results)),
        'report.md': as_markdown(results, title, summary, alerts, protocol, markdown_section(results)),
        'cards.jsonl': ''.join(f'{json.dumps(card)}\n' for card in cards(results, alerts)),
    }.items():
        write_whole(folder / name, text.encode('utf-8', errors='replace'))
    write_report(
        folder / 'report.html',
        results,
        folder,
        title=title,
        summary=summary,
        warnings=alerts,
        protocol=protocol,
        versions=_versions(results),
    )
    return results


def describe(options: Mapping[str, Any]) -> dict[str, str]:
    """Describe the protocol: label -> text."""
    attacks = options['attacks']
    return {
        **({'Protocol': without_folders(options['description'])} if options.get('description') else {}),
        'Networks': '; '.join(
            f'{name}: {_keys(network, "card", "defenses")}' for name, network in options['networks'].items()
        ),
        'Defences': '; '.join(
            f'{name}: {_keys(defense)}' if defense else f'{name}: the network as it is'
            for name, defense in options['defenses'].items()
        ),
        **{f'Attack {name}': _keys(attack) for name, attack in attacks.items()},
        'Budgets': f'eps {", ".join(f"{eps:g}" for eps in options["eps"])} (1/255)',
        'Gates': 'on a network with a detector, an attack with gradients and without a gate option is made with three '
        'gate settings: as decided, forced on and forced off; the worst for the deployed network counts',
        'Stability': 'PSNR between the outputs of the same network and defence for the attacked and the clean image; '
        'equal images count as 100 dB',
        'Worst case': 'the worst, per image and metric, of all attacks of an eps that stay in the L-inf ball and end '
        'in 8-bit images',
        'Randomness': f'attacks: seed {options["seed"]}; every output is measured under the mask seeds '
        f'{", ".join(map(str, options["mask_seeds"]))}',
        'Intervals': '95 %, bootstrap over the images, 2000 resamples',
        **_plane(options.get('plane')),
        **{f'Metric {name}': _keys(metric) for name, metric in options['metrics'].items()},
        **{f'Images {name}': _keys(dataset, 'name') for name, dataset in options['datasets'].items()},
    }


def _when(records: Sequence[Record]) -> dict[str, str]:
    """The dates of the measurements, and their time in all: label -> text."""
    dates = sorted({record.started[:10] for record in records if record.started})
    seconds = sum(record.seconds for record in records)
    return {
        **({'Date': dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'} if dates else {}),
        'Run time': f'{timedelta(seconds=round(seconds))} (h:mm:ss) for {len(records)} measurements, summed over the '
        'processes',
    }


def _plane(plane: Mapping[str, Any] | None) -> dict[str, str]:
    if plane is None:
        return {}
    matched = '; '.join(
        f'alpha of {name}: {"none" if alpha is None else f"{alpha:g}"}'
        for name, alpha in (plane.get('matched') or {}).items()
    )
    text = f'clean {plane["measure"]} of {plane["reference"]}'
    return {'Equal sharpness': text + (f', matched on {plane["dataset"]}: {matched}' if matched else '')}


def _versions(results: Results) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for record in results.records:
        for name, value in record.environment.items():
            if value not in found.setdefault(name, []):
                found[name].append(value)
    return {name: ', '.join(values) for name, values in found.items()}


def _keys(options: Mapping[str, Any], *without: str) -> str:
    return ', '.join(f'{key} {_text(value)}' for key, value in options.items() if key not in without)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return '(' + _keys(value) + ')'
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(map(_text, value)) + ']'
    return f'{value:g}' if isinstance(value, float) else without_folders(str(value))
