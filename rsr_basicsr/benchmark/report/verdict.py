"""The results in sentences: what was found, and what speaks against believing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from torch import nn

from rsr_basicsr.archs.defense import UNTRAINED
from rsr_basicsr.attacks import Measurement, Perceptual, build_attack, masking_alarms
from rsr_basicsr.benchmark.names import CLEAN, NO_DEFENSE, STABILITY
from rsr_basicsr.benchmark.summary import WORST_CASE, Results, Subject

_FEW = 10  # images
_COMPARABLE = 5  # images; the intervals of less are narrow by chance
_LISTED = 3  # failures that are told one by one


def verdict(results: Results) -> list[str]:
    """The results of the largest eps, data set by data set, one sentence an item."""
    return [sentence for dataset in results.datasets for sentence in _of_dataset(results, dataset)]


def warnings(results: Results) -> list[str]:
    """What speaks against the results, one sentence an item; none if nothing does."""
    return [
        *_untrained(results),
        *_failures(results),
        *_unfinished(results),
        *_masked_gradients(results),
        *_missing_attacks(results),
        *_few_images(results),
        *_mixed(results),
    ]


def _of_dataset(results, dataset) -> Iterator[str]:
    eps = max(results.strengths, default=None)
    subjects = results.subjects(dataset)
    if eps is None or not subjects:
        return
    rows = {subject: results.row(dataset, subject, WORST_CASE, eps) for subject in subjects}
    tried = [subject for subject in subjects if STABILITY in rows[subject].estimates]
    rivals = [subject for subject in tried if not _invents_nothing(results, subject)]
    if not rivals:
        return
    first = next((subject for subject in rivals if subject.defense == NO_DEFENSE), rivals[0])
    plain = rows[first].estimates[STABILITY]
    noise = _noise(results, dataset, first, eps)
    yield (
        f'{dataset}: of all attacks of eps {eps:g} the worst for each image leaves {_decibels(plain)} between the '
        f'output of {first.label} and its output for the clean image'
        + (f'; random noise of the same size leaves {noise.mean:.1f} dB.' if noise else '.')
    )
    gains = {
        subject: results.difference(dataset, subject, first, WORST_CASE, eps, STABILITY)
        for subject in rivals
        if subject != first
    }
    if any(gain is not None and gain.count < _COMPARABLE for gain in gains.values()):
        yield f'There are too few images to compare; {_COMPARABLE} are the least.'
    gains = {subject: gain for subject, gain in gains.items() if gain is not None and gain.count >= _COMPARABLE}
    best = max(gains, key=lambda subject: gains[subject].mean, default=None)
    if best is not None and gains[best].low > 0:
        yield (
            f'Most stable is {best.label}: {_decibels(rows[best].estimates[STABILITY])}, which is '
            f'{gains[best].mean:+.1f} dB [{gains[best].low:.1f}, {gains[best].high:.1f}] more; '
            f'{_clean_cost(results, dataset, best, first)}.'
        )
    better = [f'{s.label} ({gains[s].mean:+.1f} dB)' for s in gains if gains[s].low > 0 and s != best]
    equal = [f'{s.label} ({gains[s].mean:+.1f} dB)' for s in gains if gains[s].low <= 0]
    if better:
        yield f'More stable than {first.label} as well: {", ".join(better)}.'
    if equal:
        yield f'No gain over {first.label} that the images could show: {", ".join(equal)}.'
    for subject in tried:
        if _invents_nothing(results, subject):
            yield (
                f'{subject.label}, which invents nothing, keeps {rows[subject].estimates[STABILITY].mean:.1f} dB: '
                'the yardstick.'
            )
    for subject in tried:
        clean = results.row(dataset, subject, CLEAN, 0.0)
        if clean.flagged is not None and rows[subject].flagged is not None:
            yield (
                f'The detector of {subject.label} takes {_share(clean.flagged, clean.images)} clean images for '
                f'attacked, and {_share(rows[subject].flagged, rows[subject].images)} of those that the worst '
                'attack made.'
            )


def _clean_cost(results, dataset, subject, first):
    """What a subject does to clean images, beside the first one."""
    name = next((name for name, metric in results.metrics.items() if metric['type'] == 'calculate_psnr'), None)
    found = None if name is None else results.difference(dataset, subject, first, CLEAN, 0.0, name)
    if found is None:
        return 'what it costs on clean images cannot be told without the PSNR to originals'
    if found.low <= 0 <= found.high:
        return f'on clean images no difference of the PSNR to the originals could be shown ({found.mean:+.2f} dB)'
    return (
        f'on clean images its PSNR to the originals is {abs(found.mean):.2f} dB '
        f'{"higher" if found.mean > 0 else "lower"} [{found.low:+.2f}, {found.high:+.2f}]'
    )


def _untrained(results):
    for name, facts in {record.network: record.facts for record in results.records}.items():
        if facts.get('weights') == UNTRAINED:
            yield (
                f'{name} is untrained: its weights are drawn from seed {results.options.get("seed", 0)}. Its '
                'figures show that the protocol runs, and say nothing about a network.'
            )


def _failures(results):
    for name in results.metrics:
        without = [record for record in results.records if name in record.trouble]
        if without:
            yield (
                f'{name} could not be taken of {len(without)} of {len(results.records)} cells: '
                f'{without[0].trouble[name]}'
            )
    failed = [record for record in results.records if record.error]
    if failed:
        told = '; '.join(
            f'{r.network}, {r.defense}, {r.attack}{f" {r.eps:g}" if r.eps else ""}, {r.image}: {r.error}'
            for r in failed[:_LISTED]
        )
        yield (
            f'{len(failed)} of {len(results.records)} cells failed and are left out of the figures: {told}'
            + (' ...' if len(failed) > _LISTED else '')
        )


def _unfinished(results):
    """Groups that lack images which others have: the worst case is then of fewer attacks than it seems."""
    for dataset in results.datasets:
        names = {record.image for record in results.records if record.dataset == dataset}
        for subject in results.subjects(dataset):
            short = [
                f'{attack} (eps {eps:g})'
                for eps in results.strengths
                for attack in results.attacks
                if results.measured(dataset, subject, attack, eps) < len(names)
                and _is_due(results, dataset, subject, attack, eps)
            ]
            if short:
                yield (
                    f'{dataset}, {subject.label}: not finished; of its attacks {len(short)} were not made on all '
                    f'images, {short[0]} among them, and the worst case is of what there is.'
                )


def _is_due(results, dataset, subject, attack, eps):
    """Whether an attack of that strength was made on others, and could be on this subject."""
    made = [r for r in results.records if (r.dataset, r.attack, r.eps) == (dataset, attack, eps)]
    facts = next((r.facts for r in results.records if r.network == subject.network), {})
    blocks = [block for record in made[:1] for block in _blocks(record.attack_options)]
    aware = any(block.get('type') == 'DetectorAware' for block in blocks)
    if not facts.get('decides'):
        return bool(made) and not (aware or any(block.get('gate') for block in blocks))
    return bool(made) and (_has_gradient(facts) or not aware)


def _has_gradient(facts: Mapping) -> bool:
    """Whether the detector of a network has a gradient; records of before it was noted are of those that have."""
    return facts.get('detector_has_gradient', True)


def _masked_gradients(results):
    for dataset in results.datasets:
        for subject in results.subjects(dataset):
            try:
                found = list(measurements(results, dataset, subject))
            except (ValueError, TypeError, AttributeError) as error:  # an attack that this process has not imported
                yield f'{dataset}, {subject.label}: not judged for hidden gradients ({error}).'
                continue
            for alarm in masking_alarms(found):
                yield f'{dataset}, {subject.label}: {alarm}. Its gradients may hide what an attack could do.'


def measurements(results: Results, dataset: str, subject: Subject) -> Iterator[Measurement]:
    """What the attacks did to a subject on the images that all of them were made on."""
    groups = {
        (name, eps): results.images(dataset, subject, name, eps)
        for name in results.attacks
        for eps in results.strengths
    }
    groups = {key: {name: r for name, r in group.items() if r.loss is not None} for key, group in groups.items()}
    most = max(map(len, groups.values()), default=0)
    groups = {key: group for key, group in groups.items() if group and len(group) >= most / 2}  # others are too few
    common = set.intersection(*map(set, groups.values())) if groups else set()
    for (name, eps), group in groups.items():
        records = [group[image] for image in sorted(common)]
        if records:
            zeros = [record.zero_gradient for record in records if record.zero_gradient is not None]
            yield Measurement(
                attack_of(records[0].attack_options, eps),
                fmean(r.loss for r in records),
                fmean(zeros) if zeros else None,
                f'{name} (eps {eps:g})',
            )


def attack_of(options: Mapping, eps: float):
    """The attack of a record, fit to be asked for its arguments only."""
    objective = options.get('objective', 'stability')
    if objective not in ('stability', 'ground_truth', 'ground_truth_l1'):
        objective = Perceptual(_no_distance)  # LPIPS would have to be loaded
    return build_attack({**options, 'eps': eps, 'objective': objective}, lambda source: nn.Identity())


def _no_distance(output, reference):
    raise NotImplementedError


def _missing_attacks(results):
    """Ways to attack a subject that nobody tried."""
    for dataset in results.datasets:
        for subject in results.subjects(dataset):
            tried = [
                record
                for record in results.records
                if record.eps and record.dataset == dataset and (record.network, record.defense) == subject
            ]
            blocks = [block for record in tried for block in _blocks(record.attack_options)]
            if any(record.random for record in tried) and not any(block.get('eot_samples', 1) > 1 for block in blocks):
                yield (
                    f'{dataset}, {subject.label}: it draws at random, but no attack took the mean over its draws '
                    '(eot_samples above 1); a stronger attack may be left.'
                )
            detected = any(record.score is not None for record in tried)
            if detected and not all(_has_gradient(record.facts) for record in tried):
                yield (
                    f'{dataset}, {subject.label}: its detector has no gradient, so that DetectorAware could not try '
                    'to get past it; a stronger attack may be left.'
                )
            elif detected and not any(block.get('type') == 'DetectorAware' for block in blocks):
                yield (
                    f'{dataset}, {subject.label}: it decides by a detector, but no attack tried to get past that '
                    '(DetectorAware).'
                )


def _few_images(results):
    for dataset in results.datasets:
        count = len({record.image for record in results.records if record.dataset == dataset})
        if count < _FEW:
            yield f'{dataset}: {count} image{"s" * (count != 1)} only; the figures may be others on more.'


def _mixed(results):
    for name in ('rsr_basicsr', 'torch', 'device'):
        there = sorted({record.environment.get(name, '') for record in results.records})
        if len(there) > 1:
            yield f'The cells were measured with different values of {name}: {", ".join(there)}.'


def _noise(results, dataset, subject, eps):
    found = [
        results.row(dataset, subject, name, eps).estimates.get(STABILITY)
        for name in results.attacks
        if any(
            r.attack_options.get('type') == 'RandomNoise' for r in results.images(dataset, subject, name, eps).values()
        )
    ]
    return next(iter(found), None)


def _invents_nothing(results, subject):
    return (
        any(
            record.network == subject.network and record.facts.get('type') == 'Interpolation'
            for record in results.records
        )
        and subject.defense == NO_DEFENSE
    )


def _blocks(options: Mapping) -> list[Mapping]:
    """An attack's block and those inside it, each with what it takes of the outer one."""
    inner: Sequence[Mapping] = [*options.get('attacks', ()), *([options['attack']] if options.get('attack') else [])]
    return [options, *({**options, **block} for block in inner)]


def _decibels(found) -> str:
    return f'{found.mean:.1f} dB [{found.low:.1f}, {found.high:.1f}]'


def _share(share: float | None, count: int) -> str:
    return f'{round(share * count)} of {count}'
