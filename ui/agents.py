"""The agent of whoever asks: each writer has the policy and the taste that they chose in the Tune tab."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rewards.composite import Composite
from rewards.preference import Preference
from storyrl import models
from storyrl.agent import Agent
from storyrl.policies import POLICY, TASTE, Policies
from storyrl.policy import Policy
from storyrl.threads import aside

_MOST = 3  # policies, and tastes, that are loaded at once beside those that the studio was started with

T = TypeVar("T")

if TYPE_CHECKING:  # an Agent for all who use it; in fact it has nothing of its own and passes everything on
    _Base = Agent
else:
    _Base = object


class OwnAgent(_Base):
    """An Agent whose `policy` and `reward`, and so all it does, are those of the writer who asks.

    Without a choice, or when what was chosen is gone, it is the agent that the studio was started with.

    Args:
        default: that agent.
        policies: as whoever asks (`ui.users.writer`) sees them.

    Raises:
        InputError: (from whatever needs it) the chosen policy cannot be loaded.
    """

    def __init__(self, default: Agent, policies: Policies):
        self._default, self._policies = default, policies
        self._loaded, self._rewards = _Latest[Policy](), _Latest[Composite]()

    def __getattr__(self, name: str) -> Any:
        return self._reward() if name == "reward" else getattr(self._current(), name)

    def named(self, name: str) -> Policy:
        """The policy of a name, loaded; the default where there is none of this name (any more)."""
        return self._default.policy if name == self._policies.default else self._loaded.get(name, self._load)

    def _current(self) -> Agent:
        chosen = [self._policies.store.get_setting(key) for key in (POLICY, TASTE)]
        if chosen == [None, None]:
            return self._default
        return Agent(self.named(chosen[0] or self._policies.default), self._reward())

    def _load(self, name: str) -> Policy:
        spec = next((known.spec for known in self._policies.known() if known.name == name), None)
        if spec is None:
            return self._default.policy
        return Policy(*models.load(spec, device=str(self._default.policy.model.device)), name=name)

    def _reward(self) -> Composite:
        name = self._policies.store.get_setting(TASTE)
        return self._rewards.get(name, self._with_taste) if name is not None else self._default.reward

    def _with_taste(self, name: str) -> Composite:
        """The default reward with the learned taste in its preference term; all other terms are shared."""
        reward, folder = self._default.reward, self._policies.taste_folder
        if folder is None:
            return reward
        terms = reward.terms.values()
        return Composite([replace(t, scorer=Preference(folder)) if t.scorer.name == "preference" else t for t in terms])


class _Latest(Generic[T]):
    """What was loaded last, by its name; two that ask for the same wait for one loading."""

    def __init__(self) -> None:
        self._there: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, load: Callable[[str], T]) -> T:
        """What has a name; `load` gets the name when it is not there yet."""
        with self._lock:
            if name not in self._there:
                self._there[name] = aside(lambda: load(name))
            self._there.move_to_end(name)
            while len(self._there) > _MOST:
                self._there.popitem(last=False)
            return self._there[name]
