"""A training of a study by Keras 3 on TensorFlow: a model, `compile` and `fit` on arrays in memory, for each anew.

It logs and saves nothing. Runs under a Python with keras and tensorflow, as `keras_fit` does.
"""

import os

from benchmarks import aside
from benchmarks.rivals.keras_fit import load

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def prepare(settings: dict):
    import keras
    import tensorflow as tf
    from keras import layers, optimizers

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    kinds = {"sgd": optimizers.SGD, "rmsprop": optimizers.RMSprop, "adam": optimizers.Adam}
    stored = [settings[key] for key in ("mean", "std")]
    training, held_out = (load(settings["folder"], split, *stored) for split in ("train", "held_out"))

    def train(seed: int, optimizer: str) -> float:
        """The accuracy on the held-out images after the last epoch."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        hidden = [layers.Dense(size, "relu", kernel_initializer="he_normal") for size in settings["hidden"]]
        last = layers.Dense(settings["classes"], kernel_initializer="he_normal")
        model = keras.Sequential([keras.Input(settings["shape"]), layers.Flatten(), *hidden, last])
        model.compile(
            optimizer=kinds[optimizer](settings["rates"][optimizer]),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        feed = {name: settings[name] for name in ("batch_size", "epochs")}
        history = model.fit(*training, **feed, validation_data=held_out, verbose=0)
        return history.history["val_accuracy"][-1]

    train.about = f"a loop of Keras {keras.__version__} on TensorFlow {tf.__version__}"
    return train


if __name__ == "__main__":
    aside.serve(prepare)
