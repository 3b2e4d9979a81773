"""Names that options, records and reports of a benchmark have in common."""

from __future__ import annotations

#: The keys whose blocks are named by the user
SECTIONS = ('networks', 'defenses', 'attacks', 'datasets', 'metrics')


NO_DEFENSE, CLEAN, NOISE, STABILITY = 'none', 'clean', 'random noise', 'stability'


WORST_CASE = 'worst case'


#: Names that an attack of a user's cannot have
RESERVED = {
    CLEAN: 'the images without an attack',
    WORST_CASE: 'the worst of all attacks',
    NOISE: 'the control, which is always measured',
}


#: What a network's entry may say of itself, for the leaderboard
CARD = ('authors', 'link', 'note')
