"""Training by hand, from Python: the trainers of this package, and the base class for one of your own.

They need the extra ``train``. Not here: pipelines, which export, judge and publish what was trained; they take a
trainer of your own by name (``training.trainer``).
"""

from retrainer.work.trainers import BaseTrainer, ClassificationTrainer, GenerationModelTrainer, TrainingRun

__all__ = ["BaseTrainer", "ClassificationTrainer", "GenerationModelTrainer", "TrainingRun"]
