"""Make the Larq models of this folder and convert them with tf2onnx; README.md has the versions.

Not part of the tests: it needs TensorFlow, Larq and tf2onnx, which want a NumPy older than bnncc's. Usage: python make.py
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # Larq is written for Keras 2

from pathlib import Path

import larq as lq
import numpy as np
import tensorflow as tf
import tf2onnx
from tf_keras import Sequential, layers

HERE = Path(__file__).parent
BINARY = {
    "input_quantizer": "ste_sign",
    "kernel_quantizer": "ste_sign",
    "kernel_constraint": "weight_clip",
    "use_bias": False,
}


def vgg() -> Sequential:
    """Pools, pad_values=1 with SAME, SAME with stride 2, dense layers."""
    return Sequential([
        layers.Input((14, 14, 3)),
        lq.layers.QuantConv2D(16, 3, kernel_quantizer="ste_sign", kernel_constraint="weight_clip", use_bias=False),
        layers.BatchNormalization(scale=False, momentum=0.9),
        lq.layers.QuantConv2D(20, 3, padding="same", pad_values=1, **BINARY),
        layers.MaxPool2D(2),
        layers.BatchNormalization(scale=False, momentum=0.9),
        lq.layers.QuantConv2D(24, 3, padding="same", pad_values=1, strides=2, **BINARY),
        layers.BatchNormalization(scale=False, momentum=0.9),
        layers.Flatten(),
        lq.layers.QuantDense(24, **BINARY),
        layers.BatchNormalization(scale=False, momentum=0.9),
        lq.layers.QuantDense(5, **BINARY),
        layers.BatchNormalization(scale=False, momentum=0.9),
    ])  # fmt: skip


def magnitude() -> Sequential:
    """Magnitude-aware weights (one scale per output channel), zero padding, SAME with stride 2, global average, softmax."""
    scaled = BINARY | {"kernel_quantizer": "magnitude_aware_sign"}
    return Sequential([
        layers.Input((12, 12, 3)),
        lq.layers.QuantConv2D(16, 3, kernel_quantizer="ste_sign", kernel_constraint="weight_clip", use_bias=False),
        layers.BatchNormalization(momentum=0.9),
        lq.layers.QuantConv2D(20, 3, padding="same", strides=2, **scaled),
        layers.BatchNormalization(momentum=0.9),
        lq.layers.QuantConv2D(24, 3, padding="same", **scaled),
        layers.BatchNormalization(momentum=0.9),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5, activation="softmax"),
    ])  # fmt: skip


def residual() -> Sequential:
    """A shortcut around a binary convolution."""
    x = inputs = layers.Input((8, 8, 3))
    x = lq.layers.QuantConv2D(
        16, 3, padding="same", kernel_quantizer="ste_sign", kernel_constraint="weight_clip", use_bias=False
    )(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    y = lq.layers.QuantConv2D(16, 3, padding="same", pad_values=1, **BINARY)(x)
    x = layers.add([x, layers.BatchNormalization(momentum=0.9)(y)])
    y = lq.layers.QuantConv2D(16, 3, padding="same", pad_values=1, **BINARY)(x)
    x = layers.add([x, layers.BatchNormalization(momentum=0.9)(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(inputs, layers.Dense(5)(x))


def trained(model: "tf.keras.Model", seed: int) -> "tf.keras.Model":
    """A few steps on random pixels with a simple rule as the label: enough for statistics that are not the initial ones."""
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 256, (256, *model.input_shape[1:])).astype(np.float32)
    y = x.mean(axis=(1, 2)).argmax(axis=1) + (x[:, :3].mean(axis=(1, 2, 3)) > 128)
    softmax = model.layers[-1].get_config().get("activation") == "softmax"
    model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax))
    model.fit(x, y, batch_size=32, epochs=3, verbose=0)
    return model


def main() -> None:
    for build, opset in ((vgg, 13), (magnitude, 13), (residual, 17)):
        tf.keras.utils.set_random_seed(opset)
        model = trained(build(), opset)
        name = build.__name__
        signature = (tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image"),)
        tf2onnx.convert.from_keras(model, signature, opset=opset, output_path=str(HERE / f"{name}.onnx"))
        x = np.random.default_rng(1).integers(0, 256, (8, *model.input_shape[1:])).astype(np.float32)
        np.savez(HERE / f"{name}.npz", x=x.astype(np.uint8), y=model.predict(x, verbose=0))


if __name__ == "__main__":
    main()
