// A perceptron with ReLU and cross-entropy, or without a hidden layer a logistic regression, and its gradient by hand.
(function (steprule) {
  "use strict";
  steprule.data ??= {};
  const CLASSES = 10, PIXELS = 64;

  /** Return the layer sizes of a model: 64–10, or 64–hidden–10. */
  steprule.data.sizes = (spec) => (spec.model === "mlp" ? [PIXELS, spec.hidden, CLASSES] : [PIXELS, CLASSES]);

  /** A network of given layer sizes. Its parameters are weights (row by row, a row for each output) and biases in turns. */
  steprule.data.Network = class {
    /** @param {number[]} sizes */
    constructor(sizes) {
      this.sizes = sizes;
      this.layers = sizes.length - 1;
      this.shapes = sizes.slice(1).flatMap((out, at) => [[out, sizes[at]], [out]]);
      this.seen = 0;
    }

    /** Return the float32 weights that torch's `nn.Linear` draws after `torch.manual_seed(seed)`, as float64 numbers. */
    draw(seed) {
      const generator = steprule.generator(seed), slope = Math.sqrt(5);
      return this.shapes.map((shape, at) => {
        const inputs = this.sizes[at >> 1], gain = Math.sqrt(2 / (1 + slope * slope));
        const bound = shape.length > 1 ? Math.sqrt(3) * (gain / Math.sqrt(inputs)) : 1 / Math.sqrt(inputs);
        return generator.uniform(shape.reduce((product, one) => product * one, 1), -bound, bound);
      });
    }

    // Room for the values of so many examples at once.
    room(examples) {
      if (examples <= this.seen) return;
      this.seen = examples;
      this.values = this.sizes.map((size) => new Float64Array(examples * size));
      this.slopes = this.sizes.map((size) => new Float64Array(examples * size));
    }

    // Fill the values of every layer; return those of the last, before the softmax.
    forward(thetas, set, rows) {
      this.room(rows.length);
      const first = this.values[0];
      rows.forEach((row, at) => first.set(set.inputs.subarray(PIXELS * row, PIXELS * (row + 1)), PIXELS * at));
      for (let layer = 0; layer < this.layers; layer++) this.linear(thetas, layer, rows.length);
      return this.values[this.layers];
    }

    linear(thetas, layer, examples) {
      const from = this.sizes[layer], to = this.sizes[layer + 1], hidden = layer + 1 < this.layers;
      const weight = thetas[2 * layer], bias = thetas[2 * layer + 1], input = this.values[layer], output = this.values[layer + 1];
      for (let example = 0; example < examples; example++)
        for (let unit = 0; unit < to; unit++) {
          let sum = bias[unit];
          const row = unit * from, start = example * from;
          for (let at = 0; at < from; at++) sum += weight[row + at] * input[start + at];
          // A NaN stays one: what has diverged must be seen.
          output[example * to + unit] = hidden && sum < 0 ? 0 : sum;
        }
    }

    // Return the cross-entropy summed over the examples; with `slope`, fill the last layer's slopes of the mean.
    entropy(set, rows, slope) {
      const outputs = this.values[this.layers], slopes = this.slopes[this.layers];
      let total = 0;
      rows.forEach((row, example) => {
        const start = CLASSES * example, told = set.labels[row];
        let most = -Infinity, sum = 0;
        for (let at = 0; at < CLASSES; at++) if (!(outputs[start + at] <= most)) most = outputs[start + at];
        for (let at = 0; at < CLASSES; at++) sum += Math.exp(outputs[start + at] - most);
        total += Math.log(sum) + most - outputs[start + told];
        if (slope)
          for (let at = 0; at < CLASSES; at++)
            slopes[start + at] = (Math.exp(outputs[start + at] - most) / sum - (at === told ? 1 : 0)) / rows.length;
      });
      return total;
    }

    /**
     * Return the mean loss over some examples of a set and its gradient, an array a parameter.
     * @param {Float64Array[]} thetas
     * @param {{inputs: Float64Array, labels: Uint8Array}} set
     * @param {Uint32Array} rows which examples
     */
    gradient(thetas, set, rows) {
      this.forward(thetas, set, rows);
      const loss = this.entropy(set, rows, true) / rows.length, gradients = thetas.map((theta) => new Float64Array(theta.length));
      for (let layer = this.layers - 1; layer >= 0; layer--) this.back(thetas, gradients, layer, rows.length);
      return { loss, gradients };
    }

    back(thetas, gradients, layer, examples) {
      const from = this.sizes[layer], to = this.sizes[layer + 1], weight = thetas[2 * layer], input = this.values[layer];
      const byWeight = gradients[2 * layer], byBias = gradients[2 * layer + 1], above = this.slopes[layer + 1], below = this.slopes[layer];
      below.fill(0, 0, examples * from);
      for (let example = 0; example < examples; example++) {
        const start = example * from;
        for (let unit = 0; unit < to; unit++) {
          const slope = above[example * to + unit], row = unit * from;
          byBias[unit] += slope;
          for (let at = 0; at < from; at++) byWeight[row + at] += slope * input[start + at];
          if (layer) for (let at = 0; at < from; at++) below[start + at] += slope * weight[row + at];
        }
        // ReLU is flat where its output is 0.
        if (layer) for (let at = 0; at < from; at++) if (input[start + at] === 0) below[start + at] = 0;
      }
    }

    /** Return the mean loss on a set, the share of it that is told right, and what is told of each example. */
    evaluate(thetas, set) {
      const rows = Uint32Array.from({ length: set.size }, (_, at) => at), outputs = this.forward(thetas, set, rows);
      const told = Uint8Array.from(rows, (row) => {
        let best = 0;
        for (let at = 1; at < CLASSES; at++) if (outputs[CLASSES * row + at] > outputs[CLASSES * row + best]) best = at;
        return best;
      });
      const right = told.reduce((count, label, row) => count + (label === set.labels[row] ? 1 : 0), 0);
      return { loss: this.entropy(set, rows, false) / set.size, accuracy: right / set.size, told };
    }
  };
})((globalThis.steprule ??= {}));
