"""What leaves a site in a private run besides the update: public numbers, and NaN for what is withheld.

Losses, Dice, counts of cases and even the seconds that a step took depend on patients, and nothing pays for them. In
their place stand numbers that everyone knows: the public number of patients, and what the settings say of the work. So
a coordinator can tell what a reply holds before it comes, and takes nothing else.
"""

import math

from client.contract import PrepareReply
from client.privacy.promise import Promise
from client.privacy.settings import PrivacySettings
from segformer3d.tasks import Task
from segformer3d.training_reports import TrainingReport, ValidationReport


def public_preparation(site: str, run: str, promise: Promise) -> PrepareReply:
    """A site's data as far as it is public: how many patients it has at the least, as promised."""
    return PrepareReply(site, run, promise.patients, 0, 0, (), math.nan, promise)


def public_training(privacy: PrivacySettings, promise: Promise) -> TrainingReport:
    """A round's training as far as it is public: expected samples, steps, the public number of patients."""
    expected = promise.sampling_rate * promise.patients * privacy.crops * privacy.local_steps
    return TrainingReport(math.nan, promise.patients, max(1, round(expected)), privacy.local_steps, math.nan)


def no_validation(task: Task) -> ValidationReport:
    """In a private run nothing is measured at a site."""
    return ValidationReport((math.nan,) * len(task.structures), math.nan, 0, math.nan)
