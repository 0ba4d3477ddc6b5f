"""Load a published classifier and ask it. Needs neither torch nor transformers.

::

    from retrainer.serve import Classifier

    classify = Classifier.from_store("s3://models", "ag-news")
    classify("Oil prices fall as supply grows")  # [{"label": "Business", "score": 0.98}]
"""

from retrainer.serve.classifier import Classifier, Prediction

__all__ = ["Classifier", "Prediction"]
