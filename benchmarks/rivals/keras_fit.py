"""Keras 3 on TensorFlow: model.fit on arrays in memory. It logs and saves nothing.

A model stays compiled from one training to the next, so that its tracing, a second or more in each new process, is not
counted, in Keras's favour. Runs under a Python with keras and tensorflow, and needs only `benchmarks.aside` of this
project.
"""

import os
from pathlib import Path

import numpy as np

from benchmarks import aside

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def network(shape, classes, recipe, precision):
    import keras
    from keras import layers

    keras.config.set_dtype_policy({"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision])
    sizes, stack = recipe["network"], [keras.Input(shape)]
    if sizes["name"] == "mlp":
        stack.append(layers.Flatten())
        for size in sizes["hidden"]:
            stack += [layers.Dense(size, activation="relu"), layers.Dropout(recipe["dropout"])]
    else:
        for number, channels in enumerate(sizes["channels"]):
            side = 5 if number < 2 else 3
            stack.append(layers.Conv2D(channels, side, padding="same", activation="relu"))
            if number < 2:
                stack.append(layers.MaxPooling2D(2))
        stack += [layers.Flatten(), layers.Dense(sizes["hidden"], activation="relu"), layers.Dropout(recipe["dropout"])]
    model = keras.Sequential([*stack, layers.Dense(classes, dtype="float32")])
    model.compile(
        optimizer=keras.optimizers.Adam(recipe["optimizer"]["lr"], epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.optimizer.build(model.trainable_variables)
    return model


def load(folder, split, mean, std):
    images = (np.load(Path(folder) / f"{split}_images.npy").astype("float32") / 255 - mean) / std
    return images.astype("float32"), np.load(Path(folder) / f"{split}_labels.npy")


def prepare(settings: dict):
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    stored = [settings[key] for key in ("mean", "std")]
    training, held_out = (load(settings["folder"], split, *stored) for split in ("train", "held_out"))
    compiled = {}

    def train(seed: int, precision: str) -> float:
        """The accuracy on the held-out images after the last epoch."""
        keras.utils.set_random_seed(seed)
        if precision not in compiled:
            model = network(settings["shape"], settings["classes"], settings["recipe"], precision)
            compiled[precision] = model, [variable.numpy() for variable in model.optimizer.variables]
        model, fresh = compiled[precision]
        for variable, value in zip(model.optimizer.variables, fresh):
            variable.assign(value)
        for layer in model.layers:
            for name in ("kernel", "bias"):
                if hasattr(layer, name):
                    variable = getattr(layer, name)
                    variable.assign(getattr(layer, f"{name}_initializer")(variable.shape))
        feed = {name: settings[name] for name in ("batch_size", "epochs")}
        history = model.fit(*training, **feed, validation_data=held_out, verbose=0)
        return history.history["val_accuracy"][-1]

    train.about = f"Keras {keras.__version__} on TensorFlow {tf.__version__}"
    return train


if __name__ == "__main__":
    aside.serve(prepare)
