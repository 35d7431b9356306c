"""The policies and the taste that a writer has: which there are, which are in use, and where they lie.

A policy's *name* is what the store keeps of it: the name of a shipped one (storyrl/models.py), the spec that the studio
was started with, or `run:` and the name of a job's folder (storyrl/job.py). Runs and tastes lie in folders with
generated names beside the database; a name is looked up among them and never becomes a path.

    stories.db
    stories-models/runs/20261126-041500-1f0c/      a job
    stories-models/tastes/20261126-041200-77ab/    taste.safetensors and about.json
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import platformdirs
import sqlalchemy as sa

from rewards.taste import Taste
from storyrl import models
from storyrl.config import TuneConfig
from storyrl.errors import InputError
from storyrl.files import write_json
from storyrl.job import Job, jobs
from storyrl.share import Share
from storyrl.store import OWNER, Store
from storyrl.story import Prompt
from storyrl.taste import agreement, choices_of, leanings, learn

POLICY, TASTE = "policy", "taste"
"""Settings of the store: the name of the policy in use, and of the taste; None: as the studio was started."""

_RUN = "run:"


@dataclass(frozen=True)
class Known:
    """A policy. `job` is the run that made it, None where it came with storyrl or by --policy."""

    name: str
    spec: str
    job: Job | None = None

    @property
    def title(self) -> str:
        """What the writer calls it."""
        return f"Tuned {self.job.created:%d %b %Y, %H:%M} UTC" if self.job else self.name


@dataclass(frozen=True)
class TasteCard:
    """What is known of a learned taste: from how many choices, what it leans to, and how well it foretells answers."""

    choices: int
    created: str
    leanings: Sequence[str]
    agrees: Share | None = None
    """With answers that it had not seen; None: too few of them to say."""
    shipped_agrees: Share | None = None
    """The same of the shipped model without a taste."""


class Policies:
    """What the writers of a store have.

    Args:
        store: as one writer sees it, or as whoever asks sees it.
        default: spec of the policy that the studio was started with.
    """

    def __init__(self, store: Store, default: str):
        self.store, self.default = store, default

    @cached_property
    def home(self) -> Path:
        """The folder of runs and tastes."""
        url = sa.make_url(self.store.url)
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            return Path(url.database).absolute().with_name(f"{Path(url.database).stem}-models")
        digest = hashlib.sha256(url.render_as_string(hide_password=True).encode()).hexdigest()[:12]
        return platformdirs.user_data_path("storyrl") / f"models-{digest}"

    @property
    def runs(self) -> Path:
        """The folder of all writers' jobs."""
        return self.home / "runs"

    @property
    def jobs(self) -> list[Job]:
        """This writer's jobs, the latest first."""
        return [job for job in jobs(self.runs) if job.owner == self._me]

    def known(self) -> list[Known]:
        """All policies, those that came with storyrl first, then this writer's finished runs, the latest first."""
        shipped = list(dict.fromkeys([self.default, *models.shipped_adapters(), "smollm2"]))
        runs = [Known(f"{_RUN}{job.folder.name}", str(job.run), job) for job in self.jobs if job.is_usable]
        return [*(Known(name, name) for name in shipped), *runs]

    def find(self, name: str) -> Known:
        """The policy of a name.

        Raises:
            InputError: this writer has no such policy.
        """
        for policy in self.known():
            if policy.name == name:
                return policy
        raise InputError(f"policy '{name[:60]}': you have none of this name (any more); choose one from the list")

    def name_of(self, spec: str) -> str:
        """The name of the policy that a spec loads."""
        return next((policy.name for policy in self.known() if policy.spec == spec), spec)

    @property
    def in_use(self) -> str:
        """Name of the policy that writes for this writer: the one chosen, if it is still there."""
        chosen = self.store.get_setting(POLICY)
        return chosen if any(policy.name == chosen for policy in self.known()) else self.default

    def use(self, name: str) -> None:
        """Let a policy write for this writer from now on.

        Raises:
            InputError: there is none of this name.
        """
        self.store.set_setting(POLICY, self.find(name).name)

    # --- tuning -------------------------------------------------------------------------------------------------------

    def tune(self, config: TuneConfig, heldout: Sequence[Prompt]) -> Job:
        """Begin to tune the policy in use on this writer's taste; config's `policy` and `taste` are set here.

        Raises:
            InputError: a tuning is running on this machine already, or the folder cannot be written.
        """
        spec = self.find(self.in_use).spec
        folder = Path(spec).expanduser()
        chosen = {
            "policy": str(folder.absolute()) if folder.exists() and spec not in models.shipped_adapters() else spec,
            "taste": str(self.taste_folder or ""),
        }
        config = TuneConfig(**{**vars(config), **chosen})
        return Job.start(self.runs / _new_name(), self._me, config, heldout, self.runs)

    # --- taste --------------------------------------------------------------------------------------------------------

    @property
    def taste_folder(self) -> Path | None:
        """The folder of the learned taste in use; None: there is none, the studio's own preferences count."""
        return self._tastes.get(str(self.store.get_setting(TASTE)))

    @property
    def taste(self) -> TasteCard | None:
        """What is known of the learned taste in use."""
        folder = self.taste_folder
        if folder is None:
            return None
        card = json.loads((folder / "about.json").read_text("utf-8"))["card"]
        shares = {key: Share(**card[key]) if card[key] else None for key in ("agrees", "shipped_agrees")}
        return TasteCard(**{**card, **shares})

    def learn_taste(self, update: Callable[..., object] = lambda done, total: None) -> TasteCard:
        """Learn this writer's taste from all that the store holds, and use it at once; see storyrl.taste.learn.

        Raises:
            InputError: there are no choices to learn from, or the folder cannot be written.
        """
        choices, folder = choices_of(self.store), self.home / "tastes" / _new_name()
        learn(choices, folder, update)
        agrees = agreement(choices)
        card = TasteCard(
            len(choices),
            datetime.now(UTC).isoformat(timespec="minutes"),
            leanings(Taste.load(folder)),
            agrees.learned if agrees else None,
            agrees.shipped if agrees else None,
        )
        write_json(folder / "about.json", {"owner": self._me, "card": asdict(card)})
        before = self.taste_folder
        self.store.set_setting(TASTE, folder.name)
        if before:
            shutil.rmtree(before, ignore_errors=True)
        return card

    def forget_taste(self) -> None:
        """Delete the learned taste. Runs that were tuned on it keep their own copy."""
        before = self.taste_folder
        self.store.set_setting(TASTE, None)
        if before:
            shutil.rmtree(before, ignore_errors=True)

    @property
    def _tastes(self) -> dict[str, Path]:
        """This writer's tastes by the names of their folders."""
        found = {}
        for about in (self.home / "tastes").glob("*/about.json"):
            if json.loads(about.read_text("utf-8")).get("owner") == self._me:
                found[about.parent.name] = about.parent
        return found

    @property
    def _me(self) -> str:
        return self.store.owner or OWNER


def _new_name() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
