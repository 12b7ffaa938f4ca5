"""All checks of a run in order, their verdicts and their page."""

from __future__ import annotations

import numpy as np

from pipeline.launch import slots
from pipeline.preflight.anatomy import facts
from pipeline.preflight.cost import cost_of, expense, trial
from pipeline.preflight.findings import BROKEN, Finding, in_lines, worse
from pipeline.preflight.labels import alignment
from pipeline.preflight.learner import ignorant, scores_of
from pipeline.preflight.material import Material, material_of
from pipeline.preflight.overfit import STEPS as BY_HEART
from pipeline.preflight.overfit import overfit
from pipeline.preflight.page import write_page
from pipeline.preflight.pictures import write_pictures
from pipeline.preflight.pixels import content, normalisation, twins
from pipeline.preflight.rates import STEPS, learning_rate, range_test
from pipeline.preflight.signals import Layer, flow
from pipeline.preflight.start import first_loss, head_is_open
from pipeline.store.files import write_json
from pipeline.training.job import Job
from pipeline.training.which import Which

# As many rows as a step sees, or nearly so: with one there is nothing to compare, and more may not fit.
ROWS = (8, 64)
# Seconds that the range test, and learning by heart, may take each: a slow network takes fewer steps, but no fewer
# than these.
SECONDS, FEWEST = 30, 40


def preflight(job: Job) -> bool:
    """Check a run, print the verdicts, write the page; return whether nothing is broken."""
    material = material_of(job, Which((job.folds[0],)))
    findings, layers = look(material)
    files = job.files
    write_pictures(files.check_sheet, material, next(material.stream()))
    write_page(files.check_page, files.run, findings, layers, files.check_sheet.name)
    facts = [{"name": f.name, "verdict": f.verdict, "seen": f.seen, "advice": f.to_do} for f in findings]
    write_json(files.check_facts, facts)
    print("\n".join(in_lines(findings)))
    return worse(*(finding.verdict for finding in findings)) != BROKEN


def look(material: Material) -> tuple[list[Finding], list[Layer]]:
    """Return the findings of all checks, and the layers of the network."""
    batch = material.batch(material.sample(int(np.clip(material.job.batch_size, *ROWS))))
    found = [content(material), twins(material), alignment(material), normalisation(material), facts(material)[0]]
    signs, layers = flow(material, batch)
    tried = trial(material)
    steps = SECONDS / tried.seconds
    ranged = range_test(material, int(np.clip(steps, FEWEST, STEPS)))
    found += [signs, first_loss(material, batch), head_is_open(material, batch)]
    blank = ignorant(material.goal, batch, scores_of(material, tried.network, batch).shape[1])
    found.append(learning_rate(material, ranged, tried, blank))
    found.append(overfit(material, int(np.clip(steps, FEWEST, BY_HEART))))
    found.append(expense(cost_of(material, tried.seconds, tried.network), slots()))
    return found, layers
