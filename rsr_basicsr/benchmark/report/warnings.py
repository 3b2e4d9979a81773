"""Warnings of a benchmark: reasons to doubt its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NoReturn

import torch
from torch import nn

from rsr_basicsr.attacks import Attack, Measurement, Perceptual, build_attack, masking_alarms
from rsr_basicsr.attacks.objectives import DEFAULT_MEASURE, PERCEPTUAL_TO
from rsr_basicsr.benchmark.names import NO_DEFENSE, STABILITY, WORST_CASE
from rsr_basicsr.benchmark.plane import Plane
from rsr_basicsr.benchmark.report.equal_sharpness import no_rows
from rsr_basicsr.benchmark.report.plane_verdict import insignificant
from rsr_basicsr.benchmark.summary import Results, Subject
from rsr_basicsr.catalog.choices import UNTRAINED
from rsr_basicsr.leaderboard.external import described, external_of, worst_external
from rsr_basicsr.utils.errors import in_one_line

_FEW = 10  # images
_MEANT = {'standard': 50, 'adaptive': 50}  # protocol -> the images it is meant for
_LISTED = 3  # failures that are listed in full


def warnings(results: Results) -> list[str]:
    """Reasons to doubt the results, one sentence per item."""
    return [
        *_untrained(results),
        *_failures(results),
        *_unfinished(results),
        *_masked_gradients(results),
        *_missing_attacks(results),
        *_external(results),
        *_few_images(results),
        *_indistinct(results),
        *_mixed_versions(results),
    ]


def _untrained(results: Results) -> Iterator[str]:
    for name, facts in {record.network: record.facts for record in results.records}.items():
        if facts.get('weights') == UNTRAINED:
            yield (
                f'{name} is untrained: its weights are drawn from seed {results.options.get("seed", 0)}. Its results '
                'show that the protocol runs, and say nothing about a trained network.'
            )


def _failures(results: Results) -> Iterator[str]:
    for name in results.metrics:
        without = [record for record in results.records if name in record.metric_errors]
        if without:
            yield (f'{name} failed in {len(without)} of {len(results.records)} cells: {without[0].metric_errors[name]}')
    failed = [record for record in results.records if record.error]
    if failed:
        listed = '; '.join(
            f'{r.network}, {r.defense}, {r.attack}{f" {r.eps:g}" if r.eps else ""}, {r.image}: {r.error}'
            for r in failed[:_LISTED]
        )
        yield (
            f'{len(failed)} of {len(results.records)} cells failed and are left out of the results: {listed}'
            + (' ...' if len(failed) > _LISTED else '')
        )


def _unfinished(results: Results) -> Iterator[str]:
    """Subjects with attacks that lack some images, so that their worst case covers fewer attacks than it seems."""
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
                    f'{dataset}, {subject.label}: not finished; {len(short)} of its attacks, such as {short[0]}, lack '
                    'some images, and the worst case covers only what was measured.'
                )


def _is_due(results: Results, dataset: str, subject: Subject, attack: str, eps: float) -> bool:
    """Whether an attack of that eps was made on another subject and is applicable to this one."""
    made = [r for r in results.records if (r.dataset, r.attack, r.eps) == (dataset, attack, eps)]
    facts = next((r.facts for r in results.records if r.network == subject.network), {})
    blocks = [block for record in made[:1] for block in _blocks(record.attack_options)]
    aware = any(block.get('type') == 'DetectorAware' for block in blocks)
    if not facts.get('decides'):
        return bool(made) and not (aware or any(block.get('gate') for block in blocks))
    return bool(made) and (_has_gradient(facts) or not aware)


def _has_gradient(facts: Mapping[str, Any]) -> bool:
    """Whether the detector of a network has a gradient; old records do not say, and theirs all had one."""
    return bool(facts.get('detector_has_gradient', True))


def _masked_gradients(results: Results) -> Iterator[str]:
    unchecked: dict[str, list[str]] = {}
    for dataset in results.datasets:
        for subject in results.subjects(dataset):
            try:
                found = list(measurements(results, dataset, subject))
            except (ValueError, TypeError, AttributeError) as error:  # an attack that this process has not imported
                unchecked.setdefault(in_one_line(error), []).append(subject.label)
                continue
            for alarm in masking_alarms(found):
                yield f'{dataset}, {subject.label}: {alarm}. Its gradients may hide how far an attack can get.'
    for reason, labels in unchecked.items():
        yield (
            f'Not checked for masked gradients: {", ".join(dict.fromkeys(labels))} ({reason}; if a module of yours '
            'registers it, name that by --import).'
        )


def measurements(results: Results, dataset: str, subject: Subject) -> Iterator[Measurement]:
    """The loss of each attack on a subject, over the images on which all of them were made."""
    groups = {
        (name, eps): results.images(dataset, subject, name, eps)
        for name in results.attacks
        for eps in results.strengths
    }
    groups = {key: {name: r for name, r in group.items() if r.loss is not None} for key, group in groups.items()}
    most = max(map(len, groups.values()), default=0)
    groups = {key: group for key, group in groups.items() if group and len(group) >= most / 2}  # others have too few
    common = set.intersection(*map(set, groups.values())) if groups else set()
    for (name, eps), group in groups.items():
        records = [group[image] for image in sorted(common)]
        if records:
            zeros = [record.zero_gradient for record in records if record.zero_gradient is not None]
            yield Measurement(
                attack_of(records[0].attack_options, eps),
                fmean(record.loss for record in records if record.loss is not None),
                fmean(zeros) if zeros else None,
                f'{name} (eps {eps:g})',
            )


def attack_of(options: Mapping[str, Any], eps: float) -> Attack:
    """Build the attack of a record for reading its arguments; it cannot be run."""
    objective = options.get('objective', 'stability')
    if objective not in ('stability', 'ground_truth', 'ground_truth_l1'):
        block = objective if isinstance(objective, Mapping) else {}
        objective = Perceptual(_unloaded(block.get('measure', DEFAULT_MEASURE)), to=block.get('to', PERCEPTUAL_TO[0]))
    return build_attack({**options, 'eps': eps, 'objective': objective}, lambda source: nn.Identity())


def _unloaded(measure: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A measure by name, which tells one objective from another, without its weights."""

    def distance(output: torch.Tensor, reference: torch.Tensor) -> NoReturn:
        raise NotImplementedError

    distance.__name__ = str(measure)
    return distance


def _missing_attacks(results: Results) -> Iterator[str]:
    """Attacks that should have been tried on a subject."""
    for dataset in results.datasets:
        for subject in results.subjects(dataset):
            attacked = [
                record
                for record in results.records
                if record.eps and record.dataset == dataset and (record.network, record.defense) == subject
            ]
            blocks = [block for record in attacked for block in _blocks(record.attack_options)]
            averaged = any(block.get('eot_samples', 1) > 1 for block in blocks)
            if any(record.random for record in attacked) and not averaged:
                yield (
                    f'{dataset}, {subject.label}: the network is random, but no attack averaged over its randomness '
                    '(eot_samples above 1); a stronger attack may exist.'
                )
            detected = any(record.score is not None for record in attacked)
            if detected and not all(_has_gradient(record.facts) for record in attacked):
                yield (
                    f'{dataset}, {subject.label}: its detector has no gradient, so DetectorAware could not try to '
                    'evade it; a stronger attack may exist.'
                )
            elif detected and not any(block.get('type') == 'DetectorAware' for block in blocks):
                yield f'{dataset}, {subject.label}: it has a detector, but no attack tried to evade it (DetectorAware).'


def _few_images(results: Results) -> Iterator[str]:
    for dataset in results.datasets:
        count = len({record.image for record in results.records if record.dataset == dataset})
        name = results.options.get('name', '')
        wanted = results.options.get('datasets', {}).get(dataset, {}).get('num_images')
        if count < _MEANT.get(name, _FEW) or (isinstance(wanted, int) and count < wanted):
            yield (
                f'{dataset}: only {count} image{"s" * (count != 1)}; results on more images may differ'
                + (f', and the protocol {name} is meant for {_MEANT[name]}' if name in _MEANT else '')
                + (f'; num_images is {wanted}.' if isinstance(wanted, int) and count < wanted else '.')
            )


def _indistinct(results: Results) -> Iterator[str]:
    """Networks that the images do not tell from the reference at equal sharpness."""
    plane = Plane.of(results)
    if plane is None:
        return
    for dataset in plane.datasets:
        names = insignificant(plane, dataset)
        if names:
            yield (
                f'{dataset}: at equal sharpness and the largest eps, the difference to {plane.reference} is not '
                f'significant (paired bootstrap over the images): {", ".join(names)}.'
            )
        elif not plane.tells_sharpness(dataset):
            yield f'{dataset}: {no_rows(plane, dataset)}'


def _external(results: Results) -> Iterator[str]:
    """Attacks by other people that left less than the worst attack here."""
    for name, card in {r.network: r.facts.get('card') or {} for r in results.records}.items():
        worst = {eps: worst_external(external_of(card), eps) for eps in results.strengths}
        for eps, figure in worst.items():
            for dataset in results.datasets if figure else ():
                found = results.row(dataset, Subject(name, NO_DEFENSE), WORST_CASE, eps).estimates.get(STABILITY)
                if figure and found and figure['stability'] < found.mean:
                    yield (
                        f'{dataset}, {name}: an attack by other people is stronger than those here, which left '
                        f'{found.mean:.1f} dB: {described(figure)}.'
                    )


def _mixed_versions(results: Results) -> Iterator[str]:
    for name in ('rsr_basicsr', 'torch', 'device', 'tf32'):
        values = sorted({record.environment.get(name, '') for record in results.records})
        if len(values) > 1:
            yield f'The cells were measured with different values of {name}: {", ".join(values)}.'


def _blocks(options: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """An attack's block and the blocks inside it, which inherit its keys."""
    inner: Sequence[Mapping[str, Any]] = [
        *options.get('attacks', ()),
        *([options['attack']] if options.get('attack') else []),
    ]
    return [options, *({**options, **block} for block in inner)]
