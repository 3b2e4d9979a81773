"""Plot the ROC of a detector from the results of rsr test: python scripts/plot_detector.py RESULTS_FOLDER OUT.png

One curve per attack and eps, each against all clean images of the sets. Needs matplotlib (pip install matplotlib).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from rsr_basicsr.metrics.detection import roc_auc, roc_curve


def main(folder: Path, out: Path) -> None:
    """Read the records in a folder and write the plot."""
    records = {
        path.stem[len('detection_') :]: json.loads(path.read_text(encoding='utf-8'))
        for path in sorted(folder.glob('detection_*.json'))
    }
    verdicts = [verdict for record in records.values() for verdict in record['verdicts']]
    clean = [verdict['score'] for verdict in verdicts if not verdict['attacked']]
    curves: dict[str, list[float]] = {}
    for name, record in records.items():
        for verdict in record['verdicts']:
            if verdict['attacked']:
                facts = verdict['facts']
                label = f'{facts["attack"]}, eps {facts["eps"]:g}, {name.replace("heldout_", "")}'
                curves.setdefault(label, []).append(verdict['score'])
    figure, axes = plt.subplots(figsize=(6.4, 4.4), dpi=110)
    for label in sorted(curves):
        alarms, found = roc_curve(clean, curves[label])
        axes.step(
            [max(rate, 3e-4) for rate in alarms],
            found,
            where='post',
            lw=1.4,
            label=f'{label} ({len(curves[label])}): {roc_auc(clean, curves[label]):.4f}',
        )
    axes.axvline(0.01, color='grey', lw=0.8, ls=':')
    axes.set(
        xscale='log',
        xlim=(3e-4, 1),
        ylim=(0, 1.005),
        ylabel='attacked images found',
        xlabel=f'false alarms among {len(clean)} clean images',
    )
    axes.legend(title='attack (images): area under the curve', fontsize=7, title_fontsize=7, loc='lower right')
    figure.tight_layout()
    figure.savefig(out)
    print(f'{out}: {len(curves)} curves')


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
