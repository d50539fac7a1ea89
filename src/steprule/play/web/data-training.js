// One run on the digits: a network from a seed, stepped by a rule, batch by batch, as `steprule train` does it in float64.
(function (steprule) {
  "use strict";
  steprule.data ??= {};

  /** A run in progress; `next()` makes one iteration. */
  steprule.data.Training = class {
    /**
     * @param {{train: object, validation: object, test: object}} sets
     * @param {{model: string, hidden: number, batch: number, budget: string, epochs: number, iterations: number,
     *   seed: number, final: boolean}} spec
     * @param {{rule: object, hypers: Object<string, number>, full: boolean}} method `full`: one iteration is one pass
     */
    constructor(sets, spec, { rule, hypers, full }) {
      this.sets = sets;
      this.hypers = hypers;
      this.network = new steprule.data.Network(steprule.data.sizes(spec));
      this.counts = steprule.data.counts(sets.train.size, spec, full);
      this.left = steprule.data.order(sets.train.size, spec, full);
      this.optimizer = steprule.optimizer(rule);
      this.optimizer.start(this.network.draw(spec.seed), this.network.shapes);
      this.done = this.examples = 0;
      this.trouble = "";
      this.over = false;
    }

    /** How many times, on average, each training example has been seen. */
    get epochs() {
      return this.examples / this.sets.train.size;
    }

    /** Whether an epoch has just ended; the last iterations of a run end one, too. */
    get epochEnds() {
      return this.over || (this.done > 0 && this.done % this.counts.perEpoch === 0);
    }

    /**
     * Make one iteration and return the loss of its batch; null after the last one, or without a step that can be made.
     * Of a step that evaluates several gradients it is the loss that `Optimizer.step` returns.
     */
    next() {
      if (this.over) return null;
      const rows = this.left.next().value;
      const gradient = (thetas) => {
        const made = this.network.gradient(thetas, this.sets.train, rows);
        if (!Number.isFinite(made.loss)) throw new RangeError(`the loss of iteration ${this.done + 1} is ${made.loss}`);
        return made;
      };
      let loss;
      try {
        loss = this.optimizer.step(gradient, this.hypers);
      } catch (error) {
        // A loss that is not finite, an implicit step that finds no end, a rule that cannot run: what it says is shown.
        this.trouble = String(error.what ?? error.message ?? error);
        this.over = true;
        return null;
      }
      this.done += 1;
      this.examples += rows.length;
      this.over = this.done >= this.counts.total;
      return loss;
    }

    /** Return loss, share told right and what is told of each example, on a set, at θ itself. */
    evaluate(name) {
      return this.network.evaluate(this.optimizer.thetas, this.sets[name]);
    }
  };
})((globalThis.steprule ??= {}));
