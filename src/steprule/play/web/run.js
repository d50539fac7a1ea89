// Steps of a rule in float64, node by node, as graph/evaluate.py means them; and where gradients are taken.
(function (steprule) {
  "use strict";

  const language = steprule.language;
  const { rank, topological } = language;
  const { told } = language.text;
  const POINTWISE = new Set(["pointwise", "compare", "logic"]);
  const PATIENCE = 5;
  const [ROUNDINGS, STEP_ROUNDINGS] = [4, 32];

  /** Strides of a value of some shape beside one that it is spread over: 0 along what it does not vary. */
  function strides([rows, columns], [outRows, outColumns]) {
    return [rows === outRows && outRows > 1 ? columns : 0, columns === outColumns && outColumns > 1 ? 1 : 0];
  }

  /** Apply a function of up to three inputs, element by element; each input has strides along rows and columns. */
  function spread(run, out, rows, columns, a, b, c, by) {
    for (let row = 0, i = 0; row < rows; row++) {
      const x = row * by[0];
      const y = row * by[2];
      const z = row * by[4];
      for (let column = 0; column < columns; column++, i++) {
        out[i] = run(a[x + column * by[1]], b[y + column * by[3]], c[z + column * by[5]]);
      }
    }
  }

  /** The parts of a reduction as functions. */
  function reducerOf(row) {
    const { init, combine, each, finish } = row.reducer;
    const { ops } = language.tables();
    const operations = steprule.operations;
    const squared = each && ops.get(each).arity === 2;
    return {
      init: Number(init.replace("inf", "Infinity")),
      combine: operations[combine],
      each: !each ? (x) => x : squared ? (x) => operations[each](x, x) : operations[each],
      finish: finish ? operations[finish] : (x) => x,
    };
  }

  /** Nodes in order, with room for their values on tensors of some shapes. */
  class Program {
    constructor(roots, sizes) {
      this.sizes = sizes;
      this.views = new Map();
      this.ranked = new Map();
      this.values = new Map();
      this.numbers = [];
      this.reads = [];
      this.work = topological(roots)
        .map((node) => this.prepared(node))
        .filter(Boolean);
    }
    prepared(node) {
      const shapes = this.sizes.map(([rows, columns]) => rank.view(node.rank, rows, columns));
      this.views.set(node, shapes);
      if (node.op === "read") {
        this.values.set(
          node,
          shapes.map(() => null),
        );
        return void this.reads.push(node);
      }
      const buffers = shapes.map(([rows, columns]) => new Float64Array(rows * columns));
      this.values.set(node, buffers);
      if (node.op === "const") return void buffers.forEach((buffer) => buffer.fill(node.attr));
      if (node.kind === "leaf") return void this.numbers.push(node);
      if (node.kind === "size") return void buffers.forEach((buffer, i) => buffer.fill(this.size(node.op, i)));
      if (node.kind === "chance") return this.drawn(node, buffers);
      if (POINTWISE.has(node.kind)) return this.pointwise(node, shapes, buffers);
      return node.kind === "global" ? this.overAll(node, buffers) : this.reduction(node, shapes, buffers);
    }
    size(op, tensor) {
      const [rows, columns] = this.sizes[tensor];
      return op === "rows" ? rows : op === "columns" ? columns : rows * columns;
    }
    /** Draw for every element, by the seed, the step, the tensor's place and its own. */
    drawn(node, buffers) {
      const { draw, key_of: keyOf, [node.op]: given } = steprule.draws;
      const site = steprule.facts.sites + node.attr;
      return (numbers) => {
        for (const [i, buffer] of buffers.entries()) {
          const own = keyOf(numbers.seed, i, numbers.t, site);
          for (let k = 0; k < buffer.length; k++) buffer[k] = given(draw(0, k, own));
        }
      };
    }
    pointwise(node, shapes, buffers) {
      const run = steprule.operations[node.op];
      const three = [0, 1, 2].map((k) => node.inputs[k] ?? node.inputs[0]);
      const by = shapes.map((shape, i) => three.flatMap((child) => strides(this.views.get(child)[i], shape)));
      const [a, b, c] = three.map((child) => this.values.get(child));
      return () => {
        for (let i = 0; i < buffers.length; i++) {
          spread(run, buffers[i], shapes[i][0], shapes[i][1], a[i], b[i], c[i], by[i]);
        }
      };
    }
    reduction(node, shapes, buffers) {
      const { init, combine, each, finish } = reducerOf(node.row);
      const inside = this.views.get(node.inputs[0]);
      const from = this.values.get(node.inputs[0]);
      return () => {
        for (let i = 0; i < buffers.length; i++) {
          const [rows, columns] = inside[i];
          const [byRow, byColumn] = strides(shapes[i], inside[i]);
          const [out, given] = [buffers[i].fill(init), from[i]];
          for (let row = 0, k = 0; row < rows; row++) {
            for (let column = 0; column < columns; column++, k++) {
              const place = row * byRow + column * byColumn;
              out[place] = combine(out[place], each(given[k]));
            }
          }
          const count = given.length / out.length;
          for (let k = 0; k < out.length; k++) out[k] = finish(out[k], count);
        }
      };
    }
    overAll(node, buffers) {
      const { init, combine, each, finish } = reducerOf(node.row);
      const from = this.values.get(node.inputs[0]);
      return () => {
        let total = init;
        for (const given of from) for (let k = 0; k < given.length; k++) total = combine(total, each(given[k]));
        total = finish(total);
        for (const buffer of buffers) buffer[0] = total;
      };
    }
    /** Compute every node, of arrays by name and numbers by name. */
    run(arrays, numbers) {
      for (const node of this.reads) {
        const cells = this.values.get(node);
        const given = arrays[node.attr.array];
        for (let i = 0; i < cells.length; i++) cells[i] = given[i];
      }
      for (const node of this.numbers) {
        const value = node.op === "step" ? numbers.t : numbers.of(node.attr);
        for (const buffer of this.values.get(node)) buffer[0] = value;
      }
      for (const work of this.work) work(numbers);
    }
    /** The shapes in which a rank is kept, a tensor each. */
    shapesOf(ranked) {
      if (!this.ranked.has(ranked)) {
        this.ranked.set(
          ranked,
          this.sizes.map(([rows, columns]) => rank.view(ranked, rows, columns)),
        );
      }
      return this.ranked.get(ranked);
    }
    /** Return a value as an array of a rank, not shared with any other. */
    kept(node, ranked) {
      const shapes = this.shapesOf(ranked);
      return this.values.get(node).map((value, i) => {
        const shape = shapes[i];
        const out = new Float64Array(shape[0] * shape[1]);
        if (value.length === out.length) {
          out.set(value);
          return out;
        }
        const by = strides(this.views.get(node)[i], shape);
        spread((x) => x, out, shape[0], shape[1], value, value, value, [...by, ...by, ...by]);
        return out;
      });
    }
  }

  const copies = (arrays) => arrays.map((array) => Float64Array.from(array));
  const squares = (arrays, of) => {
    let total = 0;
    arrays.forEach((array, i) =>
      array.forEach((value, k) => {
        const by = of ? (value === of[i][k] ? 0 : value - of[i][k]) : Number.isFinite(value) ? value : 0;
        total += by * by;
      }),
    );
    return total;
  };

  /** What stands in the way of running a graph here: matrices. */
  function refuse(graph) {
    const node = graph.nodes.find((one) => one.kind === "matrix" || rank.apart(one.rank));
    if (!node) return;
    const { what, fix } = told("matrices here", {
      name: graph.name,
      op: node.op,
    });
    throw new language.Refusal({ what, fix }, graph.origins.get(node) ?? null);
  }

  /** A run of a rule on tensors: parameters, slots and the count of steps. */
  class Run {
    constructor(rule) {
      this.graph = rule.graph;
      refuse(this.graph);
      this.thetas = [];
      this.slots = {};
      this.t = 0;
      /** What random numbers are drawn from: a whole number. */
      this.seed = 0;
      this.point = null;
      this.update = null;
      this.loss = null;
    }

    /**
     * Begin, at t = 0 with slots as they start.
     * @param {Float64Array[]} thetas the parameters, which are copied
     * @param {number[][]} shapes the shape of each; without them each is a vector
     */
    start(thetas, shapes) {
      const { graph } = this;
      this.thetas = copies(thetas);
      const own = shapes ?? thetas.map((theta) => [theta.length]);
      this.sizes = own.map((shape) => [shape[0] ?? 1, shape.slice(1).reduce((a, b) => a * b, 1)]);
      this.slots = Object.create(null);
      for (const slot of graph.slots) {
        const started = (theta, i) => {
          const [rows, columns] = rank.view(slot.rank, ...this.sizes[i]);
          return slot.init === "theta" ? Float64Array.from(theta) : new Float64Array(rows * columns).fill(slot.init);
        };
        this.slots[slot.name] = this.thetas.map(started);
      }
      [this.t, this.point, this.update, this.loss] = [0, null, null, null];
      this.program = new Program([graph.newParameter, ...graph.newSlots], this.sizes);
      this.toPoint =
        graph.evaluateAt && new Program([graph.implicit ? graph.newParameter : graph.evaluateAt], this.sizes);
      return this;
    }

    /**
     * Do what `Optimizer.step(closure)` does.
     * @param {function(Float64Array[]): {loss: number, gradients: Float64Array[]}} gradient the loss and its gradients
     * @param {Object<string, number>} [hypers] values of hyperparameters, by name; others have their defaults
     * @returns {number} the loss
     */
    step(gradient, hypers = {}) {
      const given = this.numbers(hypers, this.t + 1);
      const found = this.graph.evaluateAt === null ? gradient(this.thetas) : this.elsewhere(gradient, given);
      given.loss = found.loss;
      this.loss = found.loss;
      this.apply(found.gradients, given);
      return found.loss;
    }

    numbers(hypers, t) {
      const values = new Map(this.graph.hypers.map((hyper) => [hyper.name, language.number(hyper.value)]));
      for (const name of values.keys()) if (Object.hasOwn(hypers, name)) values.set(name, Number(hypers[name]));
      const numbers = {
        t,
        loss: NaN,
        seed: this.seed,
        of: (name) => (name === "loss" ? numbers.loss : values.get(name)),
      };
      return numbers;
    }

    arrays(gradients, thetas = this.thetas) {
      const all = Object.assign(Object.create(null), this.slots);
      all[this.graph.parameter] = thetas;
      if (gradients) all[this.graph.gradient] = gradients;
      return all;
    }

    elsewhere(gradient, numbers) {
      const { graph } = this;
      if (graph.implicit) return this.implicit(gradient, numbers);
      const first = graph.first ? gradient(this.thetas) : null;
      const arrays = this.arrays(null);
      if (first) arrays[graph.first] = copies(first.gradients);
      if (first && graph.first in this.slots) this.slots[graph.first] = arrays[graph.first];
      const at = first ? numbers : { ...numbers, t: this.t };
      this.toPoint.run(arrays, at);
      this.point = this.toPoint.kept(graph.evaluateAt, rank.of("ELEMENT"));
      const found = gradient(this.point);
      return { loss: first ? first.loss : found.loss, gradients: found.gradients };
    }

    /** Find the point where the step ends: each gradient makes the next, until they stay where they are. */
    implicit(gradient, numbers) {
      const { graph, toPoint } = this;
      const [tolerance, most] = [numbers.of("tolerance"), Math.trunc(numbers.of("max_eval"))];
      const next = (gradients) => {
        toPoint.run(this.arrays(gradients), numbers);
        return toPoint.kept(graph.newParameter, rank.of("ELEMENT"));
      };
      this.point = next(this.thetas.map((theta) => new Float64Array(theta.length)));
      let [best, since] = [Infinity, 0];
      for (let seen = 1; ; seen++) {
        const found = gradient(this.point);
        const after = next(found.gradients);
        const by = Math.sqrt(squares(after, this.point));
        const near = Math.max(tolerance, STEP_ROUNDINGS * Number.EPSILON) * Math.sqrt(squares(after, this.thetas));
        const allowed = near + ROUNDINGS * Number.EPSILON * Math.sqrt(squares(after));
        const finite = found.gradients.every((array) => array.every(Number.isFinite));
        if ((by <= allowed && allowed < Infinity) || (seen === 1 && !finite)) return found;
        since = by < best ? 0 : since + 1;
        if (since >= PATIENCE || seen >= most || !Number.isFinite(by)) throw this.unfound(seen, most);
        best = Math.min(best, by);
        this.point = after;
      }
    }

    unfound(seen, most) {
      const { name } = this.graph;
      return new language.Refusal(told(seen < most ? "no contraction" : "not found", { name, most }), null);
    }

    apply(gradients, numbers) {
      const { graph, program } = this;
      program.run(this.arrays(gradients), numbers);
      const theta = program.kept(graph.newParameter, rank.of("ELEMENT"));
      const slots = graph.slots.map((slot, i) => [slot.name, program.kept(graph.newSlots[i], slot.rank)]);
      this.update = theta.map((array, i) => array.map((value, k) => value - this.thetas[i][k]));
      this.thetas = theta;
      for (const [name, arrays] of slots) this.slots[name] = arrays;
      if (graph.first && this.slots[graph.first]) this.slots[graph.first].forEach((array) => array.fill(0));
      this.t += 1;
    }
  }

  /**
   * Return a run of a rule that `steprule.build` has read.
   * @param {{graph: object}} rule
   * @throws {Error} with `what` and `fix`, where the rule has matrices
   */
  steprule.optimizer = (rule) => new Run(rule);
})((globalThis.steprule ??= {}));
