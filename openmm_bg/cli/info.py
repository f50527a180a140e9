"""``openmm-bg info``: what a saved model is."""

from __future__ import annotations

from openmm_bg.cli.arguments import AnyModel
from openmm_bg.cli.console import print_summary, say


def info(model: AnyModel) -> None:
    """Say on one page what a model is: flow, molecule, training and its cost, validation, versions, hashes.

    Its files are compared with their hashes; nothing is computed.

    Example: openmm-bg info model
    """
    from openmm_bg.report.model_summary import summarize_model

    for k, (heading, facts) in enumerate(summarize_model(model).items()):
        if k:
            say("")
        print_summary(facts, title=heading if k else f"{model}: {heading}")
