"""Names shared by the options, records and reports of a benchmark."""

from __future__ import annotations

#: Option keys whose blocks are named by the user
SECTIONS = ('networks', 'defenses', 'attacks', 'datasets', 'metrics')

NO_DEFENSE, CLEAN, NOISE, STABILITY = 'none', 'clean', 'random noise', 'stability'
WORST_CASE = 'worst case'

#: Names that the user cannot give to an attack
RESERVED = {
    CLEAN: 'the images without an attack',
    WORST_CASE: 'the worst of all attacks',
    NOISE: 'the control, which is always measured',
}
