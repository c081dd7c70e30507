// Their side: TensorFlow.js on its WASM backend, each work in the forms worth trying.

import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-wasm';
import { layers, sequential } from '@tensorflow/tfjs-layers';

import { Task } from './task.mjs';

const RATE = 0.1;
const CLASSES = 10;

tf.enableProdMode();
await tf.setBackend('wasm');
if (!(await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT'))) throw new Error('no SIMD');
if (await tf.env().getAsync('WASM_HAS_MULTITHREAD_SUPPORT')) throw new Error('threads are on');

/** The rows of a task in batches: [features, one-hot labels] each. */
function batches(task, rows, batch, shape) {
  const features = task.view('features');
  const labels = task.view('label');
  const width = shape.reduce((product, size) => product * size, 1);
  return Array.from({ length: rows / batch }, (_, i) => [
    tf.tensor(features.slice(i * batch * width, (i + 1) * batch * width), [batch, ...shape]),
    tf.cast(tf.oneHot(tf.tensor1d(labels.slice(i * batch, (i + 1) * batch)), CLASSES), 'float32'),
  ]);
}

/** Layers 784-128-10; the last is left without softmax, which the loss contains. */
function perceptron(task) {
  const model = sequential({
    layers: [
      layers.dense({ inputShape: [784], units: 128, activation: 'relu' }),
      layers.dense({ units: CLASSES }),
    ],
  });
  const parameters = task.buffers.filter(({ role }) => role === 'ROLE_PARAMETER');
  // torch keeps (outputs, inputs), TensorFlow (inputs, outputs)
  model.setWeights(
    parameters.map(({ name, shape }) => {
      const tensor = tf.tensor(task.view(name).slice(), shape);
      return shape.length === 2 ? tf.transpose(tensor) : tensor;
    }),
  );
  return model;
}

const crossEntropy = (labels, logits) => tf.losses.softmaxCrossEntropy(labels, logits);

function trainOnBatch(model, data) {
  model.compile({ optimizer: tf.train.sgd(RATE), loss: crossEntropy });
  const losses = [];
  let at = 0;
  return {
    steps: 1,
    losses,
    async call() {
      losses.push(await model.trainOnBatch(...data[at++ % data.length]));
    },
  };
}

/** Fused layers and the loss by log-softmax: faster than `losses.softmaxCrossEntropy`. */
function minimize(model, data) {
  const variables = model.getWeights().map((weight) => tf.variable(weight));
  const [w1, b1, w2, b2] = variables;
  const optimizer = tf.train.sgd(RATE);
  const losses = [];
  let at = 0;
  return {
    steps: 1,
    losses,
    call() {
      const [x, y] = data[at++ % data.length];
      tf.tidy(() => {
        const loss = optimizer.minimize(
          () => {
            const h = tf.fused.matMul({ a: x, b: w1, bias: b1, activation: 'relu' });
            const z = tf.fused.matMul({ a: h, b: w2, bias: b2 });
            return tf.div(tf.neg(tf.sum(tf.mul(y, tf.logSoftmax(z)))), x.shape[0]);
          },
          true,
          variables,
        );
        losses.push(loss.dataSync()[0]);
      });
    },
  };
}

function convolutional() {
  const convolution = { kernelSize: 3, padding: 'same', activation: 'relu' };
  return sequential({
    layers: [
      layers.conv2d({ inputShape: [28, 28, 1], filters: 16, ...convolution }),
      layers.maxPooling2d({ poolSize: 2 }),
      layers.conv2d({ filters: 32, ...convolution }),
      layers.maxPooling2d({ poolSize: 2 }),
      layers.flatten(),
      layers.dense({ units: CLASSES }),
    ],
  });
}

// Howard et al., "MobileNets", 2017, arXiv:1704.04861, table 1: filters and stride of each block
const BLOCKS = [
  [64, 1], [128, 2], [128, 1], [256, 2], [256, 1], [512, 2],
  [512, 1], [512, 1], [512, 1], [512, 1], [512, 1], [1024, 2], [1024, 1],
];

/** MobileNetV1 with its batch normalisations, as one defines and trains it. */
function mobilenet() {
  const he = { padding: 'same', useBias: false, kernelInitializer: 'heNormal' };
  const after = () => [layers.batchNormalization(), layers.reLU()];
  const stack = [
    layers.conv2d({ inputShape: [224, 224, 3], filters: 32, kernelSize: 3, strides: 2, ...he }),
    ...after(),
  ];
  for (const [filters, strides] of BLOCKS) {
    stack.push(
      layers.depthwiseConv2d({ kernelSize: 3, strides, depthwiseInitializer: 'heNormal', ...he }),
      ...after(),
      layers.conv2d({ filters, kernelSize: 1, ...he }),
      ...after(),
    );
  }
  stack.push(layers.globalAveragePooling2d({}), layers.dense({ units: 1000 }));
  return sequential({ layers: stack });
}

/** MobileNetV1 with the normalisations folded into fused convolutions, as a converter leaves it. */
function folded() {
  const draw = (fan, ...shape) => tf.randomNormal(shape, 0, Math.sqrt(2 / fan));
  const fuse = (filter, width, strides) => ({
    filter,
    bias: tf.zeros([width]),
    strides,
    pad: 'same',
    activation: 'relu',
  });
  const first = fuse(draw(27, 3, 3, 3, 32), 32, 2);
  let width = 32;
  const blocks = BLOCKS.map(([filters, strides]) => {
    const depthwise = fuse(draw(9, 3, 3, width, 1), width, strides);
    const pointwise = fuse(draw(width, 1, 1, width, filters), filters, 1);
    width = filters;
    return [depthwise, pointwise];
  });
  const last = { b: draw(width, width, 1000), bias: tf.zeros([1000]) };
  return (image) => {
    let x = tf.fused.conv2d({ x: image, ...first });
    for (const [depthwise, pointwise] of blocks) {
      x = tf.fused.conv2d({ x: tf.fused.depthwiseConv2d({ x, ...depthwise }), ...pointwise });
    }
    return tf.fused.matMul({ a: tf.mean(x, [1, 2]), ...last });
  };
}

function prediction(model) {
  const image = tf.randomNormal([1, 224, 224, 3]);
  return {
    steps: 1,
    losses: [],
    call() {
      const scores = tf.tidy(() => model(image).dataSync());
      if (scores.length !== 1000 || !scores.every(Number.isFinite)) throw new Error('no scores');
    },
  };
}

/** By work, its forms by name, as in cloister.mjs. */
export const WORKS = {
  mlp(folder, rows, batch) {
    const task = new Task(folder);
    const data = batches(task, rows, batch, [784]);
    return {
      trainOnBatch: () => trainOnBatch(perceptron(task), data),
      minimize: () => minimize(perceptron(task), data),
    };
  },
  cnn(folder, rows, batch) {
    const data = batches(new Task(folder), rows, batch, [28, 28, 1]);
    return { trainOnBatch: () => trainOnBatch(convolutional(), data) };
  },
  mobilenet() {
    const model = mobilenet();
    return {
      layers: () => prediction((image) => model.predict(image)),
      folded: () => prediction(folded()),
    };
  },
};
