"""From how sensitive groups are to what each gets, and what the whole of it does, measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from edgediff.export.coreml.mixed_errors import Measured
from edgediff.export.coreml.mixed_trials import as_choices
from edgediff.export.coreml.mixed_units import Group, given_to
from edgediff.export.emit.integers import Choice
from edgediff.export.quantize.drawings import PICTURES
from edgediff.export.quantize.knapsack import Option, least
from edgediff.export.quantize.raising import raised
from edgediff.export.quantize.whole import Whole

LATENTS = "latents"
Picked = dict[tuple[str, str], str]
"""The name of a scheme by the role and name of a group."""
_TURNS = 3  # in which errors are put to scale


def domain_of(group: Group) -> str:
    """What a group's errors are errors of: the latents, or what one network of pictures gives."""
    return group.role if group.role in PICTURES else LATENTS


Choices = Mapping[str, Mapping[str, Choice]]


class Chooser:
    """Chooses among what was measured; ``turns`` is how often the whole of a choice may be.

    ``others``: what the latents of other prompts hold under a choice, in dB. A choice reaches no more than
    that: the few prompts of an evaluation can be lucky.
    """

    def __init__(
        self,
        measured: Sequence[Measured],
        whole: Whole,
        turns: int,
        say: Callable[[str], None],
        others: Callable[[Choices], float] | None = None,
    ) -> None:
        self._measured, self._whole, self._turns, self._say = measured, whole, turns, say
        self._others = others
        self._domains = tuple(dict.fromkeys(domain_of(each.group) for each in measured))

    def roles(self, domain: str) -> tuple[str, ...]:
        """The networks that have a part in a domain."""
        return tuple(dict.fromkeys(each.group.role for each in self._of(domain)))

    def holding(self, floor: float) -> Picked:
        """The fewest bytes at which every domain, measured, holds a floor in dB."""
        found: Picked = {}
        for domain in self._domains:
            among = self._of(domain)
            items = [[Option(m.group.bytes[n], m.errors[n]) for n in m.group.options] for m in among]

            def pick(
                error: float, among: Sequence[Measured] = among, items: Sequence[Sequence[Option]] = items
            ) -> Picked | None:
                return _named(among, least(items, error))

            def reached(picked: Picked, domain: str = domain) -> float:
                return self._reached(domain, picked)

            held = raised(pick, reached, floor, self._turns)
            found |= held if held is not None else _named(among, [0] * len(among)) or {}
        return found

    def fitting(self, limit: float) -> Picked | None:
        """The least error in so many bytes of groups; None where nothing is so small.

        Errors of latents are typical ones, those of pictures are means: what the whole of a choice does puts
        each domain's to scale, and the choice is made again.
        """
        scales = dict.fromkeys(self._domains, 1.0)
        picked: Picked | None = None
        for _ in range(_TURNS):
            items = [
                [Option(scales[domain_of(m.group)] * m.errors[n], m.group.bytes[n]) for n in m.group.options]
                for m in self._measured
            ]
            last, picked = picked, _named(self._measured, least(items, limit))
            if picked is None or picked == last or len(self._domains) < 2:
                break
            for domain in self._domains:
                own = {key: name for key, name in picked.items() if key[0] in self.roles(domain)}
                added = sum(m.errors[own[m.group.role, m.group.name]] for m in self._of(domain))
                if added > 0:
                    scales[domain] = 10 ** (-self._reached(domain, own) / 10) / added
        return picked

    def _reached(self, domain: str, picked: Picked) -> float:
        groups = [each.group for each in self._of(domain)]
        choices = as_choices(given_to(groups, picked))
        ratio = self._whole.psnr(choices)
        if self._others is not None and domain == LATENTS:
            ratio = min(ratio, self._others(choices))
        taken = sum(group.bytes[picked[group.role, group.name]] for group in groups)
        self._say(f"{domain}: layers of {taken / 1e6:.4g} MB reach {ratio:.1f} dB")
        return ratio

    def _of(self, domain: str) -> list[Measured]:
        return [each for each in self._measured if domain_of(each.group) == domain]


def _named(among: Iterable[Measured], chosen: Sequence[int] | None) -> Picked | None:
    if chosen is None:
        return None
    pairs = zip(among, chosen, strict=True)
    return {(m.group.role, m.group.name): m.group.options[i] for m, i in pairs}
