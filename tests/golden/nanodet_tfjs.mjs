// Runs the published NanoDet-g in TensorFlow.js itself and writes nanodet_tfjs.json beside this
// file: a sample of every output, which the importer's ONNX model is compared with.
//
//   npm install --no-save @tensorflow/tfjs-core@4.22.0 @tensorflow/tfjs-converter@4.22.0 \
//       @tensorflow/tfjs-backend-cpu@4.22.0
//   node nanodet_tfjs.mjs PATH/nanodet.json PATH/nanodet.bin     (camctl assets pull --json says where)

import fs from 'node:fs';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { loadGraphModel } from '@tensorflow/tfjs-converter';

const SIZE = 416;
const SAMPLES = 96; // per output, evenly spaced

// Integers over a power of two: the same float32 here and in numpy.
function picture() {
  const values = new Float32Array(3 * SIZE * SIZE);
  for (let c = 0; c < 3; c++)
    for (let y = 0; y < SIZE; y++)
      for (let x = 0; x < SIZE; x++)
        values[(c * SIZE + y) * SIZE + x] =
          (((x * 7 + y * 13 + c * 29) % 64) + (((x >> 5) + (y >> 5)) % 5) * 16) / 32 - 2;
  return tf.tensor(values, [1, 3, SIZE, SIZE]);
}

const [, , jsonPath, binPath] = process.argv;
const { modelTopology, signature, format, weightsManifest } = JSON.parse(fs.readFileSync(jsonPath));
const weightSpecs = weightsManifest.flatMap((group) => group.weights);
const file = fs.readFileSync(binPath);
const weightData = file.buffer.slice(file.byteOffset, file.byteOffset + file.length);
await tf.setBackend('cpu');
const model = await loadGraphModel({
  load: async () => ({ modelTopology, signature, format, weightSpecs, weightData }),
});
const names = model.outputs.map((output) => output.name.replace(/:0$/, '')).sort();
const tensors = model.execute({ input_1: picture() }, names);
const outputs = {};
tensors.forEach((tensor, i) => {
  const values = tensor.dataSync();
  const indices = Array.from({ length: SAMPLES }, (_, k) => Math.floor((k * values.length) / SAMPLES));
  outputs[names[i]] = { shape: tensor.shape, indices, values: indices.map((index) => values[index]) };
});
const golden = { tool: `TensorFlow.js ${tf.version_core}, cpu backend`, outputs };
fs.writeFileSync(new URL('nanodet_tfjs.json', import.meta.url), JSON.stringify(golden) + '\n');
