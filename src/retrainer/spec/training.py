"""The section ``training``: arguments of transformers under their own names, and ours.

Not here: the names of the arguments (``training_arguments.py``), which of them go together
(``training_combinations.py``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from retrainer.records import Record
from retrainer.spec.fields import ImportPath, Text, as_list
from retrainer.spec.lora import Lora
from retrainer.spec.problems import found, refuse, refuse_one
from retrainer.spec.training_arguments import OURS, check_training_arguments

LayerCount = Annotated[
    Annotated[int, Field(ge=1), Tag("<count>")] | Annotated[Literal["half"], Tag("<half>")],
    Discriminator(lambda value: "<half>" if isinstance(value, str) else "<count>"),
]
ImportPaths = Annotated[
    tuple[ImportPath, ...], BeforeValidator(as_list, json_schema_input_type=Text | tuple[Text, ...])
]


class Training(Record):
    """Arguments of ``transformers.TrainingArguments`` under their own names, and ours.

    In the file the arguments are keys of ``training``. In a record, and in its JSON, they are packed into
    ``arguments``, each of the type that transformers expects. Both forms are read.
    """

    arguments: dict[str, Any] = Field(default_factory=dict)
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Ours: training stops after so many evaluations without improvement."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="Ours: 'balanced' multiplies the loss of each training row by rows / (labels x rows with its "
        "label), so that rare labels count as much as common ones. Scores and the gate know nothing of it.",
    )
    blend_with_champion: Literal["none", "auto"] = Field(
        "none",
        description="Ours: 'auto' mixes the trained weights with the champion's, in the share that gives the fewest "
        "rows that the champion had right and the new model has wrong, on the validation rows, where these do "
        "not show a worse score. Needs publish.include_checkpoint.",
    )
    warm_start: Literal["none", "champion"] = Field(
        "none",
        description="Ours: 'champion' trains on from the champion's weights, not from those of model.base. Needs "
        "publish.include_checkpoint.",
    )
    freeze_layers: LayerCount | None = Field(
        None,
        description="Ours: the embeddings and so many of the first layers, or half of them, do not learn. What they "
        "make of each row is computed once and kept.",
    )
    freeze_cache_gb: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        8.0,
        description="Ours: so many gigabytes of disk may hold what frozen layers make of the rows; 0 keeps nothing.",
    )
    peft: Lora | None = Field(
        None, description="Ours: trains small matrices beside the weights (LoRA), which are added to them at the end."
    )
    callbacks: ImportPaths = Field(
        (), description="Ours: 'my_package.MyCallback', subclasses of transformers.TrainerCallback."
    )

    trainer: Text | None = Field(
        None,
        description="Ours: 'my_package.MyTrainer', a subclass of retrainer.BaseTrainer that trains in place of ours.",
    )
    auto: bool = Field(
        False,
        description="Ours: true chooses what makes the training fast where it runs: bf16, tf32, optim, "
        "train_sampling_strategy, dataloader_num_workers, torch_compile and unpadded, each unless it is given.",
    )
    unpadded: bool | None = Field(
        None,
        description="Ours: true trains without padding where the model and the device can; attention then has no "
        "dropout. By default only where auto chooses it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _pack(cls, value: Any) -> Any:
        if value is None:
            return {}
        if not isinstance(value, dict):
            return value
        flat = dict(value)
        ours = {name: flat.pop(name) for name in OURS if name in flat}
        packed = flat.pop("arguments", {})
        if not isinstance(packed, dict):
            refuse_one(f"expected a mapping, found {found(packed)}", "arguments")
        arguments, problems = check_training_arguments({**packed, **flat})
        if problems:
            refuse(problems)
        return {"arguments": arguments, **ours}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        from retrainer.spec.schema import flat_training  # that module needs this one

        return flat_training(handler(schema))
